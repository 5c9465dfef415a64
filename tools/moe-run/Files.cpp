#include "tools/moe-run/Files.h"

#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <unistd.h>

namespace moe {

Result<std::string> readAll(const std::string &path, int64_t most) {
  auto failure = [&] {
    return Error{Code::IoError, "cannot read " + path + ": " + std::strerror(errno)};
  };
  std::FILE *file = path == "-" ? stdin : std::fopen(path.c_str(), "rbe");
  if (!file)
    return failure();
  std::string text;
  char buffer[1 << 16];
  size_t count;
  while (int64_t(text.size()) <= most && (count = std::fread(buffer, 1, sizeof buffer, file)) > 0)
    text.append(buffer, count);
  bool failed = std::ferror(file); // a folder opens, but does not read
  Error error = failure();
  if (file != stdin)
    std::fclose(file);
  if (failed)
    return error;
  if (int64_t(text.size()) > most)
    return Error{Code::InvalidArgument, path + " has more than the " + std::to_string(most) +
                                            " bytes that are read of it"};
  return text;
}

Result<std::vector<int32_t>> parseTokens(std::string_view text, int64_t vocab,
                                         const std::string &name) {
  constexpr std::string_view separators = " \t\r\n,[]";
  std::vector<int32_t> tokens;
  int64_t line = 1;
  for (size_t at = 0; at < text.size();) {
    if (separators.find(text[at]) != std::string_view::npos) {
      line += text[at++] == '\n';
      continue;
    }
    size_t end = std::min(text.find_first_of(separators, at), text.size());
    std::string word(text.substr(at, end - at));
    std::string where =
        name + ": token " + std::to_string(tokens.size()) + " (line " + std::to_string(line) + ")";
    int64_t id = -1;
    auto [rest, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error == std::errc::invalid_argument || rest != word.data() + word.size())
      return Error{Code::InvalidArgument, where + " is not a number: '" + word.substr(0, 40) + "'"};
    if (error != std::errc() || id < 0 || id >= vocab)
      return Error{Code::InvalidArgument, where + " is " + word.substr(0, 40) +
                                              ", the plan's ids are 0 to " +
                                              std::to_string(vocab - 1)};
    tokens.push_back(int32_t(id));
    at = end;
  }
  if (tokens.empty())
    return Error{Code::InvalidArgument, name + " has no token ids"};
  return tokens;
}

Result<std::vector<int32_t>> readTokens(const std::string &path, int64_t vocab) {
  MOE_ASSIGN(text, readAll(path));
  return parseTokens(text, vocab, path == "-" ? "standard input" : path);
}

Error NpyWriter::failure(const char *what) const {
  return {Code::IoError, std::string("cannot ") + what + " " + path + ": " + std::strerror(errno)};
}

Result<NpyWriter> NpyWriter::create(const std::string &path, int64_t rows, int64_t columns) {
  static_assert(std::endian::native == std::endian::little, "the format says '<f4'");
  NpyWriter writer;
  writer.path = path;
  writer.temporary = path + ".tmp" + std::to_string(getpid());
  writer.file.reset(std::fopen(writer.temporary.c_str(), "wbe"));
  if (!writer.file)
    return writer.failure("create");
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(rows) + ", " + std::to_string(columns) + "), }";
  header.append(63 - (10 + header.size()) % 64, ' '); // data starts at a multiple of 64
  header += '\n';
  const char start[10] = {
      '\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, char(header.size() & 255), char(header.size() >> 8)};
  if (std::fwrite(start, 1, 10, writer.file.get()) != 10 ||
      std::fwrite(header.data(), 1, header.size(), writer.file.get()) != header.size())
    return writer.failure("write");
  return writer;
}

NpyWriter::~NpyWriter() {
  if (file)
    std::remove(temporary.c_str());
}

Status NpyWriter::write(std::span<const float> row) {
  if (std::fwrite(row.data(), sizeof(float), row.size(), file.get()) != row.size())
    return failure("write");
  return ok();
}

Status NpyWriter::close() {
  bool written = std::fflush(file.get()) == 0 && fsync(fileno(file.get())) == 0;
  if (!written || std::rename(temporary.c_str(), path.c_str()) != 0)
    return failure("write");
  file.reset();
  return ok();
}

} // namespace moe
