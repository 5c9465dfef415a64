// The interpreter on the golden models, as imported and fused, and on what it must refuse.
#include "dialects/moe/MoeInterpreter.h"
#include "dialects/moe/GoldenModel.h"
#include "mlir/Parser/Parser.h"
#include "runtime/weights/TestTensors.h"

#include <gtest/gtest.h>
#include <random>
#include <sstream>

using namespace mlir;
using namespace moe;
using reference::Rounding;

namespace {

//===----------------------------------------------------------------------===//
// The golden models as IR
//===----------------------------------------------------------------------===//

/// Writes a golden model as moe IR, in the order of its math or in whole blocks.
class ModelText {
public:
  ModelText(const golden::Model &model, bool fused) : model(model), fused(fused) {}

  std::string text() {
    frequencies = reference::ropeFrequencies(golden::kTheta, golden::kHeadDim, model.ropeScaling);
    line("%table = moe.rope_table %positions [" + frequencyList() +
         "] : tensor<?xi32> -> tensor<?x16xf32>");
    std::string table = weight("embed", "96x64", whole("model.embed_tokens.weight", "96, 64"));
    line("%h = moe.embed %tokens, " + table + " : tensor<?xi32>, tensor<96x64xf32> -> " + hidden);
    std::string h = "%h";
    for (int64_t layer = 0; layer < golden::kLayers; ++layer) {
      prefix = "model.layers." + std::to_string(layer) + ".";
      symbols << "moe.cache @" << prefix << "kv heads 2 head_dim 16"
              << (model.hasRope(layer) ? " chunk 8" : "") << " : f32\n";
      h = fused ? fusedLayer(layer, h) : importedLayer(layer, h);
    }
    prefix = "";
    std::string norm = weight("norm", "64", whole("model.norm.weight", "64"));
    std::string head = weight("head", "96x64", whole("lm_head.weight", "96, 64"));
    if (fused) {
      line("%logits = moe.head " + h + ", %rows, " + norm + ", " + head + eps + " : " + hidden +
           ", tensor<?xi32>, tensor<64xf32>, tensor<96x64xf32> -> tensor<?x96xf32>");
    } else {
      line("%wanted = moe.select_rows " + h + ", %rows : " + hidden + ", tensor<?xi32> -> " +
           hidden);
      line("%normed = " + rmsNorm("%wanted", norm));
      line("%logits = moe.linear %normed, " + head + " : " + hidden +
           ", tensor<96x64xf32> -> tensor<?x96xf32>");
    }
    return symbols.str() +
           "func.func @step(%tokens: tensor<?xi32>, %positions: tensor<?xi32>, "
           "%sequences: tensor<?xi32>, %rows: tensor<?xi32>) -> tensor<?x96xf32> {\n" +
           body.str() + "  return %logits : tensor<?x96xf32>\n}\n";
  }

private:
  const std::string hidden = "tensor<?x64xf32>", eps = " eps 1.0e-5";

  void line(const std::string &text) { body << "  " << text << "\n"; }
  std::string value() { return "%" + std::to_string(nextValue++); }

  /// A source: a whole tensor, or a slice transposed.
  static std::string whole(const std::string &tensor, const std::string &sizes) {
    std::string offsets = sizes.find(',') == std::string::npos ? "0" : "0, 0";
    return "#moe.source<\"" + tensor + "\", [" + offsets + "], [" + sizes + "]>";
  }
  static std::string transposed(const std::string &tensor, const std::string &offsets,
                                const std::string &sizes) {
    return "#moe.source<\"" + tensor + "\", [" + offsets + "], [" + sizes + "], true>";
  }

  /// Declares and loads a weight of this layer: the value's name.
  std::string weight(const std::string &name, const std::string &shape, const std::string &sources,
                     const std::string &packing = "") {
    symbols << "moe.weight @" << prefix << name << " : tensor<" << shape << "xf32> from ["
            << sources << "]" << (packing.empty() ? "" : " packed #moe.packing<" + packing + ">")
            << "\n";
    std::string result = value();
    line(result + " = moe.load_weight @" + prefix + name + " : tensor<" + shape + "xf32>");
    return result;
  }

  std::string rmsNorm(const std::string &x, const std::string &weight) {
    return "moe.rms_norm " + x + ", " + weight + eps + " : " + hidden + ", tensor<64xf32>";
  }

  std::string linear(const std::string &x, const std::string &tensor, int64_t out, int64_t in) {
    std::string rows = std::to_string(out), columns = std::to_string(in);
    std::string w = weight(tensor, rows + "x" + columns,
                           whole(prefix + tensor + ".weight", rows + ", " + columns));
    std::string result = value();
    line(result + " = moe.linear " + x + ", " + w + " : tensor<?x" + columns + "xf32>, tensor<" +
         rows + "x" + columns + "xf32> -> tensor<?x" + rows + "xf32>");
    return result;
  }

  /// Gives the result of an op a name.
  std::string apply(const std::string &text) {
    std::string result = value();
    line(result + " = " + text);
    return result;
  }

  std::string mlp(const std::string &n, const std::string &path, int64_t width) {
    std::string type = "tensor<?x" + std::to_string(width) + "xf32>";
    std::string gate = linear(n, path + "gate_proj", width, 64);
    std::string up = linear(n, path + "up_proj", width, 64);
    return linear(apply("moe.swiglu " + gate + ", " + up + " : " + type), path + "down_proj", 64,
                  width);
  }

