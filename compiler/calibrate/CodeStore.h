// The codes that calibration chose, until they are packed: a temporary file that has no name, so
// that nothing of it is left however the process ends.
#ifndef MOE_COMPILER_CALIBRATE_CODESTORE_H
#define MOE_COMPILER_CALIBRATE_CODESTORE_H

#include "dialects/moe/Packing.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <mutex>
#include <vector>

namespace moe {

// Any number of threads may add and read, each weight after all of it was added.
class CodeStore {
public:
  // `folder` is where the file will be: as large as the codes of all calibrated weights.
  static llvm::Expected<std::unique_ptr<CodeStore>> create(llvm::StringRef folder);
  ~CodeStore();
  CodeStore(const CodeStore &) = delete;

  // Rows [first, first + n) of a matrix of a weight [.., rows, cols] of that format: codes [n,
  // cols] and scales [n, cols / group].
  llvm::Error add(llvm::StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
                  int64_t matrix, int64_t first, llvm::ArrayRef<uint8_t> codes,
                  llvm::ArrayRef<float> scales);

  // Notes that no codes were chosen for a matrix, and that it is of no use to try again.
  void addNone(llvm::StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
               int64_t matrix);

  // Whether a matrix of a weight was added in that format.
  bool has(llvm::StringRef weight, const WeightFormat &format, int64_t matrix) const;
  // Whether it was, or is noted to have none.
  bool knows(llvm::StringRef weight, const WeightFormat &format, int64_t matrix) const;
  // The same back, of one row; `codes` has its columns, `scales` its groups.
  llvm::Error read(llvm::StringRef weight, const WeightFormat &format, int64_t matrix, int64_t row,
                   llvm::MutableArrayRef<uint8_t> codes, llvm::MutableArrayRef<float> scales) const;

private:
  explicit CodeStore(int file) : file(file) {}

  static constexpr int64_t kUnknown = -1, kNone = -2;

  // A row is its scales as float32, then its codes, a byte each.
  struct Entry {
    WeightFormat format;
    int64_t rows, cols;
    llvm::SmallVector<int64_t> matrices; // place in the file, or kUnknown, or kNone
    int64_t rowBytes() const { return cols / format.group * 4 + cols; }
  };

  // The place of a matrix, which is made if there was none yet. Only with the mutex held.
  int64_t &placeOf(llvm::StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
                   int64_t matrix);
  // The place, kUnknown or kNone.
  int64_t find(llvm::StringRef weight, const WeightFormat &format, int64_t matrix) const;

  int file;
  int64_t end = 0;
  mutable std::mutex mutex;
  llvm::StringMap<Entry> entries; // by weight and format
};

} // namespace moe

#endif
