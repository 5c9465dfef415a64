// Bundles that are right, wrong in one place, and damaged anywhere.
#include "tools/gpu-check/Bundle.h"
#include "tools/gpu-check/Pattern.h"

#include <cmath>
#include <gtest/gtest.h>
#include <random>

using namespace moe;
using namespace moe::gpucheck;

namespace {

// The least there can be: one kernel, one case with an operand of each kind.
fb::BundleT smallBundle() {
  fb::BundleT bundle;
  bundle.version = kBundleVersion;
  bundle.target = "sm_90a";
  auto kernel = std::make_unique<fb::KernelT>();
  kernel->name = "norm";
  kernel->ptx = ".version 8.0";
  kernel->threads = 128;
  kernel->blocks_per_sm = 2;
  bundle.kernels.push_back(std::move(kernel));
  bundle.blobs.push_back(std::make_unique<fb::BlobT>());
  bundle.blobs[0]->bytes.resize(64);
  bundle.probes = std::make_unique<fb::ProbesT>();
  bundle.text = std::make_unique<fb::TextT>();
  bundle.text->prompt = {1, 2};
  bundle.text->tokens = {3};
  bundle.text->margins = {1};
  bundle.text->logits = {0, 0, 0, 1};
  auto of = std::make_unique<fb::CaseT>();
  of->name = "norm";
  of->shapes = "small";
  of->tokens = of->blocks = 1;
  for (fb::Fill fill : {fb::Fill::Undefined, fb::Fill::Zero, fb::Fill::Pattern, fb::Fill::Stored}) {
    of->operands.push_back(std::make_unique<fb::OperandT>());
    of->operands.back()->fill = fill;
    of->operands.back()->bytes = 64;
  }
  of->checks.push_back(std::make_unique<fb::CheckT>());
  of->checks[0]->at = {0, 15};
  of->checks[0]->want = {1, 2};
  bundle.cases.push_back(std::move(of));
  return bundle;
}

std::vector<std::byte> bytesOf(const fb::BundleT &bundle) {
  flatbuffers::FlatBufferBuilder builder;
  fb::FinishBundleBuffer(builder, fb::Bundle::Pack(builder, &bundle));
  auto bytes = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
  return {bytes.begin(), bytes.end()};
}

std::string errorOf(const std::vector<std::byte> &bytes) {
  auto bundle = Bundle::open(bytes);
  return bundle ? "" : bundle.error().message;
}

TEST(Bundle, OpensWhatIsRight) { EXPECT_EQ(errorOf(bytesOf(smallBundle())), ""); }

TEST(Bundle, SaysWhatIsWrong) {
  using Change = void (*)(fb::BundleT &);
  const std::pair<Change, const char *> changes[] = {
      {[](auto &b) { b.version = 7; }, "of version 7"},
      {[](auto &b) { b.kernels[0]->threads = 0; }, "0 threads"},
      {[](auto &b) { b.kernels[0]->threads = 2048; }, "2048 threads"},
      {[](auto &b) { b.kernels[0]->shared_bytes = 1 << 20; }, "shared memory"},
      {[](auto &b) { b.kernels[0]->blocks_per_sm = 0; }, "0 blocks a multiprocessor"},
      {[](auto &b) { b.cases[0]->kernel = 1; }, "runs kernel 1 of 1"},
      {[](auto &b) { b.cases[0]->tokens = 0; }, "no possible size"},
      {[](auto &b) { b.cases[0]->blocks = 0; }, "no possible size"},
      {[](auto &b) { b.cases[0]->context = ~0u; }, "no possible size"},
      {[](auto &b) { b.cases[0]->operands[0]->bytes = ~0ull; }, "operand 0 of case 'norm' takes"},
      {[](auto &b) { b.cases[0]->operands[2]->bytes = 63; }, "a part of an element"},
      {[](auto &b) { b.cases[0]->operands[2]->scale = NAN; }, "a pattern without a size"},
      {[](auto &b) { b.cases[0]->operands[2]->element = fb::Element::I32; }, "no type of floats"},
      {[](auto &b) { b.cases[0]->operands[2]->at = {1}; }, "in an unknown way"},
      {[](auto &b) {
         b.cases[0]->operands[2]->at = {16};
         b.cases[0]->operands[2]->put = {1};
       },
       "replaces element 16 of 16"},
      {[](auto &b) { b.cases[0]->operands[3]->blob = 1; }, "is blob 1 of 1"},
      {[](auto &b) { b.cases[0]->operands[3]->bytes = 63; }, "another size than its blob"},
      {[](auto &b) { b.cases[0]->operands[1]->fill = fb::Fill(9); }, "filled in an unknown way"},
      {[](auto &b) { b.cases[0]->checks[0]->operand = 4; }, "checks operand 4 of 4"},
      {[](auto &b) { b.cases[0]->checks[0]->at = {0, 16}; }, "checks element 16 of 16"},
      {[](auto &b) { b.cases[0]->checks[0]->at = {0, ~0ull}; }, "checks element"},
      {[](auto &b) { b.cases[0]->checks[0]->at = {0}; }, "elements without a value"},
      {[](auto &b) { b.cases[0]->checks[0]->absolute = NAN; }, "no tolerance"},
      {[](auto &b) { b.cases[0]->checks[0]->element = fb::Element(7); }, "an unknown type"},
      {[](auto &b) { b.cases[0]->checks[0]->terms = 0; }, "adds up"},
      {[](auto &b) { b.cases[0]->checks[0]->stride = ~0ull; }, "adds up"},
      {[](auto &b) {
         b.cases[0]->checks[0]->terms = 3;
         b.cases[0]->checks[0]->stride = 1;
       },
       "checks element 15 of 16"},
      {[](auto &b) { b.probes->products = 3; }, "a probe is kernel 3 of 1"},
      {[](auto &b) { b.text->tokens.clear(); }, "its text has"},
      {[](auto &b) { b.text->margins.clear(); }, "its text has"},
      {[](auto &b) { b.text->logits.clear(); }, "its text has"},
  };
  for (const auto &[change, message] : changes) {
    fb::BundleT bundle = smallBundle();
    change(bundle);
    EXPECT_NE(errorOf(bytesOf(bundle)).find(message), std::string::npos)
        << errorOf(bytesOf(bundle)) << ", expected: " << message;
  }
}

TEST(Bundle, RefusesOtherFiles) {
  EXPECT_NE(errorOf({}).find("does not begin"), std::string::npos);
  EXPECT_NE(errorOf(std::vector<std::byte>(100)).find("does not begin"), std::string::npos);
  auto missing = Bundle::open(std::string("/nowhere"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::IoError);
  EXPECT_NE(missing.error().message.find("/nowhere/kernels.bundle"), std::string::npos);
}

// As gpu-check reads it: every byte that an accepted bundle names must be there.
void use(const fb::Bundle &bundle) {
  size_t sum = 0;
  for (const fb::Case *of : *bundle.cases()) {
    sum += bundle.kernels()->Get(of->kernel())->ptx()->size();
    for (const fb::Operand *operand : *of->operands()) {
      if (operand->fill() == fb::Fill::Stored)
        for (uint64_t i = 0; i < operand->bytes(); ++i)
          sum += bundle.blobs()->Get(operand->blob())->bytes()->Get(uint32_t(i));
      for (uint32_t i = 0; operand->at() && i < operand->at()->size(); ++i)
        sum += operand->put()->Get(i) > 0;
    }
    for (const fb::Check *check : *of->checks())
      for (uint32_t i = 0; i < check->at()->size(); ++i)
        sum += difference(*check, i, 0).size();
  }
  const fb::Text &text = *bundle.text();
  for (uint32_t i = 0; i < text.tokens()->size(); ++i)
    sum += text.margins()->Get(i) > 0;
  EXPECT_LT(sum, size_t(1) << 40);
}

TEST(Bundle, SurvivesDamage) {
  const std::vector<std::byte> whole = bytesOf(smallBundle());
  for (size_t length = 0; length < whole.size(); ++length)
    if (auto bundle = Bundle::open(std::vector(whole.begin(), whole.begin() + ptrdiff_t(length))))
      use(bundle->root());
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> bytes = whole;
    for (uint32_t i = 0; i <= random() % 4; ++i)
      bytes[random() % bytes.size()] = std::byte(random() % 4 ? random() : 0xff);
    if (auto bundle = Bundle::open(std::move(bytes)))
      use(bundle->root());
  }
}

TEST(Bundle, ComparesWithinTheTolerance) {
  fb::BundleT bundle = smallBundle();
  fb::CheckT &check = *bundle.cases[0]->checks[0];
  check.relative = 0.1f;
  check.absolute = 0.5f;
  auto opened = Bundle::open(bytesOf(bundle));
  ASSERT_TRUE(opened);
  const fb::Check &of = *opened->root().cases()->Get(0)->checks()->Get(0);
  EXPECT_EQ(difference(of, 1, 2.69f), "");
  EXPECT_EQ(difference(of, 1, 2.8f), "element 15 of operand 0 is 2.8, expected 2 within 0.7");
  EXPECT_NE(difference(of, 1, NAN), "");
}

TEST(Pattern, IsTheSameEverywhere) {
  EXPECT_EQ(patternBits(fb::Element::F32, 1, 1, 0),
            patternBits(fb::Element::F32, 1, 1, kPatternPeriod));
  EXPECT_NE(patternBits(fb::Element::F32, 1, 1, 0), patternBits(fb::Element::F32, 2, 1, 0));
  for (fb::Element element : {fb::Element::F32, fb::Element::BF16, fb::Element::F16}) {
    const std::vector<std::byte> period = patternPeriod(element, 3, 2);
    double sum = 0;
    for (uint64_t i = 0; i < kPatternPeriod; ++i) {
      const float value = readElement(element, &period[i * gpucheck::bytesOf(element)]);
      ASSERT_LE(std::abs(value), 2);
      sum += value;
    }
    EXPECT_NEAR(sum / kPatternPeriod, 0, 0.01);
    EXPECT_EQ(readElement(element, period.data()), patternValue(element, 3, 2, 0));
  }
}

} // namespace
