// Whole models made of the reference ops alone, against published results.
#include "dialects/moe/GoldenModel.h"

#include <algorithm>
#include <gtest/gtest.h>

using namespace moe;
using namespace moe::reference;

namespace {

/// `matrix` [groups, rows, columns] -> [groups, end - begin, rows]: columns begin to end,
/// transposed.
Values transposedColumns(const golden::Tensor &matrix, int64_t begin, int64_t end) {
  int64_t groups = matrix.shape[0], rows = matrix.shape[1], columns = matrix.shape[2];
  Values result;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t c = begin; c < end; ++c)
      for (int64_t r = 0; r < rows; ++r)
        result.push_back(matrix.values[(g * rows + r) * columns + c]);
  return result;
}

/// The model, top to bottom, with the KV caches of its layers.
class ReferenceModel {
public:
  explicit ReferenceModel(golden::Model model)
      : model(std::move(model)), tensors(golden::checkpoint(this->model)),
        frequencies(ropeFrequencies(golden::kTheta, golden::kHeadDim, this->model.ropeScaling)) {
    for (int64_t layer = 0; layer < golden::kLayers; ++layer)
      caches.emplace_back(golden::kHeads, golden::kHeadDim,
                          this->model.hasRope(layer) ? golden::kChunk : 0);
  }

  Values step(Indices tokens, Indices positions) {
    std::vector<int32_t> sequences(tokens.size(), 0);
    Values table = ropeTable(positions, frequencies);
    Values h = embed(tokens, weight("model.embed_tokens.weight"), golden::kHidden);
    hidden.clear();
    chosen.clear();
    scores.clear();
    for (int64_t layer = 0; layer < golden::kLayers; ++layer) {
      prefix = "model.layers." + std::to_string(layer) + ".";
      Values n = rmsNorm(h, weight(prefix + "input_layernorm.weight"), golden::kEps);
      h = add(h, attentionOf(layer, n, table, positions, sequences));
      n = rmsNorm(h, weight(prefix + "post_attention_layernorm.weight"), golden::kEps);
      h = add(h, model.hasExperts(layer) ? mixture(n) : mlp(n, prefix + "feed_forward."));
      hidden.push_back(h);
      if (!model.hasExperts(layer))
        chosen.emplace_back(), scores.emplace_back();
    }
    return linear(rmsNorm(h, weight("model.norm.weight"), golden::kEps), weight("lm_head.weight"),
                  golden::kHidden);
  }

  golden::Model model;
  std::vector<Values> hidden;               // of the last step, after each layer
  std::vector<std::vector<int32_t>> chosen; // of the last step, of each layer
  std::vector<Values> scores;

private:
  View weight(const std::string &name) const { return tensors.at(name).values; }

  Values attentionOf(int64_t layer, View n, View table, Indices positions, Indices sequences) {
    auto project = [&](View x, const char *name) {
      return linear(x, weight(prefix + "self_attn." + name + "_proj.weight"), golden::kHidden);
    };
    Values q = project(n, "q"), k = project(n, "k"), v = project(n, "v");
    if (model.hasRope(layer)) {
      q = rope(q, table, golden::kHeadDim);
      k = rope(k, table, golden::kHeadDim);
      if (model.qkNorm) {
        q = headNorm(q, golden::kHeadDim, golden::kEps);
        k = headNorm(k, golden::kHeadDim, golden::kEps);
      }
    } else {
      q = temperature(q, positions, golden::kTemperatureScale, golden::kTemperatureFloor);
    }
    caches[size_t(layer)].append(k, v, positions, sequences);
    return project(attention(caches[size_t(layer)], q, positions, sequences), "o");
  }

  Values mlp(View n, const std::string &prefix) const {
    Values inner = swiglu(linear(n, weight(prefix + "gate_proj.weight"), golden::kHidden),
                          linear(n, weight(prefix + "up_proj.weight"), golden::kHidden));
    View down = weight(prefix + "down_proj.weight");
    return linear(inner, down, int64_t(down.size()) / golden::kHidden);
  }

  Values mixture(View n) {
    Routing routing =
        route(linear(n, weight(prefix + "feed_forward.router.weight"), golden::kHidden),
              golden::kExperts, 1);
    const golden::Tensor &gateUp = tensors.at(prefix + "feed_forward.experts.gate_up_proj");
    const golden::Tensor &down = tensors.at(prefix + "feed_forward.experts.down_proj");
    Values routed =
        experts(n, routing.experts, routing.scores, transposedColumns(gateUp, 0, golden::kWidth),
                transposedColumns(gateUp, golden::kWidth, 2 * golden::kWidth),
                transposedColumns(down, 0, golden::kHidden), golden::kHidden, golden::kWidth);
    chosen.push_back(routing.experts);
    scores.push_back(routing.scores);
    return add(mlp(n, prefix + "feed_forward.shared_expert."), routed);
  }

