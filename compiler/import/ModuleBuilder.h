// What the halves of a model are imported with: the module in the making, its weights, and the
// account of the checkpoint's tensors.
#ifndef MOE_COMPILER_IMPORT_MODULEBUILDER_H
#define MOE_COMPILER_IMPORT_MODULEBUILDER_H

#include "compiler/import/TensorLedger.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"

namespace moe {

class ModuleBuilder {
public:
  ModuleBuilder(mlir::MLIRContext &context, const TensorSource &tensors)
      : tensors(tensors), ledger(tensors), builder(&context), symbols(&context),
        location(builder.getUnknownLoc()) {}

  // What a weight is made of: a box of a tensor that must be of the given shape. With {} in its
  // name the first dimension is that of the tensors with a number there, and all are taken.
  struct Part {
    std::string tensor;
    llvm::SmallVector<int64_t> shape;
    TensorBox box;
    bool transposed = false;
  };

  // The value of a weight, here, that is one tensor, and one that is a part of one, or of a stack.
  mlir::Value weight(const llvm::Twine &name, const llvm::Twine &tensor,
                     llvm::ArrayRef<int64_t> shape, bool shared = false);
  mlir::Value weight(const llvm::Twine &name, llvm::ArrayRef<int64_t> shape, const Part &part,
                     bool shared = false);

  // Rows of `channels` elements, of f32 unless told.
  mlir::RankedTensorType matrix(int64_t channels, mlir::Type element = {}) {
    return mlir::RankedTensorType::get({mlir::ShapedType::kDynamic, channels},
                                       element ? element : builder.getF32Type());
  }
  static int64_t channels(mlir::Value x) {
    return mlir::cast<mlir::RankedTensorType>(x.getType()).getDimSize(1);
  }
  template <typename Op, typename... Args> mlir::Value make(int64_t channels, Args &&...args) {
    return Op::create(builder, location, matrix(channels), std::forward<Args>(args)...);
  }

  const TensorSource &tensors;
  TensorLedger ledger;
  mlir::OpBuilder builder; // of the function in the making
  mlir::OpBuilder symbols; // of the weights and caches, before the functions
  mlir::Location location;

private:
  // The tensors of a part; null where one is missing or has another shape.
  llvm::SmallVector<const TensorInfo *> take(const Part &part, bool shared);
};

} // namespace moe

#endif