  std::string importedLayer(int64_t layer, const std::string &h) {
    std::string norm = weight("input_norm", "64", whole(prefix + "input_layernorm.weight", "64"));
    std::string n = apply(rmsNorm(h, norm));
    std::string q = linear(n, "self_attn.q_proj", 64, 64);
    std::string k = linear(n, "self_attn.k_proj", 32, 64);
    std::string v = linear(n, "self_attn.v_proj", 32, 64);
    if (model.hasRope(layer)) {
      q = apply("moe.rope " + q + ", %table : tensor<?x64xf32>, tensor<?x16xf32>");
      k = apply("moe.rope " + k + ", %table : tensor<?x32xf32>, tensor<?x16xf32>");
      if (model.qkNorm) {
        q = apply("moe.head_norm " + q + " head_dim 16" + eps + " : tensor<?x64xf32>");
        k = apply("moe.head_norm " + k + " head_dim 16" + eps + " : tensor<?x32xf32>");
      }
    } else {
      q = apply("moe.temperature " + q +
                ", %positions scale 0.1 floor 8.0 : tensor<?x64xf32>, tensor<?xi32>");
    }
    std::string cache = "@" + prefix + "kv";
    line("moe.append " + cache + ", " + k + ", " + v +
         ", %positions, %sequences : tensor<?x32xf32>, tensor<?xi32>");
    std::string o = apply("moe.attention " + cache + ", " + q +
                          ", %positions, %sequences : tensor<?x64xf32>, tensor<?xi32>");
    std::string h1 =
        apply("moe.add " + h + ", " + linear(o, "self_attn.o_proj", 64, 64) + " : " + hidden);

    norm = weight("post_norm", "64", whole(prefix + "post_attention_layernorm.weight", "64"));
    n = apply(rmsNorm(h1, norm));
    if (!model.hasExperts(layer))
      return apply("moe.add " + h1 + ", " + mlp(n, "feed_forward.", 64) + " : " + hidden);
    std::string router = linear(n, "feed_forward.router", 4, 64);
    std::string routing = value();
    line(routing + ":2 = moe.route " + router +
         " top 1 : tensor<?x4xf32> -> tensor<?x1xi32>, tensor<?x1xf32>");
    std::string gateUp = prefix + "feed_forward.experts.gate_up_proj";
    std::string gate = weight("gate", "4x32x64", transposed(gateUp, "0, 0, 0", "4, 64, 32"));
    std::string up = weight("up", "4x32x64", transposed(gateUp, "0, 0, 32", "4, 64, 32"));
    std::string down =
        weight("down", "4x64x32",
               transposed(prefix + "feed_forward.experts.down_proj", "0, 0, 0", "4, 32, 64"));
    std::string routed =
        apply("moe.experts " + n + ", " + routing + "#0, " + routing + "#1, " + gate + ", " + up +
              ", " + down + " : " + hidden +
              ", tensor<?x1xi32>, tensor<?x1xf32>, tensor<4x32x64xf32>, tensor<4x32x64xf32>, "
              "tensor<4x64x32xf32>");
    std::string shared = mlp(n, "feed_forward.shared_expert.", 32);
    std::string both = apply("moe.add " + shared + ", " + routed + " : " + hidden);
    return apply("moe.add " + h1 + ", " + both + " : " + hidden);
  }

  std::string fusedLayer(int64_t layer, const std::string &h) {
    std::string norm = weight("input_norm", "64", whole(prefix + "input_layernorm.weight", "64"));
    std::string projections = weight("qkv", "128x64",
                                     whole(prefix + "self_attn.q_proj.weight", "64, 64") + ", " +
                                         whole(prefix + "self_attn.k_proj.weight", "32, 64") +
                                         ", " + whole(prefix + "self_attn.v_proj.weight", "32, 64"),
                                     "heads, f32, 16");
    std::string qkv = apply("moe.qkv " + h + ", " + norm + ", " + projections + eps + " : " +
                            hidden + ", tensor<64xf32>, tensor<128x64xf32> -> tensor<?x128xf32>");
    std::string block =
        "moe.attention_block @" + prefix + "kv, " + qkv + ", %positions, %sequences";
    if (model.hasRope(layer)) {
      block += " rope %table : tensor<?x16xf32>";
      if (model.qkNorm)
        block += " {qk_norm = 1.0e-5 : f32}";
    } else {
      block += " {temperature_scale = 0.1 : f32, temperature_floor = 8.0 : f32}";
    }
    std::string o = apply(block + " : tensor<?x128xf32>, tensor<?xi32> -> " + hidden);
    std::string output = weight("o", "64x64", whole(prefix + "self_attn.o_proj.weight", "64, 64"));
    std::string h1 = apply("moe.linear_residual " + o + ", " + output + ", " + h + " : " + hidden +
                           ", tensor<64x64xf32>, " + hidden);

    norm = weight("post_norm", "64", whole(prefix + "post_attention_layernorm.weight", "64"));
    std::string path = prefix + "feed_forward.";
    if (!model.hasExperts(layer)) {
      std::string gateUp = weight("gate_up", "128x64",
                                  whole(path + "gate_proj.weight", "64, 64") + ", " +
                                      whole(path + "up_proj.weight", "64, 64"),
                                  "gate_up, f32");
      std::string down = weight("down", "64x64", whole(path + "down_proj.weight", "64, 64"));
      return apply("moe.mlp_block " + h1 + ", " + norm + ", " + gateUp + ", " + down + eps + " : " +
                   hidden + ", tensor<64xf32>, tensor<128x64xf32>, tensor<64x64xf32>");
    }
    std::string sharedGateUps = whole(path + "shared_expert.gate_proj.weight", "32, 64") + ", " +
                                whole(path + "shared_expert.up_proj.weight", "32, 64");
    std::string gateUps, downs;
    for (int64_t e = 0; e < golden::kExperts; ++e) {
      std::string expert = std::to_string(e), comma = e ? ", " : "";
      gateUps += comma + transposed(path + "experts.gate_up_proj", expert + ", 0, 0", "1, 64, 64");
      downs += comma + transposed(path + "experts.down_proj", expert + ", 0, 0", "1, 32, 64");
    }
    std::string router = weight("router", "4x64", whole(path + "router.weight", "4, 64"));
    std::string sharedGateUp = weight("shared_gate_up", "64x64", sharedGateUps, "gate_up, f32");
    std::string gateUp = weight("gate_up", "4x64x64", gateUps, "gate_up, f32");
    std::string sharedDown =
        weight("shared_down", "64x32", whole(path + "shared_expert.down_proj.weight", "64, 32"),
               "matrix, f32");
    std::string down = weight("down", "4x64x32", downs, "matrix, f32");
    return apply("moe.moe_block " + h1 + ", " + norm + ", " + router + ", " + sharedGateUp + ", " +
                 gateUp + ", " + sharedDown + ", " + down + " top 1" + eps + " : " + hidden +
                 ", tensor<64xf32>, tensor<4x64xf32>, tensor<64x64xf32>, tensor<4x64x64xf32>, "
                 "tensor<64x32xf32>, tensor<4x64x32xf32>");
  }

