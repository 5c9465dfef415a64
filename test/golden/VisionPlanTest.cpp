// The tiny model that sees, compiled and run by sessions: the rows and logits of transformers, in
// float32 and whatever the steps in which a prompt is run, and near them in other formats.
#include "compiler/import/TestTensors.h"
#include "dialects/moe/GoldenVision.h"
#include "test/golden/Golden.h"
#include "test/golden/Running.h"
#include "test/golden/VisionGolden.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

using namespace moe;
using namespace moe::test;

namespace {

constexpr double kTolerance = 1e-3;

// The checkpoint's folder.
const std::string &checkpoint() {
  static const TempFolder folder;
  static const std::string path = [] {
    const VisionGolden golden = VisionGolden::read();
    folder.write("config.json", golden.config);
    folder.write("preprocessor_config.json", golden.preprocessor);
    std::vector<TestTensor> tensors;
    for (auto &[name, tensor] : golden::vision::checkpoint())
      tensors.push_back({name, "F32", tensor.shape, tensor.values});
    folder.write("model.safetensors", safetensors(tensors));
    return folder.str();
  }();
  return path;
}

class VisionPlanTest : public testing::TestWithParam<std::string> {
protected:
  const VisionGolden golden = VisionGolden::read();

  Session open(const std::string &recipe) {
    const Plan &plan = planOf(checkpoint(), recipe, {GetParam()}, {}, {}, 512, /*embeddings=*/false,
                              /*vision=*/true);
    const fb::Vision &vision = *plan.index().vision();
    format.tile = int32_t(vision.tile_size());
    format.rowsPerTile = int32_t(vision.rows_per_tile());
    format.maxTiles = int32_t(vision.max_tiles());
    start = vision.image_start();
    SessionOptions options;
    options.context = 128;
    options.threads = 2;
    return openSession(plan, GetParam(), options);
  }

  // The pictures of a prompt: all of their tiles are encoded together.
  std::vector<std::shared_ptr<const EncodedImage>> encode(Session &session, const Prompt &prompt) {
    std::vector<uint8_t> pixels;
    std::vector<int32_t> counts;
    for (auto [height, width] : prompt.pictures) {
      const Tiles tiles = valueOf(cutTiles(formulaPicture(height, width), format));
      pixels.insert(pixels.end(), tiles.pixels.begin(), tiles.pixels.end());
      counts.push_back(tiles.count());
    }
    return valueOf(session.encode(std::as_bytes(std::span(pixels)), counts));
  }
  static std::vector<float> rowsOf(std::span<const std::shared_ptr<const EncodedImage>> images) {
    std::vector<float> rows;
    for (const auto &image : images)
      rows.insert(rows.end(), image->rows.begin(), image->rows.end());
    return rows;
  }

  // The logits of every token, of pieces of the prompt.
  Logits logitsOf(Session &session, const Prompt &prompt,
                  std::span<const std::shared_ptr<const EncodedImage>> images, Schedule schedule) {
    const int32_t sequence = valueOf(session.addSequence());
    std::vector<ImageSpan> spans;
    for (size_t i = 0; i < prompt.ids.size(); ++i)
      if (prompt.ids[i] == start)
        spans.push_back({int64_t(i), images[spans.size()]});
    EXPECT_EQ(spans.size(), images.size());
    valueOf(session.setImages(sequence, spans));
    Logits logits{size_t(session.vocab()), {}};
    std::span<const int32_t> left = prompt.ids;
    for (int64_t step = 0; !left.empty(); ++step) {
      const auto count = std::min<int64_t>(schedule(step, 0), int64_t(left.size()));
      const Append part{sequence, left.first(size_t(count)), count};
      valueOf(session.run({&part, 1}, [&](size_t, int64_t, std::span<const float> row) {
        logits.values.insert(logits.values.end(), row.begin(), row.end());
        return ok();
      }));
      left = left.subspan(size_t(count));
    }
    session.removeSequence(sequence);
    return logits;
  }

  static std::pair<double, double> sums(std::span<const float> values) {
    double sum = 0, squares = 0;
    for (float value : values) {
      sum += value;
      squares += double(value) * value;
    }
    return {sum, squares};
  }
  // The root of the mean square of differences, relative to that of `want`.
  static double difference(std::span<const float> got, std::span<const float> want) {
    double errors = 0;
    for (size_t i = 0; i < want.size(); ++i)
      errors += std::pow(double(got[i]) - want[i], 2);
    return std::sqrt(errors / sums(want).second);
  }

  VisionFormat format;
  int32_t start = 0;
};

} // namespace

TEST_P(VisionPlanTest, RowsAndLogitsAreThoseOfTransformers) {
  Session session = open("f32");
  for (const Prompt &prompt : golden.prompts) {
    SCOPED_TRACE(prompt.name);
    const auto images = prompt.pictures.empty() ? std::vector<std::shared_ptr<const EncodedImage>>()
                                                : encode(session, prompt);
    const std::vector<float> rows = rowsOf(images);
    ASSERT_EQ(rows.size(),
              prompt.checksums.size() * golden::vision::kRowsPerTile * golden::vision::kHidden);
    if (!rows.empty()) {
      for (size_t i = 0; i < 4; ++i) {
        EXPECT_NEAR(rows[i], prompt.firstRow[i], kTolerance);
        EXPECT_NEAR(rows[rows.size() - golden::vision::kHidden + i], prompt.lastRow[i], kTolerance);
      }
      EXPECT_NEAR(sums(rows).first, prompt.rowsSum, kTolerance * std::sqrt(double(rows.size())));
      EXPECT_NEAR(sums(rows).second, prompt.rowsSquares, kTolerance * double(rows.size()));
    }
    const Logits logits = logitsOf(session, prompt, images, whole);
    ASSERT_EQ(logits.rows(), prompt.ids.size());
    for (size_t i = 0; i < 4; ++i)
      EXPECT_NEAR(logits[prompt.ids.size() - 1][i], prompt.lastLogits[i], kTolerance);
    const auto [sum, squares] = sums(logits.values);
    const double count = double(logits.values.size());
    EXPECT_NEAR(sum, prompt.logitsSum, kTolerance * std::sqrt(count));
    EXPECT_NEAR(squares, prompt.logitsSquares, kTolerance * count);
    for (size_t i = 0; i < prompt.ids.size(); ++i)
      EXPECT_EQ(argmax(logits[i]), prompt.argmax[i]) << "position " << i;
    expectSameBits(logits, logitsOf(session, prompt, images, uneven), "uneven pieces");
  }
}

// Routers of this model change their minds with a little noise, so only rows are compared.
TEST_P(VisionPlanTest, OtherFormatsStayNear) {
  const Prompt &prompt = *std::max_element(
      golden.prompts.begin(), golden.prompts.end(),
      [](const Prompt &a, const Prompt &b) { return a.pictures.size() < b.pictures.size(); });
  ASSERT_FALSE(prompt.pictures.empty());
  Session exact = open("f32");
  const std::vector<float> want = rowsOf(encode(exact, prompt));
  for (auto [recipe, most] : {std::pair("bf16", 2e-2), {"bf16,vision=int8-row", 8e-2}}) {
    Session session = open(recipe);
    const std::vector<float> got = rowsOf(encode(session, prompt));
    ASSERT_EQ(got.size(), want.size());
    EXPECT_LE(difference(got, want), most) << recipe;
    EXPECT_GT(difference(got, want), 1e-5) << recipe << " rounds nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(, VisionPlanTest, testing::ValuesIn(runnableTargets()),
                         [](const auto &info) {
                           std::string name = info.param.substr(4);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });
