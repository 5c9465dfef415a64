// Fusion keeps what a model means: many small random models are run as imported and as fused, over
// several steps of ragged batches, and must give the same.
#include "dialects/moe/MoeInterpreter.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Pipeline.h"
#include "runtime/weights/TestTensors.h"
#include "llvm/Support/xxhash.h"
#include <gtest/gtest.h>

#include <random>

using namespace mlir;
using namespace moe;

namespace {

using Random = std::mt19937;

// A target whose kernels take every format.
struct AnyFormat final : TargetFormats {
  std::string refusal(WeightRole, const WeightFormat &, int64_t) const override { return ""; }
};

void packFor(OpPassManager &pm, StringRef weights) {
  static const AnyFormat any;
  buildPackPipeline(pm, [](StringRef) { return &any; }, "any", weights);
}

int64_t oneOf(Random &random, std::initializer_list<int64_t> values) {
  return values.begin()[random() % values.size()];
}
bool chance(Random &random, unsigned oneIn) { return random() % oneIn == 0; }

// A checkpoint of any tensors: shapes as the model asks for them, elements made of name and place.
struct Checkpoint {
  test::TestTensors tensors;

  void add(const std::string &name, std::vector<int64_t> shape) {
    tensors.add(name, std::move(shape), [name](uint64_t begin, std::span<float> out) {
      for (auto [i, value] : llvm::enumerate(out)) {
        uint64_t hash = llvm::xxh3_64bits(name) + (begin + i + 1) * 0x9e3779b97f4a7c15;
        hash = (hash ^ (hash >> 31)) * 0xbf58476d1ce4e5b9;
        value = float(int64_t(hash >> 40) - (1 << 23)) / (1 << 23);
      }
      return ok();
    });
  }
};

// Writes the IR of a random model as the importer would: the layers in the order of the math.
class ModelWriter {
public:
  ModelWriter(Random &random, bool strict) : random(random), strict(strict) {}

  std::string write() {
    hidden = oneOf(random, {4, 6, 8});
    element = std::array{"f32", "bf16", "f16"}[random() % 3];
    headDim = oneOf(random, {2, 4, 6});
    kvHeads = oneOf(random, {1, 2, 3});
    heads = kvHeads * oneOf(random, {1, 2, 5});
    bool qkNorm = chance(random, 2), temperature = chance(random, 2), chunks = chance(random, 2);
    std::string table;
    for (int64_t i = 0; i < headDim / 2; ++i)
      table += (i ? ", " : "") + std::to_string(1.0 / (1 << i));

    op("%e", "moe.load_weight @" + weight("embedding", {vocabulary, hidden}));
    op("%h", "moe.embed %tokens, %e : tensor<?xi32>, " + type({vocabulary, hidden}) + " -> " +
                 rows(hidden));
    op("%table", "moe.rope_table %positions [" + table + "] : tensor<?xi32> -> " + rows(headDim));
    std::string h = "%h";
    int64_t layers = 1 + random() % 4;
    for (int64_t i = 0; i < layers; ++i) {
      prefix = "layers." + std::to_string(i) + ".";
      h = attention(h, chance(random, 2), qkNorm, temperature, chunks);
      h = chance(random, 3) ? denseLayer(h) : expertsLayer(h);
    }
    prefix = "";
    std::string r = value("moe.select_rows " + h + ", %rows : " + rows(hidden) +
                              ", tensor<?xi32> -> " + rows(hidden),
                          hidden);
    // Sometimes the head is tied: one weight with two uses.
    std::string n = norm("norm", r);
    std::string logits;
    if (chance(random, 3))
      logits = value("moe.linear " + n + ", %e : " + rows(hidden) + ", " +
                         type({vocabulary, hidden}) + " -> " + rows(vocabulary),
                     vocabulary);
    else
      logits = linear("head", n, hidden, vocabulary);

    std::string results = logits, types = rows(vocabulary);
    if (strict && chance(random, 3)) { // as embeddings
      results += ", " + n;
      types += ", " + rows(hidden);
    }
    // Values that a fusion would swallow, but that somebody wants.
    if (!strict)
      for (auto &[name, channels] : values)
        if (chance(random, 12)) {
          results += ", " + name;
          types += ", " + rows(channels);
        }
    return symbols +
           "func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, "
           "%sequences: tensor<?xi32>, %rows: tensor<?xi32>) -> (" +
           types + ") {\n" + body + "  return " + results + " : " + types + "\n}\n";
  }

