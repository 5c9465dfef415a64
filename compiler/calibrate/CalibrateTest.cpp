// The forward pass against the interpreter, and what calibration leaves in the store.
#include "compiler/calibrate/Calibrate.h"
#include "compiler/calibrate/CalibratedTensors.h"
#include "compiler/import/Llama4.h"
#include "compiler/import/RandomWeights.h"
#include "compiler/plan/Pack.h"
#include "compiler/plan/Quantize.h"
#include "dialects/moe/MoeInterpreter.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Pipeline.h"
#include "runtime/weights/TestTensors.h"
#include "llvm/Support/ThreadPool.h"
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

using namespace moe;
using namespace mlir;

namespace {

constexpr WeightFormat kFormat{Storage::I4, 32, Storage::F16};

struct Model {
  explicit Model(const std::string &name)
      : config(llvm::cantFail(
            Llama4Config::open(std::string(MOE_SOURCE_DIR) + "/test/golden/" + name, warnings))),
        weights(config, 7) {
    auto imported = importLlama4(context, config, weights, {Storage::F32});
    module = std::move(llvm::cantFail(std::move(imported)).module);
    unfused = module->clone();
    PassManager pm(&context);
    buildFusePipeline(pm);
    EXPECT_TRUE(succeeded(pm.run(*module)));
  }

  // Packs every matrix of the blocks in `format`; the rest stays as it is.
  void pack(const WeightFormat &format) {
    for (auto weight : module->getOps<WeightOp>())
      if (weight.getSymName().contains("layers.") && weight.getType().getRank() >= 2 &&
          !weight.getSymName().contains("router"))
        weight.setPackingAttr(
            PackingAttr::get(&context, WeightRole::Matrix, FormatAttr::get(&context, format), 0));
  }

  std::vector<std::vector<int32_t>> windows(int64_t count, int64_t length) {
    std::mt19937 random(5);
    std::vector<std::vector<int32_t>> out(count);
    for (auto &window : out)
      for (int64_t i = 0; i < length; ++i)
        window.push_back(int32_t(random() % config.vocabSize));
    return out;
  }

  std::vector<std::string> warnings;
  MLIRContext context;
  Llama4Config config;
  RandomWeights weights;
  OwningOpRef<ModuleOp> unfused, module; // before and after fusion
};

// The products of a model that is not fused, as MoeReference has them.
class ReferenceProducts {
public:
  ReferenceProducts(Model &model, llvm::ArrayRef<std::vector<int32_t>> inputs)
      : interpreter(*model.unfused, &model.weights) {
    // The function returns what its linears and experts take, in the place of the logits.
    auto step = model.unfused->lookupSymbol<func::FuncOp>("step");
    SmallVector<Value> taken;
    SmallVector<std::string> names;
    const auto take = [&](Value weight, const char *what, Value value) {
      names.push_back(weight.getDefiningOp<LoadWeightOp>().getWeight().str() + what);
      taken.push_back(value);
    };
    step.walk([&](LinearOp op) { take(op.getWeight(), "", op.getX()); });
    step.walk([&](ExpertsOp op) {
      take(op.getGate(), " x", op.getX());
      take(op.getGate(), " experts", op.getExperts());
      take(op.getGate(), " scores", op.getScores());
    });
    step.front().getTerminator()->setOperands(taken);
    step.setType(FunctionType::get(&model.context, step.getArgumentTypes(),
                                   SmallVector<Type>(ValueRange(taken).getTypes())));
    SmallVector<TensorValue> arguments;
    for (const std::vector<int32_t> &input : inputs)
      arguments.push_back({{int64_t(input.size())}, input});
    auto results = interpreter.runFunction(step, arguments);
    EXPECT_TRUE(succeeded(results));
    for (auto [name, value] : llvm::zip(names, *results))
      values[name] = value;
  }

