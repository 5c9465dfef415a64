// However tokens are divided into requests and steps, and whatever runs beside them, logits are the
// same: checked with an executor whose logits depend on all tokens that a row sees.
#include "runtime/session/MemoryStatement.h"
#include "runtime/session/TestExecutor.h"

#include <gtest/gtest.h>
#include <random>

using namespace moe;

namespace {

using Rows = std::vector<std::vector<float>>;

Session make(SessionModel model, const SessionOptions &options, int32_t maxRows = 1 << 20,
             FakeExecutor **fake = nullptr) {
  auto session = fakeSession(std::move(model), options, maxRows, fake);
  EXPECT_TRUE(session) << session.error().message;
  return std::move(*session);
}

std::vector<int32_t> someTokens(int64_t count, uint32_t seed, int32_t vocab = 50) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t &token : tokens)
    token = int32_t(random() % vocab);
  return tokens;
}

// All logits of a sequence that is fed one token at a time.
Rows oneByOne(const SessionModel &model, const std::vector<int32_t> &tokens) {
  Session session = make(model, {});
  Rows rows;
  int32_t sequence = *session.addSequence();
  for (int32_t token : tokens) {
    auto logits = session.append(sequence, {&token, 1});
    EXPECT_TRUE(logits) << logits.error().message;
    rows.emplace_back(logits->begin(), logits->end());
  }
  return rows;
}

TEST(Session, WholeAndUnevenPrefillGiveTheSameLogits) {
  for (int32_t chunk : {0, 8, 96, 128}) {
    SessionModel model = fakeModel(chunk);
    const std::vector<int32_t> tokens = someTokens(500, 1);
    const Rows expected = oneByOne(model, tokens);
    for (int32_t maxRows : {1, 7, 1000})
      for (uint32_t seed = 0; seed < 5; ++seed) { // 0: all in one request
        Session session = make(model, {}, maxRows);
        int32_t sequence = *session.addSequence();
        std::mt19937 random(seed);
        Rows found;
        for (size_t at = 0; at < tokens.size();) {
          size_t count =
              seed ? std::min<size_t>(1 + random() % 90, tokens.size() - at) : tokens.size();
          const Append part{sequence, std::span(tokens).subspan(at, count), int64_t(count)};
          int64_t next = 0;
          auto status = session.run({&part, 1}, [&](size_t p, int64_t token, auto logits) {
            EXPECT_EQ(p, 0u);
            EXPECT_EQ(token, next++);
            found.emplace_back(logits.begin(), logits.end());
            return ok();
          });
          ASSERT_TRUE(status) << status.error().message;
          at += count;
        }
        EXPECT_EQ(found, expected) << "chunk " << chunk << " rows " << maxRows;
        EXPECT_EQ(session.length(sequence), 500);
      }
  }
}

// Sequences of different lengths join, grow by different amounts in shared steps, and leave.
TEST(Session, RaggedStepsEqualSeparateRuns) {
  SessionModel model = fakeModel(96, 40);
  SessionOptions options;
  options.maxSequences = 3;
  options.context = 400;
  Session session = make(model, options, 16);
  std::mt19937 random(5);
  struct Running {
    int32_t sequence;
    std::vector<int32_t> tokens;
    Rows expected;
    int64_t done = 0;
  };
  std::vector<Running> running;
  uint32_t started = 0;
  for (int turn = 0; turn < 200; ++turn) {
    while (running.size() < 3 && random() % 3) {
      auto tokens = someTokens(1 + random() % 400, 100 + started++);
      running.push_back({*session.addSequence(), tokens, oneByOne(model, tokens)});
    }
    std::vector<Append> parts;
    std::vector<size_t> who;
    for (size_t i = 0; i < running.size(); ++i) {
      Running &r = running[i];
      int64_t count = std::min<int64_t>(random() % 60, int64_t(r.tokens.size()) - r.done);
      parts.push_back({r.sequence, std::span<const int32_t>(r.tokens).subspan(r.done, count),
                       count ? int64_t(random() % (count + 1)) : 0});
      who.push_back(i);
    }
    size_t wanted = 0, given = 0;
    for (const Append &part : parts)
      wanted += size_t(part.rows);
    auto status = session.run(parts, [&](size_t part, int64_t token, auto logits) {
      Running &r = running[who[part]];
      EXPECT_GE(token, int64_t(parts[part].tokens.size()) - parts[part].rows);
      EXPECT_EQ(std::vector<float>(logits.begin(), logits.end()), r.expected[r.done + token]);
      ++given;
      return ok();
    });
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_EQ(given, wanted);
    for (size_t i = 0; i < parts.size(); ++i)
      running[i].done += int64_t(parts[i].tokens.size());
    for (size_t i = running.size(); i-- > 0;)
      if (running[i].done == int64_t(running[i].tokens.size())) {
        session.removeSequence(running[i].sequence);
        running.erase(running.begin() + i);
      }
  }
  EXPECT_GT(started, 20u);
}