  Checkpoint checkpoint;
  static constexpr int64_t vocabulary = 11;

private:
  std::string attention(const std::string &h, bool rope, bool qkNorm, bool temperature,
                        bool chunks) {
    std::string n = norm("attention_norm", h);
    int64_t queries = heads * headDim, keys = kvHeads * headDim;
    std::string q, k, v;
    SmallVector<int> order{0, 1, 2};
    std::shuffle(order.begin(), order.end(), random);
    for (int which : order)
      (which == 0   ? q
       : which == 1 ? k
                    : v) = linear(which == 0   ? "q"
                                  : which == 1 ? "k"
                                               : "v",
                                  n, hidden, which ? keys : queries);
    if (rope) {
      q = value("moe.rope " + q + ", %table : " + rows(queries) + ", " + rows(headDim), queries);
      k = value("moe.rope " + k + ", %table : " + rows(keys) + ", " + rows(headDim), keys);
    }
    // The model norms only rotated heads, and tempers only others; the ops allow any.
    if (qkNorm && (rope || chance(random, 4))) {
      std::string eps = " head_dim " + std::to_string(headDim) + " eps 1.0e-5 : ";
      q = value("moe.head_norm " + q + eps + rows(queries), queries);
      k = value("moe.head_norm " + k + eps + rows(keys), keys);
    }
    if (temperature && (!rope || chance(random, 4)))
      q = value("moe.temperature " + q + ", %positions scale 0.5 floor 3.0 : " + rows(queries) +
                    ", tensor<?xi32>",
                queries);
    symbols += "moe.cache @" + prefix + "kv heads " + std::to_string(kvHeads) + " head_dim " +
               std::to_string(headDim) +
               (chunks ? " chunk " + std::to_string(2 + random() % 4) : "") + " : " +
               (chance(random, 2) ? "f32" : "bf16") + "\n";
    std::string cache = "@" + prefix + "kv, ";
    body += "  moe.append " + cache + k + ", " + v + ", %positions, %sequences : " + rows(keys) +
            ", tensor<?xi32>\n";
    std::string o = value("moe.attention " + cache + q +
                              ", %positions, %sequences : " + rows(queries) + ", tensor<?xi32>",
                          queries);
    return add(h, linear("o", o, queries, hidden));
  }

  std::string denseLayer(const std::string &h) {
    return add(h, mlp("mlp.", norm("ffn_norm", h), oneOf(random, {3, 4, 10})));
  }

  std::string expertsLayer(const std::string &h) {
    int64_t experts = oneOf(random, {1, 2, 4, 5}), width = oneOf(random, {3, 4, 7});
    std::string k = std::to_string(1 + random() % std::min<int64_t>(experts, 3));
    std::string n = norm("ffn_norm", h);
    // Where they differ nothing is fused.
    std::string shared = mlp("shared.", n, strict || !chance(random, 8) ? width : width + 1);
    std::string l = linear("router", n, hidden, experts);
    std::string choice = "%" + std::to_string(next++);
    body += "  " + choice + ":2 = moe.route " + l + " top " + k + " : " + rows(experts) +
            " -> tensor<?x" + k + "xi32>, tensor<?x" + k + "xf32>\n";
    int layout = random() % 4;
    std::string gate = expertWeight("gate", layout, experts, width, hidden);
    std::string up = expertWeight("up", layout, experts, width, hidden);
    std::string down = expertWeight("down", layout, experts, hidden, width);
    std::string wide = type({experts, width, hidden});
    std::string routed =
        value("moe.experts " + n + ", " + choice + "#0, " + choice + "#1, " + gate + ", " + up +
                  ", " + down + " : " + rows(hidden) + ", tensor<?x" + k + "xi32>, tensor<?x" + k +
                  "xf32>, " + wide + ", " + wide + ", " + type({experts, hidden, width}),
              hidden);
    return add(h, add(shared, routed));
  }

