// Runs a function of moe ops on the host, by MoeReference. It is how passes are checked: the IR
// before and after must give the same.
#ifndef MOE_DIALECTS_MOE_MOEINTERPRETER_H
#define MOE_DIALECTS_MOE_MOEINTERPRETER_H

#include "dialects/moe/MoeReference.h"
#include "dialects/moe/WeightSources.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"

#include <memory>
#include <variant>

namespace moe {

/// A tensor of float32, int32 or bytes, row-major. bf16 and f16 tensors are held as float32.
struct TensorValue {
  llvm::SmallVector<int64_t> shape;
  std::variant<std::vector<float>, std::vector<int32_t>, std::vector<uint8_t>> elements;

  const std::vector<float> &floats() const { return std::get<std::vector<float>>(elements); }
  const std::vector<int32_t> &ints() const { return std::get<std::vector<int32_t>>(elements); }
  const std::vector<uint8_t> &bytes() const { return std::get<std::vector<uint8_t>>(elements); }
  bool operator==(const TensorValue &) const = default;
};

/// Runs the functions of one module, which must not change meanwhile, with the weights that
/// `tensors`, which must outlive it, has for it. The caches keep their
/// contents from run to run, as those of a session do.
class Interpreter {
public:
  explicit Interpreter(mlir::ModuleOp module, const TensorSource *tensors = nullptr,
                       reference::Rounding rounding = reference::Rounding::None)
      : module(module), tensors(tensors), rounding(rounding) {}

  /// Runs one step of a model, a function of tokens, positions, sequences and wanted rows, and
  /// maybe of images and their rows, of which there are none: the logits, [rows, vocabulary].
  mlir::FailureOr<std::vector<float>> run(llvm::StringRef function, llvm::ArrayRef<int32_t> tokens,
                                          llvm::ArrayRef<int32_t> positions,
                                          llvm::ArrayRef<int32_t> sequences,
                                          llvm::ArrayRef<int32_t> rows);

  /// Runs any function of one block of moe ops. Arguments are rounded to the element types of the
  /// function's.
  mlir::FailureOr<std::vector<TensorValue>> runFunction(mlir::func::FuncOp function,
                                                        llvm::ArrayRef<TensorValue> arguments);

  /// The value of a weight, rounded to its type and to the storage that it is packed in.
  mlir::FailureOr<std::shared_ptr<const TensorValue>> weight(WeightOp weight);

  /// The contents of a cache; they start empty.
  mlir::FailureOr<reference::KvCache *> cache(CacheOp cache);

  /// Empties all caches.
  void resetCaches() { caches.clear(); }

  mlir::ModuleOp module;
  const TensorSource *tensors; // of the weights; null: there are none
  reference::Rounding rounding;

private:
  // By symbol.
  std::map<std::string, std::shared_ptr<const TensorValue>, std::less<>> weights;
  std::map<std::string, reference::KvCache, std::less<>> caches;
};

} // namespace moe

#endif