TEST(Session, OneSequenceMayHaveTwoPartsOfAStep) {
  SessionModel model = fakeModel();
  auto tokens = someTokens(20, 9);
  Rows expected = oneByOne(model, tokens), found;
  Session session = make(model, {});
  int32_t s = *session.addSequence();
  const std::span<const int32_t> all = tokens;
  const Append parts[] = {{s, all.first(5)}, {s, all.subspan(5)}};
  ASSERT_TRUE(session.run(parts, [&](size_t, int64_t, auto logits) {
    found.emplace_back(logits.begin(), logits.end());
    return ok();
  }));
  EXPECT_EQ(found, (Rows{expected[4], expected[19]}));
}

TEST(Session, GoesBackAndTakesAnotherWay) {
  SessionModel model = fakeModel(64);
  auto tokens = someTokens(200, 3), other = tokens;
  for (size_t i = 62; i < other.size(); ++i)
    other[i] = (other[i] + 1) % 50;
  Rows expected = oneByOne(model, other);
  Session session = make(model, {});
  int32_t s = *session.addSequence();
  const std::span<const int32_t> all = tokens, otherAll = other;
  ASSERT_TRUE(session.append(s, all.first(60)));
  // Tentative: the boundary at 64 is crossed, and still the way back to 62 is open.
  const Append tentative{s, all.subspan(60, 8), 8, true};
  ASSERT_TRUE(session.run({&tentative, 1}, [](size_t, int64_t, auto) { return ok(); }));
  ASSERT_TRUE(session.truncate(s, 62));
  auto logits = session.append(s, otherAll.subspan(62, 10));
  ASSERT_TRUE(logits) << logits.error().message;
  EXPECT_EQ(std::vector<float>(logits->begin(), logits->end()), expected[71]);
  // Accepted: the chunk before is gone.
  EXPECT_FALSE(session.truncate(s, 62));
  EXPECT_FALSE(session.truncate(s, 73));
  EXPECT_TRUE(session.truncate(s, 70));
  EXPECT_TRUE(session.truncate(s, 0));
  logits = session.append(s, otherAll.first(80));
  ASSERT_TRUE(logits) << logits.error().message;
  EXPECT_EQ(std::vector<float>(logits->begin(), logits->end()), expected[79]);
}

TEST(Session, RefusesAndChangesNothing) {
  SessionOptions options;
  options.context = 100;
  FakeExecutor *fake = nullptr;
  Session session = make(fakeModel(), options, 1 << 20, &fake);
  int32_t s = *session.addSequence();
  EXPECT_EQ(session.addSequence().error().code, Code::ResourceExhausted);
  auto none = [](size_t, int64_t, std::span<const float>) { return ok(); };
  const std::vector<int32_t> tokens(101, 1), bad{1, 2, 50}, negative{-1};
  auto refuse = [&](Append part) {
    auto status = session.run({&part, 1}, none);
    return status ? std::string() : status.error().message;
  };
  EXPECT_EQ(refuse({s, tokens}), "101 tokens do not fit in the context of 100; ask for more with "
                                 "--context, up to 2000");
  EXPECT_EQ(refuse({s, bad}), "token 2 has id 50, the vocabulary ends at 49");
  EXPECT_EQ(refuse({s, negative}), "token 0 has id -1, the vocabulary ends at 49");
  EXPECT_EQ(refuse({3, bad}), "there is no sequence 3");
  EXPECT_NE(refuse({s, std::span(tokens).first(2), 3}), "");
  const Append twice[] = {{s, std::span(tokens).first(60)}, {s, std::span(tokens).first(60)}};
  EXPECT_FALSE(session.run(twice, none)); // together too long
  EXPECT_FALSE(session.append(s, {}));
  EXPECT_EQ(fake->runs, 0);
  EXPECT_EQ(session.length(s), 0);
  EXPECT_TRUE(session.append(s, std::span(tokens).first(100)));
  session.removeSequence(s);
  EXPECT_EQ(refuse({s, bad}), "there is no sequence 0");
}

