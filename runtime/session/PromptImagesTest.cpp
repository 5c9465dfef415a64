// Places of pictures in prompts, and what does not fit there.
#include "runtime/session/PromptImages.h"
#include "runtime/plan/SamplePlan.h"
#include "runtime/session/TestSessions.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

// Of TestExecutor's visionModel.
VisionFormat format() {
  VisionFormat format;
  format.tile = 2;
  format.rowsPerTile = 4;
  format.maxTiles = 4;
  format.imageStart = 43;
  format.imageEnd = 44;
  format.tileXSeparator = 45;
  format.tileYSeparator = 46;
  format.image = 48;
  format.patch = 49;
  return format;
}

Tiles tiles(int32_t rows, int32_t columns, uint8_t shade = 1) {
  Tiles tiles;
  tiles.grid = {rows, columns};
  tiles.side = 2;
  tiles.pixels.assign(size_t(tiles.count()) * 12, shade);
  return tiles;
}

TEST(PromptImages, ReadsTheFormatOfAPlan) {
  FileBytes file = samplePlanFile(sampleVisionPlan()), text = samplePlanFile(samplePlan());
  auto plan = Plan::open(file.span());
  ASSERT_TRUE(plan) << plan.error().message;
  auto vision = planVision(*plan);
  ASSERT_TRUE(vision) << vision.error().message;
  EXPECT_EQ(vision->tile, 8);
  EXPECT_EQ(vision->rowsPerTile, 4);
  EXPECT_EQ(vision->maxTiles, 16);
  EXPECT_EQ(vision->imageStart, 93);
  EXPECT_EQ(vision->imageEnd, 94);
  EXPECT_EQ(vision->tileXSeparator, 95);
  EXPECT_EQ(vision->tileYSeparator, 96);
  EXPECT_EQ(vision->image, 97);
  EXPECT_EQ(vision->patch, 98);
  auto other = Plan::open(text.span());
  EXPECT_NE(planVision(*other).error().message.find("the plan takes no pictures"),
            std::string::npos);
}

TEST(PromptImages, PlacesPictures) {
  const Tokens ids{1, 48, 2, 48};
  const Tiles pictures[] = {tiles(1, 1), tiles(1, 2)};
  auto placed = placeImages(ids, pictures, format());
  ASSERT_TRUE(placed) << placed.error().message;
  EXPECT_EQ(placed->tokens, (Tokens{1,  43, 48, 49, 49, 49, 49, 44, 2,  43, 49, 49, 49,
                                    49, 45, 49, 49, 49, 49, 46, 48, 49, 49, 49, 49, 44}));
  EXPECT_EQ(placed->positions, (std::vector<int64_t>{1, 9}));
  EXPECT_EQ(*findImages(placed->tokens, pictures, format()), placed->positions);
  EXPECT_EQ(placeImages(ids, std::span(pictures).first(1), format()).error().message,
            "1 picture was given, and the prompt has places for 2");
  EXPECT_EQ(placeImages(std::span(ids).first(1), pictures, format()).error().message,
            "2 pictures were given, and the prompt has places for 0");
}

TEST(PromptImages, FindsThosePicturesAlone) {
  const Tiles wide = tiles(1, 2), high = tiles(2, 1), one = tiles(1, 1);
  const Tokens ids = imageTokens(wide.grid, format());
  EXPECT_TRUE(findImages(ids, {&wide, 1}, format()));
  const Status other = [&]() -> Status {
    MOE_TRY(findImages(ids, {&high, 1}, format()));
    return ok();
  }();
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().message, "the tokens at position 0 are not those of picture 0, which is "
                                   "cut into 2 x 1 tiles and has 17 tokens");
  EXPECT_FALSE(findImages(ids, {&one, 1}, format()));
  EXPECT_FALSE(findImages(std::span(ids).first(16), {&wide, 1}, format()));
  EXPECT_FALSE(findImages(ids, {}, format()));
  Tokens more = ids;
  more.push_back(format().patch);
  EXPECT_EQ(
      findImages(more, {&wide, 1}, format()).error().message,
      "the token at position 17 stands for a row of a picture, and no picture was given for it");
  EXPECT_FALSE(placeImages(Tokens{1, format().patch}, {}, format()));
}

TEST(PromptImages, DoWithoutTokensThatThePlanDoesNotKnow) {
  const Tiles wide = tiles(1, 2);
  Tokens ids = imageTokens(wide.grid, format());
  VisionFormat unknown = format();
  unknown.tileXSeparator = unknown.tileYSeparator = unknown.image = -1;
  EXPECT_TRUE(findImages(ids, {&wide, 1}, unknown));
  auto placed = placeImages(ids, {&wide, 1}, unknown);
  ASSERT_FALSE(placed);
  EXPECT_NE(placed.error().message.find("made without a tokenizer"), std::string::npos);
  ids[1] += 1; // where a row of the picture belongs
  EXPECT_FALSE(findImages(ids, {&wide, 1}, unknown));
}

TEST(PromptImages, SaysWhatDoesNotFit) {
  SessionOptions options;
  options.context = 20;
  Session session = make(visionModel(), options);
  const Tiles pictures[] = {tiles(1, 2)};
  EXPECT_TRUE(checkImagesFit(session, 20, pictures, format()));
  const Status status = checkImagesFit(session, 21, pictures, format());
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::ResourceExhausted);
  EXPECT_EQ(status.error().message,
            "21 tokens, 17 of them of pictures, do not fit in the context of 20; ask for more with "
            "--context, or give fewer or smaller pictures");
}

TEST(PromptImages, EncodesForASequence) {
  Session session = make(visionModel(), {});
  const Tiles pictures[] = {tiles(1, 1, 5), tiles(1, 2, 9)};
  auto placed = placeImages(Tokens{1, 48, 2, 48, 3}, pictures, format());
  ASSERT_TRUE(placed);
  auto spans = encodeImages(session, pictures, placed->positions, 10);
  ASSERT_TRUE(spans) << spans.error().message;
  ASSERT_EQ(spans->size(), 2u);
  EXPECT_EQ((*spans)[1].position, 10 + placed->positions[1]);
  EXPECT_EQ((*spans)[0].image->count, 4);
  EXPECT_EQ((*spans)[1].image->count, 12);
  const int32_t s = *session.addSequence();
  ASSERT_TRUE(session.append(s, Tokens(10, 1)));
  ASSERT_TRUE(session.setImages(s, *spans));
  EXPECT_TRUE(session.append(s, placed->tokens));
}

} // namespace
