// Files that moe-run reads and writes: prompts, lists of ids, and logits.
#ifndef MOE_TOOLS_MOE_RUN_FILES_H
#define MOE_TOOLS_MOE_RUN_FILES_H

#include "runtime/Status.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

// All of a file, or of standard input for "-". Errors: IoError; InvalidArgument for one of more
// than `most` bytes.
Result<std::string> readAll(const std::string &path, int64_t most = INT64_MAX);

// Ids in decimal, apart by white space, commas or brackets, so that a JSON list works too. `name`
// is for errors, which say the ordinal and the line of the id.
Result<std::vector<int32_t>> parseTokens(std::string_view text, int64_t vocab,
                                         const std::string &name);
Result<std::vector<int32_t>> readTokens(const std::string &path, int64_t vocab);

// A float32 matrix in NumPy's format, row by row. The file appears under its name in close alone;
// before that its rows are in a temporary file beside it, which the destructor removes.
class NpyWriter {
public:
  static Result<NpyWriter> create(const std::string &path, int64_t rows, int64_t columns);
  NpyWriter(NpyWriter &&) = default;
  ~NpyWriter();
  Status write(std::span<const float> row);
  Status close(); // after the last row

private:
  struct Closer {
    void operator()(std::FILE *file) const { std::fclose(file); }
  };
  NpyWriter() = default;
  Error failure(const char *what) const;

  std::string path, temporary;
  std::unique_ptr<std::FILE, Closer> file;
};

} // namespace moe

#endif
