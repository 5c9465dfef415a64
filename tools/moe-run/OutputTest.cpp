#include "tools/moe-run/Output.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace moe;

namespace {

TEST(Json, EscapesWhatItMust) {
  EXPECT_EQ(jsonString("a\"b\\c\n\x01é"), "\"a\\\"b\\\\c\\n\\u0001é\"");
}

TEST(Json, Members) {
  JsonObject inner, json;
  inner.add("x", int64_t(-3));
  const int32_t ids[] = {1, 2};
  json.add("text", "hi");
  json.add("half", 0.5);
  json.add("nan", std::nan(""));
  json.add("ids", std::span<const int32_t>(ids));
  const float floats[] = {0.1f, -1, std::nanf("")};
  json.add("floats", std::span<const float>(floats));
  json.add("inner", inner);
  const JsonObject list[] = {inner, JsonObject()};
  json.add("list", std::span<const JsonObject>(list));
  EXPECT_EQ(json.text(),
            R"({"text": "hi", "half": 0.5, "nan": null, "ids": [1, 2], )"
            R"("floats": [0.1, -1, null], "inner": {"x": -3}, "list": [{"x": -3}, {}]})");
  EXPECT_EQ(JsonObject().text(), "{}");
}

} // namespace
