// The codes that calibration chose, until they are packed: a temporary file that has no name, so
// that nothing of it is left however the process ends.
#ifndef MOE_COMPILER_CALIBRATE_CODESTORE_H
#define MOE_COMPILER_CALIBRATE_CODESTORE_H

#include "runtime/weights/TensorSource.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <mutex>
#include <span>
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
  Status add(llvm::StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
             int64_t matrix, int64_t first, llvm::ArrayRef<uint8_t> codes,
             llvm::ArrayRef<float> scales);

  // Notes that no codes were chosen for a matrix, and that it is of no use to try again.
  void addNone(llvm::StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
               int64_t matrix);

  // Whether a matrix of a weight was added in that format.
  bool has(llvm::StringRef weight, const WeightFormat &format, int64_t matrix) const;
  // Whether it was, or is noted to have none.
  bool knows(llvm::StringRef weight, const WeightFormat &format, int64_t matrix) const;

  // The same back, of a matrix that it has, in row-major order: the codes of the elements [begin,
  // begin + out.size()), and the scales of the groups.
  Status readCodes(llvm::StringRef weight, const WeightFormat &format, int64_t matrix,
                   int64_t begin, std::span<uint8_t> out) const;
  Status readScales(llvm::StringRef weight, const WeightFormat &format, int64_t matrix,
                    int64_t begin, std::span<float> out) const;

private:
  explicit CodeStore(int file) : file(file) {}

  static constexpr int64_t kUnknown = -1, kNone = -2;

  // A matrix is its scales as float32, then its codes, a byte each.
  struct Entry {
    WeightFormat format;
    int64_t rows, cols;
    llvm::SmallVector<int64_t> matrices; // place in the file, or kUnknown, or kNone
    int64_t codesAt() const { return rows * (cols / format.group) * 4; }
    int64_t matrixBytes() const { return codesAt() + rows * cols; }
  };

  // The entry of a weight, with room for a matrix of it. Only with the mutex held.
  Entry &entryOf(llvm::StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
                 int64_t matrix);
  // The place of a matrix, or kUnknown or kNone.
  int64_t find(llvm::StringRef weight, const WeightFormat &format, int64_t matrix) const;
  Status write(int64_t place, const void *data, size_t bytes) const;
  Status read(int64_t place, void *data, size_t bytes) const;

  int file;
  int64_t end = 0;
  mutable std::mutex mutex;
  llvm::StringMap<Entry> entries; // by weight and format
};

} // namespace moe

#endif