TEST(Session, AFailingStepKeepsWhatWasDone) {
  FakeExecutor *fake = nullptr;
  Session session = make(fakeModel(96, 32), {}, 1 << 20, &fake);
  int32_t s = *session.addSequence();
  auto tokens = someTokens(100, 2);
  fake->failAt = 3;
  auto logits = session.append(s, tokens);
  ASSERT_FALSE(logits);
  EXPECT_EQ(logits.error().message, "the device broke");
  EXPECT_EQ(session.length(s), 64);
  logits = session.append(s, std::span(tokens).subspan(64));
  ASSERT_TRUE(logits);
  EXPECT_EQ(std::vector<float>(logits->begin(), logits->end()), oneByOne(fakeModel(), tokens)[99]);
}

TEST(Session, StopsBetweenStepsWhenCancelled) {
  Session session = make(fakeModel(), {});
  std::atomic<bool> cancel{false};
  session.setCancel(&cancel);
  int32_t s = *session.addSequence();
  auto tokens = someTokens(100, 2);
  const Append part{s, tokens, 100};
  auto status = session.run({&part, 1}, [&](size_t, int64_t, auto) {
    cancel = true;
    return ok();
  });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::Cancelled);
  EXPECT_EQ(session.length(s), 32);
  // The sink's errors end a step too.
  cancel = false;
  status = session.run(
      {&part, 1}, [&](size_t, int64_t, auto) -> Status { return Error{Code::IoError, "full"}; });
  EXPECT_EQ(status.error().message, "full");
}

TEST(Session, SaysWhatMemoryItNeeds) {
  SessionModel model = fakeModel(64, 1);
  SessionOptions options;
  options.context = 1024;
  // 16 global pages of 1 KiB, one chunked of 4 KiB.
  EXPECT_EQ(cacheBytes(model, 1024, 1, 1), 16u * 1024 + 4096);
  EXPECT_EQ(make(model, options).cacheBytes(), 16u * 1024 + 4096);
  options.memoryLimit = 10 * 1024;
  auto session = fakeSession(model, options);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, Code::ResourceExhausted);
  EXPECT_EQ(session.error().message, "the KV cache needs 0.0 MiB for 1 x 1024 tokens, 0.0 MiB are "
                                     "available; --context 384 would fit");
  options.context = 384;
  EXPECT_TRUE(fakeSession(model, options));
  options.memoryLimit = 100;
  EXPECT_NE(fakeSession(model, options).error().message.find("not even 64"), std::string::npos);
}

TEST(Session, CountsTheMemoryOfItsDevice) {
  SessionModel model = fakeModel(64, 1);
  model.memory = DeviceMemory{"cuda:0 (Test)", 64 << 20, 32 << 20, 24 << 20, (8 << 20) - 10 * 1024};
  SessionOptions options;
  options.context = 384;
  EXPECT_TRUE(fakeSession(model, options));
  options.context = 1024;
  auto session = fakeSession(model, options);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code, Code::ResourceExhausted);
  EXPECT_EQ(session.error().message,
            "the KV cache needs 0.0 MiB for 1 x 1024 tokens, 0.0 MiB are available beside 24.0 MiB "
            "of weights and 8.0 MiB of activations (cuda:0 (Test) has 32.0 MiB free of 64.0 MiB); "
            "--context 384 would fit");
  model.memory->weights = 33 << 20;
  EXPECT_EQ(fakeSession(model, options).error().message,
            "the plan needs 33.0 MiB of weights and 8.0 MiB of activations, cuda:0 (Test) has 32.0 "
            "MiB free of 64.0 MiB; end what else uses it, take a larger device, or choose --device "
            "cpu");
  model.memory->weights = UINT64_MAX;
  model.memory->activations = UINT64_MAX;
  EXPECT_FALSE(fakeSession(model, options));
}

