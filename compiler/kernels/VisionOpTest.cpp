// Every fused op of a vision tower, lowered for every version of every target that has pictures and
// run on what this machine has or emulates of it, at odd sizes, against the reference; and what the
// other targets say.
#include "compiler/kernels/TestWeight.h"
#include "compiler/targets/Targets.h"
#include "compiler/targets/TestRunner.h"
#include "dialects/moe/VisionReference.h"
#include "dialects/plan/Packing.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Pipeline.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/FormatVariadic.h"
#include <map>

using namespace moe;
using namespace moe::codegen;
using llvm::formatv;

namespace {

using Floats = std::vector<float>;
using Bytes = std::vector<std::byte>;

// Heads that panels cut, and rows of a tile that blocks do.
constexpr int64_t kGrid = 8, kPatch = 4, kHeads = 3, kHeadDim = 24, kChannels = kHeads * kHeadDim,
                  kWidth = 136, kAdapter = 48, kHidden = 40, kTiles = 3;
constexpr int64_t kSide = kGrid * kPatch, kRows = kGrid * kGrid + 1;
constexpr float kEps = 1e-5f, kTheta = 1e4f;

struct Weights {
  const char *name, *recipe;
  double loss; // most of the root of the mean square of errors, relative to that of the result
};
void PrintTo(const Weights &weights, std::ostream *os) { *os << weights.name; }
// In bf16 and int8 the rows that feed each of seven products round to 2^-8, or to 1/127 of the
// largest of a piece.
constexpr Weights kWeights[] = {
    {"f32", "f32", 2e-6}, {"bf16", "bf16", 1e-2}, {"int8", "bf16,vision=int8-row", 4e-2}};

// A model as text: the least that a step has, and a tower of one layer.
class Model {
public:
  explicit Model(bool takesImages) {
    matrix("embed", {7, kHidden});
    norm("last_norm", kHidden);
    const std::string stream = rows(kHidden);
    if (takesImages)
      line("%h = moe.embed %tokens, %embed images %images, %image_rows : {1}, tensor<?xi32> : "
           "tensor<?xi32>, tensor<7x{0}xbf16> -> {1}",
           kHidden, stream);
    else
      line("%h = moe.embed %tokens, %embed : tensor<?xi32>, tensor<7x{0}xbf16> -> {1}", kHidden,
           stream);
    line("%logits = moe.head %h, %rows, %last_norm, %embed eps 1.0e-5 : {0}, tensor<?xi32>, "
         "tensor<{1}xbf16>, tensor<7x{1}xbf16> -> {2}",
         stream, kHidden, rows(7));
    line("return %logits : {0}", rows(7));
    step = formatv("func.func @step(%tokens: tensor<?xi32>, %rows: tensor<?xi32>{0}) -> {1} "
                   "{{\n{2}}\n",
                   takesImages ? formatv(", %images: {0}, %image_rows: tensor<?xi32>", stream).str()
                               : "",
                   rows(7), body);
    body.clear();

    matrix("patches", {kChannels, 3 * kPatch * kPatch});
    vector("class", kChannels);
    matrix("positions", {kRows, kChannels});
    norm("pre", kChannels);
    line("%x = moe.patch_embed %tiles, %patches, %class, %positions, %pre, %pre_bias patch {0} "
         "rescale 3.92156886E-3 mean [0.5, 0.4, 0.5] std [0.5, 0.3, 0.5] eps 1.0e-5 : {1}, "
         "tensor<{2}x{3}xbf16>, {4}, tensor<{5}x{2}xbf16>, {4}, {4} -> {6}",
         kPatch, tiles(), kChannels, 3 * kPatch * kPatch, type(kChannels), kRows, rows(kChannels));
    norm("ln1", kChannels);
    matrix("qkv", {3 * kChannels, kChannels});
    vector("qkv_bias", 3 * kChannels);
    line("%qkv_sums = moe.tower_qkv %x, %ln1, %ln1_bias, %qkv, %qkv_bias heads {0} grid {1} "
         "theta 1.0e4 eps 1.0e-5 : {2}, {3}, {3}, tensor<{4}x{5}xbf16>, {6} -> {7}",
         kHeads, kGrid, rows(kChannels), type(kChannels), 3 * kChannels, kChannels,
         type(3 * kChannels), rows(3 * kChannels));
    line("%a = moe.tower_attention %qkv_sums heads {0} grid {1} : {2} -> {3}", kHeads, kGrid,
         rows(3 * kChannels), rows(kChannels));
    projection("h", "a", "o", kChannels, kChannels, "", "o_bias", "", "x");
    projection("f", "h", "fc1", kChannels, kWidth, "ln2", "fc1_bias", "gelu", "");
    projection("g", "f", "fc2", kWidth, kChannels, "", "fc2_bias", "", "h");
    norm("post", kChannels);
    line("%s = moe.tower_output %g, %post, %post_bias grid {0} eps 1.0e-5 : {1}, {2}, {2} -> {3}",
         kGrid, rows(kChannels), type(kChannels), rows(4 * kChannels));
    projection("y", "s", "adapter", 4 * kChannels, kAdapter, "", "", "gelu", "");
    projection("r", "y", "projector", kAdapter, kHidden, "", "", "", "");
    line("return %r : {0}", rows(kHidden));
  }

