// What moe-run prints: standard output with its errors noticed, and JSON.
#ifndef MOE_TOOLS_MOE_RUN_OUTPUT_H
#define MOE_TOOLS_MOE_RUN_OUTPUT_H

#include "runtime/Status.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace moe {

// Writes to standard output and flushes it, so that text appears as it comes. Error: IoError.
Status print(std::string_view text);

// One JSON object, its members in the order of the calls.
class JsonObject {
public:
  void add(std::string_view name, std::string_view value);
  void add(std::string_view name, const char *value) { add(name, std::string_view(value)); }
  void add(std::string_view name, double value); // as numberText has it
  void add(std::string_view name, int64_t value);
  void add(std::string_view name, std::span<const int32_t> values);
  void add(std::string_view name, std::span<const float> values); // as numberText has them
  void add(std::string_view name, const JsonObject &value);
  void add(std::string_view name, std::span<const JsonObject> values);
  std::string text() const { return "{" + members + "}"; }

private:
  void addRaw(std::string_view name, std::string_view json);
  std::string members;
};

std::string jsonString(std::string_view text); // with its quotes
// The shortest that reads back to the same bits; null if not finite.
std::string numberText(double value);
std::string numberText(float value);

} // namespace moe

#endif
