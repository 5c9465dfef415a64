// Fusion keeps what a vision tower means: small random towers are run as imported and as fused, and
// must give the same bits.
#include "dialects/moe/MoeInterpreter.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Pipeline.h"
#include "runtime/weights/TestTensors.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/xxhash.h"
#include <gtest/gtest.h>
#include <random>

using namespace mlir;
using namespace moe;
using llvm::formatv;

namespace {

using Random = std::mt19937;

// Writes a random tower in the order of its math, with its checkpoint.
class TowerWriter {
public:
  // `strict`: as the importer writes it, so that all of it must be fused; otherwise some values in
  // between are results, too.
  TowerWriter(Random &random, bool strict) : random(random), strict(strict) {}

  std::string write() {
    grid = 2 * (1 + int64_t(random() % 2));
    patch = 1 + int64_t(random() % 3);
    heads = 1 + int64_t(random() % 3);
    channels = heads * 4 * (1 + int64_t(random() % 2));
    element = std::array{"f32", "bf16", "f16"}[random() % 3];
    const int64_t pixels = 3 * patch * patch;
    std::string x =
        value(formatv("moe.patches %tiles patch {0} rescale 3.92156886E-3 mean [0.5, 0.4, 0.5] "
                      "std [0.5, 0.3, 0.5] : {1} -> {2}",
                      patch, tiles(), rows(pixels)),
              pixels);
    x = linear("patches", x, pixels, channels);
    x = value(formatv("moe.append_class {0}, {1} grid {2} : {3}, {4} -> {3}", x,
                      weight("class", {channels}), grid, rows(channels), type({channels})),
              channels);
    const int64_t tileRows = grid * grid + 1;
    x = value(formatv("moe.add_positions {0}, {1} : {2}, {3}", x,
                      weight("positions", {tileRows, channels}), rows(channels),
                      type({tileRows, channels})),
              channels);
    x = norm("pre", x);
    for (int64_t i = 0, layers = 1 + int64_t(random() % 2); i < layers; ++i) {
      prefix = formatv("layers.{0}.", i);
      x = add(x, linearBias("o", attention(norm("ln1", x)), channels, channels));
      const int64_t width = channels + 3;
      std::string wide = gelu(linearBias("fc1", norm("ln2", x), channels, width), width);
      x = add(x, linearBias("fc2", wide, width, channels));
    }
    prefix = "";
    x = value(
        formatv("moe.drop_class {0} grid {1} : {2} -> {2}", norm("post", x), grid, rows(channels)),
        channels);
    x = value(formatv("moe.pixel_shuffle {0} grid {1} : {2} -> {3}", x, grid, rows(channels),
                      rows(4 * channels)),
              4 * channels);
    x = gelu(linear("adapter", x, 4 * channels, 5), 5);
    x = linear("projector", x, 5, 6);
    std::string results = x, types = rows(6);
    for (auto &[name, n] : values)
      if (!strict && name != x && random() % 8 == 0) {
        results += ", " + name;
        types += ", " + rows(n);
      }
    return formatv("{0}func.func @vision(%tiles: {1}) -> ({2}) {{\n{3}  return {4} : {2}\n}\n",
                   symbols, tiles(), types, body, results);
  }

  TensorValue randomTiles() {
    const int64_t side = grid * patch, count = 1 + int64_t(random() % 3);
    std::vector<uint8_t> bytes(count * side * side * 3);
    for (uint8_t &byte : bytes)
      byte = uint8_t(random());
    return {{count, side, side, 3}, bytes};
  }

  test::TestTensors tensors;

private:
  std::string attention(const std::string &n) {
    std::string q, k, v;
    for (auto [name, to] : {std::pair("v", &v), {"q", &q}, {"k", &k}})
      *to = linearBias(name, n, channels, channels);
    for (std::string *turned : {&q, &k})
      *turned = value(formatv("moe.patch_rope {0} heads {1} grid {2} theta 1.0e4 : {3}", *turned,
                              heads, grid, rows(channels)),
                      channels);
    return value(formatv("moe.tile_attention {0}, {1}, {2} heads {3} grid {4} : {5}", q, k, v,
                         heads, grid, rows(channels)),
                 channels);
  }
  std::string norm(const std::string &name, const std::string &x) {
    std::string w = weight(name, {channels}), b = weight(name + "_bias", {channels});
    return value(formatv("moe.layer_norm {0}, {1}, {2} eps 1.0e-5 : {3}, {4}, {4}", x, w, b,
                         rows(channels), type({channels})),
                 channels);
  }
  std::string linear(const std::string &name, const std::string &x, int64_t inputs,
                     int64_t outputs) {
    return value(formatv("moe.linear {0}, {1} : {2}, {3} -> {4}", x,
                         weight(name, {outputs, inputs}), rows(inputs), type({outputs, inputs}),
                         rows(outputs)),
                 outputs);
  }
  std::string linearBias(const std::string &name, const std::string &x, int64_t inputs,
                         int64_t outputs) {
    std::string w = weight(name, {outputs, inputs}), b = weight(name + "_bias", {outputs});
    return value(formatv("moe.linear_bias {0}, {1}, {2} : {3}, {4}, {5} -> {6}", x, w, b,
                         rows(inputs), type({outputs, inputs}), type({outputs}), rows(outputs)),
                 outputs);
  }
  std::string gelu(const std::string &x, int64_t n) {
    return value(formatv("moe.gelu {0} : {1}", x, rows(n)), n);
  }
  std::string add(const std::string &a, const std::string &b) {
    const bool swap = random() % 2;
    return value(formatv("moe.add {0}, {1} : {2}", swap ? b : a, swap ? a : b, rows(channels)),
                 channels);
  }