  // All layouts of the checkpoints that there are, and one source for many experts.
  std::string expertWeight(const std::string &which, int layout, int64_t experts, int64_t outputs,
                           int64_t inputs) {
    std::string name = prefix + "experts." + which, sources;
    bool down = which == "down";
    std::string fused = prefix + (down ? "down" : "gate_up");
    int64_t columns = down ? outputs : 2 * outputs, first = which == "up" ? outputs : 0;
    auto source = [&](const std::string &tensor, std::initializer_list<int64_t> offsets,
                      std::initializer_list<int64_t> sizes, bool transposed) {
      sources += std::string(sources.empty() ? "" : ", ") + "#moe.source<\"" + tensor + "\", [" +
                 list(offsets, ", ") + "], [" + list(sizes, ", ") + "]" +
                 (transposed ? ", true>" : ">");
    };
    if (layout == 3) {
      checkpoint.add(fused, {experts, inputs, columns});
      source(fused, {0, 0, first}, {experts, inputs, outputs}, true);
    }
    for (int64_t e = 0; e < experts && layout != 3; ++e) {
      std::string one = name + "." + std::to_string(e);
      if (layout == 0) {
        checkpoint.add(fused, {experts, inputs, columns});
        source(fused, {e, 0, first}, {1, inputs, outputs}, true);
      } else if (layout == 1) {
        checkpoint.add(one, {outputs, inputs});
        source(one, {0, 0}, {outputs, inputs}, false);
      } else {
        checkpoint.add(name, {experts, outputs, inputs});
        source(name, {e, 0, 0}, {1, outputs, inputs}, false);
      }
    }
    std::string shape = type({experts, outputs, inputs});
    symbols += "moe.weight @" + name + " : " + shape + " from [" + sources + "]\n";
    std::string result = "%" + std::to_string(next++);
    op(result, "moe.load_weight @" + name + " : " + shape);
    return result;
  }

  std::string mlp(const std::string &name, const std::string &n, int64_t width) {
    std::string gate = linear(name + "gate", n, hidden, width);
    std::string up = linear(name + "up", n, hidden, width);
    std::string y = value("moe.swiglu " + gate + ", " + up + " : " + rows(width), width);
    return linear(name + "down", y, width, hidden);
  }

  std::string add(const std::string &a, const std::string &b) {
    bool swap = chance(random, 3); // addition of two numbers commutes exactly
    return value("moe.add " + (swap ? b : a) + ", " + (swap ? a : b) + " : " + rows(hidden),
                 hidden);
  }

  std::string norm(const std::string &name, const std::string &x) {
    std::string w = "%" + std::to_string(next++);
    op(w, "moe.load_weight @" + weight(prefix + name, {hidden}));
    return value("moe.rms_norm " + x + ", " + w + " eps 1.0e-5 : " + rows(hidden) + ", " +
                     type({hidden}),
                 hidden);
  }

  std::string linear(const std::string &name, const std::string &x, int64_t inputs,
                     int64_t outputs) {
    std::string w = "%" + std::to_string(next++);
    op(w, "moe.load_weight @" + weight(prefix + name, {outputs, inputs}));
    return value("moe.linear " + x + ", " + w + " : " + rows(inputs) + ", " +
                     type({outputs, inputs}) + " -> " + rows(outputs),
                 outputs);
  }

  // Declares a weight; its name and type.
  std::string weight(const std::string &name, std::initializer_list<int64_t> shape) {
    checkpoint.add(name, shape);
    std::string zeros;
    for (size_t i = 0; i < shape.size(); ++i)
      zeros += i ? ", 0" : "0";
    symbols += "moe.weight @" + name + " : " + type(shape) + " from [#moe.source<\"" + name +
               "\", [" + zeros + "], [" + list(shape, ", ") + "]>]\n";
    return name + " : " + type(shape);
  }

  std::string value(const std::string &text, int64_t channels) {
    std::string name = "%" + std::to_string(next++);
    op(name, text);
    values.push_back({name, channels});
    return name;
  }
  void op(const std::string &name, const std::string &text) {
    body += "  " + name + " = " + text + "\n";
  }

  static std::string list(std::initializer_list<int64_t> numbers, const std::string &separator) {
    std::string text;
    for (int64_t number : numbers)
      text += (text.empty() ? "" : separator) + std::to_string(number);
    return text;
  }
  std::string type(std::initializer_list<int64_t> shape) {
    return "tensor<" + list(shape, "x") + "x" + element + ">";
  }
  static std::string rows(int64_t channels) {
    return "tensor<?x" + std::to_string(channels) + "xf32>";
  }

