// Sizes of inputs and outputs, and their texts.
#include "runtime/device/TensorSpec.h"

#include <gtest/gtest.h>

using namespace moe;

namespace {

using E = Extent;

TEST(TensorSpec, CountsBytes) {
  const Extents extents{5, 3, 7, 11};
  const auto bytes = [&](ElementType element, std::vector<Dimension> dims) {
    return bytesOf({"x", element, std::move(dims)}, extents);
  };
  EXPECT_EQ(bytes(ElementType::F32, {}), 4u);
  EXPECT_EQ(bytes(ElementType::I32, {{E::Tokens}}), 20u);
  EXPECT_EQ(bytes(ElementType::U8, {{E::Rows}, {E::Constant, 40}}), 120u);
  EXPECT_EQ(bytes(ElementType::U32, {{E::Sequences}, {E::Pages}}), 4u * 77);
  EXPECT_EQ(bytes(ElementType::BF16, {{E::Constant, 2}, {E::Constant, 3}}), 12u);
  EXPECT_EQ(bytes(ElementType::F16, {{E::Tokens}, {E::Constant, 0}}), 0u);
  EXPECT_EQ(bytes(ElementType::U8, {{E::Constant, 1u << 24}, {E::Constant, 1u << 24}}), uint64_t(1)
                                                                                            << 48);
  EXPECT_EQ(bytes(ElementType::F16, {{E::Constant, 1u << 24}, {E::Constant, 1u << 24}}),
            std::nullopt);
  EXPECT_EQ(bytes(ElementType::U8, std::vector<Dimension>(9, {E::Constant, ~0u})), std::nullopt);
  EXPECT_EQ(
      bytesOf({"x", ElementType::I32, {{E::Sequences}, {E::Pages}}}, {1, 1, INT32_MAX, INT32_MAX}),
      std::nullopt);
}

TEST(TensorSpec, KnowsWhatAStepBrings) {
  const auto ofStep = [](std::vector<Dimension> dims) {
    return TensorSpec{"x", ElementType::I32, std::move(dims)}.ofStep();
  };
  EXPECT_TRUE(ofStep({{E::Tokens}}));
  EXPECT_TRUE(ofStep({{E::Rows}, {E::Constant, 40}}));
  EXPECT_FALSE(ofStep({{E::Sequences}, {E::Pages}}));
  EXPECT_FALSE(ofStep({{E::Constant, 3}}));
  EXPECT_FALSE(ofStep({}));
}

TEST(TensorSpec, TellsItsType) {
  EXPECT_EQ(typeText({"x", ElementType::I32, {{E::Tokens}}}), "i32[T]");
  EXPECT_EQ(typeText({"x", ElementType::F32, {{E::Rows}, {E::Constant, 4096}}}), "f32[R, 4096]");
  EXPECT_EQ(typeText({"x", ElementType::U8, {{E::Sequences}, {E::Pages}}}), "u8[S, P]");
  EXPECT_EQ(typeText({"x", ElementType::BF16, {}}), "bf16[]");
}

} // namespace
