// JSON that a client sent, as values.
#ifndef MOE_RUNTIME_SERVER_API_JSON_H
#define MOE_RUNTIME_SERVER_API_JSON_H

#include "runtime/Status.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace moe::server::api {

struct Json;
struct JsonMember;
using JsonArray = std::vector<Json>;
using JsonObject = std::vector<JsonMember>; // in the text's order, no key twice

struct Json {
  // Integers that do not fit are doubles.
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, JsonArray, JsonObject> value;

  bool isNull() const { return value.index() == 0; }
  const bool *boolean() const { return std::get_if<bool>(&value); }
  const std::string *string() const { return std::get_if<std::string>(&value); }
  const JsonArray *array() const { return std::get_if<JsonArray>(&value); }
  const JsonObject *object() const { return std::get_if<JsonObject>(&value); }
  // The member of an object; null if there is none, it is null, or this is no object.
  const Json *find(std::string_view key) const;

  const char *kind() const; // "a string"
};

struct JsonMember {
  std::string key;
  Json value;
};

// What a text may cost. A value takes some 40 bytes, whatever it is.
inline constexpr int kMaxJsonDepth = 64;
inline constexpr size_t kMaxJsonValues = 2 << 20,
                        kMaxJsonMembers = 16 << 10; // members: of an object

// Error: InvalidArgument, with where and what is wrong. Texts are refused that are no JSON (RFC
// 8259: also invalid UTF-8, half a surrogate pair, NaN), whose numbers a double cannot hold, with a
// key twice in an object, or beyond the limits.
Result<Json> parseJson(std::string_view text);

// Compact, keys in their order.
std::string jsonText(const Json &json);

} // namespace moe::server::api

#endif
