// Keeps codes in a file that was unlinked when it was made.
#include "compiler/calibrate/CodeStore.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

#include <cerrno>
#include <cstring>
#include <unistd.h>

using namespace moe;
using namespace llvm;

static std::string keyOf(StringRef weight, const WeightFormat &format) {
  return (weight + " " + nameOf(format)).str();
}

static Error systemError(const Twine &what) {
  const int code = errno;
  return createStringError("cannot " + what +
                           " the temporary file of calibration: " + std::strerror(code));
}

Expected<std::unique_ptr<CodeStore>> CodeStore::create(StringRef folder) {
  SmallString<256> path(folder.empty() ? "." : folder);
  sys::path::append(path, ".moec-calibration-%%%%%%");
  int file;
  SmallString<256> made;
  if (std::error_code code = sys::fs::createUniqueFile(path, file, made))
    return createStringError("cannot make a temporary file in '" + folder +
                             "' for calibration: " + code.message());
  ::unlink(made.c_str());
  return std::unique_ptr<CodeStore>(new CodeStore(file));
}

CodeStore::~CodeStore() { ::close(file); }

int64_t &CodeStore::placeOf(StringRef weight, const WeightFormat &format, int64_t rows,
                            int64_t cols, int64_t matrix) {
  Entry &entry =
      entries.try_emplace(keyOf(weight, format), Entry{format, rows, cols, {}}).first->second;
  assert(entry.format == format && entry.rows == rows && entry.cols == cols);
  if (int64_t(entry.matrices.size()) <= matrix)
    entry.matrices.resize(matrix + 1, kUnknown);
  return entry.matrices[matrix];
}

Error CodeStore::add(StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
                     int64_t matrix, int64_t first, ArrayRef<uint8_t> codes,
                     ArrayRef<float> scales) {
  const int64_t rowBytes = Entry{format, rows, cols, {}}.rowBytes();
  int64_t place;
  {
    std::scoped_lock lock(mutex);
    int64_t &known = placeOf(weight, format, rows, cols, matrix);
    if (known < 0) {
      known = end;
      end += rows * rowBytes;
    }
    place = known;
  }
  const size_t groups = size_t(cols / format.group), count = codes.size() / size_t(cols);
  std::vector<char> bytes(count * size_t(rowBytes));
  for (size_t r = 0; r < count; ++r) {
    std::memcpy(&bytes[r * rowBytes], &scales[r * groups], groups * 4);
    std::memcpy(&bytes[r * rowBytes + groups * 4], &codes[r * cols], size_t(cols));
  }
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = ::pwrite(file, bytes.data() + done, bytes.size() - done,
                         place + first * rowBytes + off_t(done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return systemError("write");
    done += size_t(n);
  }
  return Error::success();
}

void CodeStore::addNone(StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
                        int64_t matrix) {
  std::scoped_lock lock(mutex);
  placeOf(weight, format, rows, cols, matrix) = kNone;
}

int64_t CodeStore::find(StringRef weight, const WeightFormat &format, int64_t matrix) const {
  std::scoped_lock lock(mutex);
  auto found = entries.find(keyOf(weight, format));
  return found == entries.end() || matrix >= int64_t(found->second.matrices.size())
             ? kUnknown
             : found->second.matrices[matrix];
}

bool CodeStore::has(StringRef weight, const WeightFormat &format, int64_t matrix) const {
  return find(weight, format, matrix) >= 0;
}

bool CodeStore::knows(StringRef weight, const WeightFormat &format, int64_t matrix) const {
  return find(weight, format, matrix) != kUnknown;
}

Error CodeStore::read(StringRef weight, const WeightFormat &format, int64_t matrix, int64_t row,
                      MutableArrayRef<uint8_t> codes, MutableArrayRef<float> scales) const {
  int64_t place, rowBytes;
  {
    std::scoped_lock lock(mutex);
    const Entry &entry = entries.find(keyOf(weight, format))->second;
    place = entry.matrices[matrix];
    rowBytes = entry.rowBytes();
  }
  std::vector<char> bytes(static_cast<size_t>(rowBytes));
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = ::pread(file, bytes.data() + done, bytes.size() - done,
                        place + row * rowBytes + off_t(done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return systemError("read");
    done += size_t(n);
  }
  std::memcpy(scales.data(), bytes.data(), scales.size() * 4);
  std::memcpy(codes.data(), bytes.data() + scales.size() * 4, codes.size());
  return Error::success();
}