  Random &random;
  bool strict; // as the importer writes it, so that all of it must be fused
  std::string symbols, body, prefix, element;
  std::vector<std::pair<std::string, int64_t>> values;
  int64_t hidden, heads, kvHeads, headDim, next = 0;
};

TensorValue indices(std::vector<int32_t> values) { return {{int64_t(values.size())}, values}; }

// The arguments of a few steps: tokens of three sequences, in any order, each sequence going on
// where it was.
std::vector<SmallVector<TensorValue>> randomSteps(Random &random) {
  std::vector<SmallVector<TensorValue>> steps;
  int32_t length[3] = {0, 0, 0};
  for (int step = 0; step < 4; ++step) {
    std::vector<int32_t> tokens, positions, sequences, rows;
    for (int64_t t = 0, count = oneOf(random, {1, 2, 5, 9}); t < count; ++t) {
      int32_t sequence = random() % 3;
      tokens.push_back(random() % ModelWriter::vocabulary);
      positions.push_back(length[sequence]++);
      sequences.push_back(sequence);
      if (chance(random, 2))
        rows.push_back(t);
    }
    steps.push_back({indices(tokens), indices(positions), indices(sequences), indices(rows)});
  }
  return steps;
}

class FusionTest : public testing::TestWithParam<bool> {
protected:
  FusionTest() {
    context.loadDialect<MoeDialect, plan::PlanDialect, func::FuncDialect>();
    context.disableMultithreading();
  }

  LogicalResult run(ModuleOp module, llvm::function_ref<void(OpPassManager &)> build) {
    PassManager pm(&context, ModuleOp::getOperationName());
    build(pm);
    return pm.run(module);
  }

  void expectSame(ModuleOp before, ModuleOp after, Checkpoint &checkpoint,
                  ArrayRef<SmallVector<TensorValue>> steps, StringRef what) {
    Interpreter one(before, &checkpoint.tensors), two(after, &checkpoint.tensors);
    for (auto &arguments : steps) {
      auto expected = one.runFunction(before.lookupSymbol<func::FuncOp>("step"), arguments);
      auto found = two.runFunction(after.lookupSymbol<func::FuncOp>("step"), arguments);
      ASSERT_TRUE(succeeded(expected) && succeeded(found)) << what.str();
      ASSERT_EQ(expected->size(), found->size());
      // The reference's blocks are compositions of its ops, in the same order: no tolerance.
      for (auto [a, b] : llvm::zip_equal(*expected, *found))
        ASSERT_EQ(a, b) << what.str();
    }
  }

  MLIRContext context;
};

TEST_P(FusionTest, RandomModels) {
  bool strict = GetParam();
  int fused = 0;
  for (unsigned seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    ModelWriter writer(random, strict);
    std::string text = writer.write();
    SCOPED_TRACE(text);
    auto imported = parseSourceString<ModuleOp>(text, &context);
    ASSERT_TRUE(imported);
    auto steps = randomSteps(random);

    OwningOpRef<ModuleOp> module = imported->clone();
    ASSERT_TRUE(succeeded(run(*module, buildFusePipeline)));
    ASSERT_TRUE(succeeded(verify(*module)));
    ASSERT_NO_FATAL_FAILURE(expectSame(*imported, *module, writer.checkpoint, steps, "fused"));
    module->walk([&](Operation *op) {
      fused +=
          isa<AttentionBlockOp, MoeBlockOp, MlpBlockOp, HeadOp, FinalNormOp, LinearResidualOp>(op);
      if (strict)
        EXPECT_FALSE((isa<AddOp, AttentionOp, AppendOp, ExpertsOp, HeadNormOp, LinearOp, RmsNormOp,
                          RopeOp, RouteOp, SelectRowsOp, SwigluOp, TemperatureOp>(op)))
            << op->getName().getStringRef().str();
    });

    // Storage of f32 holds all types exactly.
    OwningOpRef<ModuleOp> packed = module->clone();
    ASSERT_TRUE(succeeded(run(*packed, [](OpPassManager &pm) { packFor(pm, "f32"); })));
    ASSERT_NO_FATAL_FAILURE(expectSame(*imported, *packed, writer.checkpoint, steps, "packed"));
    for (WeightOp weight : packed->getOps<WeightOp>())
      EXPECT_TRUE(weight.getPacking());
    ASSERT_TRUE(succeeded(run(*module, [](OpPassManager &pm) { packFor(pm, "bf16"); })));
  }
  EXPECT_GT(fused, 500);
}

INSTANTIATE_TEST_SUITE_P(, FusionTest, testing::Bool(), [](const auto &info) {
  return info.param ? "AsImported" : "WithOtherUsers";
});

} // namespace