  // What is multiplied with a matrix of a weight of the fused model.
  std::vector<float> of(llvm::StringRef weight, int64_t matrix) {
    for (auto [fused, linear] : {std::pair(".qkv", ".q"),
                                 {".moe.shared_gate_up", ".shared.gate"},
                                 {".moe.shared_down", ".shared.down"},
                                 {".mlp.gate_up", ".mlp.gate"}})
      if (llvm::StringRef layer = weight; layer.consume_back(fused))
        return values.at((layer + linear).str()).floats();
    llvm::StringRef layer = weight;
    const bool down = layer.consume_back(".moe.down");
    if (!down && !layer.consume_back(".moe.gate_up"))
      return values.at(weight.str()).floats();
    const std::string experts = (layer + ".experts.").str();
    const TensorValue &x = values.at(experts + "gate x");
    const TensorValue &chosen = values.at(experts + "gate experts");
    const std::vector<float> &scores = values.at(experts + "gate scores").floats();
    const int64_t cols = x.shape[1], k = chosen.shape[1];
    std::vector<float> own;
    for (size_t c = 0; c < scores.size(); ++c)
      for (int64_t i = 0; chosen.ints()[c] == matrix && i < cols; ++i)
        own.push_back(x.floats()[int64_t(c) / k * cols + i] * scores[c]);
    if (!down)
      return own;
    const auto project = [&](const char *which) {
      auto weight = interpreter.weight(interpreter.module.lookupSymbol<WeightOp>(experts + which));
      const int64_t size = (*weight)->shape[1] * cols;
      return reference::linear(
          own, std::span((*weight)->floats()).subspan(size_t(matrix * size), size_t(size)), cols);
    };
    return reference::swiglu(project("gate"), project("up"));
  }

private:
  Interpreter interpreter;
  std::map<std::string, TensorValue> values;
};

class CalibrateTest : public testing::TestWithParam<const char *> {
protected:
  // Sequences of different lengths, across the borders of chunks.
  CalibrateTest() : model(GetParam()) {
    std::mt19937 random(6);
    for (int32_t s : {0, 1, 2})
      for (int32_t i = 0; i < 7 + 10 * s; ++i) {
        rows.push_back(int32_t(tokens.size()));
        tokens.push_back(int32_t(random() % model.config.vocabSize));
        positions.push_back(i);
        sequences.push_back(s);
      }
  }

