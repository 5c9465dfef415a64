#include "runtime/server/api/Fields.h"

#include "runtime/server/api/JsonText.h"

#include <cmath>

namespace moe::server::api {
namespace {

std::string printed(double number) {
  std::string out;
  std::abs(number) < 1e15 && number == std::floor(number) ? JsonWriter(out).value(int64_t(number))
                                                          : JsonWriter(out).value(number);
  return out;
}

std::string rangeOf(const Field &field) {
  if (std::isinf(field.most))
    return std::isinf(field.least) ? "" : " of at least " + printed(field.least);
  return std::isinf(field.least) ? " of at most " + printed(field.most)
                                 : " from " + printed(field.least) + " to " + printed(field.most);
}

bool inRange(const Field &field, double value) {
  return value >= field.least && value <= field.most;
}

// Numbers, as both JSON and its clients have them: 1.0 is an integer too.
std::optional<double> numberOf(const Json &json) {
  if (const auto *integer = std::get_if<int64_t>(&json.value))
    return double(*integer);
  if (const auto *number = std::get_if<double>(&json.value))
    return *number;
  return std::nullopt;
}

std::optional<int64_t> integerOf(const Json &json) {
  if (const auto *integer = std::get_if<int64_t>(&json.value))
    return *integer;
  const auto *number = std::get_if<double>(&json.value);
  if (number && std::abs(*number) <= 0x1p53 && *number == std::floor(*number))
    return int64_t(*number);
  return std::nullopt;
}

// Puts the value into the target of its field, and says what was expected instead if it is another.
struct Reader {
  const Field &field;
  const Json &json;
  std::string wanted, found;

  bool operator()(bool *target) {
    wanted = "true or false";
    if (const bool *is = json.boolean())
      return *target = *is, true;
    return false;
  }
  bool operator()(int64_t *target) {
    wanted = "an integer" + rangeOf(field);
    const auto integer = integerOf(json);
    if (!integer || !inRange(field, double(*integer)))
      return false;
    return *target = *integer, true;
  }
  bool operator()(int32_t *target) {
    int64_t wide = 0;
    if (!(*this)(&wide))
      return false;
    if (wide != int32_t(wide)) {
      wanted = "an integer of 32 bits";
      return false;
    }
    return *target = int32_t(wide), true;
  }
  bool operator()(double *target) {
    wanted = "a number" + rangeOf(field);
    const auto number = numberOf(json);
    if (!number || !inRange(field, *number))
      return false;
    return *target = *number, true;
  }
  bool operator()(std::string *target) {
    wanted = "a string";
    const std::string *text = json.string();
    if (!text)
      return false;
    if (!inRange(field, double(text->size()))) {
      wanted += rangeOf(field) + " bytes";
      found = "one of " + std::to_string(text->size());
      return false;
    }
    return *target = *text, true;
  }
  bool operator()(const JsonArray **target) {
    wanted = "an array";
    const JsonArray *array = json.array();
    if (!array)
      return false;
    if (!inRange(field, double(array->size()))) {
      wanted += rangeOf(field) + " elements";
      found = "one of " + std::to_string(array->size());
      return false;
    }
    return *target = array, true;
  }
  bool operator()(const Json **target) { return *target = &json, true; }
  template <typename T> bool operator()(std::optional<T> *target) {
    T value{};
    if (!(*this)(&value))
      return false;
    return *target = std::move(value), true;
  }
};

} // namespace

std::string pathOf(const std::string &where, std::string_view member) {
  return where.empty() ? std::string(member) : where + "." + std::string(member);
}

std::string pathOf(const std::string &where, size_t index) {
  return where + "[" + std::to_string(index) + "]";
}

Check readFields(const Json &object, std::span<const Field> fields, const std::string &where) {
  if (!object.object())
    return Problem::invalid(where, std::string("found ") + object.kind() + ", expected an object");
  for (const Field &field : fields) {
    const Json *json = object.find(field.name);
    if (!json)
      continue;
    Reader reader{field, *json, {}, {}};
    if (std::visit(reader, field.target))
      continue;
    std::string found = reader.found;
    if (found.empty()) {
      const auto number = numberOf(*json);
      found = number ? printed(*number) : json->kind();
    }
    const std::string path = pathOf(where, field.name);
    return Problem::invalid(path, path + ": found " + found + ", expected " + reader.wanted);
  }
  return std::nullopt;
}

Check readName(const Json &object, const char *member, std::span<const char *const> names,
               size_t &index, const std::string &where) {
  const Json *json = object.find(member);
  if (!json)
    return std::nullopt;
  std::string all;
  for (size_t i = 0; i < names.size(); ++i) {
    if (json->string() && *json->string() == names[i])
      return index = i, std::nullopt;
    all += std::string(i == 0 ? "" : i + 1 < names.size() ? ", " : " or ") + "'" + names[i] + "'";
  }
  const std::string found =
      json->string() ? "'" + json->string()->substr(0, 64) + "'" : json->kind();
  const std::string path = pathOf(where, member);
  return Problem::invalid(path, path + ": found " + found + ", expected " + all);
}

Check readIds(const JsonArray &array, int64_t vocab, const std::string &where,
              std::vector<int32_t> &ids) {
  for (size_t i = 0; i < array.size(); ++i) {
    const auto id = integerOf(array[i]);
    if (!id || *id < 0 || *id >= vocab)
      return Problem::invalid(
          pathOf(where, i),
          where + ": found " + (id ? std::to_string(*id) : std::string(array[i].kind())) +
              ", expected the id of a token, from 0 to " + std::to_string(vocab - 1));
    ids.push_back(int32_t(*id));
  }
  return std::nullopt;
}

} // namespace moe::server::api
