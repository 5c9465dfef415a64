// For tests: reads JSON into values that compare, by itself, so that it can judge what the runtime
// prints.
#ifndef MOE_RUNTIME_TEXT_TESTJSON_H
#define MOE_RUNTIME_TEXT_TESTJSON_H

#include "runtime/text/Tokenizer.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <stdexcept>

namespace moe {

// Throws std::runtime_error where the text is no JSON.
struct TestJson {
  enum class Kind { Null, False, True, Number, String, Array, Object } kind = Kind::Null;
  double number = 0;
  std::string string;
  std::vector<TestJson> array;
  std::map<std::string, TestJson> object;
  std::string text; // as it was written

  bool operator==(const TestJson &other) const {
    return kind == other.kind && number == other.number && string == other.string &&
           array == other.array && object == other.object;
  }
  bool has(const std::string &key) const { return object.contains(key); }
  const TestJson &operator[](const std::string &key) const { return object.at(key); }

  static TestJson parse(std::string_view text) {
    size_t at = 0;
    TestJson value = parse(text, at);
    if (at != text.size())
      fail(text, at);
    return value;
  }
  static TestJson read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return parse(std::string(std::istreambuf_iterator<char>(file), {}));
  }

private:
  [[noreturn]] static void fail(std::string_view text, size_t at) {
    throw std::runtime_error("no JSON at byte " + std::to_string(at) + " of " + std::string(text));
  }
  static void space(std::string_view text, size_t &at) {
    at = std::min(text.find_first_not_of(" \n\r\t", at), text.size());
  }
  static bool take(std::string_view text, size_t &at, std::string_view what) {
    if (!text.substr(at).starts_with(what))
      return false;
    at += what.size();
    return true;
  }

  static std::string parseString(std::string_view text, size_t &at) {
    std::string value;
    if (!take(text, at, "\""))
      fail(text, at);
    while (!take(text, at, "\"")) {
      if (at >= text.size() || uint8_t(text[at]) < 0x20)
        fail(text, at);
      if (!take(text, at, "\\")) {
        value += text[at++];
        continue;
      }
      constexpr std::string_view kNames = "\"\\/bfnrt", kBytes = "\"\\/\b\f\n\r\t";
      if (const size_t name = kNames.find(text.at(at)); name != kNames.npos) {
        value += kBytes[name];
        ++at;
      } else if (take(text, at, "u00")) { // all that json.dumps writes so
        value += char(std::stoi(std::string(text.substr(at, 2)), nullptr, 16));
        at += 2;
      } else {
        fail(text, at);
      }
    }
    return value;
  }

  static TestJson parse(std::string_view text, size_t &at) {
    TestJson value;
    space(text, at);
    const size_t start = at;
    if (take(text, at, "null")) {
      value.kind = Kind::Null;
    } else if (take(text, at, "false")) {
      value.kind = Kind::False;
    } else if (take(text, at, "true")) {
      value.kind = Kind::True;
    } else if (take(text, at, "[")) {
      value.kind = Kind::Array;
      space(text, at);
      while (!take(text, at, "]")) {
        if (!value.array.empty() && !take(text, at, ","))
          fail(text, at);
        value.array.push_back(parse(text, at));
      }
    } else if (take(text, at, "{")) {
      value.kind = Kind::Object;
      space(text, at);
      while (!take(text, at, "}")) {
        if (!value.object.empty() && !take(text, at, ","))
          fail(text, at);
        space(text, at);
        const std::string key = parseString(text, at);
        space(text, at);
        if (!take(text, at, ":"))
          fail(text, at);
        value.object[key] = parse(text, at);
      }
    } else if (at < text.size() && text[at] == '"') {
      value.kind = Kind::String;
      value.string = parseString(text, at);
    } else {
      const size_t end = std::min(text.find_first_not_of("0123456789+-.eE", at), text.size());
      const std::string digits(text.substr(at, end - at));
      char *rest = nullptr;
      value.kind = Kind::Number;
      value.number = std::strtod(digits.c_str(), &rest);
      if (digits.empty() || *rest)
        fail(text, at);
      at = end;
    }
    value.text = text.substr(start, at - start);
    space(text, at);
    return value;
  }
};

} // namespace moe

#endif
