// The tiny model that sees, imported and run by the interpreter: the rows and logits of
// transformers. And the mistakes that are easily made with a vision tower, each of which these
// numbers must find.
#include "compiler/import/Llama4.h"
#include "compiler/import/TestTensors.h"
#include "dialects/moe/GoldenVision.h"
#include "dialects/moe/MoeInterpreter.h"
#include "dialects/moe/MoeOps.h"
#include "dialects/moe/VisionReference.h"
#include "runtime/weights/TestTensors.h"
#include "test/golden/VisionGolden.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <gtest/gtest.h>

using namespace mlir;
using namespace moe;
using test::Prompt;
using Floats = std::vector<float>;

namespace {

// Golden numbers are of float64 arithmetic.
constexpr double kRowTolerance = 1e-5, kLogitTolerance = 1e-4;
// What a mistake changes at least, of eight numbers of the rows.
constexpr double kMistake = 1e-3;

class VisionGoldenTest : public testing::Test {
protected:
  static void SetUpTestSuite() { published = test::VisionGolden::read(); }

  void SetUp() override {
    checkpoint = golden::vision::checkpoint();
    test::TempFolder folder;
    folder.write("config.json", published.config);
    folder.write("preprocessor_config.json", published.preprocessor);
    std::vector<std::string> warnings;
    auto read = Llama4Config::open(folder.str(), warnings);
    ASSERT_TRUE(bool(read)) << llvm::toString(read.takeError());
    EXPECT_TRUE(warnings.empty());
    config = std::move(*read);
    ASSERT_TRUE(config.vision);
    auto model = importLlama4(context, config, tensors(), {.cache = Storage::F32});
    ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
    EXPECT_TRUE(model->ignored.empty());
    module = std::move(model->module);
  }

  test::TestTensors tensors() const {
    test::TestTensors source;
    for (const auto &[name, tensor] : checkpoint)
      source.add(name, tensor.shape, tensor.values);
    return source;
  }

  static const Prompt &prompt(StringRef name) {
    return *llvm::find_if(published.prompts, [&](const Prompt &p) { return p.name == name; });
  }

  // Of all pictures, one tile after the other.
  std::vector<uint8_t> tilesOf(const Prompt &prompt) const {
    VisionFormat format;
    format.tile = int32_t(config.vision->tileSize);
    format.rowsPerTile = int32_t(config.vision->rowsPerTile());
    format.maxTiles = int32_t(config.vision->maxTiles);
    std::vector<uint8_t> pixels;
    for (auto [height, width] : prompt.pictures) {
      Result<Tiles> tiles = cutTiles(formulaPicture(height, width), format);
      EXPECT_TRUE(tiles);
      pixels.insert(pixels.end(), tiles->pixels.begin(), tiles->pixels.end());
    }
    return pixels;
  }

  // The rows that @vision gives. `more` follows the tiles among its arguments.
  Floats rowsOf(const std::vector<uint8_t> &tiles, const std::vector<TensorValue> &more = {}) {
    const int64_t side = config.vision->tileSize, count = int64_t(tiles.size()) / (side * side * 3);
    std::vector<TensorValue> arguments{{{count, side, side, 3}, tiles}};
    arguments.insert(arguments.end(), more.begin(), more.end());
    test::TestTensors source = tensors();
    auto results = Interpreter(*module, &source)
                       .runFunction(module->lookupSymbol<func::FuncOp>("vision"), arguments);
    EXPECT_TRUE(succeeded(results));
    return succeeded(results) ? results->front().floats() : Floats();
  }

