// Chooses the codes of a model's int4 and int8 weights by what a text does to them.
#ifndef MOE_COMPILER_CALIBRATE_CALIBRATE_H
#define MOE_COMPILER_CALIBRATE_CALIBRATE_H

#include "compiler/calibrate/CodeStore.h"
#include "compiler/calibrate/ForwardPass.h"

#include <atomic>

namespace moe {

struct CalibrationEvents {
  std::function<void(uint64_t done, uint64_t total)> progress; // matrices
  std::atomic<bool> *cancel = nullptr;
};

// `model`: a fused and packed module whose function is `step`; `windows`: the text as token ids,
// each window a sequence of its own, none empty. Runs the model in float32 on them and adds to
// `store` the codes (see Gptq.h) of every matrix that is packed as int4 or int8 without zeros, but
// for those that the checkpoint holds as such codes already, embeddings, and experts that no token
// chose, which the store then has no codes of, but knows. Where the store knows all of them
// already, as after another device's module, nothing runs. The threads are those of the module's
// context, and the codes are the same whatever their number.
llvm::Error calibrate(mlir::ModuleOp model, const TensorSource &tensors,
                      llvm::ArrayRef<std::vector<int32_t>> windows, CodeStore &store,
                      const CalibrationEvents &events);

} // namespace moe

#endif