  Model model;
  std::vector<int32_t> tokens, positions, sequences, rows;
};

// The activations that go into each product are those of the reference, so all hidden states are.
TEST_P(CalibrateTest, ProductsTakeWhatTheReferenceTakes) {
  ReferenceProducts reference(model, {tokens, positions, sequences, rows});
  std::set<std::string> seen;
  auto found = runForward(model.module->lookupSymbol<func::FuncOp>("step"), model.weights,
                          {tokens, positions, sequences, rows, /*logits=*/false},
                          [&](WeightOp weight, int64_t matrix, const Matrix &x) {
                            const std::string name = weight.getSymName().str();
                            seen.insert(name);
                            const std::vector<float> expected = reference.of(name, matrix);
                            EXPECT_EQ(size_t(x.size()), expected.size()) << name << " " << matrix;
                            double worst = 0;
                            for (size_t i = 0; i < std::min(expected.size(), size_t(x.size())); ++i)
                              worst = std::max(worst, std::abs(double(x.data()[i]) - expected[i]) /
                                                          (1 + std::abs(double(expected[i]))));
                            EXPECT_LT(worst, 1e-4) << name << " " << matrix;
                            return llvm::Error::success();
                          });
  ASSERT_TRUE(bool(found)) << llvm::toString(found.takeError());
  // All weights that are multiplied are shown but the routers, whose choices are seen above.
  for (auto weight : model.module->getOps<WeightOp>())
    if (weight.getType().getRank() >= 2 && weight.getSymName() != "embedding" &&
        !weight.getSymName().ends_with("router"))
      EXPECT_TRUE(seen.count(weight.getSymName().str())) << weight.getSymName().str();
}

TEST_P(CalibrateTest, ForwardPassIsTheModel) {
  int64_t products = 0;
  auto found = runForward(model.module->lookupSymbol<func::FuncOp>("step"), model.weights,
                          {tokens, positions, sequences, rows},
                          [&](WeightOp weight, int64_t matrix, const Matrix &x) {
                            EXPECT_EQ(x.cols(), weight.getType().getShape().back());
                            ++products;
                            return llvm::Error::success();
                          });
  ASSERT_TRUE(bool(found)) << llvm::toString(found.takeError());
  Interpreter interpreter(*model.module, &model.weights);
  auto expected = interpreter.run("step", tokens, positions, sequences, rows);
  ASSERT_TRUE(succeeded(expected));
  ASSERT_EQ(found->size(), int64_t(expected->size()));
  double worst = 0;
  for (size_t i = 0; i < expected->size(); ++i)
    worst = std::max(worst, std::abs(double(found->data()[i]) - (*expected)[i]));
  EXPECT_LT(worst, 1e-4);
  EXPECT_GT(products, 4 * model.config.layers);
}

INSTANTIATE_TEST_SUITE_P(Models, CalibrateTest,
                         testing::Values("scout", "maverick", "top-2", "no-chunks", "tied"),
                         [](auto info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(CalibrateStoreTest, CodesOfEveryMatrixThatSawTokens) {
  Model model("scout");
  model.pack(kFormat);
  auto store = CodeStore::create(testing::TempDir());
  ASSERT_TRUE(bool(store));
  uint64_t done = 0, total = 0;
  llvm::Error error = calibrate(*model.module, model.weights, model.windows(3, 40), **store,
                                {.progress = [&](uint64_t d, uint64_t t) { done = d, total = t; }});
  ASSERT_FALSE(bool(error)) << llvm::toString(std::move(error));
  EXPECT_EQ(done, total);
  EXPECT_GT(total, 0u);

  int64_t matrices = 0;
  for (auto weight : model.module->getOps<WeightOp>()) {
    const auto shape = weight.getType().getShape();
    if (!weight.getPacking()) {
      EXPECT_FALSE((*store)->has(weight.getSymName(), kFormat, 0));
      continue;
    }
    const int64_t rows = shape.drop_back().back(), cols = shape.back();
    auto reader = WeightReader::open(model.weights, slicesOf(weight));
    ASSERT_TRUE(reader);
    for (int64_t m = 0; m < (shape.size() == 3 ? shape[0] : 1); ++m) {
      if (!(*store)->has(weight.getSymName(), kFormat, m)) {
        EXPECT_EQ(shape.size(), 3u) << "only an expert may have seen no token";
        continue;
      }
      EXPECT_FALSE((*store)->has(weight.getSymName(), {Storage::I4, 64, Storage::F16}, m));
      ++matrices;
      Matrix expected(1, cols);
      std::vector<uint8_t> codes(cols);
      std::vector<float> scales(cols / kFormat.group);
      for (int64_t row : {int64_t(0), rows / 2, rows - 1}) {
        ASSERT_TRUE(reader->read((m * rows + row) * cols, {expected.data(), size_t(cols)}));
        ASSERT_TRUE((*store)->readCodes(weight.getSymName(), kFormat, m, row * cols, codes));
        ASSERT_TRUE((*store)->readScales(weight.getSymName(), kFormat, m,
                                         row * cols / kFormat.group, scales));
        double error = 0;
        for (int64_t c = 0; c < cols; ++c) {
          const float value = dequantize(kFormat, codes[c], scales[c / kFormat.group], 8);
          error += std::pow(value - expected(0, c), 2);
        }
        // Feedback moves elements away from the nearest code, but not far.
        EXPECT_LT(error, 0.1 * expected.squaredNorm()) << weight.getSymName().str();
      }
    }
  }
  EXPECT_GT(matrices, 4 * 8);
}

// Any part, whatever it cuts.
TEST(CalibrateStoreTest, ReadsBackParts) {
  auto store = CodeStore::create(testing::TempDir());
  ASSERT_TRUE(bool(store));
  constexpr int64_t rows = 6, cols = 96, groups = cols / 32;
  std::mt19937 random(3);
  std::vector<uint8_t> codes[2];
  std::vector<float> scales[2];
  for (int64_t m : {1, 0}) {
    for (int64_t i = 0; i < rows * cols; ++i)
      codes[m].push_back(random() % 16);
    for (int64_t i = 0; i < rows * groups; ++i)
      scales[m].push_back(float(random() % 1000));
  }
  // Rows and matrices in no particular order.
  for (int64_t first : {4, 0, 2})
    for (int64_t m : {1, 0})
      ASSERT_TRUE((*store)->add("w", kFormat, rows, cols, m, first,
                                llvm::ArrayRef(codes[m]).slice(first * cols, 2 * cols),
                                llvm::ArrayRef(scales[m]).slice(first * groups, 2 * groups)));
  (*store)->addNone("w", kFormat, rows, cols, 2);
  for (int64_t m : {0, 1, 2, 3}) {
    EXPECT_EQ((*store)->has("w", kFormat, m), m < 2);
    EXPECT_EQ((*store)->knows("w", kFormat, m), m < 3);
  }
  EXPECT_FALSE((*store)->knows("v", kFormat, 0));
  for (int i = 0; i < 200; ++i) {
    const int64_t m = random() % 2;
    int64_t begin = random() % (rows * cols), count = random() % (rows * cols - begin + 1);
    std::vector<uint8_t> part(count);
    ASSERT_TRUE((*store)->readCodes("w", kFormat, m, begin, part));
    EXPECT_EQ(llvm::ArrayRef(part), llvm::ArrayRef(codes[m]).slice(begin, count));
    begin = random() % (rows * groups), count = random() % (rows * groups - begin + 1);
    std::vector<float> some(count);
    ASSERT_TRUE((*store)->readScales("w", kFormat, m, begin, some));
    EXPECT_EQ(llvm::ArrayRef(some), llvm::ArrayRef(scales[m]).slice(begin, count));
  }
}

// What the packer makes of an adopted weight is the store's codes, bit for bit.
TEST(CalibrateStoreTest, PackedAsChosen) {
  Model model("scout");
  model.pack(kFormat);
  auto store = CodeStore::create(testing::TempDir());
  ASSERT_TRUE(bool(store));
  llvm::Error error = calibrate(*model.module, model.weights, model.windows(1, 12), **store, {});
  ASSERT_FALSE(bool(error)) << llvm::toString(std::move(error));
  CalibratedTensors tensors(std::make_unique<RandomWeights>(model.config, 7), std::move(*store));
  tensors.adopt(*model.module);
  ASSERT_TRUE(succeeded(mlir::verify(*model.module)));
  model.context.loadDialect<plan::PlanDialect>();
  int64_t compared = 0, plain = 0;
  for (auto weight : model.module->getOps<WeightOp>()) {
    if (!weight.getPacking())
      continue;
    const auto packing =
        plan::PackingAttr::get(&model.context, Layout::Panel, weight.getPacking()->getFormat(), 0);
    auto packer = Packer::create(weight.getSymName(), weight.getType(), slicesOf(weight), packing,
                                 tensors, {});
    ASSERT_TRUE(bool(packer)) << llvm::toString(packer.takeError());
    std::vector<char> bytes(size_t(packer->bytes()));
    for (int64_t i = 0; i < packer->pieces(); ++i)
      ASSERT_FALSE(bool(packer->pack(
          i, llvm::MutableArrayRef(bytes).slice(packer->piece(i).offset, packer->piece(i).bytes))));
    const auto geometry = *layoutOf(weight.getType(), packing);
    std::vector<uint8_t> codes(size_t(geometry.cols));
    std::vector<float> scales(size_t(geometry.groups()));
    for (int64_t m = 0; m < geometry.outer; ++m) {
      if (!tensors.store().has(weight.getSymName(), kFormat, m)) {
        ++plain;
        continue;
      }
      for (int64_t row = 0; row < geometry.rows; ++row) {
        ASSERT_TRUE(
            tensors.store().readCodes(weight.getSymName(), kFormat, m, row * geometry.cols, codes));
        ASSERT_TRUE(tensors.store().readScales(weight.getSymName(), kFormat, m,
                                               row * geometry.groups(), scales));
        for (int64_t col = 0; col < geometry.cols; ++col) {
          auto [byte, shift] = geometry.code(m, row, col);
          if (scales[col / kFormat.group] != 0)
            ASSERT_EQ(uint8_t(bytes[byte]) >> shift & 15, codes[col]);
          ++compared;
        }
        for (int64_t g = 0; g < geometry.groups(); ++g) {
          uint16_t bits;
          std::memcpy(&bits, &bytes[geometry.scale(m, row, g)], 2);
          ASSERT_EQ(bits, infoOf(Storage::F16).encode(scales[g], 0));
        }
      }
    }
  }
  EXPECT_GT(compared, 100000);
  EXPECT_GT(plain, 0) << "with so few tokens some expert should have seen none";
}

// A second device, whose module is packed otherwise into the same formats, costs no second pass.
TEST(CalibrateStoreTest, KnownIsNotChosenAgain) {
  Model model("scout");
  model.pack(kFormat);
  auto store = CodeStore::create(testing::TempDir());
  ASSERT_TRUE(bool(store));
  std::atomic<int64_t> reads = 0; // from several threads
  const test::WatchedTensors counting(model.weights, [&](std::string_view, uint64_t, size_t) {
    ++reads;
    return ok();
  });
  // So few that some expert sees no token.
  const auto windows = model.windows(1, 12);
  const auto pass = [&] {
    uint64_t done = 0, total = 0;
    llvm::Error error =
        calibrate(*model.module, counting, windows, **store,
                  {.progress = [&](uint64_t d, uint64_t t) { done = d, total = t; }});
    EXPECT_FALSE(bool(error)) << llvm::toString(std::move(error));
    EXPECT_EQ(done, total);
    EXPECT_GT(total, 0u);
  };
  pass();
  EXPECT_GT(reads, 0);
  int64_t none = 0;
  for (auto weight : model.module->getOps<WeightOp>())
    if (weight.getPacking())
      for (int64_t m = 0;
           m < (weight.getType().getRank() == 3 ? weight.getType().getDimSize(0) : 1); ++m) {
        EXPECT_TRUE((*store)->knows(weight.getSymName(), kFormat, m));
        none += !(*store)->has(weight.getSymName(), kFormat, m);
      }
  EXPECT_GT(none, 0);
  reads = 0;
  pass();
  EXPECT_EQ(reads, 0);
  // Another format is another matter.
  model.pack({Storage::I4, 16, Storage::F16});
  pass();
  EXPECT_GT(reads, 0);
}

TEST(CalibrateStoreTest, ThreadsAreTheContexts) {
  Model model("scout");
  model.pack(kFormat);
  std::mutex mutex;
  std::set<std::thread::id> readers;
  const test::WatchedTensors watched(model.weights, [&](std::string_view, uint64_t, size_t) {
    std::scoped_lock lock(mutex);
    readers.insert(std::this_thread::get_id());
    return ok();
  });
  model.context.disableMultithreading();
  for (unsigned jobs : {0, 1, 3}) {
    llvm::DefaultThreadPool threads(llvm::hardware_concurrency(std::max(1u, jobs)));
    if (jobs)
      model.context.setThreadPool(threads);
    auto store = CodeStore::create(testing::TempDir());
    ASSERT_TRUE(bool(store));
    readers.clear();
    llvm::Error error = calibrate(*model.module, watched, model.windows(1, 12), **store, {});
    ASSERT_FALSE(bool(error)) << llvm::toString(std::move(error));
    EXPECT_GE(readers.size(), jobs ? 2u : 1u);
    EXPECT_LE(readers.size(), 1 + jobs); // and the one that called
    model.context.disableMultithreading();
  }
}

TEST(CalibrateStoreTest, Interrupted) {
  Model model("scout");
  model.pack(kFormat);
  auto store = CodeStore::create(testing::TempDir());
  ASSERT_TRUE(bool(store));
  std::atomic<bool> cancel = true;
  llvm::Error error = calibrate(*model.module, model.weights, model.windows(1, 4), **store,
                                {.progress = {}, .cancel = &cancel});
  EXPECT_EQ(llvm::toString(std::move(error)), "interrupted");
}

TEST(CalibrateStoreTest, NoSuchFolder) {
  auto store = CodeStore::create("/no/such/folder");
  ASSERT_FALSE(bool(store));
  EXPECT_EQ(llvm::toString(store.takeError()).find("cannot make a temporary file in '/no/such"),
            0u);
}

} // namespace