  std::string frequencyList() const {
    std::string list;
    for (float frequency : frequencies) {
      char digits[32];
      snprintf(digits, sizeof(digits), "%s%.9e", list.empty() ? "" : ", ", double(frequency));
      list += digits;
    }
    return list;
  }

  const golden::Model &model;
  const bool fused;
  std::ostringstream symbols, body;
  std::string prefix;
  reference::Values frequencies;
  int nextValue = 0;
};

test::TestTensors sourceOf(const std::map<std::string, golden::Tensor> &tensors) {
  test::TestTensors source;
  for (const auto &[name, tensor] : tensors)
    source.add(name, tensor.shape, tensor.values);
  return source;
}

class InterpreterTest : public testing::Test {
protected:
  InterpreterTest() { context.loadDialect<MoeDialect, func::FuncDialect>(); }

  OwningOpRef<ModuleOp> parse(const std::string &text) {
    auto module = parseSourceString<ModuleOp>(text, &context);
    EXPECT_TRUE(module) << text;
    return module;
  }

  /// Runs @f of a module; the diagnostic, if it fails.
  std::string runAndFail(const std::string &text, ArrayRef<TensorValue> arguments) {
    std::string message;
    ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diag) { message = diag.str(); });
    OwningOpRef<ModuleOp> module = parse(text);
    if (!module)
      return message;
    Interpreter interpreter(*module);
    EXPECT_TRUE(
        failed(interpreter.runFunction(module->lookupSymbol<func::FuncOp>("f"), arguments)));
    return message;
  }

  MLIRContext context;
};

std::vector<int32_t> iota(int32_t begin, int32_t end) {
  std::vector<int32_t> result;
  for (int32_t i = begin; i < end; ++i)
    result.push_back(i);
  return result;
}

//===----------------------------------------------------------------------===//
// Whole models
//===----------------------------------------------------------------------===//

class GoldenIrTest : public InterpreterTest, public testing::WithParamInterface<golden::Model> {
protected:
  GoldenIrTest()
      : tensors(sourceOf(golden::checkpoint(GetParam()))),
        imported(parse(ModelText(GetParam(), false).text())),
        fused(parse(ModelText(GetParam(), true).text())) {}

  test::TestTensors tensors;
  OwningOpRef<ModuleOp> imported, fused;
};

TEST_P(GoldenIrTest, LogitsAreAsPublished) {
  std::vector<int32_t> tokens = golden::tokens(), positions = iota(0, 20), sequences(20, 0), rows;
  for (const golden::LogitsRow &row : GetParam().logits)
    rows.push_back(int32_t(row.position));
  for (ModuleOp module : {*imported, *fused}) {
    Interpreter interpreter(module, &tensors);
    FailureOr<std::vector<float>> logits =
        interpreter.run("step", tokens, positions, sequences, rows);
    ASSERT_TRUE(succeeded(logits));
    ASSERT_EQ(logits->size(), rows.size() * golden::kVocabulary);
    for (size_t r = 0; r < rows.size(); ++r) {
      const golden::LogitsRow &row = GetParam().logits[r];
      for (size_t i = 0; i < row.first.size(); ++i)
        EXPECT_NEAR((*logits)[r * golden::kVocabulary + i], row.first[i], 1.5e-5);
      EXPECT_NEAR((*logits)[r * golden::kVocabulary + size_t(row.argmax)], row.largest, 1.5e-5);
    }
  }
}

