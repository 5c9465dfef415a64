// What all devices ask of a step.
#include "runtime/device/Device.h"

namespace moe {

// Token ids are checked by the session too; here they keep the embedding's reads inside.
Status checkStep(const Step &step, const ExecutorOptions &options, size_t pools, int64_t vocab,
                 bool samples) {
  size_t tokens = step.tokens.size();
  bool valid = tokens > 0 && step.positions.size() == tokens && step.sequences.size() == tokens &&
               step.tables.size() == pools;
  for (const auto &table : step.tables)
    valid &= table.size() == uint64_t(options.maxSequences) * options.tableStride;
  for (size_t i = 0; valid && i < tokens; ++i)
    valid = step.sequences[i] >= 0 && step.sequences[i] < options.maxSequences &&
            step.positions[i] >= 0 && step.positions[i] / 64 < options.tableStride &&
            step.tokens[i] >= 0 && step.tokens[i] < vocab;
  for (int32_t row : step.rows)
    valid &= row >= 0 && size_t(row) < tokens;
  valid &= step.outputs.empty() || step.outputs.size() == step.rows.size();
  for (const RowOutput &output : step.outputs)
    valid &= !output.id || (samples && output.draw.scale >= 0 && output.draw.topK >= 0);
  if (!valid)
    return Error{Code::InvalidArgument, "a step's inputs contradict each other or the session"};
  return ok();
}

} // namespace moe
