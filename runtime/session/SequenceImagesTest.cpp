// Which token takes which row, against counting all of them from the start.
#include "runtime/session/SequenceImages.h"

#include <gtest/gtest.h>
#include <random>

using namespace moe;

namespace {

std::shared_ptr<const EncodedImage> image(int64_t rows, int64_t channels = 2) {
  auto made = std::make_shared<EncodedImage>();
  made->count = rows;
  made->channels = channels;
  made->rows.resize(size_t(rows * channels));
  return made;
}

TEST(SequenceImages, CountsFromEachPicture) {
  SequenceImages images;
  EXPECT_TRUE(images.empty());
  const ImageSpan spans[] = {{2, image(3)}, {6, image(1)}};
  ASSERT_TRUE(images.set(spans, 0, 10, 2));
  const bool patches[] = {false, false, true, false, true, true, false, true};
  for (int64_t i = 0; i < 8; ++i)
    images.advance(i, patches[i]);
  EXPECT_EQ(images.rowAt(2)->row, 0);
  EXPECT_EQ(images.rowAt(4)->row, 1);
  EXPECT_EQ(images.rowAt(5)->row, 2);
  EXPECT_EQ(images.rowAt(5)->image, spans[0].image.get());
  EXPECT_EQ(images.rowAt(7)->row, 0);
  EXPECT_EQ(images.rowAt(7)->image, spans[1].image.get());
  images.advance(8, true); // the picture before it has given its only row
  EXPECT_FALSE(images.rowAt(8));
}

TEST(SequenceImages, TakesPatchesWithoutPicturesAsTokens) {
  SequenceImages images;
  images.advance(0, false);
  images.advance(1, true);
  EXPECT_FALSE(images.rowAt(1));
  const ImageSpan span{4, image(2)};
  ASSERT_TRUE(images.set({&span, 1}, 0, 10, 2));
  images.advance(3, true);
  EXPECT_FALSE(images.rowAt(3));
  images.advance(4, true);
  EXPECT_EQ(images.rowAt(4)->row, 0);
}

TEST(SequenceImages, RefusesWhatDoesNotAscend) {
  SequenceImages images;
  const auto one = image(1);
  const auto refused = [&](std::vector<ImageSpan> spans, int64_t length, const char *part) {
    const Status status = images.set(spans, length, 10, 2);
    ASSERT_FALSE(status) << part;
    EXPECT_EQ(status.error().code, Code::InvalidArgument);
    EXPECT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
  };
  refused({{4, one}, {4, one}}, 0, "a picture is at position 4, expected 5 to 9");
  refused({{3, one}}, 4, "a picture is at position 3, expected 4 to 9");
  refused({{10, one}}, 0, "a picture is at position 10, expected 0 to 9");
  refused({{-1, one}}, 0, "a picture is at position -1");
  refused({{1, nullptr}}, 0, "has rows of 0 channels, expected 2");
  refused({{1, image(1, 3)}}, 0, "has rows of 3 channels, expected 2");
  EXPECT_TRUE(images.empty());
}

// Tokens are told in pieces, taken back, and told again with other pictures.
TEST(SequenceImages, AgreesWithCountingFromTheStart) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    SequenceImages images;
    std::vector<char> patches;    // told so far
    std::vector<ImageSpan> spans; // all
    const int64_t context = 60;
    for (int turn = 0; turn < 12; ++turn) {
      const auto length = int64_t(patches.size());
      if (random() % 3 == 0) {
        std::erase_if(spans, [&](const ImageSpan &span) { return span.position >= length; });
        std::vector<ImageSpan> added;
        for (int64_t at = length + int64_t(random() % 4); at < context && random() % 3;
             at += 1 + int64_t(random() % 9))
          added.push_back({at, image(1 + int64_t(random() % 5))});
        ASSERT_TRUE(images.set(added, length, context, 2));
        spans.insert(spans.end(), added.begin(), added.end());
      }
      for (uint64_t n = random() % 12; n > 0 && int64_t(patches.size()) < context; --n) {
        const auto at = int64_t(patches.size());
        const ImageSpan *span = nullptr;
        for (const ImageSpan &each : spans)
          if (each.position <= at)
            span = &each;
        int64_t row = 0;
        for (int64_t i = span ? span->position : at; i < at; ++i)
          row += patches[size_t(i)];
        const bool has = span && row < span->image->count;
        const bool patch = random() % 2;
        images.advance(at, patch);
        patches.push_back(patch && has);
        if (!patch)
          continue;
        ASSERT_EQ(images.rowAt(at).has_value(), has);
        if (has) {
          EXPECT_EQ(images.rowAt(at)->image, span->image.get());
          EXPECT_EQ(images.rowAt(at)->row, row);
        }
      }
      if (random() % 4 == 0)
        patches.resize(random() % (patches.size() + 1));
    }
  }
}

TEST(ImageKey, TellsPicturesAndRowsApart) {
  std::vector<std::byte> tiles(1000);
  const ImageKey key = imageKey(tiles);
  EXPECT_EQ(imageKey(tiles), key);
  tiles[999] = std::byte(1);
  const ImageKey other = imageKey(tiles);
  EXPECT_NE(other, key);
  EXPECT_NE(imageKey(std::span(tiles).first(999)), key);
  EXPECT_LT(imageToken(key, 0), 0);
  EXPECT_EQ(imageToken(key, 5), imageToken(key, 5));
  EXPECT_NE(imageToken(key, 5), imageToken(key, 6));
  EXPECT_NE(imageToken(key, 5), imageToken(other, 5));
}

} // namespace
