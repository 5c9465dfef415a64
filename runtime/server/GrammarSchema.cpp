// Reads schemas with the parser that xgrammar has, so that both see the same.
#include "runtime/server/GrammarSchema.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <picojson.h>
#include <set>
#include <span>

namespace moe::server {
namespace {
using Value = picojson::value;
using Object = picojson::object;
using Array = picojson::array;
using Names = std::span<const std::string_view>;

constexpr std::string_view kAnnotations[] = {
    "title",     "description", "default", "examples", "deprecated", "readOnly",
    "writeOnly", "$comment",    "$schema", "$id",      "$defs",      "definitions"};
// Each of these is all that a schema says, but for annotations.
constexpr std::string_view kWhole[] = {"$ref", "const", "enum", "anyOf", "oneOf", "allOf"};
constexpr std::string_view kOfObjects[] = {
    "properties",        "required",      "additionalProperties", "unevaluatedProperties",
    "patternProperties", "propertyNames", "minProperties",        "maxProperties"};
constexpr std::string_view kOfArrays[] = {"items", "prefixItems", "minItems", "maxItems",
                                          "unevaluatedItems"};
constexpr std::string_view kOfStrings[] = {"pattern", "format", "minLength", "maxLength"};
constexpr std::string_view kOfNumbers[] = {"minimum", "maximum", "exclusiveMinimum",
                                           "exclusiveMaximum", "multipleOf"};
constexpr std::string_view kFormats[] = {"email",         "date",
                                         "time",          "date-time",
                                         "duration",      "ipv4",
                                         "ipv6",          "uuid",
                                         "hostname",      "uri",
                                         "uri-reference", "uri-template",
                                         "json-pointer",  "relative-json-pointer"};
constexpr std::string_view kTypes[] = {"object",  "array",   "string", "number",
                                       "integer", "boolean", "null"};

bool has(const Object &object, std::string_view name) {
  return object.count(std::string(name)) != 0;
}
bool has(Names names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

Error wrong(const std::string &path, const std::string &what) {
  return {Code::InvalidArgument, "schema, at " + (path.empty() ? "its root" : path) + ": " + what};
}

std::string typeName(const Value &value) {
  return value.is<Object>()           ? "object"
         : value.is<Array>()          ? "array"
         : value.is<std::string>()    ? "string"
         : value.is<bool>()           ? "boolean"
         : value.is<picojson::null>() ? "null"
                                      : "number";
}

bool isOfType(const Value &value, std::string_view type) {
  const std::string own = typeName(value);
  return own == type || (own == "number" && type == "integer" &&
                         value.get<double>() == std::floor(value.get<double>()));
}

// A schema is walked once, from the root to the leaves, and changed in place.
class Preparation {
public:
  Preparation(Value &root, bool strict, int maxDepth)
      : root(root), strict(strict), maxDepth(maxDepth) {}

  Status schema(Value &value, const std::string &path) {
    if (value.is<bool>())
      return ok();
    if (!value.is<Object>())
      return wrong(path, "found a value of type " + typeName(value) +
                             ", expected an object or a boolean");
    Object &object = value.get<Object>();
    MOE_TRY(keywords(object, path));
    for (const char *name : {"$defs", "definitions", "properties", "patternProperties"})
      MOE_TRY(schemasByName(object, name, path));
    for (const char *name : {"additionalProperties", "unevaluatedProperties", "propertyNames",
                             "items", "unevaluatedItems"})
      if (auto entry = object.find(name); entry != object.end())
        MOE_TRY(schema(entry->second, path + "/" + name));
    for (const char *name : {"anyOf", "oneOf", "allOf", "prefixItems"})
      MOE_TRY(schemasInArray(object, name, path));
    return ok();
  }

private:
  Status schemasByName(Object &object, const std::string &name, const std::string &path) {
    auto entry = object.find(name);
    if (entry == object.end())
      return ok();
    if (!entry->second.is<Object>())
      return wrong(path + "/" + name, "found a value of type " + typeName(entry->second) +
                                          ", expected an object of schemas");
    auto &schemas = entry->second.get<Object>();
    for (const std::string &key : schemas.ordered_keys())
      MOE_TRY(schema(schemas.at(key), path + "/" + name + "/" + key));
    return ok();
  }

  Status schemasInArray(Object &object, const std::string &name, const std::string &path) {
    auto entry = object.find(name);
    if (entry == object.end())
      return ok();
    if (!entry->second.is<Array>() || entry->second.get<Array>().empty())
      return wrong(path + "/" + name, "expected an array of at least one schema");
    size_t index = 0;
    for (Value &value : entry->second.get<Array>())
      MOE_TRY(schema(value, path + "/" + name + "/" + std::to_string(index++)));
    return ok();
  }

  Status keywords(Object &object, const std::string &path) {
    if (strict)
      MOE_TRY(refuseUnknown(object, path));
    MOE_TRY(type(object, path));
    MOE_TRY(values(object, path));
    if (has(object, "$ref"))
      return reference(object, path);
    const auto whole = std::ranges::find_if(kWhole, [&](auto name) { return has(object, name); });
    if (whole == std::end(kWhole))
      writeDefaults(object);
    return ok();
  }

  Status refuseUnknown(const Object &object, const std::string &path) {
    std::string whole;
    for (std::string_view name : kWhole)
      if (has(object, name))
        whole = name;
    for (const std::string &key : object.ordered_keys()) {
      if (has(kAnnotations, key) || key == whole)
        continue;
      if (key == "type" && (whole.empty() || whole == "const" || whole == "enum"))
        continue;
      const bool known = key == "type" || has(kWhole, key) || has(kOfObjects, key) ||
                         has(kOfArrays, key) || has(kOfStrings, key) || has(kOfNumbers, key);
      if (!known)
        return wrong(path, "the keyword '" + key +
                               "' cannot be kept to with strict: true; leave it out, or strict");
      if (!whole.empty())
        return wrong(path,
                     "'" + key + "' beside '" + whole + "' cannot be kept to with strict: true");
    }
    return ok();
  }

  // `type` is one of the seven or an array of them; where it is missing, what the keywords are
  // about.
  Status type(Object &object, const std::string &path) {
    if (auto entry = object.find("type"); entry != object.end()) {
      const auto isType = [](const Value &v) {
        return v.is<std::string>() && has(kTypes, v.get<std::string>());
      };
      const Value &value = entry->second;
      const bool right = value.is<Array>() ? !value.get<Array>().empty() &&
                                                 std::ranges::all_of(value.get<Array>(), isType)
                                           : isType(value);
      if (!right)
        return wrong(path + "/type", "found " + value.serialize() +
                                         ", expected object, array, string, number, integer, "
                                         "boolean, null or an array of these");
      return ok();
    }
    std::set<std::string> about;
    for (const std::string &key : object.ordered_keys()) {
      if (has(kWhole, key))
        return ok();
      if (has(kOfObjects, key))
        about.insert("object");
      if (has(kOfArrays, key))
        about.insert("array");
      if (has(kOfStrings, key))
        about.insert("string");
      if (has(kOfNumbers, key))
        about.insert("number");
    }
    if (about.size() > 1 && strict)
      return wrong(path, "has no type, and keywords for values of types " + *about.begin() +
                             " and " + *about.rbegin());
    if (about.size() == 1)
      object["type"] = Value(*about.begin());
    return ok();
  }

  // Values that xgrammar would take without a look at their type, or leave out without a word.
  Status values(Object &object, const std::string &path) {
    for (const char *name : {"pattern", "format", "$ref"})
      if (auto entry = object.find(name); entry != object.end() && !entry->second.is<std::string>())
        return wrong(path + "/" + name,
                     "found a value of type " + typeName(entry->second) + ", expected a string");
    if (auto pattern = object.find("pattern"); pattern != object.end())
      MOE_TRY(checkPattern(pattern->second.get<std::string>(), path + "/pattern"));
    if (auto patterns = object.find("patternProperties");
        patterns != object.end() && patterns->second.is<Object>())
      for (const std::string &pattern : patterns->second.get<Object>().ordered_keys())
        MOE_TRY(checkPattern(pattern, path + "/patternProperties"));
    if (auto format = object.find("format");
        format != object.end() && !has(kFormats, format->second.get<std::string>())) {
      if (strict)
        return wrong(path + "/format", "the format '" + format->second.get<std::string>() +
                                           "' cannot be kept to with strict: true");
      object.erase("format");
    }
    if (auto required = object.find("required"); required != object.end()) {
      if (!required->second.is<Array>())
        return wrong(path + "/required", "expected an array of names");
      for (const Value &name : required->second.get<Array>())
        if (!name.is<std::string>())
          return wrong(path + "/required", "expected an array of names");
    }
    auto values = object.find("enum");
    if (values == object.end())
      return ok();
    if (!values->second.is<Array>() || values->second.get<Array>().empty())
      return wrong(path + "/enum", "expected an array of at least one value");
    if (auto type = object.find("type"); type != object.end() && type->second.is<std::string>()) {
      auto &all = values->second.get<Array>();
      std::erase_if(all,
                    [&](const Value &v) { return !isOfType(v, type->second.get<std::string>()); });
      if (all.empty())
        return wrong(path + "/enum", "no value is of type " + type->second.get<std::string>());
    }
    return ok();
  }

  Status checkPattern(const std::string &pattern, const std::string &path) {
    Status checked = checkDepth(pattern, "(", ")", '\0', maxDepth);
    if (checked)
      checked = checkRepetition(pattern);
    return checked ? ok() : wrong(path, checked.error().message);
  }

  // References that go in circles without anything between name no value at all.
  Status reference(const Object &object, const std::string &path) {
    const std::string uri = object.at("$ref").get<std::string>();
    std::set<std::string> seen;
    std::string next = uri;
    for (;;) {
      if (next != "#" && !next.starts_with("#/"))
        return wrong(path + "/$ref",
                     "found '" + next +
                         "', expected a place in the same schema, for example #/$defs/name");
      if (seen.size() > 100)
        return wrong(path + "/$ref", "'" + uri + "' leads through more than 100 references");
      if (!seen.insert(next).second)
        return wrong(path + "/$ref", "'" + uri + "' leads to itself");
      const Value *target = place(next);
      if (!target)
        return wrong(path + "/$ref", "there is no '" + next + "' in the schema");
      if (!target->is<Object>() && !target->is<bool>())
        return wrong(path + "/$ref", "'" + next + "' is no schema");
      if (!target->is<Object>() || !has(target->get<Object>(), "$ref"))
        return ok();
      const Value &further = target->get<Object>().at("$ref");
      if (!further.is<std::string>())
        return wrong(path + "/$ref", "'" + next + "' has a $ref that is no string");
      next = further.get<std::string>();
    }
  }

  // What a JSON pointer in a fragment names, or null. Percent signs are left to xgrammar.
  const Value *place(std::string_view pointer) const {
    const Value *at = &root;
    pointer.remove_prefix(1);
    while (!pointer.empty()) {
      pointer.remove_prefix(1);
      const size_t end = std::min(pointer.find('/'), pointer.size());
      std::string token;
      for (size_t i = 0; i < end; ++i) {
        const bool escape = pointer[i] == '~' && i + 1 < end;
        token += escape ? (pointer[i + 1] == '1' ? '/' : '~') : pointer[i];
        i += escape;
      }
      pointer.remove_prefix(end);
      if (at->is<Object>() && has(at->get<Object>(), token)) {
        at = &at->get<Object>().at(token);
      } else if (at->is<Array>() && !token.empty() && token.size() < 6 &&
                 std::ranges::all_of(token, [](char c) { return c >= '0' && c <= '9'; }) &&
                 size_t(std::stoi(token)) < at->get<Array>().size()) {
        at = &at->get<Array>()[size_t(std::stoi(token))];
      } else {
        return nullptr;
      }
    }
    return at;
  }

  // xgrammar takes an object or array about whose other members nothing is said to have none.
  static void writeDefaults(Object &object) {
    const auto any = [&](std::initializer_list<const char *> names) {
      return std::ranges::any_of(names, [&](const char *name) { return has(object, name); });
    };
    if (!has(object, "type"))
      return;
    if (!any({"additionalProperties", "unevaluatedProperties"}))
      object["additionalProperties"] =
          Value(!any({"properties", "patternProperties", "propertyNames"}));
    if (!any({"items", "unevaluatedItems"}))
      object["items"] = Value(true);
  }

  Value &root;
  bool strict;
  int maxDepth;
};

Result<Value> parseJson(std::string_view text, const char *what, int maxDepth) {
  MOE_TRY(checkDepth(text, "[{", "]}", '"', maxDepth));
  Value value;
  std::string error;
  auto end = picojson::parse(value, text.begin(), text.end(), &error);
  while (error.empty() && end != text.end() &&
         std::string_view(" \t\r\n").find(*end) != std::string_view::npos)
    ++end;
  if (!error.empty() || end != text.end())
    return Error{Code::InvalidArgument,
                 std::string(what) + " is no JSON, at byte " + std::to_string(end - text.begin())};
  return value;
}

Status prepare(Value &schema, bool strict, int maxDepth) {
  return Preparation(schema, strict, maxDepth).schema(schema, "");
}
} // namespace

Status checkDepth(std::string_view text, std::string_view open, std::string_view close, char quote,
                  int maxDepth) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\')
      ++i;
    else if (c == quote)
      quoted = !quoted;
    else if (!quoted && open.find(c) != std::string_view::npos)
      ++depth;
    else if (!quoted && close.find(c) != std::string_view::npos)
      --depth;
    if (depth > maxDepth)
      return Error{Code::InvalidArgument, "nested more than " + std::to_string(maxDepth) +
                                              " deep at byte " + std::to_string(i)};
  }
  return ok();
}

