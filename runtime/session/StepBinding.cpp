// The table of what a session fills and reads, and finding it in a plan.
#include "runtime/session/StepBinding.h"

#include "runtime/device/RowSampling.h"
#include "runtime/session/KvCache.h"

#include <algorithm>

namespace moe {
namespace {

constexpr const char *kAgain = "compile the plan again with the `moec compile` of this version";

struct KnownInput {
  const char *name;
  std::optional<uint32_t> StepBinding::*place;
  ElementType element;
  std::vector<Dimension> dims;
};

std::vector<KnownInput> knownInputs(int64_t vocab) {
  const std::vector<Dimension> tokens{{Extent::Tokens}}, rows{{Extent::Rows}},
      records{{Extent::Rows}, {Extent::Constant, sizeof(RowSampling)}},
      masks{{Extent::Sequences}, {Extent::Constant, uint32_t((vocab + 31) / 32)}};
  return {
      {"tokens", &StepBinding::tokens, ElementType::I32, tokens},
      {"positions", &StepBinding::positions, ElementType::I32, tokens},
      {"sequences", &StepBinding::sequences, ElementType::I32, tokens},
      {"rows", &StepBinding::rows, ElementType::I32, rows},
      {"sampling", &StepBinding::sampling, ElementType::U8, records},
      {"masks", &StepBinding::masks, ElementType::U32, masks},
      {"image_rows", &StepBinding::imageRows, ElementType::I32, tokens},
  };
}

Status checkType(const TensorSpec &spec, const char *what, ElementType element,
                 const std::vector<Dimension> &dims) {
  if (spec.element == element && spec.dims == dims)
    return ok();
  const std::string expected = typeText({spec.name, element, dims});
  return Error{Code::InvalidPlan, "the plan's step programs have the " + std::string(what) + " '" +
                                      spec.name + "' as " + typeText(spec) +
                                      ", and this runtime as " + expected + "; " + kAgain};
}

bool contains(const std::vector<uint32_t> &list, uint32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// Whether it is an input, or output, of vision programs: they share none with steps.
bool isOfVision(const DevicePlan &plan, std::vector<uint32_t> Program::*list, uint32_t index) {
  return std::any_of(plan.programs.begin(), plan.programs.end(), [&](const Program &program) {
    return program.kind == ProgramKind::Vision && contains(program.*list, index);
  });
}

// Whether every program of a kind has it among its inputs, or outputs.
bool isOfAll(const DevicePlan &plan, ProgramKind kind, std::vector<uint32_t> Program::*list,
             uint32_t index) {
  return std::all_of(plan.programs.begin(), plan.programs.end(), [&](const Program &program) {
    return program.kind != kind || contains(program.*list, index);
  });
}

// Of the rows of pictures that a step takes.
Status bindImages(const DevicePlan &plan, uint32_t index, int64_t hiddenSize,
                  StepBinding &binding) {
  const TensorSpec &spec = plan.inputs[index];
  int32_t most = 1; // tokens of a step
  for (const Program &program : plan.programs)
    if (program.kind == ProgramKind::Step)
      most = std::max(most, program.tokens);
  const bool matrix = spec.dims.size() == 2 && spec.dims[0].extent == Extent::Constant;
  const uint32_t rows = std::max(matrix ? spec.dims[0].count : 0, uint32_t(most));
  MOE_TRY(checkType(spec, "input", ElementType::F32,
                    {{Extent::Constant, rows}, {Extent::Constant, uint32_t(hiddenSize)}}));
  binding.images = index;
  binding.imageCapacity = rows;
  return ok();
}

// After the inputs and outputs of steps.
Status bindVision(const DevicePlan &plan, StepBinding &binding) {
  for (const std::optional<uint32_t> &input : {binding.images, binding.imageRows})
    if (bool(binding.images) != bool(binding.imageRows) ||
        (input && !isOfAll(plan, ProgramKind::Step, &Program::inputs, *input)))
      return Error{Code::InvalidPlan, std::string("not all of the plan's step programs take both "
                                                  "'images' and 'image_rows'; ") +
                                          kAgain};
  for (const Program &program : plan.programs) {
    if (program.kind != ProgramKind::Vision)
      continue;
    if (!binding.images)
      return Error{Code::InvalidPlan, std::string("the plan's step programs do not take the rows "
                                                  "that its vision programs make; ") +
                                          kAgain};
    binding.tiles = program.inputs.front(); // the one that a verified plan has
    binding.tileRows = program.outputs.front();
  }
  return ok();
}

Status bindTable(const DevicePlan &plan, uint32_t index, StepBinding &binding) {
  const TensorSpec &spec = plan.inputs[index];
  MOE_TRY(checkType(spec, "block table", ElementType::I32, {{Extent::Sequences}, {Extent::Pages}}));
  const CachePool &pool = plan.pools[*spec.pool];
  if (pool.pageTokens != KvCache::pageTokens)
    return Error{Code::InvalidPlan, "the plan's cache pool '" + pool.name + "' has pages of " +
                                        std::to_string(pool.pageTokens) +
                                        " positions, and this runtime fills pages of " +
                                        std::to_string(KvCache::pageTokens) + "; " + kAgain};
  binding.tables.push_back({index, *spec.pool});
  return ok();
}

Status bindInput(const DevicePlan &plan, uint32_t index, int64_t vocab, int64_t hiddenSize,
                 StepBinding &binding) {
  const TensorSpec &spec = plan.inputs[index];
  if (spec.pool)
    return bindTable(plan, index, binding);
  if (spec.name == "images")
    return bindImages(plan, index, hiddenSize, binding);
  const std::vector<KnownInput> inputs = knownInputs(vocab);
  for (const KnownInput &known : inputs)
    if (spec.name == known.name) {
      binding.*known.place = index;
      return checkType(spec, "input", known.element, known.dims);
    }
  std::string names;
  for (const KnownInput &known : inputs)
    names += std::string(known.name) + ", ";
  return Error{Code::InvalidPlan, "the plan's step programs take the input '" + spec.name + "', " +
                                      typeText(spec) + ", and this runtime fills " + names +
                                      "images and block tables: update the runtime, or " + kAgain};
}

// The output called `name`, if every step program has it.
Result<std::optional<uint32_t>> outputOfAll(const DevicePlan &plan, const char *name,
                                            ElementType element,
                                            const std::vector<Dimension> &dims) {
  for (uint32_t i = 0; i < plan.outputs.size(); ++i) {
    if (plan.outputs[i].name != name || isOfVision(plan, &Program::outputs, i))
      continue;
    MOE_TRY(checkType(plan.outputs[i], "output", element, dims));
    if (isOfAll(plan, ProgramKind::Step, &Program::outputs, i))
      return std::optional(i);
  }
  return std::optional<uint32_t>();
}

} // namespace

Result<StepBinding> bindStep(const DevicePlan &plan, int64_t vocab, int64_t hiddenSize) {
  StepBinding binding;
  binding.inputs = plan.inputs.size();
  for (uint32_t i = 0; i < plan.inputs.size(); ++i)
    if (!isOfVision(plan, &Program::inputs, i))
      MOE_TRY(bindInput(plan, i, vocab, hiddenSize, binding));
  MOE_TRY(bindVision(plan, binding));
  MOE_ASSIGN(logits, outputOfAll(plan, "logits", ElementType::F32,
                                 {{Extent::Rows}, {Extent::Constant, uint32_t(vocab)}}));
  if (!logits)
    return Error{Code::InvalidPlan, std::string("not all of the plan's step programs have the "
                                                "output 'logits', which this runtime reads; ") +
                                        kAgain};
  binding.logits = *logits;
  MOE_ASSIGN(ids, outputOfAll(plan, "ids", ElementType::I32, {{Extent::Rows}}));
  if (ids && !binding.sampling)
    return Error{Code::InvalidPlan, std::string("the plan's step programs choose 'ids' without "
                                                "the input 'sampling', which says how; ") +
                                        kAgain};
  binding.ids = ids;
  MOE_ASSIGN(hidden, outputOfAll(plan, "hidden", ElementType::F32,
                                 {{Extent::Rows}, {Extent::Constant, uint32_t(hiddenSize)}}));
  binding.hidden = hidden;
  return binding;
}

} // namespace moe