  std::string text() const {
    return formatv("{0}{1}"
                   "func.func @vision(%tiles: {2}) -> {3} {{\n{4}}\n",
                   symbols, step, tiles(), rows(kHidden), body);
  }

private:
  template <class... Args> void line(const char *format, Args &&...args) {
    body += "  " + formatv(format, std::forward<Args>(args)...).str() + "\n";
  }
  static std::string rows(int64_t n) { return formatv("tensor<?x{0}xf32>", n); }
  static std::string type(int64_t n) { return formatv("tensor<{0}xbf16>", n); }
  static std::string tiles() { return formatv("tensor<?x{0}x{0}x3xui8>", kSide); }

  void projection(const char *result, const char *x, const char *name, int64_t inputs,
                  int64_t outputs, const char *normName, const char *bias, const char *gelu,
                  const char *residual) {
    matrix(name, {outputs, inputs});
    std::string options;
    if (*normName) {
      norm(normName, inputs);
      options += formatv(" norm %{0}, %{0}_bias eps 1.0e-5 : {1}, {1}", normName, type(inputs));
    }
    if (*bias) {
      vector(bias, outputs);
      options += formatv(" bias %{0} : {1}", bias, type(outputs));
    }
    if (*gelu)
      options += " gelu";
    if (*residual)
      options += formatv(" residual %{0} : {1}", residual, rows(outputs));
    line("%{0} = moe.projection %{1}, %{2}{3} : {4}, tensor<{5}x{6}xbf16> -> {7}", result, x, name,
         options, rows(inputs), outputs, inputs, rows(outputs));
  }
  void norm(const std::string &name, int64_t n) {
    vector(name, n);
    vector(name + "_bias", n);
  }
  void vector(const std::string &name, int64_t n) { declare(name, {n}); }
  void matrix(const std::string &name, llvm::ArrayRef<int64_t> shape) { declare(name, shape); }
  void declare(const std::string &name, llvm::ArrayRef<int64_t> shape) {
    std::vector<std::string> sizes, zeros(shape.size(), "0");
    for (int64_t size : shape)
      sizes.push_back(std::to_string(size));
    const std::string type = "tensor<" + llvm::join(sizes, "x") + "xbf16>";
    symbols += formatv("moe.weight @{0} : {1} from [#moe.source<\"{0}\", [{2}], [{3}]>]\n", name,
                       type, llvm::join(zeros, ", "), llvm::join(sizes, ", "));
    line("%{0} = moe.load_weight @{0} : {1}", name, type);
  }

  std::string symbols, step, body;
};

class VisionOps : public testing::Test {
protected:
  VisionOps() {
    context.loadDialect<MoeDialect, plan::PlanDialect, mlir::func::FuncDialect,
                        mlir::arith::ArithDialect, mlir::LLVM::LLVMDialect, mlir::math::MathDialect,
                        mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
  }

  // The plan of the model for a target, or what was said.
  void lower(const std::string &name, const char *recipe, bool takesImages = true) {
    auto chosen = chooseTargets({name}, {.ptxas = {}, .assemblePtx = false});
    ASSERT_TRUE(bool(chosen)) << llvm::toString(chosen.takeError());
    target = std::move(chosen->front());
    const std::string text = Model(takesImages).text();
    model = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
    ASSERT_TRUE(model) << text;
    mlir::PassManager passes(&context, mlir::ModuleOp::getOperationName());
    buildPackPipeline(passes, findTargetFormats, target->name(), recipe);
    ASSERT_TRUE(mlir::succeeded(passes.run(*model))) << text;
    mlir::ScopedDiagnosticHandler handler(&context, [&](mlir::Diagnostic &diagnostic) {
      said += diagnostic.str();
      return mlir::success();
    });
    if (auto lowered = target->lower(*model, 4); mlir::succeeded(lowered))
      plan = std::move(*lowered);
  }

