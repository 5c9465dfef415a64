// Every fused op, lowered for every version of every target (Targets.cpp) and run on what this
// machine has, emulates or simulates of it, at odd sizes, against MoeReference: the steps of a
// model that has each of them, in programs of few and of many tokens.
#include "compiler/targets/Targets.h"
#include "compiler/targets/TestStep.h"
#include "dialects/moe/MoeReference.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Pipeline.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"

using namespace moe;
using namespace moe::codegen;
using llvm::formatv;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;

constexpr float kEps = 1e-5f;
constexpr int64_t kVocabulary = 75, kExperts = 5, kHeadDim = 16;

struct Weights {
  const char *name, *recipe;
  WeightFormat format; // of the matrices
  int64_t hidden, width, heads;
  // Tokens of one step after the other: few, more, where asked for so many that GPUs take larger
  // tiles, and one that has the others behind it.
  std::vector<size_t> steps;
  size_t cache;              // which of the target's, of the first attention; the next one follows
  const char *encoding = ""; // of the model's matrices
};
void PrintTo(const Weights &weights, std::ostream *os) { *os << weights.name; }

// Sizes are as odd as groups let them.
const Weights kWeights[] = {
    {"f32", "f32", {Storage::F32}, 104, 40, 3, {4, 12, 72, 1}, 2},
    {"bf16", "bf16", {Storage::BF16}, 104, 40, 3, {4, 12, 72, 1}, 0},
    {"int4_zeros",
     "keep",
     {Storage::I4, 32, Storage::BF16, true},
     96,
     160,
     6,
     {4, 25, 25, 25, 3},
     2,
     "encoded #moe.format<i4 group 32 scale bf16 zeros>"},
};

// The error that the activations of a product bring into a result, relative to the result, both as
// roots of mean squares: rounding is off by 1/sqrt(12) steps. A step is 2^-7 to 2^-8 of a number in
// bf16. Codes of activations that go with integers have a step of 1/127 of the largest of up to 128
// numbers, which is about five times their root mean square: they are products of normally
// distributed ones.
double lossOf(Storage element) {
  if (infoOf(element).integers)
    return 5.0 / 127 / std::sqrt(12.0);
  return (element == Storage::F32 ? 0x1p-20 : 0x1p-7) / std::sqrt(12.0);
}

// The root of the mean square of errors is about `loss` of that of `want - before`, and no single
// error more than eight times that.
void expectNear(const Floats &got, const Floats &want, const Floats &before, double loss) {
  ASSERT_EQ(got.size(), want.size());
  double errors = 0, changes = 0, worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i])) << "element " << i;
    const double error = std::abs(double(got[i]) - want[i]);
    errors += error * error;
    worst = std::max(worst, error);
    changes += std::pow(double(want[i]) - (before.empty() ? 0 : before[i]), 2);
  }
  const double size = std::sqrt(changes / want.size());
  EXPECT_LE(std::sqrt(errors / want.size()), 1.5 * loss * size);
  EXPECT_LE(worst, 8 * loss * size);
}

// What an attention block does with its heads.
struct AttentionCase {
  const char *name;
  int64_t kvHeads, chunk;
  bool rope, qkNorm, temperature;
};
// As in Llama 4: layers that see a chunk have positions, layers that see all have none. Positions
// beyond the first page count in both.
constexpr AttentionCase kChunked{"chunked", 1, 66, true, true, false},
    kGlobal{"global", 3, 0, false, false, true};

// A model as text. Each op makes the residual stream %h<n + 1> of %h<n>.
class Model {
public:
  explicit Model(const Weights &weights) : weights(weights), hidden(weights.hidden) {
    matrix("embed", {kVocabulary, hidden});
    line("%h0 = moe.embed %tokens, %embed : tensor<?xi32>, tensor<{0}x{1}xbf16> -> {2}",
         kVocabulary, hidden, stream());
    std::vector<std::string> list;
    for (float frequency : reference::ropeFrequencies(500000, kHeadDim))
      list.push_back(formatv("{0:E8}", frequency));
    line("%table = moe.rope_table %positions [{0}] : tensor<?xi32> -> tensor<?x{1}xf32>",
         llvm::join(list, ", "), kHeadDim);
  }

