// A checkpoint with the codes that calibration chose: to the packer they are as those of a
// checkpoint that was quantized by others.
#ifndef MOE_COMPILER_CALIBRATE_CALIBRATEDTENSORS_H
#define MOE_COMPILER_CALIBRATE_CALIBRATEDTENSORS_H

#include "compiler/calibrate/CodeStore.h"
#include "mlir/IR/BuiltinOps.h"
#include "runtime/weights/TensorSource.h"

namespace moe {

class CalibratedTensors final : public TensorSource {
public:
  CalibratedTensors(std::unique_ptr<TensorSource> checkpoint, std::unique_ptr<CodeStore> store);

  CodeStore &store() { return *codes; }

  // Makes the weights of a packed module that the store has codes of read these: their sources
  // become tensors named after the weight, the matrix, and the tensors that it was made of before.
  void adopt(mlir::ModuleOp model);

  const std::byte *data(const TensorInfo &tensor) const override {
    return matrices.contains(tensor.name) ? nullptr : checkpoint->data(tensor);
  }

private:
  struct Coded {
    std::string weight;
    WeightFormat format;
    int64_t matrix;
    bool scales; // and not elements
  };

  Status readElements(const TensorInfo &tensor, uint64_t begin,
                      std::span<float> out) const override;

  std::unique_ptr<TensorSource> checkpoint;
  std::unique_ptr<CodeStore> codes;
  llvm::StringMap<Coded> matrices; // by tensor
};

} // namespace moe

#endif