/// Two sequences in uneven pieces, mixed in one batch; fused and imported agree to the bit, and
/// so does each sequence by itself.
TEST_P(GoldenIrTest, FusedIsImported) {
  std::vector<int32_t> tokens = golden::tokens(), other(tokens.rbegin(), tokens.rend());
  for (Rounding rounding : {Rounding::None, Rounding::Bfloat16}) {
    Interpreter first(*imported, &tensors, rounding);
    Interpreter second(*fused, &tensors, rounding);
    Interpreter alone(*fused, &tensors, rounding);
    auto whole = alone.run("step", other, iota(0, 20), std::vector<int32_t>(20, 0), iota(0, 20));
    ASSERT_TRUE(succeeded(whole));

    struct Piece {
      int32_t begin, end, otherBegin, otherEnd;
    };
    for (Piece piece :
         {Piece{0, 7, 0, 1}, Piece{7, 9, 1, 17}, Piece{9, 9, 17, 18}, Piece{9, 20, 18, 20}}) {
      std::vector<int32_t> batch, positions, sequences;
      for (int32_t i = piece.begin; i < piece.end; ++i) {
        batch.push_back(tokens[size_t(i)]);
        positions.push_back(i);
        sequences.push_back(4);
      }
      for (int32_t i = piece.otherBegin; i < piece.otherEnd; ++i) {
        batch.push_back(other[size_t(i)]);
        positions.push_back(i);
        sequences.push_back(1);
      }
      std::vector<int32_t> rows = iota(0, int32_t(batch.size()));
      auto a = first.run("step", batch, positions, sequences, rows);
      auto b = second.run("step", batch, positions, sequences, rows);
      ASSERT_TRUE(succeeded(a) && succeeded(b));
      EXPECT_EQ(*a, *b);
      size_t otherRows = size_t(piece.otherEnd - piece.otherBegin) * golden::kVocabulary;
      EXPECT_EQ(std::vector<float>(b->end() - int64_t(otherRows), b->end()),
                std::vector<float>(whole->begin() + piece.otherBegin * golden::kVocabulary,
                                   whole->begin() + piece.otherEnd * golden::kVocabulary));
    }
  }
}

TEST_P(GoldenIrTest, CachesCanBeEmptied) {
  std::vector<int32_t> tokens = golden::tokens(), positions = iota(0, 20), sequences(20, 0);
  Interpreter interpreter(*fused, &tensors);
  auto before = interpreter.run("step", tokens, positions, sequences, iota(0, 20));
  CacheOp layer0 = *fused->getOps<CacheOp>().begin();
  auto cache = interpreter.cache(layer0);
  ASSERT_TRUE(succeeded(before) && succeeded(cache));
  EXPECT_EQ((*cache)->length(0), 20);
  interpreter.resetCaches();
  cache = interpreter.cache(layer0);
  EXPECT_EQ((*cache)->length(0), 0);
  auto after = interpreter.run("step", tokens, positions, sequences, iota(0, 20));
  ASSERT_TRUE(succeeded(after));
  EXPECT_EQ(*before, *after);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenIrTest,
                         testing::Values(golden::scoutLike(), golden::maverickLike()),
                         [](const auto &info) { return info.param.name; });

//===----------------------------------------------------------------------===//
// Snippets
//===----------------------------------------------------------------------===//

TEST_F(InterpreterTest, RunsSnippets) {
  auto module = parse(R"mlir(
    func.func @f(%l: tensor<?x4xf32>, %w: tensor<2x4xbf16>)
        -> (tensor<?x1xi32>, tensor<?x2xf32>) {
      %e, %s = moe.route %l top 1 : tensor<?x4xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
      %y = moe.linear %l, %w : tensor<?x4xf32>, tensor<2x4xbf16> -> tensor<?x2xf32>
      return %e, %y : tensor<?x1xi32>, tensor<?x2xf32>
    })mlir");
  Interpreter interpreter(*module);
  auto results = interpreter.runFunction(
      module->lookupSymbol<func::FuncOp>("f"),
      {{{1, 4}, std::vector<float>{1, 2, 4, 3}},
       {{2, 4}, std::vector<float>{1, 0, 0, 1.0f + 1.0f / 512, 0, 1, 1, 0}}});
  ASSERT_TRUE(succeeded(results));
  EXPECT_EQ((*results)[0], (TensorValue{{1, 1}, std::vector<int32_t>{2}}));
  // The second argument is bf16, so its 1 + 1/512 is 1.
  EXPECT_EQ((*results)[1], (TensorValue{{1, 2}, std::vector<float>{4, 6}}));
}