  // The logits of each token of a prompt, which is run in pieces that end there.
  Floats logitsOf(const Prompt &prompt, const Floats &rows, std::vector<size_t> ends = {}) {
    ends.push_back(prompt.ids.size());
    test::TestTensors source = tensors();
    Interpreter interpreter(*module, &source);
    Floats logits;
    int32_t row = 0;
    size_t begin = 0;
    for (size_t end : ends) {
      std::vector<int32_t> ids, positions, imageRows, wanted;
      for (size_t i = begin; i < end; ++i) {
        ids.push_back(prompt.ids[i]);
        positions.push_back(int32_t(i));
        imageRows.push_back(prompt.ids[i] == config.vision->tokens.patch ? row++ : -1);
        wanted.push_back(int32_t(i - begin));
      }
      const int64_t count = int64_t(ids.size());
      auto results = interpreter.runFunction(
          module->lookupSymbol<func::FuncOp>("step"),
          {{{count}, ids},
           {{count}, positions},
           {{count}, std::vector<int32_t>(ids.size(), 0)},
           {{count}, wanted},
           {{int64_t(rows.size()) / config.hiddenSize, config.hiddenSize}, rows},
           {{count}, imageRows}});
      EXPECT_TRUE(succeeded(results));
      if (failed(results))
        return {};
      const Floats &piece = results->front().floats();
      logits.insert(logits.end(), piece.begin(), piece.end());
      begin = end;
    }
    return logits;
  }

  // The largest difference of the eight numbers that are golden.
  double errorOf(const Prompt &prompt, const Floats &rows) const {
    if (rows.size() < size_t(config.hiddenSize))
      return INFINITY;
    double error = 0;
    for (size_t i = 0; i < 4; ++i)
      error = std::max(
          {error, std::abs(rows[i] - prompt.firstRow[i]),
           std::abs(rows[rows.size() - size_t(config.hiddenSize) + i] - prompt.lastRow[i])});
    return error;
  }

  // The ops of a kind in @vision.
  template <typename Op> std::vector<Op> ops() {
    std::vector<Op> result;
    module->lookupSymbol<func::FuncOp>("vision").walk([&](Op op) { result.push_back(op); });
    return result;
  }
  // Takes an op of one operand that matters out of the module.
  template <typename Op> void skip(Op op) {
    op.getResult().replaceAllUsesWith(op.getX());
    op.erase();
  }
  // A further argument of @vision.
  Value addArgument(Type type) {
    auto vision = module->lookupSymbol<func::FuncOp>("vision");
    const unsigned at = vision.getNumArguments();
    EXPECT_TRUE(succeeded(vision.insertArgument(at, type, {}, vision.getLoc())));
    return vision.getArgument(at);
  }
  // Whether the mistake that is in the module or the checkpoint shows in the rows.
  void expectFound(const std::vector<TensorValue> &more = {}) {
    const Prompt &several = prompt("2x2");
    EXPECT_GT(errorOf(several, rowsOf(tilesOf(several), more)), kMistake);
  }

  static test::VisionGolden published;
  MLIRContext context;
  Llama4Config config;
  std::map<std::string, golden::Tensor> checkpoint;
  OwningOpRef<ModuleOp> module;
};

test::VisionGolden VisionGoldenTest::published;

} // namespace

//===----------------------------------------------------------------------===//
// What transformers computes
//===----------------------------------------------------------------------===//

TEST_F(VisionGoldenTest, RowsAndLogitsAreThoseOfTransformers) {
  ASSERT_EQ(published.prompts.size(), 11u);
  const size_t channels = size_t(config.hiddenSize), vocabulary = size_t(config.vocabSize);
  for (const Prompt &prompt : published.prompts) {
    SCOPED_TRACE(prompt.name);
    std::vector<uint8_t> tiles = tilesOf(prompt);
    const size_t bytes = size_t(config.vision->tileSize * config.vision->tileSize * 3);
    ASSERT_EQ(tiles.size(), prompt.checksums.size() * bytes);
    for (size_t t = 0; t < prompt.checksums.size(); ++t)
      EXPECT_EQ(checksum(std::span(tiles).subspan(t * bytes, bytes)), prompt.checksums[t]);

    Floats rows = rowsOf(tiles);
    ASSERT_EQ(rows.size(), prompt.checksums.size() * golden::vision::kRowsPerTile * channels);
    double sum = 0, squares = 0;
    for (float value : rows) {
      sum += value;
      squares += double(value) * value;
    }
    if (!prompt.checksums.empty())
      EXPECT_LE(errorOf(prompt, rows), kRowTolerance);
    EXPECT_NEAR(sum, prompt.rowsSum, kRowTolerance * std::sqrt(double(rows.size())));
    EXPECT_NEAR(squares, prompt.rowsSquares, kRowTolerance * double(rows.size()));

    Floats logits = logitsOf(prompt, rows);
    ASSERT_EQ(logits.size(), prompt.ids.size() * vocabulary);
    sum = squares = 0;
    for (float value : logits) {
      sum += value;
      squares += double(value) * value;
    }
    EXPECT_NEAR(sum, prompt.logitsSum, kLogitTolerance * std::sqrt(double(logits.size())));
    EXPECT_NEAR(squares, prompt.logitsSquares, kLogitTolerance * double(logits.size()));
    for (size_t i = 0; i < 4; ++i)
      EXPECT_NEAR(logits[logits.size() - vocabulary + i], prompt.lastLogits[i], kLogitTolerance);
    for (size_t i = 0; i < prompt.ids.size(); ++i) {
      auto row = logits.begin() + int64_t(i * vocabulary);
      EXPECT_EQ(std::max_element(row, row + int64_t(vocabulary)) - row, prompt.argmax[i]) << i;
    }
  }
}

