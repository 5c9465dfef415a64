// The C calling convention between CPU kernels in a plan and the runtime that calls them.
//
// A kernel is machine code without relocations or calls to the outside. All workers of a step call
// the same kernel with the same operands, at the same time; each does its own share, or claims
// parts of the work by counters. Every output element is computed by one worker in an order of its
// own, so results depend neither on the number of workers nor on who did what. The runtime puts a
// barrier between two kernels. Within one, a worker may wait, by counters, for work that others
// have begun. Counters are zero when a kernel starts, and it leaves them so.
#ifndef MOE_RUNTIME_DEVICE_CPU_KERNELABI_H
#define MOE_RUNTIME_DEVICE_CPU_KERNELABI_H

#include <cstdint>

namespace moe::cpu {

// Facts of the step at hand. Kernels read these fields by offset (compiler/targets/cpu).
struct StepInfo {
  int32_t tokens;      // T, at least 1
  int32_t rows;        // R, may be 0
  int32_t tableStride; // pages a sequence may have: row length of the block tables
  int32_t reserved;
  // Returns when *counter is `value`, which makes what was written before that visible. It gives
  // the processor away where others wait for it.
  void (*await)(const int32_t *counter, int32_t value);
};

// operands: one pointer per Operand of the call, 64-byte aligned but for Cache with its offset
// added. scratch: Program.scratch_bytes for this worker alone, 64-byte aligned, contents undefined.
using Kernel = void (*)(void *const *operands, const StepInfo *step, void *scratch, int32_t worker,
                        int32_t workers);

} // namespace moe::cpu

#endif