Status checkRepetition(std::string_view regex) {
  constexpr double kMost = 10000;
  std::vector<double> groups = {
      1};          // of each open group, the most often that something in it is repeated
  double last = 1; // the same of the element before
  for (size_t i = 0; i < regex.size(); ++i) {
    const char c = regex[i];
    if (c == '(') {
      groups.push_back(1);
    } else if (c == ')' && groups.size() > 1) {
      last = groups.back();
      groups.pop_back();
    } else if (c == '{') {
      const size_t end = std::min(regex.find('}', i), regex.size());
      double count = 0, bound = 0;
      for (++i; i < end; ++i) {
        const bool digit = regex[i] >= '0' && regex[i] <= '9';
        bound = digit ? bound * 10 + (regex[i] - '0') : 0;
        count = std::max(count, bound);
      }
      last *= std::max(count, 1.0);
    } else if (c == '[') {
      for (++i; i < regex.size() && regex[i] != ']'; ++i)
        i += regex[i] == '\\';
      last = 1;
    } else if (c != '*' && c != '+' && c != '?') {
      i += c == '\\';
      last = 1;
    }
    groups.back() = std::max(groups.back(), last);
    if (last > kMost)
      return Error{Code::InvalidArgument,
                   "the regular expression repeats something more than 10000 times, at byte " +
                       std::to_string(i)};
  }
  return ok();
}

