// models/cria, a trained model: the text and the quality of transformers on held-out text.
#include "runtime/session/Generate.h"
#include "test/golden/Golden.h"
#include "test/golden/Running.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SHA256.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>

using namespace moe;
using namespace moe::test;

namespace {

constexpr double logitTolerance = 1e-3;
constexpr double float32Divergence = 1e-6;
// The mean is ruled by a few tokens whose best two experts are nearly tied, so that rounding may
// exchange them: those cost up to 0.4 each. The median shows that all else is exact.
constexpr double bfloat16Divergence = 5e-4; // and no worse than that of transformers
constexpr double bfloat16Median = 2e-5;
constexpr double perplexityTolerance = 0.001; // relative
// With keys and values in int8, beside bfloat16 weights.
constexpr double int8CacheDivergence = 1e-3;
constexpr double int8CacheMedian = 2e-4;

std::string goldenPath(const char *file) { return caseFolder("cria") + "/" + file; }

std::unique_ptr<llvm::MemoryBuffer> readFile(const std::string &path) {
  auto file = llvm::MemoryBuffer::getFile(path);
  if (!file)
    throw std::runtime_error("cannot read " + path);
  return std::move(*file);
}

// What reference.json has of transformers.
struct Quality {
  std::string weights;
  double perplexity; // float32, of the four windows
  double divergence; // bfloat16, bucketed, mean
};

Quality readQuality() {
  auto file = readFile(goldenPath("reference.json"));
  llvm::json::Value value = valueOf(llvm::json::parse(file->getBuffer()));
  const llvm::json::Object &object = *value.getAsObject();
  return {object.getString("weights").value().str(),
          object.getObject("perplexity")->getNumber("float32").value(),
          object.getObject("bfloat16_kl")->getNumber("bucketed_mean").value()};
}

// heldout.txt: a window in each line.
std::vector<Ids> readWindows() {
  std::ifstream file(goldenPath("heldout.txt"));
  std::vector<Ids> windows;
  for (std::string line; std::getline(file, line);) {
    std::istringstream ids(line);
    Ids &window = windows.emplace_back();
    for (int32_t id; ids >> id;)
      window.push_back(id);
  }
  return windows;
}

// reference.bin: of the distribution at each position, the most likely ids and the rest.
struct Reference {
  uint32_t positions, kept, vocab;
  std::vector<uint16_t> ids;  // [positions, kept]
  std::vector<float> logprob; // [positions, kept]
  std::vector<float> rest;    // [positions]

  static Reference open();
  double bucketedDivergence(size_t position, std::span<const float> logits) const;
};

Reference Reference::open() {
  auto file = readFile(goldenPath("reference.bin"));
  llvm::StringRef bytes = file->getBuffer();
  if (!bytes.consume_front("MOEREF01"))
    throw std::runtime_error("reference.bin starts with other bytes");
  auto take = [&](void *to, size_t count) {
    if (bytes.size() < count)
      throw std::runtime_error("reference.bin is too short");
    std::memcpy(to, bytes.data(), count);
    bytes = bytes.drop_front(count);
  };
  auto takeAll = [&](auto &values, size_t count) {
    values.resize(count);
    take(values.data(), count * sizeof(values[0]));
  };
  Reference reference;
  uint32_t header[4];
  take(header, sizeof(header));
  reference.positions = header[0];
  reference.kept = header[1];
  reference.vocab = header[2];
  takeAll(reference.ids, size_t(reference.positions) * reference.kept);
  takeAll(reference.logprob, size_t(reference.positions) * reference.kept);
  takeAll(reference.rest, reference.positions);
  if (!bytes.empty())
    throw std::runtime_error("reference.bin is too long");
  return reference;
}

std::vector<double> logSoftmax(std::span<const float> logits) {
  double largest = logits[size_t(argmax(logits))], sum = 0;
  for (float logit : logits)
    sum += std::exp(logit - largest);
  std::vector<double> result;
  for (float logit : logits)
    result.push_back(logit - largest - std::log(sum));
  return result;
}

// The formula of README.md.
double Reference::bucketedDivergence(size_t position, std::span<const float> logits) const {
  std::vector<double> q = logSoftmax(logits);
  double divergence = 0;
  for (size_t i = position * kept; i < (position + 1) * kept; ++i) {
    divergence += std::exp(double(logprob[i])) * (logprob[i] - q[ids[i]]);
    q[ids[i]] = -INFINITY;
  }
  double outside = 0;
  for (double logProbability : q)
    outside += std::exp(logProbability);
  return divergence + std::exp(double(rest[position])) * (rest[position] - std::log(outside));
}

struct Measured {
  double divergence, medianDivergence, perplexity;
};
// Divergence from the reference, and perplexity, over the first held-out windows.
Measured measure(Session &session, size_t windows);

// Each test for each target.
class CriaTest : public testing::TestWithParam<std::string> {
protected:
  // False, and the test is skipped, where the processor cannot run the target.
  bool open(const char *weights, const char *cache = "") {
    if (!canRun(GetParam()))
      return false;
    plan = &planOf(sourcePath("models/cria"), weights, runnableTargets(), {}, cache);
    return true;
  }
  Session session() {
    SessionOptions options;
    options.context = 512;
    return openSession(*plan, GetParam(), options);
  }

