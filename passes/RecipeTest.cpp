// Recipes choose the formats that they say, and explain what they cannot read.
#include "passes/Recipe.h"

#include <gtest/gtest.h>

using namespace llvm;
using namespace moe;

namespace {

constexpr WeightKind kKinds[] = {WeightKind::Embedding, WeightKind::Attention, WeightKind::Shared,
                                 WeightKind::Routed,    WeightKind::Dense,     WeightKind::Head};

std::string errorOf(StringRef text) {
  Expected<Recipe> recipe = Recipe::parse(text);
  return recipe ? "no error" : toString(recipe.takeError());
}

// The format's name, or the error.
std::string choose(StringRef text, WeightKind kind, StringRef name = "w", int64_t cols = 5120,
                   std::optional<WeightFormat> encoding = std::nullopt) {
  Expected<Recipe> recipe = Recipe::parse(text);
  if (!recipe)
    return toString(recipe.takeError());
  Expected<WeightFormat> format = recipe->choose(kind, name, cols, encoding);
  return format ? nameOf(*format) : toString(format.takeError());
}

void expectPart(const std::string &text, StringRef part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(RecipeTest, bases) {
  for (WeightKind kind : kKinds) {
    const bool ends = kind == WeightKind::Embedding || kind == WeightKind::Head;
    EXPECT_EQ(choose("keep", kind), "bf16");
    EXPECT_EQ(choose("f32", kind), "f32");
    EXPECT_EQ(choose("bf16", kind), "bf16");
    EXPECT_EQ(choose("int8", kind), "int8-g128-f16");
    EXPECT_EQ(choose("int8-row-f32", kind), "int8-g5120-f32");
    EXPECT_EQ(choose("int4", kind), ends ? "int8-g128-f16" : "int4-g128-f16");
    EXPECT_EQ(choose("int4-bf16-g32", kind), ends ? "int8-g32-bf16" : "int4-g32-bf16");
    EXPECT_EQ(choose("fp8", kind), ends ? "int8-g128-f16" : "fp8-g5120-f32");
    EXPECT_EQ(choose("fp8-g128", kind), ends ? "int8-g128-f16" : "fp8-g128-f32");
  }
  EXPECT_EQ(Recipe::parse("int4-g32,head=bf16")->base(), "int4-g32");
}

TEST(RecipeTest, overrides) {
  const char *text = "int4,head=bf16,layers.0.*=int8-row,layers.?.o=f32,routed=int4-g64";
  EXPECT_EQ(choose(text, WeightKind::Head, "head"), "bf16");
  EXPECT_EQ(choose(text, WeightKind::Attention, "layers.0.qkv"), "int8-g5120-f16");
  EXPECT_EQ(choose(text, WeightKind::Attention, "layers.0.o"), "f32"); // the last one counts
  EXPECT_EQ(choose(text, WeightKind::Attention, "layers.10.o"), "int4-g128-f16");
  EXPECT_EQ(choose(text, WeightKind::Routed, "layers.0.moe.down"), "int4-g64-f16");
  EXPECT_EQ(choose(text, WeightKind::Shared, "layers.1.moe.shared_down"), "int4-g128-f16");
  EXPECT_EQ(choose(text, WeightKind::Embedding, "embedding"), "int8-g128-f16");
}

TEST(RecipeTest, towersAreBf16) {
  for (const char *text : {"keep", "bf16", "int8", "int4", "fp8", "keep,int4", "int4,head=bf16"})
    EXPECT_EQ(choose(text, WeightKind::Vision), "bf16") << text;
  EXPECT_EQ(choose("f32", WeightKind::Vision), "f32");
  EXPECT_EQ(choose("int4,vision=int8", WeightKind::Vision), "int8-g128-f16");
  EXPECT_EQ(choose("int4,vision=keep", WeightKind::Vision), "bf16");
  // Groups divide no row of patches: that matrix alone stays as it is.
  EXPECT_EQ(choose("int4,vision=int8", WeightKind::Vision, "vision.patches", 588), "bf16");
  EXPECT_EQ(choose("int4,vision=int8-row", WeightKind::Vision, "vision.patches", 588),
            "int8-g588-f16");
  EXPECT_EQ(choose("int4,vision.patches=f32", WeightKind::Vision, "vision.patches"), "f32");
}

TEST(RecipeTest, keepsWhatTheCheckpointHas) {
  const WeightFormat given{Storage::I4, 32, Storage::BF16, true};
  EXPECT_EQ(choose("keep", WeightKind::Routed, "w", 64, given), "int4-g32-bf16-z");
  EXPECT_EQ(choose("keep,int8", WeightKind::Routed, "w", 64, given), "int4-g32-bf16-z");
  EXPECT_EQ(choose("keep,int8", WeightKind::Routed), "int8-g128-f16");
  EXPECT_EQ(choose("keep,int4", WeightKind::Head), "int8-g128-f16");
  EXPECT_EQ(choose("keep,routed=int8", WeightKind::Routed, "w", 128, given), "int8-g128-f16");
  EXPECT_EQ(choose("int8", WeightKind::Routed, "w", 128, given), "int8-g128-f16");
  EXPECT_EQ(choose("int8,routed=keep", WeightKind::Routed, "w", 128, given), "int4-g32-bf16-z");
  EXPECT_EQ(choose("int8,routed=keep", WeightKind::Routed), "int8-g128-f16");
}

TEST(RecipeTest, groupsDivideRows) {
  EXPECT_EQ(choose("int4", WeightKind::Shared, "layers.1.moe.shared_down", 8000),
            "weight 'layers.1.moe.shared_down' (shared) has rows of 8000 columns, which groups of "
            "128 do not divide: choose another format, for example --weights "
            "int4,layers.1.moe.shared_down=int4-g125");
  expectPart(choose("int4,w=int8-g64", WeightKind::Dense, "w", 131), "--weights int4,w=bf16");
  EXPECT_EQ(choose("int8-row", WeightKind::Dense, "w", 37), "int8-g37-f16");
}

TEST(RecipeTest, names) {
  const std::vector<std::string> names{"embedding", "layers.0.qkv"};
  EXPECT_EQ(Recipe::parse("int4,dense=bf16,layers.*=int8")->unmatched(names), std::nullopt);
  EXPECT_EQ(Recipe::parse("int4,embeding=bf16,lay=int8")->unmatched(names), "embeding");
}

TEST(RecipeTest, saysWhatThereIs) {
  expectPart(errorOf("int3"), "'int3' is no format of weights: use keep, f32, bf16, int4, int8 or "
                              "fp8, the last three with -gN for groups of N columns or -row");
  for (const char *text : {"", "int4-", "int4-g0", "int4-gx", "int4-g-1", "bf16-g32", "int4-f64",
                           "keep-g32", "int4,head=", "int4,,head=bf16", "INT4"})
    expectPart(errorOf(text), "is no format of weights");
  expectPart(errorOf("int4-g128-z"), "zeros other than the middle come with a checkpoint, by keep");
  expectPart(errorOf("int4,int8"), "has the formats 'int4' and 'int8' for all weights");
  expectPart(errorOf("keep,int8,int4"), "for all weights");
  expectPart(errorOf("head=bf16"), "does not say the format of all other weights");
  expectPart(errorOf("int4,norm=bf16"), "norms and routers are stored as f32 always");
  expectPart(errorOf("int4,layers.[=bf16"), "'layers.[' is no pattern of names");
}

} // namespace