Status checkEscapes(std::string_view ebnf) {
  for (size_t i = 0; i + 1 < ebnf.size(); ++i) {
    if (ebnf[i] != '\\')
      continue;
    const char kind = ebnf[++i];
    const size_t most = kind == 'x' ? ebnf.size() : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    uint32_t value = 0;
    for (size_t digits = 0;
         digits < most && i + 1 < ebnf.size() && std::isxdigit(uint8_t(ebnf[i + 1])); ++digits) {
      const char c = ebnf[++i];
      value = value * 16 + uint32_t(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
      if (value > 0x10FFFF)
        return Error{Code::InvalidArgument,
                     "the grammar has an escape that is no character, at byte " +
                         std::to_string(i)};
    }
  }
  return ok();
}

Result<std::string> prepareSchema(std::string_view text, bool strict, int maxDepth) {
  MOE_ASSIGN(schema, parseJson(text, "the schema", maxDepth));
  MOE_TRY(prepare(schema, strict, maxDepth));
  return schema.serialize();
}

Result<ToolCallTag> toolCallTag(std::string_view text, const ToolCallForm &form, int maxDepth) {
  MOE_ASSIGN(tools, parseJson(text, "the list of tools", maxDepth + 2));
  const Error malformed{
      Code::InvalidArgument,
      "tools: expected an array of at least one object with a name and parameters"};
  if (!tools.is<Array>() || tools.get<Array>().empty())
    return malformed;
  ToolCallTag result;
  Array tags, triggers;
  for (const Value &tool : tools.get<Array>()) {
    if (!tool.is<Object>() || !tool.contains("name") || !tool.get("name").is<std::string>())
      return malformed;
    const std::string name = tool.get("name").get<std::string>();
    Value parameters = tool.contains("parameters") ? tool.get("parameters") : Value();
    if (parameters.is<picojson::null>() ||
        (parameters.is<Object>() && parameters.get<Object>().empty())) {
      parameters = Value(Object());
      parameters.get<Object>()["type"] = Value("object");
    }
    if (!parameters.is<Object>())
      return Error{Code::InvalidArgument, "tool '" + name + "': parameters are no object"};
    const bool isStrict =
        form.strict || (tool.contains("strict") && tool.get("strict").is<bool>() &&
                        tool.get("strict").get<bool>());
    if (Status prepared = prepare(parameters, isStrict, maxDepth); !prepared)
      return Error{prepared.error().code, "tool '" + name + "': " + prepared.error().message};
    if (isStrict)
      result.strict.push_back(parameters.serialize());
    Object content;
    content["type"] = Value("json_schema");
    content["json_schema"] = parameters;
    if (form.amidText)
      content["max_whitespace_cnt"] = Value(int64_t(form.mostBlanks));
    const std::string quoted = Value(name).serialize();
    const auto add = [&](const std::string &trigger, const std::string &rest, const char *end) {
      Object tag;
      tag["begin"] = Value(trigger + rest);
      tag["content"] = Value(content);
      tag["end"] = Value(end);
      tags.push_back(Value(tag));
      triggers.push_back(Value(trigger));
    };
    add("{\"name\": " + quoted, ", \"parameters\": ", "}");
    if (form.amidText) { // as models write it where nothing keeps them from it
      add("{\"name\":" + quoted, ",\"parameters\":", "}");
      add("{\"type\": \"function\", \"name\": " + quoted, ", \"parameters\": ", "}");
      add("<function=" + name + ">", "", "</function>");
    }
  }
  Object format;
  format["type"] = Value(form.amidText ? "triggered_tags" : "tags_with_separator");
  format["tags"] = Value(tags);
  if (form.amidText)
    format["triggers"] = Value(triggers);
  else
    format["separator"] = Value("");
  format["at_least_one"] = Value(!form.amidText);
  format["stop_after_first"] = Value(!form.several);
  Object whole;
  whole["type"] = Value("structural_tag");
  whole["format"] = Value(format);
  result.tag = Value(whole).serialize();
  return result;
}

} // namespace moe::server
