// The account of a checkpoint's tensors: what a model took of each, and what was wrong with it.
#ifndef MOE_COMPILER_IMPORT_TENSORLEDGER_H
#define MOE_COMPILER_IMPORT_TENSORLEDGER_H

#include "runtime/weights/TensorSource.h"

#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/Error.h"

namespace moe {

// A part of a tensor, in elements.
struct TensorBox {
  llvm::SmallVector<int64_t> offsets, sizes;
};

class TensorLedger {
public:
  explicit TensorLedger(const TensorSource &tensors) : tensors(tensors) {}

  // Takes a box of a tensor, which must have this shape and a type that can be read; null, and a
  // problem noted, if it has not. A `shared` box need not be the only one of its elements.
  const TensorInfo *take(llvm::StringRef name, llvm::ArrayRef<int64_t> shape, TensorBox box,
                         bool shared = false);

  // Fails with all problems, to which it adds the tensors of which not every element was taken
  // exactly once. Of a tensor that was not taken at all, `reason` says why it is not needed, which
  // goes into `ignored`, or nothing.
  llvm::Error settle(llvm::function_ref<std::string(llvm::StringRef)> reason,
                     std::vector<std::string> &ignored);

private:
  void check(const TensorInfo &tensor, llvm::ArrayRef<TensorBox> boxes);
  void report(const llvm::Twine &problem);

  const TensorSource &tensors;
  llvm::StringMap<llvm::SmallVector<TensorBox>> taken;
  std::vector<std::string> problems;
  llvm::StringSet<> reported;
};

} // namespace moe

#endif
