#include "runtime/server/api/Json.h"

#include "runtime/server/api/Fields.h"
#include "runtime/server/api/JsonText.h"
#include "runtime/server/api/Keys.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>

#include <sys/stat.h>
#include <unistd.h>

using namespace moe;
using namespace moe::server::api;

namespace {

std::string repeated(std::string_view text, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i)
    out += text;
  return out;
}

std::string errorOf(std::string_view text) {
  const auto json = parseJson(text);
  return json ? "" : json.error().message;
}

nlohmann::ordered_json randomJson(std::mt19937 &random, int depth) {
  switch (random() % (depth > 0 ? 9 : 7)) {
  case 0:
    return nullptr;
  case 1:
    return bool(random() % 2);
  case 2:
    return int64_t(random()) * (random() % 2 ? 1 : -1);
  case 3:
    return double(int32_t(random())) / 1024;
  case 4:
    return std::ldexp(double(random()), int(random() % 1800) - 900);
  case 5:
    return std::string("\"\\/\b\f\n\r\t\x01\x7f").substr(random() % 10);
  case 6:
    return std::string("añ日🙂").substr(0, random() % 2 ? 3 : std::string::npos);
  case 7: {
    auto array = nlohmann::ordered_json::array();
    for (size_t i = random() % 4; i > 0; --i)
      array.push_back(randomJson(random, depth - 1));
    return array;
  }
  default: {
    auto object = nlohmann::ordered_json::object();
    for (size_t i = random() % 4; i > 0; --i)
      object["k" + std::to_string(random() % 100)] = randomJson(random, depth - 1);
    return object;
  }
  }
}

TEST(Json, ComesBackAsItWas) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    const auto json = randomJson(random, 4);
    const auto parsed = parseJson(json.dump(i % 5 - 1));
    ASSERT_TRUE(parsed) << parsed.error().message;
    EXPECT_EQ(nlohmann::ordered_json::parse(jsonText(*parsed)), json);
  }
}

