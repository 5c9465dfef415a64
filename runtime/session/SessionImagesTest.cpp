// Pictures in sequences: encoding, rows in place of tokens however a prompt is cut into pieces, and
// the prefix cache. An executor whose logits depend on each row that a token sees says what it was
// given.
#include "runtime/session/TestSessions.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

constexpr int32_t kPatch = 49;
constexpr size_t kTile = 12; // bytes

std::vector<std::byte> someTiles(int32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> tiles(size_t(count) * kTile);
  for (std::byte &byte : tiles)
    byte = std::byte(random());
  return tiles;
}

// A prompt with pictures, and what a layer that sees all tokens sees.
struct Prompt {
  Tokens tokens;
  std::vector<ImageSpan> images;
  Tokens seen; // ids, and what rows make of them

  void addText(int64_t count, uint32_t seed) {
    for (int32_t token : someTokens(count, seed))
      add(token == kPatch ? 0 : token);
  }
  void add(int32_t token) {
    tokens.push_back(token);
    seen.push_back(token);
  }
  // A separator after each tile.
  void addPicture(Session &session, int32_t tiles, uint32_t seed) {
    const std::vector<std::byte> bytes = someTiles(tiles, seed);
    auto image = session.encode(bytes, tiles);
    ASSERT_TRUE(image) << image.error().message;
    images.push_back({int64_t(tokens.size()), *image});
    add(40);
    for (int32_t tile = 0; tile < tiles; ++tile) {
      for (int64_t row = 0; row < 4; ++row) {
        tokens.push_back(kPatch);
        seen.push_back(FakeExecutor::tokenOfRow(FakeExecutor::rowOfTile(
            std::span(bytes).subspan(size_t(tile) * kTile, kTile), row, (*image)->channels)));
      }
      add(41);
    }
  }
};

// The logits of the last of these tokens, computed from all of them at once.
Row expectedRow(const SessionModel &model, std::span<const int32_t> seen) {
  uint64_t hash = 14695981039346656037u;
  const auto last = int64_t(seen.size()) - 1;
  for (const CachePool &pool : model.pools)
    for (int64_t p = pool.chunk ? last / pool.chunk * pool.chunk : 0; p <= last; ++p)
      hash = (hash ^ uint64_t(seen[size_t(p)] + 1)) * 1099511628211u;
  Row row;
  for (int64_t v = 0; v < model.vocab; ++v)
    row.push_back(float((hash >> 20) * uint64_t(v + 1) % 1009) / 100);
  return row;
}

Prompt somePrompt(Session &session, uint32_t seed) {
  std::mt19937 random(seed);
  Prompt prompt;
  prompt.addText(1 + random() % 50, random());
  for (uint32_t pictures = random() % 4; pictures > 0; --pictures) {
    prompt.addPicture(session, 1 + int32_t(random() % 8), random() % 5);
    prompt.addText(random() % 30, random());
  }
  prompt.addText(1, random());
  return prompt;
}

TEST(SessionImages, EncodesInBatches) {
  FakeExecutor *fake = nullptr;
  const SessionModel model = visionModel();
  Session session = make(model, {}, &fake);
  ASSERT_TRUE(session.checkPictures());
  const auto tiles = someTiles(8, 1);
  const int32_t counts[] = {2, 5, 1};
  auto images = session.encode(tiles, counts);
  ASSERT_TRUE(images) << images.error().message;
  EXPECT_EQ(fake->tilesOfRuns, (std::vector<int32_t>{3, 3, 2})); // of all pictures together
  ASSERT_EQ(images->size(), 3u);
  size_t tile = 0;
  for (size_t i = 0; i < 3; ++i) {
    const EncodedImage &image = *(*images)[i];
    EXPECT_EQ(image.channels, model.hiddenSize);
    ASSERT_EQ(image.count, counts[i] * 4);
    ASSERT_EQ(int64_t(image.rows.size()), image.count * image.channels);
    for (int64_t row = 0; row < image.count; ++row) {
      const auto bytes = std::span(tiles).subspan((tile + size_t(row) / 4) * kTile, kTile);
      const auto values = image.row(row);
      EXPECT_EQ(std::vector<float>(values.begin(), values.end()),
                FakeExecutor::rowOfTile(bytes, row % 4, model.hiddenSize));
    }
    tile += size_t(counts[i]);
  }
  EXPECT_EQ((*session.encode(std::span(tiles).first(2 * kTile), 2))->key, (*images)[0]->key);
  EXPECT_NE((*images)[1]->key, (*images)[0]->key);
}