  void attention(const AttentionCase &c, Storage cache) {
    const std::string name = c.name;
    const int64_t rows = (weights.heads + 2 * c.kvHeads) * kHeadDim,
                  channels = weights.heads * kHeadDim;
    norm(name + "_norm");
    matrix(name + "_qkv", {rows, hidden});
    matrix(name + "_output", {hidden, channels});
    symbols += formatv("moe.cache @{0} heads {1} head_dim {2}{3} : {4}\n", name, c.kvHeads,
                       kHeadDim, c.chunk ? " chunk " + std::to_string(c.chunk) : "",
                       cache == Storage::I8 ? "i8" : nameOf(cache));
    std::vector<std::string> options;
    if (c.qkNorm)
      options.push_back("qk_norm = 1.0e-5 : f32");
    if (c.temperature) {
      options.push_back("temperature_scale = 0.1 : f32");
      options.push_back("temperature_floor = 16.0 : f32");
    }
    line("%{0}_sums = moe.qkv %h{1}, %{0}_norm, %{0}_qkv eps 1.0e-5 : {2}, tensor<{3}xbf16>, "
         "tensor<{4}x{3}xbf16> -> tensor<?x{4}xf32>",
         name, ops, stream(), hidden, rows);
    line("%{0}_out = moe.attention_block @{0}, %{0}_sums, %positions, %sequences {1} {{{2}} : "
         "tensor<?x{3}xf32>, tensor<?xi32> -> tensor<?x{4}xf32>",
         name, c.rope ? formatv("rope %table : tensor<?x{0}xf32>", kHeadDim).str() : "",
         llvm::join(options, ", "), rows, channels);
    line("%h{0} = moe.linear_residual %{1}_out, %{1}_output, %h{2} : tensor<?x{3}xf32>, "
         "tensor<{4}x{3}xbf16>, {5}",
         ops + 1, name, ops, channels, hidden, stream());
    ++ops;
  }
  void mlpBlock() {
    norm("mlp_norm");
    matrix("mlp_gate_up", {2 * weights.width, hidden});
    matrix("mlp_down", {hidden, weights.width});
    line("%h{0} = moe.mlp_block %h{1}, %mlp_norm, %mlp_gate_up, %mlp_down eps 1.0e-5 : {2}, "
         "tensor<{3}xbf16>, tensor<{4}x{3}xbf16>, tensor<{3}x{5}xbf16>",
         ops + 1, ops, stream(), hidden, 2 * weights.width, weights.width);
    ++ops;
  }
  void moeBlock() {
    const int64_t width = weights.width;
    norm("moe_norm");
    declare("router", {kExperts, hidden}, "");
    matrix("shared_gate_up", {2 * width, hidden});
    matrix("gate_up", {kExperts, 2 * width, hidden});
    matrix("shared_down", {hidden, width});
    matrix("down", {kExperts, hidden, width});
    line("%h{0} = moe.moe_block %h{1}, %moe_norm, %router, %shared_gate_up, %gate_up, "
         "%shared_down, %down top 1 eps 1.0e-5 : {2}, tensor<{3}xbf16>, tensor<{4}x{3}xbf16>, "
         "tensor<{5}x{3}xbf16>, tensor<{4}x{5}x{3}xbf16>, tensor<{3}x{6}xbf16>, "
         "tensor<{4}x{3}x{6}xbf16>",
         ops + 1, ops, stream(), hidden, kExperts, 2 * width, width);
    ++ops;
  }
  std::string text() {
    norm("last_norm");
    matrix("head", {kVocabulary, hidden});
    line("%logits = moe.head %h{0}, %rows, %last_norm, %head eps 1.0e-5 : {1}, tensor<?xi32>, "
         "tensor<{2}xbf16>, tensor<{3}x{2}xbf16> -> tensor<?x{3}xf32>",
         ops, stream(), hidden, kVocabulary);
    line("%states = moe.final_norm %h{0}, %rows, %last_norm eps 1.0e-5 : {1}, tensor<?xi32>, "
         "tensor<{2}xbf16> -> {1}",
         ops, stream(), hidden);
    line("return %logits, %states : tensor<?x{0}xf32>, {1}", kVocabulary, stream());
    return formatv("{0}func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, "
                   "%sequences: tensor<?xi32>, %rows: tensor<?xi32>) -> (tensor<?x{1}xf32>, {2}) "
                   "{{\n{3}}\n",
                   symbols, kVocabulary, stream(), body);
  }

private:
  template <class... Args> void line(const char *format, Args &&...args) {
    body += "  " + formatv(format, std::forward<Args>(args)...).str() + "\n";
  }
  std::string stream() const { return formatv("tensor<?x{0}xf32>", hidden); }
  void matrix(const std::string &name, llvm::ArrayRef<int64_t> shape) {
    declare(name, shape, weights.encoding);
  }
  void norm(const std::string &name) { declare(name, {hidden}, ""); }
  void declare(const std::string &name, llvm::ArrayRef<int64_t> shape, const char *encoding) {
    std::vector<std::string> sizes, zeros(shape.size(), "0");
    for (int64_t size : shape)
      sizes.push_back(std::to_string(size));
    const std::string type = "tensor<" + llvm::join(sizes, "x") + "xbf16>";
    symbols += formatv("moe.weight @{0} : {1} from [#moe.source<\"{0}\", [{2}], [{3}]>] {4}\n",
                       name, type, llvm::join(zeros, ", "), llvm::join(sizes, ", "), encoding);
    line("%{0} = moe.load_weight @{0} : {1}", name, type);
  }