// A picture may be cut anywhere, also where an attention chunk ends.
TEST_F(VisionGoldenTest, PiecesGiveTheSameBits) {
  const Prompt &three = prompt("three images");
  Floats rows = rowsOf(tilesOf(three));
  Floats whole = logitsOf(three, rows);
  EXPECT_EQ(logitsOf(three, rows, {1, 4, 32, 33, 71, 100}), whole);
}

// Tiles do not see each other: each gives the same bits in any company.
TEST_F(VisionGoldenTest, TilesAreAlone) {
  std::vector<uint8_t> tiles = tilesOf(prompt("2x2"));
  const size_t bytes = tiles.size() / 5;
  Floats all = rowsOf(tiles);
  for (size_t t = 0; t < 5; ++t) {
    auto begin = tiles.begin() + int64_t(t * bytes);
    Floats one = rowsOf({begin, begin + int64_t(bytes)});
    EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin() + int64_t(t * one.size()))) << t;
  }
}

//===----------------------------------------------------------------------===//
// Mistakes
//===----------------------------------------------------------------------===//

TEST_F(VisionGoldenTest, FindsAnAdapterWithoutItsOuterGelu) {
  skip(ops<GeluOp>().back());
  expectFound();
}

// Of the outer GELU alone, whose operand the module is made to give.
TEST_F(VisionGoldenTest, FindsTheGeluOfTanh) {
  module->lookupSymbol<func::FuncOp>("vision").front().getTerminator()->setOperand(
      0, ops<GeluOp>().back().getX());
  const Prompt &several = prompt("2x2");
  const Floats x = rowsOf(tilesOf(several));
  Floats approximate;
  for (double value : x)
    approximate.push_back(float(
        value * (1 + std::tanh(std::sqrt(2 / M_PI) * (value + 0.044715 * value * value * value))) /
        2));
  auto error = [&](const Floats &activated) {
    return errorOf(several,
                   reference::linear(activated,
                                     checkpoint["multi_modal_projector.linear_1.weight"].values,
                                     golden::vision::kAdapterWidth));
  };
  EXPECT_LE(error(reference::gelu(x)), kRowTolerance);
  EXPECT_GT(error(approximate), 10 * kRowTolerance);
}

TEST_F(VisionGoldenTest, FindsATowerWithoutItsLastNorm) {
  skip(ops<LayerNormOp>().back());
  expectFound();
}

// The class row's position in front of those of the patches, as older towers have it.
TEST_F(VisionGoldenTest, FindsAClassRowThatComesFirst) {
  Floats &table = checkpoint["vision_model.positional_embedding_vlm"].values;
  std::rotate(table.begin(), table.end() - golden::vision::kTowerHidden, table.end());
  expectFound();
}

TEST_F(VisionGoldenTest, FindsAPatchDroppedForTheClassRow) {
  DropClassOp drop = ops<DropClassOp>().front();
  Type indices = RankedTensorType::get({ShapedType::kDynamic}, IntegerType::get(&context, 32));
  OpBuilder builder(drop);
  auto select = SelectRowsOp::create(builder, drop.getLoc(), drop.getType(), drop.getX(),
                                     addArgument(indices));
  drop.getResult().replaceAllUsesWith(select.getResult());
  drop.erase();
  auto rowsFrom = [](int32_t first) {
    std::vector<int32_t> rows;
    for (int32_t r = 0; r < 5 * 16; ++r)
      rows.push_back(r / 16 * 17 + r % 16 + first);
    return std::vector<TensorValue>{{{5 * 16}, rows}};
  };
  const Prompt &several = prompt("2x2");
  EXPECT_LE(errorOf(several, rowsOf(tilesOf(several), rowsFrom(0))), kRowTolerance);
  expectFound(rowsFrom(1));
}

