// From the FlatBuffer's tables to Programs.h, field by field.
#include "runtime/session/PlanPrograms.h"

#include <algorithm>

namespace moe {
namespace {

static_assert(int(OperandKind::Input) == int(fb::OperandKind::Input) &&
              int(OperandKind::Arena) == int(fb::OperandKind::Arena) &&
              int(OperandKind::Weight) == int(fb::OperandKind::Weight) &&
              int(OperandKind::Cache) == int(fb::OperandKind::Cache) &&
              int(OperandKind::Logits) == int(fb::OperandKind::Logits) &&
              int(OperandKind::Counters) == int(fb::OperandKind::Counters) &&
              int(OperandKind::Ids) == int(fb::OperandKind::Ids));
static_assert(int(InputName::Tokens) == int(fb::InputName::Tokens) &&
              int(InputName::Positions) == int(fb::InputName::Positions) &&
              int(InputName::Sequences) == int(fb::InputName::Sequences) &&
              int(InputName::Rows) == int(fb::InputName::Rows) &&
              int(InputName::GlobalTable) == int(fb::InputName::GlobalTable) &&
              int(InputName::ChunkedTable) == int(fb::InputName::ChunkedTable) &&
              int(InputName::Sampling) == int(fb::InputName::Sampling));

// The entries of a FlatBuffers vector, which may be absent.
template <typename V> uint32_t countOf(const V *vector) { return vector ? vector->size() : 0; }

// `pools`: per pool of the plan, its index among those of the program's device.
Program programOf(const fb::Program &from, const std::vector<uint32_t> &pools) {
  Program program{
      int32_t(from.tokens()), int32_t(from.rows()), from.arena_bytes(), from.scratch_bytes(), {},
      from.counter_bytes()};
  for (uint32_t i = 0; i < countOf(from.calls()); ++i) {
    const fb::Call &call = *from.calls()->Get(i);
    Call &added = program.calls.emplace_back(Call{call.kernel(), {}, call.blocks()});
    for (uint32_t k = 0; k < countOf(call.operands()); ++k) {
      const fb::Operand &operand = *call.operands()->Get(k);
      const bool cache = operand.kind() == fb::OperandKind::Cache;
      added.operands.push_back({OperandKind(operand.kind()),
                                cache ? pools[operand.index()] : operand.index(), operand.offset(),
                                operand.bytes()});
    }
  }
  return program;
}

Image imageOf(const Plan &plan, const fb::Image &from) {
  Image image;
  image.target = from.target()->str();
  for (uint32_t i = 0; i < countOf(from.features()); ++i)
    image.features.push_back(from.features()->Get(i)->str());
  image.code = plan.section(from.section());
  image.file = plan.file();
  image.fileOffset = plan.index().sections()->Get(from.section())->offset();
  for (uint32_t i = 0; i < countOf(from.entries()); ++i)
    image.entries.push_back(from.entries()->Get(i));
  if (from.cubin() >= 0)
    image.cubin = plan.section(uint32_t(from.cubin()));
  for (uint32_t i = 0; i < countOf(from.launches()); ++i) {
    const fb::Launch &launch = *from.launches()->Get(i);
    image.launches.push_back(
        {launch.threads(), launch.shared_bytes(), launch.blocks_per_sm(), launch.dependent()});
  }
  return image;
}

} // namespace

std::vector<std::string> planDevices(const Plan &plan) {
  std::vector<std::string> devices;
  for (uint32_t i = 0; i < countOf(plan.index().programs()); ++i) {
    std::string device = plan.index().programs()->Get(i)->device()->str();
    if (std::find(devices.begin(), devices.end(), device) == devices.end())
      devices.push_back(device);
  }
  return devices;
}

DevicePlan devicePlan(const Plan &plan, std::string_view device) {
  const fb::Plan &index = plan.index();
  DevicePlan result;
  result.vocab = index.model()->vocab_size();
  for (uint32_t i = 0; i < countOf(index.sections()); ++i)
    result.sections.push_back(index.sections()->Get(i)->kind() == fb::SectionKind::Weights
                                  ? plan.section(i)
                                  : std::span<const std::byte>());
  std::vector<uint32_t> pools;
  for (uint32_t i = 0; i < countOf(index.caches()); ++i) {
    const fb::CachePool &pool = *index.caches()->Get(i);
    pools.push_back(uint32_t(result.pools.size()));
    if ((pool.device() ? pool.device()->string_view() : "cpu") != device)
      continue;
    result.pools.push_back({pool.name()->str(), int32_t(pool.chunk()), int32_t(pool.page_tokens()),
                            pool.page_bytes()});
  }
  for (uint32_t i = 0; i < countOf(index.kernels()); ++i) {
    const fb::Kernel &kernel = *index.kernels()->Get(i);
    result.kernels.push_back({kernel.name()->str(), kernel.operands()});
  }
  std::string prefix = std::string(device) + ":"; // of targets
  for (uint32_t i = 0; i < countOf(index.images()); ++i)
    if (index.images()->Get(i)->target()->str().starts_with(prefix))
      result.images.push_back(imageOf(plan, *index.images()->Get(i)));
  for (const fb::Program *program : plan.programs(device))
    result.programs.push_back(programOf(*program, pools));
  return result;
}

} // namespace moe
