#include "runtime/server/api/Keys.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include <sys/stat.h>

namespace moe::server::api {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos)
    return {};
  return text.substr(first, text.find_last_not_of(kSpace) + 1 - first);
}

// What the request shows; empty: nothing.
std::string_view shownBy(const http::HttpRequest &request) {
  if (const std::string *authorization = request.header("authorization")) {
    constexpr std::string_view kScheme = "bearer ";
    const std::string_view text = *authorization;
    if (text.size() > kScheme.size() &&
        std::equal(kScheme.begin(), kScheme.end(), text.begin(),
                   [](char a, char b) { return a == std::tolower(uint8_t(b)); }))
      return trimmed(text.substr(kScheme.size()));
  }
  if (const std::string *key = request.header("x-api-key"))
    return trimmed(*key);
  return {};
}

} // namespace

Result<Keys> Keys::parse(std::string_view text) {
  Keys keys;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line[0] == '#')
      continue;
    const auto error = [&](const char *what) {
      return Error{Code::InvalidArgument, "API keys, line " + std::to_string(number) + ": " + what};
    };
    const size_t colon = line.find(':');
    const std::string_view name = trimmed(line.substr(0, colon));
    if (colon == line.npos || name.empty())
      return error("expected a name, a colon and a key");
    const std::string_view key = trimmed(line.substr(colon + 1));
    if (key.size() < 8)
      return error("the key has fewer than 8 bytes");
    const Sha256 hash = sha256(key);
    for (const Key &other : keys.keys) {
      if (other.name == name)
        return error("the name is there twice");
      if (other.hash == hash)
        return error("the key is there twice");
    }
    keys.keys.push_back({std::string(name), hash});
  }
  return keys;
}

Result<Keys> Keys::read(const std::string &path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0)
    return Error{Code::IoError, "API keys '" + path + "': " + std::strerror(errno)};
  if (info.st_mode & (S_IRWXG | S_IRWXO))
    return Error{Code::IoError,
                 "API keys '" + path +
                     "': others than the owner have access; chmod 600 keeps them out"};
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf()))
    return Error{Code::IoError, "API keys '" + path + "': cannot be read, or there are none"};
  auto keys = parse(text.str());
  if (keys && keys->empty())
    return Error{Code::InvalidArgument, "API keys '" + path + "': there are none"};
  return keys;
}

std::optional<std::string> Keys::nameOf(const http::HttpRequest &request) const {
  const Sha256 shown = sha256(shownBy(request));
  const Key *found = nullptr;
  for (const Key &key : keys) { // all of them, and each to its end
    uint8_t differs = 0;
    for (size_t i = 0; i < shown.size(); ++i)
      differs |= shown[i] ^ key.hash[i];
    found = differs == 0 ? &key : found;
  }
  if (!found)
    return std::nullopt;
  return found->name;
}

} // namespace moe::server::api
