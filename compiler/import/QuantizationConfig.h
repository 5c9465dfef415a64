// What config.json says of a quantized checkpoint: which scheme its tensors are stored in.
#ifndef MOE_COMPILER_IMPORT_QUANTIZATIONCONFIG_H
#define MOE_COMPILER_IMPORT_QUANTIZATIONCONFIG_H

#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moe {

// Only weights: activations are quantized as the kernels of a target need them, whatever the
// configuration asks for. Which tensors are quantized is seen from the tensors, so that lists of
// modules to leave alone (`ignore`, `modules_to_not_convert`) are not needed.
struct QuantizationConfig {
  enum class Method {
    Scaled, // 8-bit tensors beside their scales: compressed-tensors, fp8, fbgemm_fp8, ModelOpt FP8;
            // and those packed by compressed-tensors
    Awq,    // AutoAWQ, version gemm
    Gptq,   // GPTQ of 4 or 8 bits
  };
  Method method = Method::Scaled;
  std::string name; // "compressed-tensors", for messages

  // The rows and columns that share a scale, where scales are of blocks.
  std::optional<std::vector<int64_t>> block;
  // The groups of columns that share a scale; empty: the shapes of the scales say it.
  // -1 is a whole row.
  std::vector<int64_t> groups;
  bool zeroPoints = false; // of compressed-tensors: packed weights must have zeros

  int64_t bits = 4;         // of AWQ and GPTQ
  bool symmetric = false;   // of GPTQ: the zeros are all 8, or 128
  bool zerosLessOne = true; // of GPTQ: as in its first format, the zeros are stored minus 1

  // Of the object at `quantization_config`. Fails, by name and with what is supported instead,
  // where the scheme is not. `where` starts the messages: "quantization_config".
  static llvm::Expected<QuantizationConfig> parse(const llvm::json::Object &fields,
                                                  llvm::StringRef where);
};

} // namespace moe

#endif
