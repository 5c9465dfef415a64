// The model: makes the moe module of a Llama 4 checkpoint, and proves that it uses all of it.
#ifndef MOE_COMPILER_IMPORT_LLAMA4_H
#define MOE_COMPILER_IMPORT_LLAMA4_H

#include "compiler/import/Config.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "runtime/weights/TensorSource.h"

namespace moe {

struct ImportOptions {
  Storage cache = Storage::BF16; // elements of the KV caches: BF16, F32, F16 or I8
  bool hiddenStates = false;     // @step gives those of the rows too
};

struct ImportedModel {
  // The attribute `moe.model` (the facts of table Model in Plan.fbs, but for `weights`), a
  // `moe.weight` for each weight, a `moe.cache` for each layer, and
  //   func @step(tokens, positions, sequences, rows) -> logits [rows, vocabulary]
  // and where they are asked for hidden states [rows, hidden size]: after the last norm
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::vector<std::string> ignored; // tensors that the model does not need: "name: reason"
  std::vector<std::string> warnings;
};

// Fails unless every weight of the model has a tensor of the right shape and a float type, and
// every element of every tensor is used by exactly one weight or is known not to be needed. With
// config.truncate() the tensors of further layers are ignored.
llvm::Expected<ImportedModel> importLlama4(mlir::MLIRContext &context, const Llama4Config &config,
                                           const TensorSource &tensors, ImportOptions options = {});

} // namespace moe

#endif
