// From the FlatBuffer's tables to Programs.h, field by field.
#include "runtime/session/PlanPrograms.h"

#include <algorithm>

namespace moe {
namespace {

static_assert(int(ProgramKind::Step) == int(fb::ProgramKind::Step) &&
              int(ProgramKind::Vision) == int(fb::ProgramKind::Vision));
static_assert(int(OperandKind::Input) == int(fb::OperandKind::Input) &&
              int(OperandKind::Output) == int(fb::OperandKind::Output) &&
              int(OperandKind::Arena) == int(fb::OperandKind::Arena) &&
              int(OperandKind::Weight) == int(fb::OperandKind::Weight) &&
              int(OperandKind::Cache) == int(fb::OperandKind::Cache) &&
              int(OperandKind::Counters) == int(fb::OperandKind::Counters));
static_assert(int(ElementType::U8) == int(fb::ElementType::U8) &&
              int(ElementType::I32) == int(fb::ElementType::I32) &&
              int(ElementType::U32) == int(fb::ElementType::U32) &&
              int(ElementType::F16) == int(fb::ElementType::F16) &&
              int(ElementType::BF16) == int(fb::ElementType::BF16) &&
              int(ElementType::F32) == int(fb::ElementType::F32));
static_assert(int(Extent::Constant) == int(fb::Extent::Constant) &&
              int(Extent::Tokens) == int(fb::Extent::Tokens) &&
              int(Extent::Rows) == int(fb::Extent::Rows) &&
              int(Extent::Sequences) == int(fb::Extent::Sequences) &&
              int(Extent::Pages) == int(fb::Extent::Pages));

// The entries of a FlatBuffers vector, which may be absent.
template <typename V> uint32_t countOf(const V *vector) { return vector ? vector->size() : 0; }

using Specs = flatbuffers::Vector<flatbuffers::Offset<fb::TensorSpec>>;

// Per entry of a program's list its index in `all`, to which it is added if it is new there: after
// those from `first` on, of the program's kind. `pools`: per pool of the plan, its index among
// those of the program's device.
std::vector<uint32_t> declare(const Specs &specs, const std::vector<uint32_t> &pools, size_t first,
                              std::vector<TensorSpec> &all) {
  std::vector<uint32_t> indices;
  for (const fb::TensorSpec *from : specs) {
    const auto found =
        std::find_if(all.begin() + ptrdiff_t(first), all.end(), [&](const TensorSpec &spec) {
          return spec.name == from->name()->string_view();
        });
    indices.push_back(uint32_t(found - all.begin()));
    if (found != all.end())
      continue;
    TensorSpec &spec = all.emplace_back();
    spec.name = from->name()->str();
    spec.element = ElementType(from->element());
    for (const fb::Dimension *dim : *from->dims())
      spec.dims.push_back({Extent(dim->extent()), dim->count()});
    if (from->pool() >= 0)
      spec.pool = pools[uint32_t(from->pool())];
  }
  return indices;
}

Operand operandOf(const fb::Operand &from, const Program &program,
                  const std::vector<uint32_t> &pools) {
  Operand operand{OperandKind(from.kind()), from.index(), from.offset(), from.bytes()};
  if (operand.kind == OperandKind::Input)
    operand.index = program.inputs[from.index()];
  else if (operand.kind == OperandKind::Output)
    operand.index = program.outputs[from.index()];
  else if (operand.kind == OperandKind::Cache)
    operand.index = pools[from.index()];
  return operand;
}

// Its inputs and outputs are those from these on.
struct First {
  size_t input = 0, output = 0;
};

void addProgram(const fb::Program &from, const std::vector<uint32_t> &pools, First first,
                DevicePlan &plan) {
  Program &program = plan.programs.emplace_back();
  program.kind = ProgramKind(from.kind());
  program.tokens = int32_t(from.tokens());
  program.rows = int32_t(from.rows());
  program.inputs = declare(*from.inputs(), pools, first.input, plan.inputs);
  program.outputs = declare(*from.outputs(), pools, first.output, plan.outputs);
  program.arenaBytes = from.arena_bytes();
  program.scratchBytes = from.scratch_bytes();
  program.counterBytes = from.counter_bytes();
  for (const fb::Call *call : *from.calls()) {
    const fb::KernelCall &kernel = *call->operation_as_KernelCall();
    Call &added = program.calls.emplace_back(Call{kernel.kernel(), {}, kernel.blocks()});
    for (const fb::Operand *operand : *kernel.operands())
      added.operands.push_back(operandOf(*operand, program, pools));
  }
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
  for (uint32_t i = 0; i < countOf(index.sections()); ++i)
    result.sections.push_back(index.sections()->Get(i)->kind() == fb::SectionKind::Weights
                                  ? plan.section(i)
                                  : std::span<const std::byte>());
  std::vector<uint32_t> pools;
  for (uint32_t i = 0; i < countOf(index.caches()); ++i) {
    const fb::CachePool &pool = *index.caches()->Get(i);
    pools.push_back(uint32_t(result.pools.size()));
    if (pool.device()->string_view() != device)
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
  for (fb::ProgramKind kind : fb::EnumValuesProgramKind()) {
    const First first{result.inputs.size(), result.outputs.size()};
    for (const fb::Program *program : plan.programs(device, kind))
      addProgram(*program, pools, first, result);
  }
  return result;
}

} // namespace moe
