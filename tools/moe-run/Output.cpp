#include "tools/moe-run/Output.h"

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace moe {

Status print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
    return ok();
  return Error{Code::IoError,
               std::string("cannot write to standard output: ") + std::strerror(errno)};
}

std::string jsonString(std::string_view text) {
  std::string json = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else if (c == '\n') {
      json += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      json += escape;
    } else {
      json += c;
    }
  }
  return json += '"';
}

template <typename T> static std::string textOf(T value) {
  char digits[40];
  auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  return std::isfinite(value) ? std::string(digits, end) : "null";
}
std::string numberText(double value) { return textOf(value); }
std::string numberText(float value) { return textOf(value); }

void JsonObject::addRaw(std::string_view name, std::string_view json) {
  if (!members.empty())
    members += ", ";
  members += jsonString(name) + ": ";
  members += json;
}

void JsonObject::add(std::string_view name, std::string_view value) {
  addRaw(name, jsonString(value));
}

void JsonObject::add(std::string_view name, double value) { addRaw(name, numberText(value)); }

void JsonObject::add(std::string_view name, int64_t value) { addRaw(name, std::to_string(value)); }

void JsonObject::add(std::string_view name, std::span<const int32_t> values) {
  std::string list = "[";
  for (int32_t value : values)
    list += (list.size() > 1 ? ", " : "") + std::to_string(value);
  addRaw(name, list + "]");
}

void JsonObject::add(std::string_view name, std::span<const float> values) {
  std::string list = "[";
  for (float value : values)
    list += (list.size() > 1 ? ", " : "") + numberText(value);
  addRaw(name, list + "]");
}

void JsonObject::add(std::string_view name, std::span<const JsonObject> values) {
  std::string list = "[";
  for (const JsonObject &value : values)
    list += (list.size() > 1 ? ", " : "") + value.text();
  addRaw(name, list + "]");
}

void JsonObject::add(std::string_view name, const JsonObject &value) { addRaw(name, value.text()); }

} // namespace moe