/// k = 2 of 3 experts, on random inputs: the block is what it says it is made of.
TEST_F(InterpreterTest, MoeBlockOfTwoExperts) {
  auto module = parse(R"mlir(
    moe.weight @gate : tensor<3x2x6xbf16> from [#moe.source<"gate_up", [1, 0, 0], [3, 2, 6]>]
    moe.weight @up : tensor<3x2x6xbf16> from [#moe.source<"gate_up", [1, 2, 0], [3, 2, 6]>]
    moe.weight @down : tensor<3x6x2xbf16> from [#moe.source<"down", [1, 0, 0], [3, 6, 2]>]
    moe.weight @shared_gate : tensor<2x6xbf16> from [#moe.source<"gate_up", [0, 0, 0], [1, 2, 6]>]
    moe.weight @shared_up : tensor<2x6xbf16> from [#moe.source<"gate_up", [0, 2, 0], [1, 2, 6]>]
    moe.weight @shared_down : tensor<6x2xbf16> from [#moe.source<"down", [0, 0, 0], [1, 6, 2]>]
    moe.weight @shared_gate_up : tensor<4x6xbf16> from [#moe.source<"gate_up", [0, 0, 0], [1, 4, 6]>]
    moe.weight @gate_up : tensor<3x4x6xbf16> from [#moe.source<"gate_up", [1, 0, 0], [3, 4, 6]>]
    moe.weight @router : tensor<3x6xbf16> from [#moe.source<"router", [0, 0], [3, 6]>]
    moe.weight @norm : tensor<6xbf16> from [#moe.source<"norm", [0], [6]>]
    func.func @imported(%x: tensor<?x6xf32>) -> tensor<?x6xf32> {
      %norm = moe.load_weight @norm : tensor<6xbf16>
      %router = moe.load_weight @router : tensor<3x6xbf16>
      %gate = moe.load_weight @gate : tensor<3x2x6xbf16>
      %up = moe.load_weight @up : tensor<3x2x6xbf16>
      %down = moe.load_weight @down : tensor<3x6x2xbf16>
      %sg = moe.load_weight @shared_gate : tensor<2x6xbf16>
      %su = moe.load_weight @shared_up : tensor<2x6xbf16>
      %sd = moe.load_weight @shared_down : tensor<6x2xbf16>
      %n = moe.rms_norm %x, %norm eps 1.0e-5 : tensor<?x6xf32>, tensor<6xbf16>
      %l = moe.linear %n, %router : tensor<?x6xf32>, tensor<3x6xbf16> -> tensor<?x3xf32>
      %e, %s = moe.route %l top 2 : tensor<?x3xf32> -> tensor<?x2xi32>, tensor<?x2xf32>
      %r = moe.experts %n, %e, %s, %gate, %up, %down : tensor<?x6xf32>, tensor<?x2xi32>,
          tensor<?x2xf32>, tensor<3x2x6xbf16>, tensor<3x2x6xbf16>, tensor<3x6x2xbf16>
      %g = moe.linear %n, %sg : tensor<?x6xf32>, tensor<2x6xbf16> -> tensor<?x2xf32>
      %u = moe.linear %n, %su : tensor<?x6xf32>, tensor<2x6xbf16> -> tensor<?x2xf32>
      %i = moe.swiglu %g, %u : tensor<?x2xf32>
      %d = moe.linear %i, %sd : tensor<?x2xf32>, tensor<6x2xbf16> -> tensor<?x6xf32>
      %both = moe.add %d, %r : tensor<?x6xf32>
      %y = moe.add %x, %both : tensor<?x6xf32>
      return %y : tensor<?x6xf32>
    }
    func.func @fused(%x: tensor<?x6xf32>) -> tensor<?x6xf32> {
      %norm = moe.load_weight @norm : tensor<6xbf16>
      %router = moe.load_weight @router : tensor<3x6xbf16>
      %sgu = moe.load_weight @shared_gate_up : tensor<4x6xbf16>
      %gate_up = moe.load_weight @gate_up : tensor<3x4x6xbf16>
      %sd = moe.load_weight @shared_down : tensor<6x2xbf16>
      %down = moe.load_weight @down : tensor<3x6x2xbf16>
      %y = moe.moe_block %x, %norm, %router, %sgu, %gate_up, %sd, %down top 2 eps 1.0e-5
          : tensor<?x6xf32>, tensor<6xbf16>, tensor<3x6xbf16>, tensor<4x6xbf16>,
            tensor<3x4x6xbf16>, tensor<6x2xbf16>, tensor<3x6x2xbf16>
      return %y : tensor<?x6xf32>
    })mlir");
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-2, 2);
  std::map<std::string, golden::Tensor> tensors{{"gate_up", {{4, 4, 6}, {}}},
                                                {"down", {{4, 6, 2}, {}}},
                                                {"router", {{3, 6}, {}}},
                                                {"norm", {{6}, {}}}};
  auto fill = [&](std::vector<float> &values, ArrayRef<int64_t> shape) {
    values.resize(size_t(ShapedType::getNumElements(shape)));
    for (float &value : values)
      value = uniform(random);
  };
  for (auto &[name, tensor] : tensors)
    fill(tensor.values, tensor.shape);
  std::vector<float> x;
  fill(x, {5, 6});
  test::TestTensors source = sourceOf(tensors);
  for (Rounding rounding : {Rounding::None, Rounding::Bfloat16}) {
    Interpreter interpreter(*module, &source, rounding);
    std::vector<std::vector<TensorValue>> results;
    for (const char *name : {"imported", "fused"}) {
      auto result = interpreter.runFunction(module->lookupSymbol<func::FuncOp>(name),
                                            {TensorValue{{5, 6}, x}});
      ASSERT_TRUE(succeeded(result));
      results.push_back(*result);
    }
    EXPECT_EQ(results[0], results[1]);
  }
}

/// Two tiles through a small tower: in the order of its math, and in the blocks that it is made of.
TEST_F(InterpreterTest, VisionBlocks) {
  const std::string arguments =
      "%tiles: tensor<?x4x4x3xui8>, %patch: tensor<8x12xbf16>, %class: tensor<8xbf16>, "
      "%positions: tensor<5x8xbf16>, %norm: tensor<8xbf16>, %shift: tensor<8xbf16>, "
      "%q: tensor<8x8xbf16>, %k: tensor<8x8xbf16>, %v: tensor<8x8xbf16>, "
      "%qkv: tensor<24x8xbf16>, %qb: tensor<8xbf16>, %kb: tensor<8xbf16>, %vb: tensor<8xbf16>, "
      "%qkvb: tensor<24xbf16>, %fc: tensor<12x8xbf16>, %fcb: tensor<12xbf16>, "
      "%out: tensor<8x12xbf16>, %adapter: tensor<6x32xbf16>";
  auto module = parse("func.func @imported(" + arguments + R"mlir() -> tensor<?x6xf32> {
      %p = moe.patches %tiles patch 2 rescale 0.00392156886 mean [0.5, 0.25, 0.5] std [0.5, 0.5, 1.0]
          : tensor<?x4x4x3xui8> -> tensor<?x12xf32>
      %e = moe.linear %p, %patch : tensor<?x12xf32>, tensor<8x12xbf16> -> tensor<?x8xf32>
      %c = moe.append_class %e, %class grid 2 : tensor<?x8xf32>, tensor<8xbf16> -> tensor<?x8xf32>
      %a = moe.add_positions %c, %positions : tensor<?x8xf32>, tensor<5x8xbf16>
      %x = moe.layer_norm %a, %norm, %shift eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>
      %n = moe.layer_norm %x, %norm, %shift eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>
      %ql = moe.linear_bias %n, %q, %qb : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
      %kl = moe.linear_bias %n, %k, %kb : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
      %vl = moe.linear_bias %n, %v, %vb : tensor<?x8xf32>, tensor<8x8xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
      %qr = moe.patch_rope %ql heads 2 grid 2 theta 100.0 : tensor<?x8xf32>
      %kr = moe.patch_rope %kl heads 2 grid 2 theta 100.0 : tensor<?x8xf32>
      %o = moe.tile_attention %qr, %kr, %vl heads 2 grid 2 : tensor<?x8xf32>
      %h = moe.add %x, %o : tensor<?x8xf32>
      %m = moe.layer_norm %h, %norm, %shift eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>
      %f = moe.linear_bias %m, %fc, %fcb : tensor<?x8xf32>, tensor<12x8xbf16>, tensor<12xbf16> -> tensor<?x12xf32>
      %g = moe.gelu %f : tensor<?x12xf32>
      %l = moe.linear %g, %out : tensor<?x12xf32>, tensor<8x12xbf16> -> tensor<?x8xf32>
      %y = moe.add %h, %l : tensor<?x8xf32>
      %z = moe.layer_norm %y, %norm, %shift eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>
      %d = moe.drop_class %z grid 2 : tensor<?x8xf32> -> tensor<?x8xf32>
      %s = moe.pixel_shuffle %d grid 2 : tensor<?x8xf32> -> tensor<?x32xf32>
      %t = moe.linear %s, %adapter : tensor<?x32xf32>, tensor<6x32xbf16> -> tensor<?x6xf32>
      %u = moe.gelu %t : tensor<?x6xf32>
      return %u : tensor<?x6xf32>
    }
    func.func @fused()mlir" +
                      arguments + R"mlir() -> tensor<?x6xf32> {
      %x = moe.patch_embed %tiles, %patch, %class, %positions, %norm, %shift patch 2
          rescale 0.00392156886 mean [0.5, 0.25, 0.5] std [0.5, 0.5, 1.0] eps 1.0e-5
          : tensor<?x4x4x3xui8>, tensor<8x12xbf16>, tensor<8xbf16>, tensor<5x8xbf16>,
            tensor<8xbf16>, tensor<8xbf16> -> tensor<?x8xf32>
      %p = moe.tower_qkv %x, %norm, %shift, %qkv, %qkvb heads 2 grid 2 theta 100.0 eps 1.0e-5
          : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16>, tensor<24x8xbf16>, tensor<24xbf16> -> tensor<?x24xf32>
      %o = moe.tower_attention %p heads 2 grid 2 : tensor<?x24xf32> -> tensor<?x8xf32>
      %h = moe.add %x, %o : tensor<?x8xf32>
      %g = moe.projection %h, %fc norm %norm, %shift eps 1.0e-5 : tensor<8xbf16>, tensor<8xbf16>
          bias %fcb : tensor<12xbf16> gelu : tensor<?x8xf32>, tensor<12x8xbf16> -> tensor<?x12xf32>
      %y = moe.projection %g, %out residual %h : tensor<?x8xf32>
          : tensor<?x12xf32>, tensor<8x12xbf16> -> tensor<?x8xf32>
      %s = moe.tower_output %y, %norm, %shift grid 2 eps 1.0e-5
          : tensor<?x8xf32>, tensor<8xbf16>, tensor<8xbf16> -> tensor<?x32xf32>
      %u = moe.projection %s, %adapter gelu : tensor<?x32xf32>, tensor<6x32xbf16> -> tensor<?x6xf32>
      return %u : tensor<?x6xf32>
    })mlir");
  ASSERT_TRUE(module);
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-2, 2);
  auto made = [&](SmallVector<int64_t> shape) {
    std::vector<float> values(size_t(ShapedType::getNumElements(shape)));
    for (float &value : values)
      value = uniform(random);
    return TensorValue{std::move(shape), std::move(values)};
  };
  auto joined = [](ArrayRef<TensorValue> parts, SmallVector<int64_t> shape) {
    std::vector<float> values;
    for (const TensorValue &part : parts)
      values.insert(values.end(), part.floats().begin(), part.floats().end());
    return TensorValue{std::move(shape), std::move(values)};
  };
  std::vector<uint8_t> tiles(2 * 4 * 4 * 3);
  for (uint8_t &byte : tiles)
    byte = uint8_t(random());
  std::vector<TensorValue> given{{{2, 4, 4, 3}, tiles}, made({8, 12}), made({8}),
                                 made({5, 8}),          made({8}),     made({8})};
  std::vector<TensorValue> matrices{made({8, 8}), made({8, 8}), made({8, 8})},
      biases{made({8}), made({8}), made({8})};
  llvm::append_range(given, matrices);
  given.push_back(joined(matrices, {24, 8}));
  llvm::append_range(given, biases);
  given.push_back(joined(biases, {24}));
  for (SmallVector<int64_t> shape : {SmallVector<int64_t>{12, 8}, {12}, {8, 12}, {6, 32}})
    given.push_back(made(shape));
  std::vector<float> exact;
  for (Rounding rounding : {Rounding::None, Rounding::Bfloat16}) {
    Interpreter interpreter(*module, nullptr, rounding);
    std::vector<std::vector<TensorValue>> results;
    for (const char *name : {"imported", "fused"}) {
      auto result = interpreter.runFunction(module->lookupSymbol<func::FuncOp>(name), given);
      ASSERT_TRUE(succeeded(result));
      results.push_back(*result);
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0][0].shape, (SmallVector<int64_t>{2, 6}));
    if (rounding == Rounding::None)
      exact = results[0][0].floats();
  }
  Interpreter rounding(*module, nullptr, Rounding::Bfloat16);
  auto rounded = rounding.runFunction(module->lookupSymbol<func::FuncOp>("fused"), given);
  EXPECT_NE((*rounded)[0].floats(), exact);
}

TEST_F(InterpreterTest, EmbedsRowsOfImages) {
  const std::string text = R"mlir(
    func.func @f(%t: tensor<?xi32>, %w: tensor<3x2xf32>, %i: tensor<?x2xf32>, %r: tensor<?xi32>)
        -> tensor<?x2xf32> {
      %h = moe.embed %t, %w images %i, %r : tensor<?x2xf32>, tensor<?xi32>
          : tensor<?xi32>, tensor<3x2xf32> -> tensor<?x2xf32>
      return %h : tensor<?x2xf32>
    })mlir";
  auto arguments = [](std::vector<int32_t> rows) {
    return std::vector<TensorValue>{{{3}, std::vector<int32_t>{2, 0, 1}},
                                    {{3, 2}, std::vector<float>{1, 2, 3, 4, 5, 6}},
                                    {{2, 2}, std::vector<float>{10, 20, 30, 40}},
                                    {{int64_t(rows.size())}, rows}};
  };
  auto module = parse(text);
  Interpreter interpreter(*module);
  auto results =
      interpreter.runFunction(module->lookupSymbol<func::FuncOp>("f"), arguments({-1, 1, -1}));
  ASSERT_TRUE(succeeded(results));
  EXPECT_EQ((*results)[0].floats(), (std::vector<float>{5, 6, 30, 40, 3, 4}));
  EXPECT_EQ(runAndFail(text, arguments({-1, 2, -1})),
            "'moe.embed' op takes row 2 of 2 rows of images");
  EXPECT_EQ(runAndFail(text, arguments({-1, 0})),
            "'moe.embed' op has 2 as dim 0 of image_rows, expected 3, dim 0 of tokens");
}

TEST_F(InterpreterTest, RefusesHalvesOfTiles) {
  EXPECT_EQ(
      runAndFail(R"mlir(
    func.func @f(%x: tensor<?x2xf32>) -> tensor<?x2xf32> {
      %y = moe.drop_class %x grid 2 : tensor<?x2xf32> -> tensor<?x2xf32>
      return %y : tensor<?x2xf32>
    })mlir",
                 {{{4, 2}, std::vector<float>(8)}}),
      "'moe.drop_class' op has 4 as dim 0 of x, expected a multiple of the rows of a tile, 5");
  EXPECT_EQ(runAndFail(R"mlir(
    func.func @f(%x: tensor<?x?xf32>) -> tensor<?x?xf32> {
      %y = moe.tower_attention %x heads 2 grid 1 : tensor<?x?xf32> -> tensor<?x?xf32>
      return %y : tensor<?x?xf32>
    })mlir",
                       {{{2, 8}, std::vector<float>(16)}}),
            "'moe.tower_attention' op has 8 channels in this run, expected a multiple of 6");
}

TEST_F(InterpreterTest, WeightsAreRoundedToTheirStorage) {
  auto module = parse(R"mlir(
    moe.weight @f32 : tensor<2xf32> from [#moe.source<"w", [0], [2]>]
    moe.weight @bf16 : tensor<2xbf16> from [#moe.source<"w", [0], [2]>]
    moe.weight @f16 : tensor<2xf16> from [#moe.source<"w", [0], [2]>]
    moe.weight @packed : tensor<2xf32> from [#moe.source<"w", [0], [2]>]
        packed #moe.packing<rows, bf16>)mlir");
  float fine = 1.0f + 1.0f / 1024 + 1.0f / 8192;
  test::TestTensors tensors;
  tensors.add("w", {2}, {fine, 2});
  Interpreter interpreter(*module, &tensors);
  std::map<std::string, float> expected{
      {"f32", fine}, {"bf16", 1.0f}, {"f16", 1.0f + 1.0f / 1024}, {"packed", 1.0f}};
  for (WeightOp weight : module->getOps<WeightOp>()) {
    auto value = interpreter.weight(weight);
    ASSERT_TRUE(succeeded(value));
    EXPECT_EQ((*value)->floats()[0], expected.at(weight.getSymName().str()));
    EXPECT_EQ((*value)->floats()[1], 2);
  }
}

//===----------------------------------------------------------------------===//
// What it refuses
//===----------------------------------------------------------------------===//

TEST_F(InterpreterTest, RefusesWrongArguments) {
  std::string text = R"mlir(
    func.func @f(%a: tensor<?x2xf32>, %b: tensor<?x2xf32>) -> tensor<?x2xf32> {
      %c = moe.add %a, %b : tensor<?x2xf32>
      return %c : tensor<?x2xf32>
    })mlir";
  TensorValue one{{1, 2}, std::vector<float>(2)}, two{{2, 2}, std::vector<float>(4)};
  TensorValue wide{{1, 3}, std::vector<float>(3)}, ints{{1, 2}, std::vector<int32_t>(2)};
  TensorValue torn{{1, 2}, std::vector<float>(3)};
  EXPECT_EQ(runAndFail(text, {one}), "'func.func' op takes 2 arguments, but is run with 1");
  EXPECT_EQ(runAndFail(text, {one, two}),
            "'moe.add' op requires the same type for all operands and results");
  for (const TensorValue &bad : {wide, ints, torn})
    EXPECT_EQ(runAndFail(text, {one, bad}),
              "'func.func' op is run with an argument #1 that is no 'tensor<?x2xf32>'");
}

TEST_F(InterpreterTest, RefusesIndicesOutOfRange) {
  std::string text = R"mlir(
    func.func @f(%t: tensor<?xi32>, %w: tensor<3x1xf32>) -> tensor<?x1xf32> {
      %h = moe.embed %t, %w : tensor<?xi32>, tensor<3x1xf32> -> tensor<?x1xf32>
      return %h : tensor<?x1xf32>
    })mlir";
  TensorValue table{{3, 1}, std::vector<float>(3)};
  EXPECT_EQ(runAndFail(text, {{{2}, std::vector<int32_t>{2, 3}}, table}),
            "'moe.embed' op has token 3, expected 0 to 2");
  EXPECT_EQ(runAndFail(text, {{{1}, std::vector<int32_t>{-1}}, table}),
            "'moe.embed' op has token -1, expected 0 to 2");
}

TEST_F(InterpreterTest, RefusesPositionsThatWereNeverAppended) {
  EXPECT_EQ(runAndFail(R"mlir(
    moe.cache @kv heads 1 head_dim 2 : f32
    func.func @f(%q: tensor<?x2xf32>, %p: tensor<?xi32>) -> tensor<?x2xf32> {
      %o = moe.attention @kv, %q, %p, %p : tensor<?x2xf32>, tensor<?xi32>
      return %o : tensor<?x2xf32>
    })mlir",
                       {{{1, 2}, std::vector<float>(2)}, {{1}, std::vector<int32_t>{3}}}),
            "'moe.attention' op looks for position 3 of sequence 3, which was never appended");
}

TEST_F(InterpreterTest, RefusesCachesOfFloat16) {
  EXPECT_EQ(runAndFail(R"mlir(
    moe.cache @kv heads 1 head_dim 2 : f16
    func.func @f(%q: tensor<?x2xf32>, %p: tensor<?xi32>) -> tensor<?x2xf32> {
      %o = moe.attention @kv, %q, %p, %p : tensor<?x2xf32>, tensor<?xi32>
      return %o : tensor<?x2xf32>
    })mlir",
                       {{{1, 2}, std::vector<float>(2)}, {{1}, std::vector<int32_t>{3}}}),
            "'moe.cache' op keeps 'f16', expected f32, bf16 or i8");
}

TEST_F(InterpreterTest, KeepsCodesInCachesOfI8) {
  OwningOpRef<ModuleOp> module = parse(R"mlir(
    moe.cache @kv heads 1 head_dim 2 : i8
    func.func @f(%x: tensor<?x2xf32>, %p: tensor<?xi32>) -> tensor<?x2xf32> {
      moe.append @kv, %x, %x, %p, %p : tensor<?x2xf32>, tensor<?xi32>
      %o = moe.attention @kv, %x, %p, %p : tensor<?x2xf32>, tensor<?xi32>
      return %o : tensor<?x2xf32>
    })mlir");
  Interpreter interpreter(*module);
  auto results = interpreter.runFunction(
      module->lookupSymbol<func::FuncOp>("f"),
      {TensorValue{{1, 2}, std::vector<float>{127, 2.4f}}, {{1}, std::vector<int32_t>{0}}});
  ASSERT_TRUE(succeeded(results));
  // A token that sees itself alone gets its value back, as the cache has it.
  EXPECT_EQ((*results)[0].floats(), (std::vector<float>{127, 2}));
}

TEST_F(InterpreterTest, RefusesWhatItCannotRun) {
  TensorValue x{{1, 2}, std::vector<float>(2)};
  EXPECT_EQ(runAndFail(R"mlir(
    moe.weight @w : tensor<2xf32> from [#moe.source<"w", [0], [2]>]
    func.func @f() -> tensor<2xf32> {
      %w = moe.load_weight @w : tensor<2xf32>
      return %w : tensor<2xf32>
    })mlir",
                       {}),
            "'moe.weight' op is needed, but there is no checkpoint to read it from");
  EXPECT_EQ(runAndFail(R"mlir(
    func.func @f(%x: tensor<1x2xf32>) -> tensor<1x2xf32> {
      %y = func.call @f(%x) : (tensor<1x2xf32>) -> tensor<1x2xf32>
      return %y : tensor<1x2xf32>
    })mlir",
                       {x}),
            "'func.call' op is no op that the interpreter knows");
  EXPECT_EQ(runAndFail("func.func private @f(tensor<1x2xf32>)", {x}),
            "'func.func' op is run, expected one block");
}

} // namespace