TEST(Session, ChoosesAContext) {
  SessionModel model = fakeModel();
  EXPECT_EQ(make(model, {}).context(), 2000);
  model.maxPositions = 10000;
  EXPECT_EQ(make(model, {}).context(), 4096);
  SessionOptions options;
  options.context = 10001;
  auto session = fakeSession(model, options);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().message, "a context of 10001 tokens was asked for, the plan allows "
                                     "10000; ask for less with --context");
  options.context = 50;
  options.maxStep = 8;
  EXPECT_EQ(make(model, options).maxStep(), 8);
  EXPECT_EQ(make(model, options, 7).maxRows(), 7);
  options.maxSequences = 0;
  EXPECT_FALSE(fakeSession(model, options));
}

Sampler samplerOf(double temperature, double penalty = 1) {
  SamplerOptions options;
  options.temperature = temperature;
  options.repetitionPenalty = penalty;
  options.topK = 7;
  options.seed = 11;
  return std::move(*Sampler::create(options, fakeModel().vocab));
}

TEST(Session, SamplesWhereTheDeviceCannot) {
  for (double temperature : {0.0, 2.0}) {
    Session session = make(fakeModel(), {}), other = make(fakeModel(), {});
    int32_t s = *session.addSequence(), o = *other.addSequence();
    Sampler sampler = samplerOf(temperature), same = samplerOf(temperature);
    auto tokens = someTokens(70, 3);
    for (size_t at = 0; at < tokens.size(); at += 35) {
      auto part = std::span(tokens).subspan(at, 35);
      auto id = session.sample(s, part, sampler);
      ASSERT_TRUE(id) << id.error().message;
      EXPECT_EQ(*id, *same.sample(*other.append(o, part)));
    }
    EXPECT_EQ(session.length(s), 70);
  }
  Session session = make(fakeModel(), {});
  Sampler sampler = samplerOf(1);
  EXPECT_FALSE(session.sample(*session.addSequence(), {}, sampler));
}

TEST(Session, LetsTheDeviceChoose) {
  FakeExecutor *fake = nullptr;
  SessionOptions options;
  options.maxSequences = 4;
  Session session = make(choosingModel(), options, 1 << 20, &fake);
  EXPECT_TRUE(session.samplesOnDevice());
  const auto tokens = someTokens(9, 4);
  Sampler greedy = samplerOf(0), drawn = samplerOf(1), sameDraws = samplerOf(1),
          penalized = samplerOf(1, 1.2), samePenalized = samplerOf(1, 1.2);
  int32_t ids[3] = {-5, -5, -5};
  std::vector<Append> parts;
  for (int i = 0; i < 4; ++i)
    parts.push_back({*session.addSequence(), tokens, 1});
  parts[0].sampler = &greedy, parts[0].sampled = &ids[0];
  parts[1].sampler = &drawn, parts[1].sampled = &ids[1], parts[1].rows = 3;
  parts[2].sampler = &penalized, parts[2].sampled = &ids[2];
  std::vector<std::pair<size_t, int64_t>> told;
  std::vector<float> last;
  ASSERT_TRUE(session.run(parts, [&](size_t part, int64_t token, std::span<const float> logits) {
    told.push_back({part, token});
    EXPECT_EQ(logits.size(), size_t(session.vocab()));
    EXPECT_EQ(logits[0], logits[0]); // is there
    last.assign(logits.begin(), logits.end());
    return ok();
  }));
  // Two rows of logits before the one that is sampled, and those of the part without a sampler.
  EXPECT_EQ(told, (std::vector<std::pair<size_t, int64_t>>{{1, 6}, {1, 7}, {3, 8}}));
  // All sequences are the same, so `last` are everybody's logits. A penalty needs them.
  EXPECT_EQ(ids[0], std::max_element(last.begin(), last.end()) - last.begin());
  EXPECT_EQ(ids[1], int32_t(sameDraws.draw()->random % session.vocab()));
  EXPECT_EQ(ids[2], *samePenalized.sample(last));
}

