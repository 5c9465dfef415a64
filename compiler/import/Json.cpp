// Checks JSON text before and after llvm::json parses it.
#include "compiler/import/Json.h"

#include "llvm/ADT/StringSet.h"
#include "llvm/Support/MemoryBuffer.h"

#include <vector>

using namespace moe;

static constexpr size_t kMaxDepth = 64;

// The end of the string that starts at text[i], after its closing quote.
static size_t endOfString(llvm::StringRef text, size_t i) {
  for (++i; i < text.size() && text[i] != '"'; ++i)
    if (text[i] == '\\')
      ++i;
  return std::min(i + 1, text.size());
}

static bool isTooDeep(llvm::StringRef text) {
  size_t depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"')
      i = endOfString(text, i) - 1;
    else if (text[i] == '{' || text[i] == '[') {
      if (++depth > kMaxDepth)
        return true;
    } else if ((text[i] == '}' || text[i] == ']') && depth)
      --depth;
  }
  return false;
}

// The first key that an object has twice. `text` is valid JSON.
static std::optional<std::string> findRepeatedKey(llvm::StringRef text) {
  std::vector<llvm::StringSet<>> objects; // one for each open { or [
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '{' || text[i] == '[')
      objects.emplace_back();
    else if (text[i] == '}' || text[i] == ']')
      objects.pop_back();
    else if (text[i] == '"') {
      size_t end = endOfString(text, i);
      llvm::StringRef literal = text.slice(i, end);
      i = end - 1;
      if (!text.drop_front(end).ltrim(" \t\r\n").starts_with(":"))
        continue;
      // Two spellings of a key are the same key: "a" and "\u0061".
      std::string key = literal.drop_front().drop_back().str();
      if (literal.contains('\\'))
        key = llvm::cantFail(llvm::json::parse(literal)).getAsString()->str();
      if (!objects.back().insert(key).second)
        return key;
    }
  }
  return std::nullopt;
}

llvm::Expected<llvm::json::Value> moe::parseJson(llvm::StringRef text, const llvm::Twine &what) {
  if (isTooDeep(text))
    return llvm::createStringError(what + " nests deeper than " + llvm::Twine(kMaxDepth) +
                                   " levels");
  llvm::Expected<llvm::json::Value> value = llvm::json::parse(text);
  if (!value)
    return llvm::createStringError(what + " is not JSON: " + llvm::toString(value.takeError()));
  if (std::optional<std::string> key = findRepeatedKey(text))
    return llvm::createStringError(what + " has the key \"" + *key + "\" twice");
  return value;
}

llvm::Expected<llvm::json::Value> moe::readJson(llvm::StringRef path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (!buffer)
    return llvm::createStringError("cannot read " + path + ": " + buffer.getError().message());
  return parseJson((*buffer)->getBuffer(), path);
}
