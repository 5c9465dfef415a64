#include "compiler/InputFiles.h"
#include "llvm/Support/FileSystem.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

using namespace moe;
namespace fs = std::filesystem;

namespace {

class InputFilesTest : public testing::Test {
protected:
  void SetUp() override {
    llvm::SmallString<128> unique;
    ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("moe-inputs", unique));
    folder = unique.str().str();
    fs::create_directory(folder / "model");
    for (const char *name : {"model/model-1-of-2.safetensors", "model/config.json",
                             "model/tokenizer.model", "model/old.plan", "text.txt"})
      std::ofstream(folder / name) << name;
  }
  void TearDown() override { fs::remove_all(folder); }

  std::string refusal(const fs::path &output) {
    return llvm::toString(inputs.checkOutput(output.string()));
  }

  fs::path folder;
  InputFiles inputs;
};

TEST_F(InputFilesTest, NamesBoth) {
  inputs.addFolder((folder / "model").string());
  const std::string input = (folder / "model/config.json").string();
  const std::string output = (folder / "model/../model/./config.json").string();
  EXPECT_EQ(refusal(output), "cannot write '" + output + "': it is the same file as '" + input +
                                 "', which is an input; give the output another path with -o");
}

TEST_F(InputFilesTest, AFolderHasWeightsConfigurationAndTokenizer) {
  inputs.addFolder((folder / "model").string());
  EXPECT_NE(refusal(folder / "model/model-1-of-2.safetensors"), "");
  EXPECT_NE(refusal(folder / "model/tokenizer.model"), "");
  EXPECT_EQ(refusal(folder / "model/old.plan"), "");
  EXPECT_EQ(refusal(folder / "model/new.safetensors"), "");
  EXPECT_EQ(refusal(folder / "text.txt"), "");
}

TEST_F(InputFilesTest, SeesThroughLinks) {
  inputs.addFile((folder / "text.txt").string());
  fs::create_symlink(folder / "text.txt", folder / "symbolic");
  fs::create_symlink("symbolic", folder / "second");
  fs::create_hard_link(folder / "text.txt", folder / "hard");
  fs::create_directory_symlink(folder, folder / "model/up");
  for (const char *name : {"symbolic", "second", "hard", "model/up/text.txt"})
    EXPECT_NE(refusal(folder / name), "") << name;
  fs::copy_file(folder / "text.txt", folder / "copy");
  fs::create_symlink("nowhere", folder / "dangling");
  for (const char *name : {"copy", "dangling"})
    EXPECT_EQ(refusal(folder / name), "") << name;
}

// A checkpoint's files are often links themselves, into a cache.
TEST_F(InputFilesTest, AnInputThatIsALink) {
  fs::create_symlink(folder / "text.txt", folder / "model/chat.jinja");
  inputs.addFolder((folder / "model").string());
  EXPECT_NE(refusal(folder / "text.txt"), "");
}

TEST_F(InputFilesTest, WhatIsNotThereIsNoInput) {
  inputs.addFile("");
  inputs.addFile((folder / "none").string());
  inputs.addFile(folder.string());
  inputs.addFolder((folder / "none").string());
  for (const fs::path &path : {folder / "none", folder, folder / "text.txt", fs::path()})
    EXPECT_EQ(refusal(path), "");
}

} // namespace
