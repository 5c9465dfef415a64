#include "tools/Terminal.h"

#include <gtest/gtest.h>

using namespace moe;

TEST(BytesText, ChoosesTheUnit) {
  EXPECT_EQ(bytesText(0), "0 B");
  EXPECT_EQ(bytesText(999), "999 B");
  EXPECT_EQ(bytesText(1000), "1.00 KB");
  EXPECT_EQ(bytesText(21907456), "21.91 MB");
  EXPECT_EQ(bytesText(2.5e9), "2.50 GB");
  EXPECT_EQ(bytesText(1e15), "1000.00 TB");
}

TEST(ProgressBar, DrawsNothingWhereNobodyWatches) {
  testing::internal::CaptureStderr(); // a file
  {
    ProgressBar bar;
    bar.show(1, 2, "half");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}
