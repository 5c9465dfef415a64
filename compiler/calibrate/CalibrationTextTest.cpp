// Windows of a text: their lengths, where they begin, and what is no text.
#include "compiler/calibrate/CalibrationText.h"
#include "runtime/text/TokenizerTables.h"
#include <gtest/gtest.h>

#include <fstream>

using namespace moe;

namespace {

class CalibrationTextTest : public testing::Test {
protected:
  CalibrationTextTest()
      : model(*llvm::cantFail(TokenizerModel::open(MOE_SOURCE_DIR "/models/cria", warnings))) {}

  llvm::Expected<std::vector<std::vector<int32_t>>> read(const std::string &text, int64_t tokens,
                                                         int64_t length) {
    std::ofstream(path) << text;
    return readCalibrationText(path, model, tokens, length);
  }

  std::vector<std::string> warnings;
  TokenizerModel model;
  std::string path = testing::TempDir() + "calibration-text.txt";
};

std::string verses(int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += "And there were " + std::to_string(i) + " of them.\n";
  return text;
}

TEST_F(CalibrationTextTest, AllOfAShortText) {
  auto windows = read(verses(40), 100000, 64);
  ASSERT_TRUE(bool(windows));
  auto tables = buildTokenizerTables(model.tokens, model.merges);
  auto tokenizer = Tokenizer::create(*tables, model.settings());
  std::string text;
  for (const auto &window : *windows) {
    EXPECT_EQ(window.front(), model.bos);
    EXPECT_LE(window.size(), 64u);
    EXPECT_GT(window.size(), 1u);
    if (&window != &windows->back()) {
      EXPECT_EQ(window.size(), 64u);
    }
    text += tokenizer->decode(std::span(window).subspan(1), false);
  }
  EXPECT_EQ(text, verses(40));
}

TEST_F(CalibrationTextTest, WindowsAreSpreadOverALongText) {
  auto all = read(verses(400), 1 << 20, 32), some = read(verses(400), 5 * 32, 32);
  ASSERT_TRUE(all && some);
  ASSERT_EQ(some->size(), 5u);
  for (size_t w = 0; w < 5; ++w)
    EXPECT_EQ((*some)[w], (*all)[w * all->size() / 5]);
}

TEST_F(CalibrationTextTest, AWindowAtLeast) {
  auto windows = read("In the beginning", 1, 32);
  ASSERT_TRUE(bool(windows));
  EXPECT_EQ(windows->size(), 1u);
}

TEST_F(CalibrationTextTest, NoText) {
  auto empty = read("", 100, 32);
  ASSERT_FALSE(bool(empty));
  EXPECT_NE(llvm::toString(empty.takeError()).find("is empty: give a text"), std::string::npos);
  auto none = readCalibrationText("/no/such/file", model, 100, 32);
  ASSERT_FALSE(bool(none));
  EXPECT_EQ(llvm::toString(none.takeError()),
            "cannot read the calibration text '/no/such/file': No such file or directory");
}

} // namespace