  std::map<std::string, golden::Tensor> tensors;
  Values frequencies;
  std::vector<KvCache> caches;
  std::string prefix; // of the layer at hand
};

/// The published numbers have five decimals.
constexpr float kTolerance = 1.5e-5f;

class GoldenTest : public testing::TestWithParam<golden::Model> {};

TEST_P(GoldenTest, Prefill) {
  ReferenceModel model(GetParam());
  std::vector<int32_t> tokens = golden::tokens(), positions(tokens.size());
  for (size_t i = 0; i < positions.size(); ++i)
    positions[i] = int32_t(i);
  Values logits = model.step(tokens, positions);

  for (size_t layer = 0; layer < size_t(golden::kLayers); ++layer) {
    for (size_t c = 0; c < 3; ++c) {
      EXPECT_NEAR(model.hidden[layer][8 * golden::kHidden + c], GetParam().hidden8[layer][c],
                  kTolerance);
      EXPECT_NEAR(model.hidden[layer][19 * golden::kHidden + c], GetParam().hidden19[layer][c],
                  kTolerance);
    }
    EXPECT_EQ(model.chosen[layer], GetParam().experts[layer]) << "layer " << layer;
  }
  for (const golden::LogitsRow &row : GetParam().logits) {
    auto begin = logits.begin() + row.position * golden::kVocabulary;
    for (size_t i = 0; i < row.first.size(); ++i)
      EXPECT_NEAR(begin[int64_t(i)], row.first[i], kTolerance) << "position " << row.position;
    auto largest = std::max_element(begin, begin + golden::kVocabulary);
    EXPECT_EQ(largest - begin, row.argmax);
    EXPECT_NEAR(*largest, row.largest, kTolerance);
  }
  double sum = 0, squares = 0;
  for (float logit : logits) {
    sum += logit;
    squares += double(logit) * logit;
  }
  EXPECT_NEAR(sum, GetParam().logitsSum, 1e-3);
  EXPECT_NEAR(squares, GetParam().logitsSquares, 1e-2);
}

TEST_P(GoldenTest, PrefillIsDecode) {
  std::vector<int32_t> tokens = golden::tokens(), positions(tokens.size());
  for (size_t i = 0; i < positions.size(); ++i)
    positions[i] = int32_t(i);
  Values all = ReferenceModel(GetParam()).step(tokens, positions), one;
  ReferenceModel model(GetParam());
  for (size_t i = 0; i < tokens.size(); ++i) {
    Values row = model.step(Indices(tokens).subspan(i, 1), Indices(positions).subspan(i, 1));
    one.insert(one.end(), row.begin(), row.end());
  }
  EXPECT_EQ(all, one); // to the bit: no op mixes tokens but attention, in the order of positions
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Values(golden::scoutLike(), golden::maverickLike()),
                         [](const auto &info) { return info.param.name; });

TEST(GoldenModel, Generator) {
  EXPECT_DOUBLE_EQ(golden::element(1, 0), 0.4557037949562073);
  auto tensors = golden::checkpoint(golden::scoutLike());
  EXPECT_EQ(tensors.size(), 51u);
  EXPECT_EQ(golden::checkpoint(golden::maverickLike()).size(), 45u);
  const Values &embedding = tensors.at("model.embed_tokens.weight").values;
  EXPECT_NEAR(embedding[0], 0.9114076, 1e-7);
  EXPECT_NEAR(embedding[2], 0.6573775, 1e-7);
  const Values &norm = tensors.at("model.layers.0.input_layernorm.weight").values;
  EXPECT_NEAR(norm[0], 0.94078445, 1e-7);
  const Values &head = tensors.at("lm_head.weight").values;
  EXPECT_NEAR(head[head.size() - 2], -0.23324013, 1e-8);
  EXPECT_NEAR(head[head.size() - 1], -0.01689664, 1e-8);
}

TEST(GoldenModel, Scores) {
  ReferenceModel model(golden::scoutLike());
  std::vector<int32_t> tokens = golden::tokens(), positions{0, 1, 2, 3};
  model.step(Indices(tokens).first(4), positions);
  const float expected[] = {0.716685f, 0.792954f, 0.831684f, 0.831918f};
  for (size_t t = 0; t < 4; ++t)
    EXPECT_NEAR(model.scores[1][t], expected[t], 1e-6);
}

} // namespace
