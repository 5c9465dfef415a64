// The kernels of a model's layers, each with buffers of its true size, timed alone.
#ifndef MOE_TOOLS_GPU_CHECK_CASES_H
#define MOE_TOOLS_GPU_CHECK_CASES_H

#include "tools/gpu-check/Bench.h"
#include "tools/gpu-check/Probes.h"

namespace moe::gpucheck {

struct Shapes {
  std::string name; // "scout"
  int64_t hidden, heads, kvHeads, headDim, width, experts, vocabulary;
};

struct Row {
  std::string kernel; // "gate_up"
  int64_t tokens = 0, context = 0;
  double bytes = 0; // weights and KV cache that it must read
  double flops = 0; // of the tokens there are
  Time time;
  int registers = 0;
  int64_t blocks = 0, sharedBytes = 0;

  double bytesPerSecond() const { return bytes / time.median * 1e6; }
  double flopsPerSecond() const { return flops / time.median * 1e6; }
};

// All kernels of steps of `tokens` tokens whose sequences have `context` positions before.
llvm::Error timeKernels(Bench &bench, const Shapes &shapes, int64_t tokens, int64_t context,
                        int repetitions, std::vector<Row> &rows);

} // namespace moe::gpucheck

#endif