TEST(Json, IsRefusedBeyondItsLimits) {
  EXPECT_EQ(errorOf(repeated("[", 64) + repeated("]", 64)), "");
  EXPECT_NE(errorOf(repeated("[", 65) + repeated("]", 65)).find("nested"), std::string::npos);
  EXPECT_NE(errorOf(repeated("[", 100'000) + repeated("]", 100'000)).find("nested"),
            std::string::npos);
  EXPECT_NE(errorOf(repeated("{\"a\":", 100'000)).find("nested"), std::string::npos);
  EXPECT_EQ(errorOf("[" + repeated("0,", kMaxJsonValues - 2) + "0]"), "");
  EXPECT_NE(errorOf("[" + repeated("0,", kMaxJsonValues) + "0]").find("values"), std::string::npos);
  std::string members;
  for (size_t i = 0; i < kMaxJsonMembers; ++i)
    members += "\"" + std::to_string(i) + "\":0,";
  EXPECT_EQ(errorOf("{" + members.substr(0, members.size() - 1) + "}"), "");
  EXPECT_NE(errorOf("{" + members + "\"x\":0}").find("members"), std::string::npos);
}

TEST(Json, IsRefusedIfItIsNone) {
  for (const std::string_view text : {"",
                                      " ",
                                      "{",
                                      "[1,]",
                                      "{\"a\"}",
                                      "nul",
                                      "NaN",
                                      "Infinity",
                                      "-",
                                      "01",
                                      "+1",
                                      "1e999",
                                      "-1e999",
                                      "'a'",
                                      "\"\\ud800\"",
                                      "\"\\udc00\\ud800\"",
                                      "\"\xff\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\xc0\x80\"",
                                      "\"\n\"",
                                      "[1] 2",
                                      "{\"a\":1,\"b\":2,\"a\":3}",
                                      "\"\\x41\"",
                                      "// c\n1"})
    EXPECT_NE(errorOf(text), "") << text;
  EXPECT_NE(errorOf("{\"a\":1,\"a\":2}").find("'a' twice"), std::string::npos);
  // What is quoted of the text is short, and valid itself.
  const std::string message = errorOf("\"" + repeated("\xff", 5000));
  EXPECT_LT(message.size(), 1000u);
  EXPECT_EQ(errorOf(R"({"a":{"b":1},"b":1})"), "");
}

TEST(Json, HasNumbersOfAllSizes) {
  const auto value = [](std::string_view text) { return parseJson(text)->value; };
  EXPECT_EQ(std::get<int64_t>(value("-9223372036854775808")), INT64_MIN);
  EXPECT_EQ(std::get<int64_t>(value("9223372036854775807")), INT64_MAX);
  EXPECT_EQ(std::get<double>(value("9223372036854775808")), 0x1p63);
  EXPECT_EQ(std::get<double>(value("18446744073709551616")), 0x1p64);
  EXPECT_EQ(std::get<int64_t>(value("-0")), 0);
  EXPECT_EQ(std::get<double>(value("1e-400")), 0);
}

TEST(Fields, ReadOnlyWhatFits) {
  int64_t wide = 7;
  int32_t narrow = 7;
  double number = 7;
  std::optional<bool> maybe;
  const Field fields[] = {
      {"wide", &wide}, {"narrow", &narrow}, {"number", &number, 0, 1}, {"maybe", &maybe}};
  const auto read = [&](const char *text) {
    const Check problem = readFields(*parseJson(text), fields, "at");
    return problem ? problem->param : "";
  };
  EXPECT_EQ(read(R"({"wide":null,"other":{}})"), "");
  EXPECT_EQ(wide, 7);
  EXPECT_EQ(read(R"({"wide":9e15,"narrow":3.0,"number":1,"maybe":false})"), "");
  EXPECT_EQ(wide, 9000000000000000);
  EXPECT_EQ(narrow, 3);
  EXPECT_EQ(number, 1);
  EXPECT_EQ(maybe, false);
  for (const char *text : {R"({"wide":1e300})", R"({"wide":0.5})", R"({"wide":"1"})"})
    EXPECT_EQ(read(text), "at.wide") << text;
  EXPECT_EQ(read(R"({"narrow":2147483648})"), "at.narrow");
  EXPECT_EQ(read(R"({"number":1.0000001})"), "at.number");
  EXPECT_EQ(read(R"({"number":-1e-300})"), "at.number");
  EXPECT_EQ(read("[]"), "at");
}

// FIPS 180-4's own examples, and the lengths round a block, by Python's hashlib.
TEST(Sha256, IsAsTheStandardHasIt) {
  const auto hex = [](std::string_view text) {
    std::string out;
    for (const uint8_t byte : sha256(text)) {
      char digits[3];
      std::snprintf(digits, sizeof(digits), "%02x", byte);
      out += digits;
    }
    return out;
  };
  EXPECT_EQ(hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hex(repeated("a", 55)),
            "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  EXPECT_EQ(hex(repeated("a", 56)),
            "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
  EXPECT_EQ(hex(repeated("a", 63)),
            "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34");
  EXPECT_EQ(hex(repeated("a", 64)),
            "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
  EXPECT_EQ(hex(repeated("a", 119)),
            "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb");
  EXPECT_EQ(hex(repeated("a", 120)),
            "2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c");
  EXPECT_EQ(hex(repeated("a", 1000)),
            "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
}

TEST(Keys, AreReadByLine) {
  EXPECT_TRUE(Keys::parse("")->empty());
  EXPECT_FALSE(Keys::parse("# comment\n\n alice : secret-a \r\nbob:secret:b1\n")->empty());
  const std::pair<const char *, const char *> cases[] = {
      {"alice", "line 1"},
      {"a:secret-a\nb:short", "line 2"},
      {":secret-a", "line 1"},
      {"a:secret-a\na:secret-b", "name"},
      {"a:secret-a\nb:secret-a", "key is there twice"}};
  for (const auto &[text, part] : cases) {
    const auto keys = Keys::parse(text);
    ASSERT_FALSE(keys) << text;
    EXPECT_NE(keys.error().message.find(part), std::string::npos) << keys.error().message;
    EXPECT_EQ(keys.error().message.find("secret"), std::string::npos); // logs hold no keys
  }
}

TEST(Keys, AreReadFromAFileOfTheOwner) {
  const std::string path = testing::TempDir() + "moe-api-keys-" + std::to_string(::getpid());
  std::ofstream(path) << "alice:secret-of-alice\n";
  ::chmod(path.c_str(), 0644);
  EXPECT_FALSE(Keys::read(path));
  ::chmod(path.c_str(), 0600);
  const auto keys = Keys::read(path);
  ASSERT_TRUE(keys) << keys.error().message;
  moe::server::http::HttpRequest request;
  EXPECT_EQ(keys->nameOf(request), std::nullopt);
  request.headers = {{"authorization", "bearer  secret-of-alice "}};
  EXPECT_EQ(keys->nameOf(request), "alice");
  request.headers = {{"authorization", "Bearer secret-of-alic"}};
  EXPECT_EQ(keys->nameOf(request), std::nullopt);
  std::ofstream(path, std::ios::trunc) << "# none\n";
  EXPECT_FALSE(Keys::read(path));
  std::remove(path.c_str());
  EXPECT_FALSE(Keys::read(path));
}

} // namespace
