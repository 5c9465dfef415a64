// Room on the disk, and what is left where there is too little. How a file appears and disappears
// is tested with the plans in PlanWriterTest.cpp.
#include "compiler/plan/OutputFile.h"
#include "llvm/Support/FileSystem.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

using namespace llvm;
using namespace moe;
namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMegabyte = 1 << 20;

// Disks with 3 MB, and with a size that nobody knows.
std::optional<uint64_t> threeMegabytes(const std::string &) { return 3 * kMegabyte; }
std::optional<uint64_t> unknown(const std::string &) { return std::nullopt; }

class OutputFileTest : public testing::Test {
protected:
  void SetUp() override {
    SmallString<128> unique;
    ASSERT_FALSE(llvm::sys::fs::createUniqueDirectory("moe-output", unique));
    folder = unique.str().str();
    path = (folder / "plan").string();
  }
  void TearDown() override { fs::remove_all(folder); }

  // "" if the file could be made.
  std::string failure(uint64_t size, OutputFile::FreeBytes freeBytes) {
    auto file = OutputFile::create(path, size, freeBytes);
    return file ? "" : toString(file.takeError());
  }

  fs::path folder;
  std::string path;
};

TEST_F(OutputFileTest, SaysWhatItTakesAndWhatThereIs) {
  EXPECT_EQ(failure(3 * kMegabyte + 1, threeMegabytes),
            "cannot write '" + path + "': it takes 4 MB, and '" + folder.string() +
                "' has 3 MB of free space; make room there, or give the output a path on another "
                "disk");
  EXPECT_TRUE(fs::is_empty(folder));
}

TEST_F(OutputFileTest, TheLastByteFits) { EXPECT_EQ(failure(3 * kMegabyte, threeMegabytes), ""); }

TEST_F(OutputFileTest, AFileThatIsReplacedMakesNoRoom) {
  std::ofstream(path) << std::string(2 * kMegabyte, 'x');
  EXPECT_NE(failure(4 * kMegabyte, threeMegabytes), "");
  EXPECT_EQ(fs::file_size(path), 2 * kMegabyte);
}

TEST_F(OutputFileTest, AnUnknownSizeIsNoReasonToFail) {
  EXPECT_EQ(failure(uint64_t(1) << 60, unknown), "");
}

TEST_F(OutputFileTest, AsksTheDisk) {
  EXPECT_EQ(failure(kMegabyte, freeBytes), "");
  EXPECT_NE(failure(uint64_t(1) << 60, freeBytes).find("it takes 1099511627776 MB, and"),
            std::string::npos);
}

TEST_F(OutputFileTest, SomeFileSystemsDoNotSay) {
  EXPECT_FALSE(freeBytes("/proc")); // has no blocks
  EXPECT_FALSE(freeBytes((folder / "none").string()));
}

} // namespace
