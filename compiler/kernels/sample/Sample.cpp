// The buffers of the sampling kernel.
#include "compiler/kernels/sample/Sample.h"

namespace moe::codegen {

int64_t CudaSample::bytes(Operand operand, Step step) const {
  if (operand == Operand::Partials)
    return 16 * kSampleWarps * blocks(step);
  assert(operand == Operand::Counters);
  return kSharedRows * 4 + std::min(step.rows, kSharedRows) * kSampleHistogramBytes;
}

} // namespace moe::codegen