  const Weights &weights;
  const int64_t hidden;
  int64_t ops = 0;
  std::string symbols, body;
};

class FusedOps : public testing::TestWithParam<std::tuple<std::string, Weights>> {
protected:
  const Weights &weights = std::get<1>(GetParam());
  const int64_t hidden = weights.hidden;

  void SetUp() override {
    context.loadDialect<MoeDialect, plan::PlanDialect, mlir::func::FuncDialect,
                        mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                        mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
    auto chosen = chooseTargets({std::get<0>(GetParam())}, {.ptxas = {}, .assemblePtx = false});
    ASSERT_TRUE(bool(chosen)) << llvm::toString(chosen.takeError());
    target = std::move(chosen->front());
    std::string refusal = target->refusal(WeightRole::Matrix, weights.format, hidden);
    if (!refusal.empty())
      GTEST_SKIP() << refusal;
    drawTokens();
  }

  // Compiles the model. Skips the test where nothing here can run it.
  void compile(Model &made) {
    const std::string text = made.text();
    auto model = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
    ASSERT_TRUE(model) << text;
    mlir::PassManager passes(&context, mlir::ModuleOp::getOperationName());
    buildPackPipeline(passes, findTargetFormats, target->name(), weights.recipe);
    ASSERT_TRUE(mlir::succeeded(passes.run(*model))) << text;
    auto lowered =
        target->lower(*model, *std::max_element(weights.steps.begin(), weights.steps.end()));
    ASSERT_TRUE(mlir::succeeded(lowered));
    plan = std::move(*lowered);
    auto image = target->image(0);
    ASSERT_TRUE(bool(image)) << llvm::toString(image.takeError());
    std::string missing;
    kernels = KernelRunner::create(*image, missing);
    if (!kernels)
      GTEST_SKIP() << missing;
    runner.emplace(*plan, *kernels, hidden, kVocabulary);
  }

  // Of all steps, from three sequences, the first of which is longer than a page of the cache.
  void drawTokens() {
    std::mt19937 generator(11);
    Ints next(3);
    for (size_t count : weights.steps)
      for (size_t i = 0; i < count; ++i) {
        const int32_t sequence = std::max<int32_t>(0, int32_t(i % 16) - 13);
        tokens.push_back(generator() % kVocabulary);
        positions.push_back(next[sequence]++);
        sequences.push_back(sequence);
      }
  }

