// What gpu-bundle puts together: kernels that are compiled here, and operands with their numbers.
#ifndef MOE_TOOLS_GPU_CHECK_BUNDLEWRITER_H
#define MOE_TOOLS_GPU_CHECK_BUNDLEWRITER_H

#include "compiler/targets/cuda/CudaKernel.h"
#include "compiler/targets/cuda/Strips.h"
#include "gpu-check/Bundle_generated.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include <map>
#include <optional>

namespace moe::gpucheck {

class BundleWriter {
public:
  // `ptxas`: the assembler that makes cubins, if any.
  BundleWriter(codegen::CudaTarget target, std::optional<std::string> ptxas);

  const codegen::CudaTarget &target() const { return cudaTarget; }

  // The index of a kernel. One of the same name is made once.
  llvm::Expected<uint32_t> kernel(const codegen::ChosenKernel<codegen::CudaKernel> &chosen);
  uint32_t blob(llvm::ArrayRef<uint8_t> bytes); // the same bytes are kept once
  void add(fb::CaseT added) {
    bundle.cases.push_back(std::make_unique<fb::CaseT>(std::move(added)));
  }
  void add(fb::TextT text) { bundle.text = std::make_unique<fb::TextT>(std::move(text)); }
  void add(fb::ProbesT probes) { bundle.probes = std::make_unique<fb::ProbesT>(probes); }

  // kernels.bundle.
  std::vector<uint8_t> finish();

private:
  codegen::CudaTarget cudaTarget;
  std::optional<std::string> ptxas;
  fb::BundleT bundle;
  std::map<std::string, uint32_t> kernels;
  std::map<std::vector<uint8_t>, uint32_t> blobs;
};

struct Shapes {
  std::string name; // "scout"
  int64_t hidden, heads, kvHeads, headDim, width, experts, vocabulary;
  WeightFormat format = codegen::kBf16;
};

// All kernels of a step of `tokens` tokens whose sequences have `context` positions before, each
// with operands of its true size and with what it should make of them. `timed`: worth measuring.
llvm::Error addCases(BundleWriter &writer, const Shapes &shapes, int64_t tokens, int64_t context,
                     bool timed);

// The kernels that find a device's limits.
llvm::Error addProbes(BundleWriter &writer);

// Compiles a checkpoint for the writer's target to `plan`, runs it on a CPU with `tokens` greedy
// tokens after the prompt, and adds what that gave.
llvm::Error addText(BundleWriter &writer, const std::string &checkpoint, const std::string &plan,
                    std::vector<int32_t> prompt, int64_t tokens);

} // namespace moe::gpucheck

#endif
