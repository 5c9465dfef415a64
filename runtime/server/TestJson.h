// For tests: whether a JSON value is what a schema asks for, by the words of JSON Schema and
// nothing of the server.
#ifndef MOE_RUNTIME_SERVER_TESTJSON_H
#define MOE_RUNTIME_SERVER_TESTJSON_H

#include "runtime/text/Utf8.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <set>

namespace moe::server {

using Json = nlohmann::ordered_json;

inline bool isOfType(const Json &value, const std::string &type) {
  return type == "object"    ? value.is_object()
         : type == "array"   ? value.is_array()
         : type == "string"  ? value.is_string()
         : type == "boolean" ? value.is_boolean()
         : type == "null"    ? value.is_null()
         : type == "integer"
             ? value.is_number_integer() ||
                   (value.is_number() && std::floor(value.get<double>()) == value.get<double>())
             : value.is_number();
}

inline bool conforms(const Json &value, const Json &schema, const Json &root) {
  if (schema.is_boolean())
    return schema.get<bool>();
  const auto number = [&](const char *key, double otherwise) {
    return schema.contains(key) ? schema[key].get<double>() : otherwise;
  };
  const auto holds = [&](const Json &part) { return conforms(value, part, root); };
  constexpr double kMost = 1e300;
  if (schema.contains("$ref")) {
    const std::string pointer = schema["$ref"].get<std::string>().substr(1);
    if (!conforms(value, root.at(nlohmann::ordered_json::json_pointer(pointer)), root))
      return false;
  }
  if (schema.contains("const") && value != schema["const"])
    return false;
  if (schema.contains("enum") && std::ranges::find(schema["enum"], value) == schema["enum"].end())
    return false;
  if (schema.contains("anyOf") && std::ranges::none_of(schema["anyOf"], holds))
    return false;
  if (schema.contains("oneOf") && std::ranges::count_if(schema["oneOf"], holds) != 1)
    return false;
  if (schema.contains("allOf") && !std::ranges::all_of(schema["allOf"], holds))
    return false;
  if (schema.contains("type")) {
    const Json &type = schema["type"];
    const auto isThis = [&](const Json &one) { return isOfType(value, one.get<std::string>()); };
    if (type.is_array() ? std::ranges::none_of(type, isThis) : !isThis(type))
      return false;
  }
  if (value.is_number()) {
    const double x = value.get<double>();
    if (x < number("minimum", -kMost) || x > number("maximum", kMost) ||
        x <= number("exclusiveMinimum", -kMost) || x >= number("exclusiveMaximum", kMost))
      return false;
    if (schema.contains("multipleOf") &&
        value.get<int64_t>() % schema["multipleOf"].get<int64_t>() != 0)
      return false;
  }
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    const auto characters =
        double(std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
    if (characters < number("minLength", 0) || characters > number("maxLength", kMost))
      return false;
    if (schema.contains("pattern") &&
        !std::regex_search(text, std::regex(schema["pattern"].get<std::string>())))
      return false;
  }
  if (value.is_array()) {
    if (double(value.size()) < number("minItems", 0) ||
        double(value.size()) > number("maxItems", kMost))
      return false;
    const Json none = Json::array();
    const Json &prefix = schema.contains("prefixItems") ? schema["prefixItems"] : none;
    for (size_t i = 0; i < value.size(); ++i)
      if (i < prefix.size()
              ? !conforms(value[i], prefix[i], root)
              : schema.contains("items") && !conforms(value[i], schema["items"], root))
        return false;
  }
  if (value.is_object()) {
    if (double(value.size()) < number("minProperties", 0) ||
        double(value.size()) > number("maxProperties", kMost))
      return false;
    if (schema.contains("required"))
      for (const Json &name : schema["required"])
        if (!value.contains(name.get<std::string>()))
          return false;
    for (const auto &[name, member] : value.items()) {
      if (schema.contains("properties") && schema["properties"].contains(name)) {
        if (!conforms(member, schema["properties"][name], root))
          return false;
      } else if (schema.contains("additionalProperties") &&
                 !conforms(member, schema["additionalProperties"], root)) {
        return false;
      }
    }
  }
  return true;
}

// The value of `answer`, as a client gets it, if it is JSON without anything after it, and each
// name of an object occurs once. Grammars know characters by their lengths alone, so that a text
// may hold damaged ones, which are replaced on the way.
inline std::optional<Json> parseStrictly(const std::string &answer) {
  const std::string text = replaceInvalidUtf8(answer);
  std::vector<std::set<std::string>> names;
  bool twice = false;
  const auto watch = [&](int, Json::parse_event_t event, Json &parsed) {
    if (event == Json::parse_event_t::object_start)
      names.emplace_back();
    else if (event == Json::parse_event_t::object_end)
      names.pop_back();
    else if (event == Json::parse_event_t::key)
      twice |= !names.back().insert(parsed.get<std::string>()).second;
    return true;
  };
  Json value = Json::parse(text, watch, false);
  if (value.is_discarded() || twice)
    return std::nullopt;
  return value;
}

} // namespace moe::server

#endif