TEST(SessionImages, RefusesTilesOfOtherSizes) {
  Session session = make(visionModel(), {});
  const auto tiles = someTiles(2, 1);
  EXPECT_EQ(session.encode(tiles, 3).error().message,
            "3 tiles of pictures have 24 bytes, expected 36");
  EXPECT_EQ(session.encode(tiles, 0).error().message,
            "a picture has 0 tiles, expected one at least");
  EXPECT_EQ(session.encode(tiles, -1).error().code, Code::InvalidArgument);
  const std::atomic<bool> cancelled = true;
  session.setCancel(&cancelled);
  EXPECT_EQ(session.encode(tiles, 2).error().code, Code::Cancelled);
}

TEST(SessionImages, RefusesPicturesWithoutPrograms) {
  Session text = make(fakeModel(), {});
  const auto tiles = someTiles(1, 1);
  EXPECT_NE(text.encode(tiles, 1).error().message.find("the plan takes no pictures"),
            std::string::npos);
  int32_t s = *text.addSequence();
  const ImageSpan span{0, std::make_shared<EncodedImage>()};
  EXPECT_FALSE(text.setImages(s, {&span, 1}));
  EXPECT_TRUE(text.setImages(s, {}));
  SessionModel model = fakeModel();
  model.vision = VisionModel{kPatch, kTile, 4};
  Session device = make(model, {});
  EXPECT_NE(device.encode(tiles, 1).error().message.find("no program for pictures on device"),
            std::string::npos);
}

// As a model that writes such a token means no picture.
TEST(SessionImages, TakesPatchesWithoutRowsAsTokens) {
  const SessionModel model = visionModel();
  for (bool prefixes : {false, true}) {
    SessionOptions options;
    options.prefixCache = prefixes;
    Session session = make(model, options);
    int32_t s = *session.addSequence();
    Prompt prompt;
    for (int32_t token : {1, 2, kPatch})
      prompt.add(token);
    prompt.addPicture(session, 1, 1);
    for (int32_t token : {kPatch, kPatch, 3})
      prompt.add(token);
    ASSERT_TRUE(session.setImages(s, prompt.images));
    auto logits = session.append(s, prompt.tokens);
    ASSERT_TRUE(logits) << logits.error().message;
    EXPECT_EQ(Row(logits->begin(), logits->end()), expectedRow(model, prompt.seen));
    const ImageSpan gone{3, prompt.images[0].image};
    EXPECT_FALSE(session.setImages(s, {&gone, 1})); // the sequence is past it
    EXPECT_FALSE(session.setImages(7, {&gone, 1}));
  }
}

// Whatever the pieces of a prompt, the programs' size, and the chunks that cut pictures.
TEST(SessionImages, PiecesOfAnySizeGiveTheSameLogits) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const SessionModel model = visionModel(seed % 2 ? 96 : 32, 1 + int32_t(random() % 40));
    SessionOptions options;
    options.maxSequences = 2;
    options.context = 1000;
    Session session = make(model, options);
    const Prompt prompts[] = {somePrompt(session, seed), somePrompt(session, seed + 1000)};
    int32_t sequences[2];
    for (size_t i = 0; i < 2; ++i) {
      sequences[i] = *session.addSequence();
      ASSERT_TRUE(session.setImages(sequences[i], prompts[i].images));
    }
    size_t done[2] = {0, 0};
    while (done[0] < prompts[0].tokens.size() || done[1] < prompts[1].tokens.size()) {
      Append parts[2];
      for (size_t i = 0; i < 2; ++i) {
        const auto left = std::span(prompts[i].tokens).subspan(done[i]);
        const size_t count = std::min(left.size(), size_t(random() % 50));
        parts[i] = {sequences[i], left.first(count), int64_t(count)};
      }
      const Status ran = session.run(
          parts, [&](size_t part, int64_t token, std::span<const float> logits) -> Status {
            const auto seen = std::span(prompts[part].seen).first(done[part] + size_t(token) + 1);
            EXPECT_EQ(Row(logits.begin(), logits.end()), expectedRow(model, seen))
                << seed << " at " << seen.size();
            return ok();
          });
      ASSERT_TRUE(ran) << ran.error().message;
      for (size_t i = 0; i < 2; ++i)
        done[i] += parts[i].tokens.size();
    }
  }
}