  mlir::MLIRContext context;
  std::unique_ptr<Target> target;
  mlir::OwningOpRef<mlir::ModuleOp> model, plan;
  std::string said;
};

// Runs the smallest vision program of a plan that has room, call by call: every buffer is a memory
// of its own and holds NaN before.
class VisionRunner {
public:
  VisionRunner(mlir::ModuleOp plan, KernelRunner &kernels) : plan(plan), kernels(kernels) {
    std::mt19937 random(7);
    for (auto tensor : plan.getOps<plan::TensorOp>()) {
      auto type = mlir::cast<mlir::RankedTensorType>(tensor.getType());
      TestWeight w =
          testWeight(random, *layoutOf(type, tensor.getPacking()),
                     type.getRank() > 1 ? 1 / std::sqrt(float(type.getShape().back())) : 1);
      w.bytes.resize(w.bytes.size() + 64); // kernels may fetch ahead
      weights[tensor.getSymName()] = kernels.place(w.bytes);
      values[tensor.getTensorName()] = std::move(w.values);
    }
  }

  const Floats &weight(llvm::StringRef name) const { return values.find(name)->second; }

  Floats run(const Bytes &tiles, int64_t count, int64_t width) {
    plan::ProgramOp program;
    for (auto other : plan.getOps<plan::ProgramOp>())
      if (other.getKind() == plan::ProgramKind::Vision && int64_t(other.getTokens()) >= count &&
          (!program || other.getTokens() < program.getTokens()))
        program = other;
    const size_t rows = kernels.place(Bytes(count * kGrid * kGrid / 4 * kHidden * 4, kUnwritten));
    std::map<void *, size_t> memories; // of values
    for (mlir::Operation &op : program.getBody().front()) {
      if (auto call = llvm::dyn_cast<plan::CallOp>(op)) {
        KernelRunner::Call launch{.kernel = call.getKernelName(),
                                  .operands = {},
                                  .tokens = int32_t(count),
                                  .rows = 0,
                                  .tableStride = 0,
                                  .scratchBytes = int64_t(program.getScratch()),
                                  .blocks = int64_t(call.getBlocks().value_or(0))};
        for (mlir::Value operand : call.getOperands())
          launch.operands.push_back({memories[operand.getAsOpaquePointer()], 0});
        kernels.run(launch, width);
        continue;
      }
      memories[op.getResult(0).getAsOpaquePointer()] =
          llvm::TypeSwitch<mlir::Operation *, size_t>(&op)
              .Case([&](plan::InputOp) { return kernels.place(tiles); })
              .Case([&](plan::OutputOp) { return rows; })
              .Case([&](plan::WeightOp weight) { return weights.lookup(weight.getTensor()); })
              .Case([&](plan::CountersOp counters) {
                return kernels.place(Bytes(counters.getBytes()));
              })
              .Case([&](plan::AllocOp alloc) {
                return kernels.place(Bytes(alloc.getBytes(), kUnwritten));
              })
              .Default([](mlir::Operation *other) {
                ADD_FAILURE() << other->getName().getStringRef().str();
                return size_t(0);
              });
    }
    Bytes bytes = kernels.read(rows);
    Floats result(bytes.size() / 4);
    memcpy(result.data(), bytes.data(), bytes.size());
    return result;
  }

private:
  static constexpr std::byte kUnwritten{0xff};

