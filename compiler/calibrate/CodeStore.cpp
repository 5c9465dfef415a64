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

static moe::Error systemError(const Twine &what) {
  const int code = errno;
  return {Code::IoError,
          ("cannot " + what + " the temporary file of calibration: " + std::strerror(code)).str()};
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

CodeStore::Entry &CodeStore::entryOf(StringRef weight, const WeightFormat &format, int64_t rows,
                                     int64_t cols, int64_t matrix) {
  Entry &entry =
      entries.try_emplace(keyOf(weight, format), Entry{format, rows, cols, {}}).first->second;
  assert(entry.format == format && entry.rows == rows && entry.cols == cols);
  if (int64_t(entry.matrices.size()) <= matrix)
    entry.matrices.resize(matrix + 1, kUnknown);
  return entry;
}

Status CodeStore::add(StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
                      int64_t matrix, int64_t first, ArrayRef<uint8_t> codes,
                      ArrayRef<float> scales) {
  int64_t place, codesAt;
  {
    std::scoped_lock lock(mutex);
    Entry &entry = entryOf(weight, format, rows, cols, matrix);
    if (entry.matrices[matrix] < 0) {
      entry.matrices[matrix] = end;
      end += entry.matrixBytes();
    }
    place = entry.matrices[matrix];
    codesAt = place + entry.codesAt();
  }
  MOE_TRY(write(place + first * (cols / format.group) * 4, scales.data(),
                scales.size() * sizeof(float)));
  return write(codesAt + first * cols, codes.data(), codes.size());
}

void CodeStore::addNone(StringRef weight, const WeightFormat &format, int64_t rows, int64_t cols,
                        int64_t matrix) {
  std::scoped_lock lock(mutex);
  entryOf(weight, format, rows, cols, matrix).matrices[matrix] = kNone;
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

Status CodeStore::readCodes(StringRef weight, const WeightFormat &format, int64_t matrix,
                            int64_t begin, std::span<uint8_t> out) const {
  int64_t place;
  {
    std::scoped_lock lock(mutex);
    const Entry &entry = entries.find(keyOf(weight, format))->second;
    place = entry.matrices[matrix] + entry.codesAt();
  }
  return read(place + begin, out.data(), out.size());
}

Status CodeStore::readScales(StringRef weight, const WeightFormat &format, int64_t matrix,
                             int64_t begin, std::span<float> out) const {
  return read(find(weight, format, matrix) + begin * 4, out.data(), out.size() * sizeof(float));
}

Status CodeStore::write(int64_t place, const void *data, size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n =
        ::pwrite(file, static_cast<const char *>(data) + done, bytes - done, place + off_t(done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return systemError("write");
    done += size_t(n);
  }
  return ok();
}

Status CodeStore::read(int64_t place, void *data, size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n =
        ::pread(file, static_cast<char *>(data) + done, bytes - done, place + off_t(done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return systemError("read");
    done += size_t(n);
  }
  return ok();
}