  const Plan *plan = nullptr;
};

Measured measure(Session &session, size_t windows) {
  Reference reference = Reference::open();
  double divergence = 0, loss = 0;
  std::vector<double> divergences;
  size_t position = 0, predictions = 0;
  std::vector<Ids> all = readWindows();
  all.resize(windows);
  for (const Ids &window : all) {
    Logits logits = runTexts(session, {&window, 1}, whole)[0];
    for (size_t i = 0; i < window.size(); ++i, ++position) {
      divergences.push_back(reference.bucketedDivergence(position, logits[i]));
      divergence += divergences.back();
      if (i + 1 == window.size())
        continue;
      loss -= logSoftmax(logits[i])[size_t(window[i + 1])];
      ++predictions;
    }
  }
  std::nth_element(divergences.begin(), divergences.begin() + divergences.size() / 2,
                   divergences.end());
  Measured measured{divergence / double(position), divergences[divergences.size() / 2],
                    std::exp(loss / double(predictions))};
  std::ostringstream text;
  text << measured.divergence;
  testing::Test::RecordProperty("mean_divergence", text.str());
  testing::Test::RecordProperty("perplexity", std::to_string(measured.perplexity));
  return measured;
}

// On a GPU: of this machine if MOE_TEST_GPU is "cuda", otherwise the simulated one.
class CriaGpuTest : public testing::Test {
protected:
  static Session session(int64_t context, int32_t sequences = 1) {
    const char *device = std::getenv("MOE_TEST_GPU");
    SessionOptions options;
    options.device = device ? device : "ptxsim";
    options.context = context;
    options.maxSequences = sequences;
    return valueOf(Session::create(plan(), options));
  }
  static const Plan &plan() {
    return planOf(sourcePath("models/cria"), "bf16", {"cuda:sm_90a", "cuda:sm_80"});
  }
};

std::string testName(const testing::TestParamInfo<std::string> &info) {
  std::string name = info.param.substr(4);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

} // namespace

TEST(CriaGoldens, BelongToTheWeights) {
  auto file = readFile(sourcePath("models/cria/model.safetensors"));
  llvm::SHA256 hash;
  hash.update(file->getBuffer());
  std::string found = llvm::toHex(hash.final(), /*LowerCase=*/true);
  const char *help = "the weights have changed: run test/golden/make-cria-goldens.py";
  EXPECT_EQ(found, readQuality().weights) << help;
  EXPECT_EQ(found, Golden::open(goldenPath("golden.json")).weights) << help;
}

TEST_P(CriaTest, LogitsAreThoseOfTransformers) {
  if (!open("f32"))
    GTEST_SKIP();
  Session session = this->session();
  double largest = 0;
  for (const GoldenPrompt &prompt : Golden::open(goldenPath("golden.json")).prompts) {
    Logits logits = runTexts(session, {&prompt.ids, 1}, whole)[0];
    for (size_t i = 0; i < prompt.positions.size(); ++i) {
      std::span<const float> row = logits[size_t(prompt.positions[i])];
      ASSERT_EQ(row.size(), prompt.logits[i].size());
      largest = std::max(largest, largestDifference(row, prompt.logits[i]));
    }
    EXPECT_LE(largest, logitTolerance);
    for (size_t i = 0; i < prompt.ids.size(); ++i)
      EXPECT_EQ(argmax(logits[i]), prompt.argmax[i]) << "position " << i;
  }
  RecordProperty("largest_error", std::to_string(largest));
}

TEST_P(CriaTest, GreedyContinuationIsThatOfTransformers) {
  if (!open("f32"))
    GTEST_SKIP();
  Session session = this->session();
  for (const GoldenPrompt &prompt : Golden::open(goldenPath("golden.json")).prompts) {
    int32_t sequence = valueOf(session.addSequence());
    GenerateOptions generation;
    generation.maxTokens = int64_t(prompt.greedy.size());
    auto keepGoing = [](const Piece &) { return ok(); };
    auto generated = generate(session, sequence, prompt.ids, generation, nullptr, keepGoing);
    EXPECT_EQ(valueOf(std::move(generated)).tokens, prompt.greedy);
    session.removeSequence(sequence);
  }
}

// A text that goes on after a prefix from the cache, within and at the ends of chunks, has the bits
// of a session that has seen nothing else; also while the one that left the prefix goes on.
TEST_P(CriaTest, CachedPrefixesChangeNoBit) {
  for (const char *cache : {"", "int8"}) {
    if (!open("bf16", cache))
      GTEST_SKIP();
    Ids text = readWindows()[0];
    text.resize(300); // chunks have 128 tokens
    SessionOptions options;
    options.context = 512;
    options.maxSequences = 2;
    Session plain = openSession(*plan, GetParam(), options);
    const Logits expected = runTexts(plain, {&text, 1}, whole)[0];
    options.prefixCache = true;
    Session session = openSession(*plan, GetParam(), options);
    const int32_t first = valueOf(session.addSequence());
    valueOf(session.append(first, text));
    for (size_t length : {70, 129, 140, 200, 257, 300})
      for (int turn : {0, 1}) { // after the first sequence has ended as well
        if (length == 300 && turn == 1 && session.has(first))
          session.removeSequence(first);
        const auto prompt = std::span(text).first(length);
        const int32_t sequence = valueOf(session.addSequence());
        const int64_t cached = valueOf(session.attach(sequence, prompt));
        EXPECT_EQ(cached, int64_t(length - 1) / 64 * 64);
        Logits found{size_t(session.vocab()), {}};
        const Append rest{sequence, prompt.subspan(size_t(cached)), int64_t(length) - cached};
        valueOf(session.run({&rest, 1}, [&](size_t, int64_t, std::span<const float> row) {
          found.values.insert(found.values.end(), row.begin(), row.end());
          return ok();
        }));
        for (size_t row = 0; row < found.rows(); ++row)
          EXPECT_EQ(std::memcmp(found[row].data(), expected[size_t(cached) + row].data(),
                                expected.vocab * sizeof(float)),
                    0)
              << "position " << size_t(cached) + row << " of " << length;
        session.removeSequence(sequence);
      }
  }
}

TEST_P(CriaTest, Float32QualityIsThatOfTransformers) {
  if (!open("f32"))
    GTEST_SKIP();
  Session session = this->session();
  Measured measured = measure(session, readWindows().size());
  Quality quality = readQuality();
  EXPECT_LT(std::abs(measured.divergence), float32Divergence);
  EXPECT_NEAR(measured.perplexity / quality.perplexity, 1, perplexityTolerance);
}

TEST_P(CriaTest, Bfloat16QualityIsNoWorseThanThatOfTransformers) {
  if (!open("bf16"))
    GTEST_SKIP();
  Session session = this->session();
  Measured measured = measure(session, readWindows().size());
  Quality quality = readQuality();
  EXPECT_LE(measured.divergence, bfloat16Divergence);
  EXPECT_LE(measured.divergence, quality.divergence);
  EXPECT_LE(measured.medianDivergence, bfloat16Median);
  EXPECT_NEAR(measured.perplexity / quality.perplexity, 1, perplexityTolerance);
}

// Beside bfloat16 weights, keys and values in int8 cost next to nothing; and a code and a part of a
// scale, 4 bytes for each 64 channels, take the place of a float32.
TEST_P(CriaTest, Int8CacheQualityIsThatOfFloat32) {
  Measured measured[2];
  uint64_t bytes[2];
  for (bool int8 : {false, true}) {
    if (!open("bf16", int8 ? "int8" : ""))
      GTEST_SKIP();
    Session session = this->session();
    measured[int8] = measure(session, readWindows().size());
    bytes[int8] = session.cacheBytes();
  }
  EXPECT_LE(measured[true].divergence, int8CacheDivergence);
  EXPECT_LE(measured[true].medianDivergence, int8CacheMedian);
  EXPECT_NEAR(measured[true].perplexity / measured[false].perplexity, 1, perplexityTolerance);
  EXPECT_EQ(bytes[true] * 256, bytes[false] * (64 + 4));
}

TEST_P(CriaTest, AllWaysToRunGiveTheSameBits) {
  std::vector<Ids> texts = readWindows();
  texts[0].resize(300); // beyond two chunks
  texts[1].resize(140);
  for (auto [weights, cache] : {std::pair("f32", ""), {"bf16", ""}, {"bf16", "int8"}}) {
    SCOPED_TRACE(std::string(weights) + " " + cache);
    if (!open(weights, cache))
      GTEST_SKIP();
    expectSameBitsInAllWays(*plan, GetParam(), std::span(texts).first(2));
  }
}

// Far more workers than processors, and than some kernels have pieces for.
TEST_P(CriaTest, ManyWorkersGiveTheSameBits) {
  if (!open("int4"))
    GTEST_SKIP();
  std::vector<Ids> texts = readWindows();
  texts.resize(1);
  texts[0].resize(40);
  SessionOptions options;
  options.context = 64;
  std::vector<Logits> found;
  for (int threads : {1, 64, 200}) {
    options.threads = threads;
    Session session = openSession(*plan, GetParam(), options);
    found.push_back(runTexts(session, texts, uneven)[0]);
    expectSameBits(found[0], found.back(), std::to_string(threads) + " threads");
  }
}

// Back to a position in the middle of a page, of a chunk and of four codes, and on with other
// tokens, as if the first ones had never been.
TEST_P(CriaTest, Int8CacheForgetsWhatIsTakenBack) {
  if (!open("bf16", "int8"))
    GTEST_SKIP();
  std::vector<Ids> windows = readWindows();
  Session session = this->session();
  int32_t sequence = valueOf(session.addSequence());
  auto append = [&](std::span<const int32_t> ids) {
    std::vector<float> last;
    Append part{sequence, ids, 1};
    valueOf(session.run({&part, 1}, [&](size_t, int64_t, std::span<const float> row) {
      last.assign(row.begin(), row.end());
      return ok();
    }));
    return last;
  };
  for (int64_t kept : {131, 150, 191}) {
    append(std::span(windows[0]).first(200));
    valueOf(session.truncate(sequence, kept));
    std::vector<float> again = append(std::span(windows[1]).first(60));
    valueOf(session.truncate(sequence, 0));
    append(std::span(windows[0]).first(size_t(kept)));
    EXPECT_EQ(append(std::span(windows[1]).first(60)), again) << "back to " << kept;
    valueOf(session.truncate(sequence, 0));
  }
}

// What rounding to bf16 leaves of the distributions, over one held-out window.
TEST_F(CriaGpuTest, QualityIsNoWorseThanThatOfTransformers) {
  Session session = this->session(512);
  Measured measured = measure(session, 1);
  EXPECT_LE(measured.divergence, bfloat16Divergence);
  EXPECT_LE(measured.medianDivergence, bfloat16Median);
}

TEST_F(CriaGpuTest, GreedyTokensAreThoseOfTheCpu) {
  const Plan &onCpu = planOf(sourcePath("models/cria"), "bf16");
  SessionOptions options;
  options.context = 256;
  Session cpu = valueOf(Session::create(onCpu, options)), gpu = session(256);
  Ids prompt = readWindows()[0];
  for (size_t length : {1, 5, 127, 140}) { // up to and beyond a chunk
    std::vector<int32_t> tokens[2];
    for (Session *session : {&cpu, &gpu}) {
      int32_t sequence = valueOf(session->addSequence());
      GenerateOptions generation;
      generation.maxTokens = 8;
      auto generated = generate(*session, sequence, std::span(prompt).first(length), generation,
                                nullptr, [](const Piece &) { return ok(); });
      tokens[session == &gpu] = valueOf(std::move(generated)).tokens;
      session->removeSequence(sequence);
    }
    EXPECT_EQ(tokens[0], tokens[1]) << "after " << length << " tokens";
  }
}

// Texts in pieces of all sizes, alone and together, give nearly the same logits; the same steps
// give the same bits.
TEST_F(CriaGpuTest, MixedStepsAreRightAndRepeatable) {
  std::vector<Ids> texts = readWindows();
  texts.resize(2);
  texts[0].resize(150);
  texts[1].resize(40);
  Session session = this->session(160, 2);
  std::vector<Logits> alone;
  for (const Ids &text : texts)
    alone.push_back(runTexts(session, {&text, 1}, whole)[0]);
  auto together = runTexts(session, texts, mixed), again = runTexts(session, texts, mixed);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(together[i].values, again[i].values);
    double sum = 0;
    for (size_t row = 0; row < texts[i].size(); ++row)
      sum += divergence(alone[i][row], together[i][row]);
    EXPECT_LE(sum / double(texts[i].size()), bfloat16Divergence);
  }
}

INSTANTIATE_TEST_SUITE_P(Cria, CriaTest, testing::ValuesIn(hostTargets()), testName);
