#include "tools/moe-run/Files.h"

#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>

using namespace moe;

namespace {

std::string error(std::string_view text) {
  auto tokens = parseTokens(text, 100, "ids");
  return tokens ? "" : tokens.error().message;
}

TEST(Tokens, ManySpellings) {
  const std::vector<int32_t> expected{1, 22, 99, 0};
  for (const char *text : {"1 22 99 0", "1\n22\n99\n0\n", "[1, 22, 99, 0]", "\t1,22\r\n99,,0"})
    EXPECT_EQ(*parseTokens(text, 100, "ids"), expected);
}

TEST(Tokens, ErrorsSayWhere) {
  EXPECT_EQ(error("1 2\n3 x7"), "ids: token 3 (line 2) is not a number: 'x7'");
  EXPECT_EQ(error("1 2.5"), "ids: token 1 (line 1) is not a number: '2.5'");
  EXPECT_EQ(error("1\n100"), "ids: token 1 (line 2) is 100, the plan's ids are 0 to 99");
  EXPECT_EQ(error("-1"), "ids: token 0 (line 1) is -1, the plan's ids are 0 to 99");
  EXPECT_EQ(error("99999999999999999999"),
            "ids: token 0 (line 1) is 99999999999999999999, the plan's ids are 0 to 99");
  EXPECT_EQ(error(" \n"), "ids has no token ids");
}

TEST(Files, ReadAllOrSayWhy) {
  EXPECT_EQ(readAll("/nonexistent/file").error().message,
            "cannot read /nonexistent/file: No such file or directory");
  EXPECT_FALSE(readAll("/")); // a folder
}

std::string contents(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Npy, WritesAFloat32Matrix) {
  const std::string path = testing::TempDir() + "logits.npy";
  std::remove(path.c_str());
  {
    auto writer = NpyWriter::create(path, 2, 3);
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->write(std::vector<float>{1, 2, 3}));
    EXPECT_EQ(contents(path), ""); // not there before it is whole
    ASSERT_TRUE(writer->write(std::vector<float>{4, 5, 6}));
    ASSERT_TRUE(writer->close());
  }
  std::string file = contents(path);
  ASSERT_EQ(file.size(), 128 + 24u);
  EXPECT_EQ(file.substr(0, 8), std::string("\x93NUMPY\x01\0", 8));
  EXPECT_EQ(uint8_t(file[8]) + 256 * uint8_t(file[9]), 118);
  EXPECT_EQ(file.substr(10, 59), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
  float values[6];
  std::memcpy(values, file.data() + 128, 24);
  EXPECT_EQ(values[3], 4);
  {
    auto unfinished = NpyWriter::create(path + "2", 2, 3);
  }
  EXPECT_EQ(contents(path + "2"), "");
  EXPECT_FALSE(NpyWriter::create("/nonexistent/logits.npy", 1, 1));
  auto full = NpyWriter::create(path, 1, 1);
  std::remove(path.c_str());
}

} // namespace