  // What an op makes of the residual stream of all steps, and how much of its change activations
  // lose.
  struct Op {
    std::string name;
    std::function<Floats(const Floats &h)> reference;
    double loss;
  };
  Op attention(const AttentionCase &c, Storage cache) {
    auto reference = [this, c](const Floats &h) {
      const std::string name = c.name;
      reference::KvCache oracle(c.kvHeads, kHeadDim, c.chunk);
      reference::AttentionOptions options;
      const Floats table =
          reference::ropeTable(positions, reference::ropeFrequencies(500000, kHeadDim));
      if (c.rope)
        options.ropeTable = table;
      if (c.qkNorm)
        options.qkNormEps = kEps;
      if (c.temperature)
        options.temperature = reference::Temperature{0.1f, 16.0f};
      const Floats sums = reference::qkv(h, weight(name + "_norm"), weight(name + "_qkv"), kEps);
      return reference::linearResidual(
          reference::attentionBlock(oracle, sums, positions, sequences, options),
          weight(name + "_output"), h, weights.heads * kHeadDim);
    };
    // Activations of both products, and q, k, and the weights of positions or v.
    const double kept = lossOf(cache == Storage::F16 ? Storage::BF16 : cache);
    return {c.name, reference, 2 * loss() + 3 * kept};
  }
  Op mlpBlock() {
    return {"mlp_block",
            [this](const Floats &h) {
              return reference::mlpBlock(h, weight("mlp_norm"), weight("mlp_gate_up"),
                                         weight("mlp_down"), kEps);
            },
            2 * loss()};
  }
  Op moeBlock() {
    return {"moe_block",
            [this](const Floats &h) {
              return reference::moeBlock(h, weight("moe_norm"), weight("router"),
                                         weight("shared_gate_up"), weight("gate_up"),
                                         weight("shared_down"), weight("down"), 1, kEps);
            },
            2 * loss()};
  }

  // Runs the steps, and compares what each op made of what it was given.
  void expectSteps(const std::vector<Op> &ops) {
    std::vector<TestStepResult> one = run(1), three = run(3);
    if (HasFailure())
      return;
    // Bits do not depend on how many share the work.
    for (const auto &[a, b] : llvm::zip_equal(one, three)) {
      EXPECT_EQ(a.streams, b.streams);
      EXPECT_EQ(0, memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)));
      EXPECT_EQ(a.hidden, b.hidden);
      EXPECT_EQ(a.ids, b.ids);
    }
    std::vector<Floats> streams(ops.size() + 1); // of all steps
    for (const TestStepResult &result : one) {
      ASSERT_EQ(result.streams.size(), streams.size())
          << "each op changes the residual stream in one call";
      for (const auto &[all, stream] : llvm::zip(streams, result.streams))
        llvm::append_range(all, stream);
    }
    EXPECT_EQ(streams[0], reference::embed(tokens, weight("embed"), hidden));
    for (size_t i = 0; i < ops.size(); ++i) {
      const Floats want = ops[i].reference(streams[i]);
      size_t first = 0;
      for (size_t count : weights.steps) {
        SCOPED_TRACE(ops[i].name + " in a step of " + std::to_string(count));
        auto part = [&](const Floats &all) {
          return Floats(all.begin() + first * hidden, all.begin() + (first + count) * hidden);
        };
        expectNear(part(streams[i + 1]), part(want), part(streams[i]), ops[i].loss);
        first += count;
      }
    }
    for (const TestStepResult &result : one)
      expectRows(result);
  }
  std::vector<TestStepResult> run(int64_t width) {
    std::vector<TestStepResult> results;
    runner->forget();
    size_t first = 0;
    for (size_t count : weights.steps) {
      auto part = [&](const Ints &all) {
        return Ints(all.begin() + first, all.begin() + first + count);
      };
      results.push_back(
          runner->run({part(tokens), part(positions), part(sequences), rowsOf(count)}, width));
      first += count;
    }
    return results;
  }
  // Half of a step's tokens, the last one first.
  static Ints rowsOf(size_t tokens) {
    Ints rows;
    for (size_t row = 0; row < tokens; row += 2)
      rows.push_back(int32_t(tokens - 1 - row));
    return rows;
  }
  // Hidden states, logits and ids, of the residual stream that was found.
  void expectRows(const TestStepResult &result) {
    const Floats &h = result.streams.back();
    const Ints rows = rowsOf(h.size() / hidden);
    const Floats want = reference::head(h, rows, weight("last_norm"), weight("head"), kEps);
    expectNear(result.hidden, reference::finalNorm(h, rows, weight("last_norm"), kEps), {},
               lossOf(Storage::F32));
    Floats got, wanted;
    for (size_t row = 0; row < rows.size(); ++row) {
      auto logits = llvm::ArrayRef(result.logits).slice(row * kVocabulary, kVocabulary),
           exact = llvm::ArrayRef(want).slice(row * kVocabulary, kVocabulary);
      const int32_t id = result.ids ? (*result.ids)[row] : 0;
      ASSERT_LT(uint32_t(id), kVocabulary) << "row " << row;
      if (result.ids && !StepRunner::writesLogits(row)) {
        EXPECT_TRUE(llvm::all_of(logits, [](float x) { return std::isnan(x); }))
            << "logits of row " << row << ", which wants none";
        EXPECT_GE(exact[id], *llvm::max_element(exact) - 16 * loss()); // logits are about 1
        continue;
      }
      if (result.ids)
        EXPECT_EQ(logits[id], *llvm::max_element(logits)) << "row " << row;
      llvm::append_range(got, logits);
      llvm::append_range(wanted, exact);
    }
    expectNear(got, wanted, {}, loss());
  }

  const Floats &weight(const std::string &name) const { return runner->weight(name); }
  double loss() const { return lossOf(weights.format.element); }

  mlir::MLIRContext context;
  std::unique_ptr<Target> target;
  mlir::OwningOpRef<mlir::ModuleOp> plan;
  std::unique_ptr<KernelRunner> kernels;
  std::optional<StepRunner> runner;
  Ints tokens, positions, sequences; // of all steps
};