// With a prefix cache, going back, other pictures of the same ids, and pages that were given up.
TEST(SessionImages, CachedPrefixesAreOfTheSamePictures) {
  int64_t hits = 0, again = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    const SessionModel model = visionModel(128, 32);
    SessionOptions options = caching(2, 600);
    if (seed % 2)
      options.cacheBudget = 120 * 1024;
    Session session = make(model, options);
    for (int turn = 0; turn < 30; ++turn) {
      const Prompt prompt = somePrompt(session, random() % 4); // often the same
      if (prompt.tokens.size() > 500)
        continue;
      // The same ids with other pictures, and so another text.
      Prompt other = prompt;
      if (!other.images.empty() && random() % 2) {
        const size_t which = random() % other.images.size();
        const auto tiles = int32_t(other.images[which].image->count / 4);
        Prompt replaced;
        replaced.addPicture(session, tiles, 100 + random() % 2);
        other.images[which].image = replaced.images[0].image;
        std::copy(replaced.seen.begin(), replaced.seen.end(),
                  other.seen.begin() + other.images[which].position);
      }
      const int32_t s = *session.addSequence();
      ASSERT_TRUE(session.setImages(s, other.images));
      const int64_t predicted = session.cachedPrefix(other.tokens, 0, other.images);
      auto attached = session.attach(s, other.tokens);
      ASSERT_TRUE(attached) << attached.error().message;
      EXPECT_EQ(*attached, predicted);
      hits += *attached > 0;
      const std::span<const int32_t> tokens = other.tokens;
      EXPECT_EQ(lastRow(session, s, tokens.subspan(size_t(*attached))),
                expectedRow(model, other.seen));
      const int64_t length = session.length(s) - int64_t(random() % 20);
      if (length > 0 && session.truncate(s, length)) { // into a published page
        ++again;
        const auto rest = tokens.subspan(size_t(length));
        EXPECT_EQ(lastRow(session, s, rest.empty() ? tokens.first(1) : rest),
                  rest.empty() ? [&] {
                    Tokens longer = other.seen;
                    longer.push_back(tokens[0]);
                    return expectedRow(model, longer);
                  }()
                               : expectedRow(model, other.seen));
      }
      session.removeSequence(s);
    }
  }
  EXPECT_GT(hits, 100);
  EXPECT_GT(again, 300);
}

// A turn brings its own pictures; those before stay.
TEST(SessionImages, PicturesComeTurnByTurn) {
  const SessionModel model = visionModel();
  Session session = make(model, {});
  const int32_t s = *session.addSequence();
  Prompt prompt;
  for (uint32_t turn = 0; turn < 5; ++turn) {
    const size_t before = prompt.tokens.size(), images = prompt.images.size();
    prompt.addText(20, turn);
    prompt.addPicture(session, 2, turn);
    ASSERT_TRUE(session.setImages(s, std::span(prompt.images).subspan(images)));
    EXPECT_EQ(lastRow(session, s, std::span(prompt.tokens).subspan(before)),
              expectedRow(model, prompt.seen));
  }
  ASSERT_TRUE(session.truncate(s, session.length(s) - 3)); // into the last picture
  const auto last = std::span(prompt.tokens).last(3);
  EXPECT_EQ(lastRow(session, s, last), expectedRow(model, prompt.seen));
}

TEST(SessionImages, ObserversAreToldIds) {
  Session session = make(visionModel(), caching());
  std::vector<Tokens> told;
  std::vector<uint64_t> hashes;
  session.setPageObserver([&](const PageEvent &event) {
    told.emplace_back(event.tokens.begin(), event.tokens.end());
    hashes.push_back(event.hash);
  });
  for (uint32_t seed : {1, 2}) {
    Prompt prompt;
    prompt.addPicture(session, 20, seed);
    const int32_t s = *session.addSequence();
    ASSERT_TRUE(session.setImages(s, prompt.images));
    lastRow(session, s, prompt.tokens);
    session.removeSequence(s);
    ASSERT_FALSE(told.empty());
    EXPECT_EQ(told.back(), Tokens(prompt.tokens.begin(), prompt.tokens.begin() + 64));
  }
  ASSERT_EQ(hashes.size(), 2u);
  EXPECT_NE(hashes[0], hashes[1]);
}

} // namespace