  mlir::ModuleOp plan;
  KernelRunner &kernels;
  llvm::StringMap<size_t> weights;
  llvm::StringMap<Floats> values;
};

class VisionOpsOnCpus : public VisionOps,
                        public testing::WithParamInterface<std::tuple<std::string, Weights>> {};

// The tower as the reference composes it.
Floats reference(const VisionRunner &runner, const Bytes &tiles) {
  namespace ref = moe::reference;
  auto weight = [&](const char *name) -> ref::View { return runner.weight(name); };
  auto norm = [&](const std::string &name) -> ref::LayerNorm {
    return {runner.weight(name), runner.weight(name + "_bias"), kEps};
  };
  const auto *bytes = reinterpret_cast<const uint8_t *>(tiles.data());
  Floats x =
      ref::patchEmbed({bytes, tiles.size()}, kSide, kPatch,
                      {3.92156886e-3f, {0.5f, 0.4f, 0.5f}, {0.5f, 0.3f, 0.5f}},
                      {weight("patches"), weight("class"), weight("positions"), norm("pre")});
  Floats sums =
      ref::towerQkv(x, norm("ln1"), weight("qkv"), weight("qkv_bias"), kHeads, kGrid, kTheta);
  Floats a = ref::towerAttention(sums, kHeads, kHeadDim, kGrid);
  Floats h = ref::projection(a, weight("o"), kChannels,
                             {.norm = {}, .bias = weight("o_bias"), .gelu = false, .residual = x});
  Floats f = ref::projection(
      h, weight("fc1"), kChannels,
      {.norm = norm("ln2"), .bias = weight("fc1_bias"), .gelu = true, .residual = {}});
  Floats g =
      ref::projection(f, weight("fc2"), kWidth,
                      {.norm = {}, .bias = weight("fc2_bias"), .gelu = false, .residual = h});
  Floats s = ref::towerOutput(g, norm("post"), kGrid);
  const ref::ProjectionOptions gelu{.norm = {}, .bias = {}, .gelu = true, .residual = {}},
      none{.norm = {}, .bias = {}, .gelu = false, .residual = {}};
  return ref::projection(ref::projection(s, weight("adapter"), 4 * kChannels, gelu),
                         weight("projector"), kAdapter, none);
}

TEST_P(VisionOpsOnCpus, MatchTheReference) {
  const auto &[name, weights] = GetParam();
  lower(name, weights.recipe);
  ASSERT_TRUE(plan) << said;
  auto image = target->image(0);
  ASSERT_TRUE(bool(image)) << llvm::toString(image.takeError());
  std::string missing;
  auto kernels = KernelRunner::create(*image, missing);
  if (!kernels)
    GTEST_SKIP() << missing;
  VisionRunner runner(*plan, *kernels);
  std::mt19937 random(3);
  Bytes tiles(kTiles * kSide * kSide * 3);
  for (std::byte &byte : tiles)
    byte = std::byte(random());
  const Floats got = runner.run(tiles, kTiles, 1), want = reference(runner, tiles);
  ASSERT_EQ(got.size(), want.size());
  double errors = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    errors += std::pow(double(got[i]) - want[i], 2);
    size += std::pow(double(want[i]), 2);
  }
  EXPECT_LE(std::sqrt(errors / size), weights.loss);
  // The same bits of a tile by itself, and on more workers.
  Floats alone;
  for (int64_t t = 0; t < kTiles; ++t) {
    const int64_t bytes = kSide * kSide * 3;
    llvm::append_range(
        alone, runner.run({tiles.begin() + t * bytes, tiles.begin() + (t + 1) * bytes}, 1, 3));
  }
  EXPECT_EQ(got, alone);
}

// One sentence that says what to do.
TEST_F(VisionOps, GpusRefusePictures) {
  for (const auto &other : allTargets()) {
    if (other->name() == "cpu")
      continue;
    said.clear();
    plan = nullptr;
    lower((other->name() + ":" + other->knownVersions().front()).str(), "bf16");
    EXPECT_FALSE(plan);
    EXPECT_EQ(said, ("there are no kernels for pictures on " + other->name() +
                     ": compile with --no-vision to leave them out")
                        .str());
  }
}

std::string nameOfCase(const testing::TestParamInfo<VisionOpsOnCpus::ParamType> &info) {
  return identifier(std::get<0>(info.param) + "_" + std::get<1>(info.param).name);
}

auto on(std::initializer_list<const char *> versions, llvm::ArrayRef<Weights> weights) {
  return testing::Combine(
      testing::ValuesIn(std::vector<std::string>(versions.begin(), versions.end())),
      testing::ValuesIn(weights.vec()));
}
INSTANTIATE_TEST_SUITE_P(All, VisionOpsOnCpus,
                         on({"cpu:x86-64-v4-amx", "cpu:x86-64-v4", "cpu:x86-64-v3",
                             "cpu:x86-64-v3-vnni", "cpu:aarch64"},
                            kWeights),
                         nameOfCase);
// Emulated this target takes long.
INSTANTIATE_TEST_SUITE_P(NewerArm, VisionOpsOnCpus,
                         on({"cpu:armv8.6-a"}, llvm::ArrayRef(kWeights).slice(1, 1)), nameOfCase);

} // namespace