  // Declares a weight, and loads it.
  std::string weight(const std::string &name, std::vector<int64_t> shape) {
    const std::string full = prefix + name;
    std::string zeros, sizes;
    for (int64_t size : shape) {
      zeros += zeros.empty() ? "0" : ", 0";
      sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
    }
    symbols += formatv("moe.weight @{0} : {1} from [#moe.source<\"{0}\", [{2}], [{3}]>]\n", full,
                       type(shape), zeros, sizes);
    std::string result = formatv("%{0}", next++);
    body += formatv("  {0} = moe.load_weight @{1} : {2}\n", result, full, type(shape));
    tensors.add(full, shape, [full](uint64_t begin, std::span<float> out) {
      for (auto [i, value] : llvm::enumerate(out)) {
        uint64_t hash = llvm::xxh3_64bits(full) + (begin + i + 1) * 0x9e3779b97f4a7c15;
        hash = (hash ^ (hash >> 31)) * 0xbf58476d1ce4e5b9;
        value = float(int64_t(hash >> 40) - (1 << 23)) / (1 << 23);
      }
      return ok();
    });
    return result;
  }
  std::string value(const std::string &text, int64_t n) {
    std::string name = formatv("%{0}", next++);
    body += "  " + name + " = " + text + "\n";
    values.push_back({name, n});
    return name;
  }
  std::string type(const std::vector<int64_t> &shape) const {
    std::string sizes;
    for (int64_t size : shape)
      sizes += std::to_string(size) + "x";
    return "tensor<" + sizes + element + ">";
  }
  static std::string rows(int64_t n) { return formatv("tensor<?x{0}xf32>", n); }
  std::string tiles() const { return formatv("tensor<?x{0}x{0}x3xui8>", grid * patch); }

  Random &random;
  const bool strict;
  int64_t grid = 0, patch = 0, heads = 0, channels = 0, next = 0;
  std::string symbols, body, prefix, element;
  std::vector<std::pair<std::string, int64_t>> values;
};

class VisionFusionTest : public testing::TestWithParam<bool> {};

TEST_P(VisionFusionTest, RandomTowers) {
  const bool strict = GetParam();
  MLIRContext context;
  context.loadDialect<MoeDialect, plan::PlanDialect, func::FuncDialect>();
  context.disableMultithreading();
  int fused = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    Random random(seed);
    TowerWriter writer(random, strict);
    const std::string text = writer.write();
    SCOPED_TRACE(text);
    auto imported = parseSourceString<ModuleOp>(text, &context);
    ASSERT_TRUE(imported);
    OwningOpRef<ModuleOp> module = imported->clone();
    PassManager passes(&context, ModuleOp::getOperationName());
    buildFusePipeline(passes);
    ASSERT_TRUE(succeeded(passes.run(*module)));
    ASSERT_TRUE(succeeded(verify(*module)));
    const SmallVector<TensorValue> tiles{writer.randomTiles()};
    Interpreter one(*imported, &writer.tensors), two(*module, &writer.tensors);
    auto expected = one.runFunction(imported->lookupSymbol<func::FuncOp>("vision"), tiles);
    auto found = two.runFunction(module->lookupSymbol<func::FuncOp>("vision"), tiles);
    ASSERT_TRUE(succeeded(expected) && succeeded(found));
    // The reference's blocks are compositions of its ops, in the same order: no tolerance.
    ASSERT_EQ(*expected, *found);
    module->walk([&](Operation *op) {
      fused += isa<PatchEmbedOp, TowerQkvOp, TowerAttentionOp, ProjectionOp, TowerOutputOp>(op);
      if (strict)
        EXPECT_FALSE(
            (isa<AddOp, AddPositionsOp, AppendClassOp, DropClassOp, GeluOp, LayerNormOp, LinearOp,
                 LinearBiasOp, PatchesOp, PatchRopeOp, PixelShuffleOp, TileAttentionOp>(op)))
            << op->getName().getStringRef().str();
    });
  }
  EXPECT_GT(fused, 300);
}

INSTANTIATE_TEST_SUITE_P(, VisionFusionTest, testing::Bool(), [](const auto &info) {
  return info.param ? "AsImported" : "WithOtherUsers";
});

} // namespace