TEST(Session, CopiesNoLogitsWhenIdsAreEnough) {
  FakeExecutor *fake = nullptr;
  Session session = make(choosingModel(), {}, 1 << 20, &fake);
  int32_t s = *session.addSequence();
  Sampler sampler = samplerOf(1);
  for (int32_t token : {1, 2, 3}) {
    ASSERT_TRUE(session.sample(s, {&token, 1}, sampler));
    ASSERT_EQ(fake->samplings.size(), 1u);
    EXPECT_EQ(fake->samplings[0].flags, RowSampling::writesLogits | RowSampling::draws);
    EXPECT_EQ(fake->samplings[0].topK, 7);
    ASSERT_EQ(fake->wanted.size(), 1u);
    EXPECT_EQ(fake->wanted[0].index, 0u); // ids
    EXPECT_EQ(fake->wanted[0].bytes, 4u);
  }
  Sampler greedy = samplerOf(0);
  const int32_t token = 4;
  ASSERT_TRUE(session.sample(s, {&token, 1}, greedy));
  EXPECT_EQ(fake->samplings[0].flags, 0u); // its largest logit, which nobody reads
  // Each run of rows whose logits are wanted is one part.
  const int32_t tokens[4] = {1, 2, 3, 4};
  int32_t id = 0;
  ASSERT_TRUE(session.run(std::vector<Append>{{s, tokens, 4, false, &greedy, &id}},
                          [](size_t, int64_t, std::span<const float>) { return ok(); }));
  ASSERT_EQ(fake->wanted.size(), 2u);
  EXPECT_EQ(fake->wanted[0].index, 1u); // logits
  EXPECT_EQ(fake->wanted[0].offset, 0u);
  EXPECT_EQ(fake->wanted[0].bytes, 3 * 50 * sizeof(float));
  EXPECT_EQ(fake->wanted[1].bytes, 4 * sizeof(int32_t));
  EXPECT_EQ(fake->samplings[2].flags, RowSampling::writesLogits);
}

TEST(Session, AFailedStepTakesNoRandomNumber) {
  for (bool choosing : {false, true}) {
    FakeExecutor *fake = nullptr;
    Session session = make(choosing ? choosingModel() : fakeModel(), {}, 1 << 20, &fake);
    int32_t s = *session.addSequence();
    Sampler sampler = samplerOf(1);
    const int32_t token = 1;
    const uint64_t before = sampler.draw()->random;
    fake->failAt = 1;
    EXPECT_FALSE(session.sample(s, {&token, 1}, sampler));
    EXPECT_EQ(sampler.draw()->random, before);
    EXPECT_TRUE(session.sample(s, {&token, 1}, sampler));
    EXPECT_NE(sampler.draw()->random, before);
  }
}

TEST(Session, TrustsNoIdOfADevice) {
  FakeExecutor *fake = nullptr;
  Session session = make(choosingModel(), {}, 1 << 20, &fake);
  int32_t s = *session.addSequence();
  Sampler sampler = samplerOf(0);
  auto errorOf = [&](int32_t id) {
    fake->forcedId = id;
    const int32_t token = 1;
    auto result = session.sample(s, {&token, 1}, sampler);
    return result ? std::string() : result.error().message;
  };
  EXPECT_EQ(errorOf(49), "");
  EXPECT_EQ(errorOf(50), "the plan's kernels chose token 50, the vocabulary ends at 49");
  EXPECT_EQ(errorOf(kNothingToChoose), "the logits of all tokens are minus infinity");
  EXPECT_EQ(errorOf(badLogitId(0)), "the logit of token 0 is not a finite number");
  EXPECT_EQ(errorOf(badLogitId(17)), "the logit of token 17 is not a finite number");
  const int32_t token = 1;
  EXPECT_FALSE(session.run(std::vector<Append>{{s, {&token, 1}, 0, false, &sampler}},
                           [](size_t, int64_t, std::span<const float>) { return ok(); }));
}

