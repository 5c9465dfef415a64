// The C interface, on the toy plan.
#include "runtime/moe.h"

#include "test/runtime/CApiUser.h"
#include "test/runtime/ToyPlan.h"

#include <algorithm>
#include <gtest/gtest.h>

using namespace moe;

namespace {

class CApi : public testing::Test {
protected:
  static void SetUpTestSuite() { toy::writePlan(path()); }
  static std::string path() { return testing::TempDir() + "moe-c-api.plan"; }
  void SetUp() override { ASSERT_EQ(moe_plan_open(path().c_str(), &plan), MOE_OK); }
  void TearDown() override {
    moe_session_free(session);
    moe_plan_free(plan);
  }
  moe_plan *plan = nullptr;
  moe_session *session = nullptr;
};

TEST_F(CApi, CompletesFromC) {
  std::string expected;
  int32_t sum = 256 + 'H' + 'i';
  for (int i = 0; i < 10; ++i) {
    int32_t next = toy::nextToken(sum % (26 * 41));
    if (next == toy::eos)
      break;
    expected += char(next);
    sum += next;
  }
  char answer[100];
  EXPECT_EQ(completeInC(path().c_str(), "Hi", 10, nullptr, answer, sizeof answer), nullptr);
  EXPECT_EQ(answer, expected);
  const std::string stop = expected.substr(3, 2);
  EXPECT_EQ(completeInC(path().c_str(), "Hi", 10, stop.c_str(), answer, sizeof answer), nullptr);
  EXPECT_EQ(answer, expected.substr(0, 3));
  // A callback that ends the generation is no error.
  EXPECT_EQ(completeInC(path().c_str(), "Hi", 10, nullptr, answer, 4), nullptr);
  EXPECT_EQ(answer, expected.substr(0, 3));
  EXPECT_NE(std::string(completeInC("/nonexistent", "Hi", 1, nullptr, answer, 4)), "");
}

TEST_F(CApi, RunsSeveralSequences) {
  EXPECT_EQ(moe_plan_vocab(plan), toy::vocab);
  EXPECT_EQ(moe_plan_max_positions(plan), 1 << 24);
  EXPECT_TRUE(moe_plan_has_tokenizer(plan));
  size_t length;
  EXPECT_EQ(*moe_token_bytes(plan, 'x', &length), 'x');
  EXPECT_EQ(length, 1u);
  int32_t two[2];
  size_t count;
  EXPECT_EQ(moe_tokenize(plan, "Hello", 5, two, 2, &count), MOE_OK);
  EXPECT_EQ(count, 6u);
  EXPECT_EQ(two[1], 'H');

  const moe_session_options options = {nullptr, 2, 2, 100, nullptr};
  ASSERT_EQ(moe_session_create(plan, &options, &session), MOE_OK) << moe_last_error();
  EXPECT_EQ(moe_session_context(session), 100);
  int32_t a, b, c;
  ASSERT_EQ(moe_sequence_add(session, &a), MOE_OK);
  ASSERT_EQ(moe_sequence_add(session, &b), MOE_OK);
  EXPECT_EQ(moe_sequence_add(session, &c), MOE_RESOURCE_EXHAUSTED);
  const int32_t tokens[] = {10, 20, 30, 40};
  const moe_append appends[] = {{a, tokens, 2, 2}, {b, tokens + 2, 2, 1}};
  std::vector<int32_t> best;
  auto collect = [](void *best, size_t, int64_t, const float *logits) {
    static_cast<std::vector<int32_t> *>(best)->push_back(
        int32_t(std::max_element(logits, logits + toy::vocab) - logits));
    return 0;
  };
  ASSERT_EQ(moe_run(session, appends, 2, collect, &best), MOE_OK) << moe_last_error();
  EXPECT_EQ(best,
            (std::vector<int32_t>{toy::nextToken(10), toy::nextToken(30), toy::nextToken(70)}));
  EXPECT_EQ(moe_sequence_length(session, b), 2);
  EXPECT_EQ(moe_sequence_truncate(session, b, 1), MOE_OK);
  EXPECT_EQ(moe_sequence_length(session, b), 1);
  EXPECT_EQ(moe_sequence_remove(session, b), MOE_OK);
  EXPECT_EQ(moe_sequence_length(session, b), -1);
  EXPECT_EQ(moe_run(session, appends, 2, collect, &best), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(moe_last_error()), "there is no sequence 1");
  EXPECT_EQ(moe_run(session, appends, 1, nullptr, nullptr), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(
      moe_run(
          session, appends, 1, [](void *, size_t, int64_t, const float *) { return 1; }, nullptr),
      MOE_CANCELLED);
}

TEST_F(CApi, PlacesWeights) {
  for (const char *numa : {(const char *)nullptr, "auto", "off", "interleave", "replicate"}) {
    const moe_session_options options = {"cpu", 3, 1, 100, numa};
    ASSERT_EQ(moe_session_create(plan, &options, &session), MOE_OK) << moe_last_error();
    int32_t sequence;
    ASSERT_EQ(moe_sequence_add(session, &sequence), MOE_OK);
    const int32_t tokens[] = {10, 20};
    const moe_append append = {sequence, tokens, 2, 1};
    int32_t best = -1;
    const auto note = [](void *best, size_t, int64_t, const float *logits) {
      *static_cast<int32_t *>(best) =
          int32_t(std::max_element(logits, logits + toy::vocab) - logits);
      return 0;
    };
    ASSERT_EQ(moe_run(session, &append, 1, note, &best), MOE_OK) << moe_last_error();
    EXPECT_EQ(best, toy::nextToken(30));
    moe_session_free(session);
    session = nullptr;
  }
}

TEST_F(CApi, RefusesOptions) {
  const auto errorOf = [&](moe_session_options options) {
    EXPECT_EQ(moe_session_create(plan, &options, &session), MOE_INVALID_ARGUMENT);
    return std::string(moe_last_error());
  };
  EXPECT_EQ(errorOf({"cpu", -1, 1, 100, nullptr}), "context, step and threads cannot be negative");
  EXPECT_EQ(errorOf({"cpu", INT32_MAX, 1, 100, nullptr}),
            "2147483647 threads were asked for; give 1 to 4096, or 0 for one for each core");
  for (const char *numa : {"", "on", "Replicate"})
    EXPECT_EQ(errorOf({"cpu", 1, 1, 100, numa}),
              "numa is auto, off, interleave or replicate, not '" + std::string(numa) + "'");
}

TEST_F(CApi, RefusesNonsense) {
  EXPECT_EQ(moe_plan_open(nullptr, &plan), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(moe_session_create(nullptr, nullptr, &session), MOE_INVALID_ARGUMENT);
  ASSERT_EQ(moe_session_create(plan, nullptr, &session), MOE_OK);
  EXPECT_EQ(moe_sequence_remove(session, 0), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(moe_generate(session, 0, nullptr, 0, nullptr, nullptr, nullptr, nullptr),
            MOE_INVALID_ARGUMENT);
  int32_t sequence;
  ASSERT_EQ(moe_sequence_add(session, &sequence), MOE_OK);
  const int32_t prompt = 'x';
  moe_generate_options options = moe_generate_options_default();
  options.top_p = 2;
  EXPECT_EQ(moe_generate(session, sequence, &prompt, 1, &options, nullptr, nullptr, nullptr),
            MOE_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(moe_last_error()), "top-p must be above 0 and at most 1, not 2");
}

TEST_F(CApi, SeesPictures) {
  EXPECT_FALSE(moe_plan_takes_images(plan));
  ASSERT_EQ(moe_session_create(plan, nullptr, &session), MOE_OK);
  std::vector<uint8_t> pixels(toy::tileBytes, 3);
  moe_image *image = nullptr;
  EXPECT_EQ(moe_image_from_pixels(session, pixels.data(), 8, 8, 0, &image), MOE_INVALID_ARGUMENT);
  EXPECT_NE(std::string(moe_last_error()).find("takes no pictures"), std::string::npos);
  EXPECT_EQ(moe_image_from_file(session, "P6", 2, 0, &image), MOE_INVALID_ARGUMENT);

  const std::string eyes = testing::TempDir() + "moe-c-api-eyes.plan";
  toy::writePlan(eyes, {.vision = true});
  moe_plan *seeing = nullptr;
  moe_session *with = nullptr;
  ASSERT_EQ(moe_plan_open(eyes.c_str(), &seeing), MOE_OK);
  EXPECT_TRUE(moe_plan_takes_images(seeing));
  ASSERT_EQ(moe_session_create(seeing, nullptr, &with), MOE_OK);
  EXPECT_EQ(moe_image_from_pixels(with, pixels.data(), 0, 8, 0, &image), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(moe_image_from_pixels(with, pixels.data(), 8, 8, 99, &image), MOE_INVALID_ARGUMENT);
  ASSERT_EQ(moe_image_from_pixels(with, pixels.data(), 8, 8, 1, &image), MOE_OK);
  int32_t ids[16] = {256}; // one before the picture
  size_t count = 0;
  ASSERT_EQ(moe_image_tokens(image, nullptr, 0, &count), MOE_OK);
  ASSERT_EQ(count, 7u);
  ASSERT_EQ(moe_image_tokens(image, ids + 1, 15, &count), MOE_OK);
  EXPECT_EQ(std::vector<int32_t>(ids, ids + 8),
            (std::vector<int32_t>{256, 261, 265, 266, 266, 266, 266, 262}));

  // The same picture as a file.
  const std::string ppm = "P6 8 8 255\n" + std::string(toy::tileBytes, char(3));
  moe_image *same = nullptr;
  ASSERT_EQ(moe_image_from_file(with, ppm.data(), ppm.size(), 0, &same), MOE_OK)
      << moe_last_error();
  int32_t sum = 256 + 261 + 265 + 262;
  for (int32_t row = 0; row < toy::rowsPerTile; ++row)
    sum += toy::rowOfTile(3 * toy::tileBytes, row);
  for (const moe_image *each : {image, same}) {
    int32_t sequence = -1, best = -1;
    ASSERT_EQ(moe_sequence_add(with, &sequence), MOE_OK);
    const moe_image_place none{1, nullptr}, place{1, each};
    const moe_append append{sequence, ids, 8, 1};
    const auto onRow = [](void *context, size_t, int64_t, const float *logits) {
      *static_cast<int32_t *>(context) =
          int32_t(std::max_element(logits, logits + toy::vocab) - logits);
      return 0;
    };
    EXPECT_EQ(moe_sequence_set_images(with, sequence, &none, 1), MOE_INVALID_ARGUMENT);
    EXPECT_EQ(moe_sequence_set_images(with, 9, &place, 1), MOE_INVALID_ARGUMENT);
    EXPECT_EQ(moe_sequence_set_images(with, sequence, &place, 1), MOE_OK);
    EXPECT_EQ(moe_run(with, &append, 1, onRow, &best), MOE_OK) << moe_last_error();
    EXPECT_EQ(best, toy::nextToken(sum % (26 * 41)));
    EXPECT_EQ(moe_sequence_remove(with, sequence), MOE_OK);
  }
  moe_image_free(same);
  moe_image_free(image);
  moe_image_free(nullptr);
  moe_session_free(with);
  moe_plan_free(seeing);
}

} // namespace