TEST_P(FusedOps, MatchTheReference) {
  // Each kind of cache meets some weights; attention is the same whatever the weights are.
  Model model(weights);
  std::vector<Op> ops;
  auto attend = [&](const AttentionCase &c, size_t cache) {
    const Storage kept = target->caches()[cache % target->caches().size()];
    model.attention(c, kept);
    ops.push_back(attention(c, kept));
  };
  attend(kChunked, weights.cache);
  model.mlpBlock();
  ops.push_back(mlpBlock());
  if (!weights.format.quantized())
    attend(kGlobal, weights.cache + 1);
  model.moeBlock();
  ops.push_back(moeBlock());
  compile(model);
  if (!IsSkipped() && !HasFatalFailure())
    expectSteps(ops);
}

// Emulated this target takes long, so that always it runs with codes alone.
constexpr llvm::StringLiteral kNewerArm = "cpu:armv8.6-a";

std::vector<std::string> otherVersions() {
  std::vector<std::string> versions;
  for (const std::unique_ptr<Target> &target : allTargets())
    for (llvm::StringRef version : target->knownVersions())
      versions.push_back((target->name() + ":" + version).str());
  llvm::erase(versions, kNewerArm);
  return versions;
}

std::string nameOfCase(const testing::TestParamInfo<FusedOps::ParamType> &info) {
  return identifier(std::get<0>(info.param) + "_" + std::get<1>(info.param).name);
}

INSTANTIATE_TEST_SUITE_P(All, FusedOps,
                         testing::Combine(testing::ValuesIn(otherVersions()),
                                          testing::ValuesIn(kWeights)),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(NewerArm, FusedOps,
                         testing::Combine(testing::Values(kNewerArm.str()),
                                          testing::Values(kWeights[2])),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, FusedOps,
                         testing::Combine(testing::Values(kNewerArm.str()),
                                          testing::Values(kWeights[0], kWeights[1])),
                         nameOfCase);

} // namespace