// Masks reach a device that takes them, in any number, and give the same tokens as on the host.
TEST(Session, LetsTheDeviceChooseByMasks) {
  constexpr int32_t sequences = 3;
  FakeExecutor *fake = nullptr;
  SessionOptions options;
  options.maxSequences = sequences;
  Session masking = make(maskingModel(), options, 1 << 20, &fake),
          choosing = make(choosingModel(), options);
  std::mt19937 random(8);
  const std::vector<int32_t> tokens = someTokens(6, 7), forbidden{3, 40};
  std::vector<Sampler> onDevice, onHost;
  for (int i = 0; i < 5; ++i) { // greedy, for the fake draws in a way of its own
    onDevice.push_back(samplerOf(0));
    onHost.push_back(samplerOf(0));
  }
  for (int round = 0; round < 20; ++round) {
    std::vector<std::vector<uint32_t>> masks;
    for (int i = 0; i < 5; ++i)
      masks.push_back({uint32_t(random() | 1), uint32_t(random())});
    std::vector<int32_t> ids[2] = {std::vector<int32_t>(5, -1), std::vector<int32_t>(5, -1)};
    size_t told = 0;
    for (bool device : {true, false}) {
      Session &session = device ? masking : choosing;
      std::vector<Append> parts;
      for (int32_t s = 0; s < sequences; ++s)
        ASSERT_TRUE(session.addSequence());
      for (int i = 0; i < 5; ++i) { // two of the sequences have two parts
        Sampler &sampler = (device ? onDevice : onHost)[i];
        if (i < 4)
          ASSERT_TRUE(sampler.setMask(masks[i]));
        if (i > 2)
          sampler.forbid(forbidden);
        parts.push_back({i % sequences, tokens, 1, false, &sampler, &ids[!device][i]});
      }
      auto status = session.run(parts, [&](size_t, int64_t, std::span<const float>) {
        ++told;
        return ok();
      });
      ASSERT_TRUE(status) << status.error().message;
      for (int32_t s = 0; s < sequences; ++s)
        session.removeSequence(s);
    }
    EXPECT_EQ(told, 0u);
    EXPECT_EQ(ids[0], ids[1]);
    for (int i = 0; i < 4; ++i)
      EXPECT_TRUE(masks[i][ids[0][i] / 32] >> ids[0][i] % 32 & 1);
    // A device has a mask for each sequence; of the other rows it gives the logits.
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(fake->samplings[i].flags, i < sequences
                                              ? RowSampling::writesLogits | RowSampling::masked
                                              : uint32_t(RowSampling::writesLogits));
      EXPECT_EQ(fake->samplings[i].mask, i < sequences ? i : 0);
    }
    ASSERT_EQ(fake->wanted.size(), 2u);
    EXPECT_EQ(fake->wanted[0].bytes, 2 * 50 * sizeof(float));
    EXPECT_EQ(fake->wanted[1].bytes, 5 * sizeof(int32_t)); // ids
  }
}

// A draw takes a random number on the device too; masks that allow nothing are the same error.
TEST(Session, DrawsByMasks) {
  FakeExecutor *fake = nullptr;
  Session session = make(maskingModel(), {}, 1 << 20, &fake);
  const int32_t s = *session.addSequence(), token = 1;
  Sampler sampler = samplerOf(1);
  const std::vector<uint32_t> mask{0, 1u << 9}, nothing{0, 0};
  ASSERT_TRUE(sampler.setMask(mask));
  const uint64_t before = sampler.draw()->random;
  auto id = session.sample(s, {&token, 1}, sampler);
  ASSERT_TRUE(id) << id.error().message;
  EXPECT_EQ(*id, 41);
  EXPECT_NE(sampler.draw()->random, before);
  EXPECT_EQ(fake->samplings[0].flags,
            RowSampling::writesLogits | RowSampling::draws | RowSampling::masked);
  ASSERT_TRUE(sampler.setMask(nothing));
  id = session.sample(s, {&token, 1}, sampler);
  ASSERT_FALSE(id);
  Session host = make(fakeModel(), {});
  auto onHost = host.sample(*host.addSequence(), {&token, 1}, sampler);
  ASSERT_FALSE(onHost);
  EXPECT_EQ(id.error().message, onHost.error().message);
  // Without a mask nothing is brought.
  ASSERT_TRUE(sampler.setMask({}));
  ASSERT_TRUE(session.sample(s, {&token, 1}, sampler));
  EXPECT_EQ(fake->samplings[0].flags, RowSampling::writesLogits | RowSampling::draws);
}

