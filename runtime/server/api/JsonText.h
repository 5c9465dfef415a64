// Writes JSON by appending to a string.
#ifndef MOE_RUNTIME_SERVER_API_JSONTEXT_H
#define MOE_RUNTIME_SERVER_API_JSONTEXT_H

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace moe::server::api {

// `text` between quotes. It should be UTF-8 and is not looked at but for what JSON has to escape.
void appendQuoted(std::string &out, std::string_view text);
// Only the characters: for text that goes between quotes which are there already.
void appendEscaped(std::string &out, std::string_view text);

// Commas are put where they belong, so that members and elements only follow each other. Nothing
// is checked: what is opened must be closed, and a member is a key with a value.
class JsonWriter {
public:
  // Appends to `out`, which must outlive the writer and may hold other text already.
  explicit JsonWriter(std::string &out) : out(out), start(out.size()) {}

  JsonWriter &beginObject() { return open('{'); }
  JsonWriter &endObject() { return close('}'); }
  JsonWriter &beginArray() { return open('['); }
  JsonWriter &endArray() { return close(']'); }
  JsonWriter &key(std::string_view name);

  JsonWriter &value(std::string_view text);
  JsonWriter &value(const char *text) { return value(std::string_view(text)); }
  JsonWriter &value(bool is) { return raw(is ? "true" : "false"); }
  JsonWriter &value(std::integral auto number) { return raw(std::to_string(number)); }
  JsonWriter &value(double number); // null if not finite
  JsonWriter &value(std::nullptr_t) { return raw("null"); }
  JsonWriter &raw(std::string_view json); // a value that is JSON already

  template <typename T> JsonWriter &member(std::string_view name, const T &of) {
    return key(name).value(of);
  }

private:
  JsonWriter &open(char bracket);
  JsonWriter &close(char bracket);
  void separate();

  std::string &out;
  size_t start;
};

} // namespace moe::server::api

#endif
