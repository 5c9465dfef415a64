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

Status bindInput(const DevicePlan &plan, uint32_t index, int64_t vocab, StepBinding &binding) {
  const TensorSpec &spec = plan.inputs[index];
  if (spec.pool)
    return bindTable(plan, index, binding);
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
                                      "and block tables: update the runtime, or " + kAgain};
}

// The output called `name`, if every program has it.
Result<std::optional<uint32_t>> outputOfAll(const DevicePlan &plan, const char *name,
                                            ElementType element,
                                            const std::vector<Dimension> &dims) {
  for (uint32_t i = 0; i < plan.outputs.size(); ++i) {
    if (plan.outputs[i].name != name)
      continue;
    MOE_TRY(checkType(plan.outputs[i], "output", element, dims));
    if (std::all_of(plan.programs.begin(), plan.programs.end(), [&](const Program &program) {
          return std::find(program.outputs.begin(), program.outputs.end(), i) !=
                 program.outputs.end();
        }))
      return std::optional(i);
  }
  return std::optional<uint32_t>();
}

} // namespace

Result<StepBinding> bindStep(const DevicePlan &plan, int64_t vocab, int64_t hiddenSize) {
  StepBinding binding;
  binding.inputs = plan.inputs.size();
  for (uint32_t i = 0; i < plan.inputs.size(); ++i)
    MOE_TRY(bindInput(plan, i, vocab, binding));
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