// Parts that want hidden states beside parts that want logits and tokens; the same states in any
// steps.
TEST(Session, GivesHiddenStates) {
  const std::vector<int32_t> tokens = someTokens(100, 3), other = someTokens(9, 4);
  Rows expected;
  for (bool choosing : {false, true})
    for (int32_t maxRows : {1, 7, 1000}) {
      FakeExecutor *fake = nullptr;
      SessionOptions options;
      options.maxSequences = 3;
      Session session = make(embeddingModel(choosing), options, maxRows, &fake);
      EXPECT_EQ(session.hidden(), 24);
      Sampler sampler = samplerOf(0);
      int32_t id = -1;
      std::vector<Append> parts{{*session.addSequence(), other, 2},
                                {*session.addSequence(), tokens, int64_t(tokens.size())},
                                {*session.addSequence(), other, 1, false, &sampler, &id}};
      parts[1].hidden = true;
      Rows states, logits;
      auto status = session.run(parts, [&](size_t part, int64_t, std::span<const float> values) {
        (part == 1 ? states : logits).emplace_back(values.begin(), values.end());
        EXPECT_EQ(values.size(), part == 1 ? 24u : 50u);
        return ok();
      });
      ASSERT_TRUE(status) << status.error().message;
      EXPECT_EQ(logits.size(), 2u);
      EXPECT_GE(id, 0);
      if (expected.empty())
        expected = states;
      EXPECT_EQ(states, expected);
    }
  ASSERT_EQ(expected.size(), 100u);
  EXPECT_NE(expected[0], expected[1]);
}

// Of a step whose rows want hidden states nothing else is read.
TEST(Session, CopiesHiddenStatesAlone) {
  FakeExecutor *fake = nullptr;
  Session session = make(embeddingModel(true), {}, 1 << 20, &fake);
  const std::vector<int32_t> tokens = someTokens(5, 3);
  Append part{*session.addSequence(), tokens, 3};
  part.hidden = true;
  const auto sink = [](size_t, int64_t, std::span<const float>) { return ok(); };
  ASSERT_TRUE(session.run({&part, 1}, sink));
  ASSERT_EQ(fake->wanted.size(), 1u);
  EXPECT_EQ(fake->wanted[0].index, 2u);
  EXPECT_EQ(fake->wanted[0].bytes, 3 * 24 * sizeof(float));
  for (const RowSampling &row : fake->samplings)
    EXPECT_EQ(row.flags, 0u);
}

TEST(Session, RefusesHiddenStatesThatItHasNot) {
  const int32_t token = 1;
  const auto sink = [](size_t, int64_t, std::span<const float>) { return ok(); };
  Session without = make(fakeModel(), {});
  EXPECT_EQ(without.hidden(), 0);
  Append part{*without.addSequence(), {&token, 1}};
  part.hidden = true;
  Status status = without.run({&part, 1}, sink);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message,
            "this plan gives no hidden states: compile it with --embeddings");
  EXPECT_EQ(without.length(part.sequence), 0);

  Session with = make(embeddingModel(), {});
  Sampler sampler = samplerOf(0);
  int32_t id = 0;
  part.sequence = *with.addSequence();
  part.sampler = &sampler, part.sampled = &id;
  EXPECT_FALSE(with.run({&part, 1}, sink));
}

} // namespace
