#include "compiler/Provenance.h"
#include "llvm/Support/FileSystem.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

using namespace moe;
namespace fs = std::filesystem;

namespace {

std::string textOf(const CompileOptions &options) {
  auto text = shapingOptions(options);
  return text ? *text : "error: " + llvm::toString(text.takeError());
}

TEST(Provenance, DefaultsAreSilent) { EXPECT_EQ(textOf({}), ""); }

TEST(Provenance, HoldsWhatShapesThePlan) {
  CompileOptions options;
  options.targets = {"cuda:sm_90a", "cpu:x86-64-v3"};
  options.weights = "int4,head=bf16";
  options.cache = "bf16";
  options.randomSeed = 0;
  options.layers = 2;
  options.embeddings = true;
  options.tokenizer = false;
  options.maxStep = 64;
  options.allowNonFinite = true;
  options.assemblePtx = false;
  EXPECT_EQ(textOf(options),
            "--target cuda:sm_90a --target cpu:x86-64-v3 --weights int4,head=bf16 --cache bf16 "
            "--random-weights 0 --layers 2 --embeddings --no-tokenizer --max-step 64 "
            "--allow-nonfinite --no-ptxas");
  options = {};
  options.tools = "none";
  EXPECT_EQ(textOf(options), "--tools none");
}

TEST(Provenance, LeavesTheMachineOut) {
  CompileOptions options;
  options.input = "/models/scout";
  options.output = "/plans/scout";
  options.ptxas = "/opt/cuda/bin/ptxas";
  options.jobs = 3;
  options.printAfter = {"moe-fuse-qkv"};
  EXPECT_EQ(textOf(options), "");
}

TEST(Provenance, NamesFilesByWhatTheyHold) {
  llvm::SmallString<128> unique;
  ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("moe-provenance", unique));
  const fs::path folder = unique.str().str();
  std::ofstream(folder / "adapter_config.json") << "{}";
  std::ofstream(folder / "adapter_model.safetensors") << "abc";
  std::ofstream(folder / "text") << ""; // of a hash that XXH3's specification tells
  CompileOptions options;
  options.calibrate = (folder / "text").string();
  EXPECT_EQ(textOf(options), "--calibrate xxh3:2d06800538d394c2");
  options.calibrationTokens = 512;
  EXPECT_EQ(textOf(options), "--calibrate xxh3:2d06800538d394c2 --calibrate-tokens 512");

  options = {};
  options.lora = {folder.string()};
  const std::string before = textOf(options);
  EXPECT_EQ(before.size(), std::string("--lora xxh3:,xxh3:").size() + 32) << before;
  options.lora = {folder.string() + "/"};
  EXPECT_EQ(textOf(options), before);
  std::ofstream(folder / "adapter_config.json") << "{ }";
  EXPECT_NE(textOf(options), before);
  fs::remove(folder / "adapter_config.json");
  EXPECT_NE(textOf(options).find("error: cannot read '"), std::string::npos);
  fs::remove_all(folder);
}

} // namespace