TEST_F(VisionGoldenTest, FindsAPixelShuffleWithItsAxesSwapped) {
  PixelShuffleOp shuffle = ops<PixelShuffleOp>().front();
  Type indices = RankedTensorType::get({ShapedType::kDynamic}, IntegerType::get(&context, 32));
  OpBuilder builder(shuffle);
  Value from = shuffle.getX();
  shuffle.getXMutable().assign(
      SelectRowsOp::create(builder, shuffle.getLoc(), from.getType(), from, addArgument(indices)));
  std::vector<int32_t> rows; // the patch beside another in place of that below it
  for (int32_t r = 0; r < 5 * 16; ++r) {
    const int32_t y = r % 16 / 4, x = r % 4;
    rows.push_back(r / 16 * 16 + (y / 2 * 2 + x % 2) * 4 + x / 2 * 2 + y % 2);
  }
  expectFound({{{5 * 16}, rows}});
}

TEST_F(VisionGoldenTest, FindsPatchesWithTheirChannelsInside) {
  Floats &weight = checkpoint["vision_model.patch_embedding.linear.weight"].values;
  const Floats given = weight;
  constexpr size_t pixels = golden::vision::kPatch * golden::vision::kPatch;
  for (size_t row = 0; row < size_t(golden::vision::kTowerHidden); ++row)
    for (size_t pixel = 0; pixel < pixels; ++pixel)
      for (size_t c = 0; c < 3; ++c)
        weight[row * 3 * pixels + c * pixels + pixel] = given[row * 3 * pixels + pixel * 3 + c];
  expectFound();
}

TEST_F(VisionGoldenTest, FindsBlueBeforeRed) {
  const Prompt &several = prompt("2x2");
  std::vector<uint8_t> tiles = tilesOf(several);
  for (size_t pixel = 0; pixel < tiles.size(); pixel += 3)
    std::swap(tiles[pixel], tiles[pixel + 2]);
  EXPECT_GT(errorOf(several, rowsOf(tiles)), kMistake);
}

// The rotation with tables of the test's own: the right one gives the golden rows, others do not.
TEST_F(VisionGoldenTest, FindsOtherRotations) {
  constexpr int64_t dim = golden::vision::kTowerHidden / golden::vision::kTowerHeads;
  Value table =
      addArgument(RankedTensorType::get({ShapedType::kDynamic, dim}, Float32Type::get(&context)));
  for (PatchRopeOp op : ops<PatchRopeOp>()) {
    OpBuilder builder(op);
    op.getResult().replaceAllUsesWith(
        RopeOp::create(builder, op.getLoc(), op.getType(), op.getX(), table));
    op.erase();
  }
  struct Way {
    int from = 1;
    bool swapped = false, sines = true, turns = true;
  };
  const Prompt &several = prompt("2x2");
  auto error = [&](Way way) {
    Floats angles;
    for (int tile = 0; tile < 5; ++tile)
      for (int row = 0; row < 17; ++row)
        for (int pair = 0; pair < dim / 2; ++pair) {
          const bool columns = (pair < dim / 4) != way.swapped;
          const int place = (columns ? row % 4 : row / 4) + way.from;
          const double f = std::pow(10000.0, -4.0 * (pair % (dim / 4)) / dim);
          const double angle = row == 16 || !way.turns ? 0 : place * f;
          angles.push_back(float(std::cos(angle)));
          angles.push_back(way.sines ? float(std::sin(angle)) : 0);
        }
    return errorOf(several, rowsOf(tilesOf(several), {{{5 * 17, dim}, angles}}));
  };
  EXPECT_LE(error({}), kRowTolerance);
  EXPECT_GT(error({.from = 0}), kMistake);
  EXPECT_GT(error({.swapped = true}), kMistake);
  EXPECT_GT(error({.sines = false}), kMistake);
  EXPECT_GT(error({.turns = false}), kMistake);
}
