// nlohmann reads the text and this keeps the values: its own would nest as deep as a client likes,
// and look through an object for each key that is added.
#include "runtime/server/api/Json.h"

#include "runtime/server/api/JsonText.h"
#include "runtime/text/Utf8.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <numeric>

namespace moe::server::api {
namespace {

// Takes the parts of a text in their order. Each call returns whether to go on.
class Builder : public nlohmann::json_sax<nlohmann::json> {
public:
  Json root;
  std::string error;

  bool null() override { return add({nullptr}); }
  bool boolean(bool is) override { return add({is}); }
  bool number_integer(int64_t number) override { return add({number}); }
  bool number_unsigned(uint64_t number) override {
    return number <= uint64_t(INT64_MAX) ? add({int64_t(number)}) : add({double(number)});
  }
  bool number_float(double number, const std::string &text) override { return add({number}); }
  bool string(std::string &text) override { return add({std::move(text)}); }
  bool binary(nlohmann::json::binary_t &) override { return false; } // no text has it
  bool start_object(size_t) override { return add({JsonObject()}); }
  bool start_array(size_t) override { return add({JsonArray()}); }
  bool end_array() override {
    open.pop_back();
    return true;
  }

  bool key(std::string &text) override {
    auto &members = std::get<JsonObject>(open.back()->value);
    if (members.size() == kMaxJsonMembers)
      return fail("an object has more than " + std::to_string(kMaxJsonMembers) + " members");
    members.push_back({std::move(text), {nullptr}});
    return true;
  }

  bool end_object() override {
    const auto &members = std::get<JsonObject>(open.back()->value);
    open.pop_back();
    std::vector<uint32_t> order(members.size());
    std::iota(order.begin(), order.end(), 0);
    const auto keyOf = [&](uint32_t i) -> const std::string & { return members[i].key; };
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return keyOf(a) < keyOf(b); });
    const auto twice = std::adjacent_find(
        order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return keyOf(a) == keyOf(b); });
    if (twice == order.end())
      return true;
    return fail("an object has the key '" + keyOf(*twice).substr(0, 64) + "' twice");
  }

  bool parse_error(size_t position, const std::string &token,
                   const nlohmann::detail::exception &exception) override {
    std::string_view what = exception.what(); // [json.exception...] parse error at ...
    if (const size_t end = what.find("] "); end != what.npos)
      what.remove_prefix(end + 2);
    return fail(what.substr(0, 200)); // it quotes what it read, which may be long
  }

private:
  bool add(Json json) {
    if (++values > kMaxJsonValues)
      return fail("more than " + std::to_string(kMaxJsonValues) + " values");
    Json *place = &root;
    if (!open.empty()) {
      if (auto *array = std::get_if<JsonArray>(&open.back()->value))
        place = &array->emplace_back();
      else
        place = &std::get<JsonObject>(open.back()->value).back().value;
    }
    *place = std::move(json);
    if (place->array() || place->object()) {
      if (open.size() == kMaxJsonDepth)
        return fail("arrays and objects are nested more than " + std::to_string(kMaxJsonDepth) +
                    " deep");
      open.push_back(place);
    }
    return true;
  }

  bool fail(std::string_view message) {
    error = replaceInvalidUtf8(message);
    return false;
  }

  // Around the value that comes next. What is around an open value does not move: its own list
  // grows only after it is closed.
  std::vector<Json *> open;
  size_t values = 0;
};

void append(JsonWriter &out, const Json &json) {
  if (const auto *array = json.array()) {
    out.beginArray();
    for (const Json &element : *array)
      append(out, element);
    out.endArray();
  } else if (const auto *object = json.object()) {
    out.beginObject();
    for (const auto &[key, member] : *object)
      append(out.key(key), member);
    out.endObject();
  } else if (const auto *number = std::get_if<double>(&json.value)) {
    out.value(*number);
  } else if (const auto *integer = std::get_if<int64_t>(&json.value)) {
    out.value(*integer);
  } else if (const auto *text = json.string()) {
    out.value(*text);
  } else if (const bool *is = json.boolean()) {
    out.value(*is);
  } else {
    out.value(nullptr);
  }
}

} // namespace

const Json *Json::find(std::string_view key) const {
  if (const auto *members = object())
    for (const auto &[name, member] : *members)
      if (name == key)
        return member.isNull() ? nullptr : &member;
  return nullptr;
}

const char *Json::kind() const {
  constexpr const char *kKinds[] = {"null",     "a boolean", "an integer", "a number",
                                    "a string", "an array",  "an object"};
  return kKinds[value.index()];
}

Result<Json> parseJson(std::string_view text) {
  Builder builder;
  try {
    if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder))
      return std::move(builder.root);
  } catch (const std::exception &exception) { // none is known of but a lack of memory
    builder.error = exception.what();
  }
  return Error{Code::InvalidArgument, "the body is not JSON that can be read: " + builder.error};
}

std::string jsonText(const Json &json) {
  std::string out;
  JsonWriter writer(out);
  append(writer, json);
  return out;
}

} // namespace moe::server::api
