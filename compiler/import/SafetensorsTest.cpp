// What safetensors files hold, and every way in which one can be broken.
#include "compiler/import/Safetensors.h"
#include "compiler/import/TestTensors.h"

#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>

using namespace moe;
using namespace moe::test;

// The message that a file with this header gets.
static std::string openHeader(llvm::StringRef header, size_t dataBytes = 8) {
  TempFolder folder;
  std::string file =
      folder.write("a.safetensors", safetensors(header, std::string(dataBytes, '\0')));
  return messageOf(Checkpoint::open(file));
}

TEST(Checkpoint, ReadsEachType) {
  TempFolder folder;
  std::vector<float> values{1, -2.5, 0, 65504, -0x1p-24f, 0.099975586f};
  std::vector<TestTensor> tensors;
  for (std::string dtype : {"F32", "F16", "BF16"})
    tensors.push_back({dtype, dtype, {2, 3}, values});
  auto checkpoint = Checkpoint::open(folder.write("a.safetensors", safetensors(tensors)));
  ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
  EXPECT_EQ(checkpoint->tensors().size(), 3u);
  EXPECT_EQ(readAll(*checkpoint, "F32"), values);
  EXPECT_EQ(readAll(*checkpoint, "F16"), values);
  EXPECT_EQ(readAll(*checkpoint, "BF16"),
            (std::vector<float>{1, -2.5, 0, 65536, -0x1p-24f, 0.10009765625f}));

  const TensorInfo *tensor = checkpoint->find("F16");
  ASSERT_TRUE(tensor);
  EXPECT_EQ(tensor->dtypeName, "F16");
  EXPECT_EQ(tensor->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensor->elements, 6u);
  EXPECT_EQ(tensor->file, folder / "a.safetensors");
  uint16_t first;
  std::memcpy(&first, checkpoint->data(*tensor), 2);
  EXPECT_EQ(first, 0x3c00);

  float two[2];
  EXPECT_EQ(messageOf(checkpoint->read("F16", 1, two)), "success");
  EXPECT_EQ(two[0], -2.5);
  EXPECT_EQ(two[1], 0);
  EXPECT_TRUE(contains(messageOf(checkpoint->read("F16", 5, two)), "which has 6"));
  EXPECT_TRUE(contains(messageOf(checkpoint->read("F16", uint64_t(-1), two)), "which has 6"));
  EXPECT_TRUE(contains(messageOf(checkpoint->read("F64", 0, two)), "has no tensor F64"));
}

TEST(Checkpoint, ReadsTensorsAtOddAddresses) {
  TempFolder folder;
  std::string data = "x";
  for (float value : {3.0f, -4.0f, 5.0f})
    data.append(reinterpret_cast<const char *>(&value), 4);
  std::string header = R"({"byte":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("f":{"dtype":"F32","shape":[3],"data_offsets":[1,13]}})";
  for (int pad = 0; pad < 4; ++pad) {
    auto checkpoint = Checkpoint::open(
        folder.write("a.safetensors", safetensors(header + std::string(pad, ' '), data)));
    ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
    EXPECT_EQ(readAll(*checkpoint, "f"), (std::vector<float>{3, -4, 5}));
  }
}

TEST(Checkpoint, KnowsTypesThatItCannotRead) {
  TempFolder folder;
  auto checkpoint = Checkpoint::open(folder.write(
      "a.safetensors", safetensors(R"({"__metadata__":{"format":"pt"},)"
                                   R"("a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},)"
                                   R"("b":{"dtype":"F4","shape":[8],"data_offsets":[4,8]},)"
                                   R"("none":{"dtype":"I32","shape":[0,3],"data_offsets":[8,8]},)"
                                   R"("one":{"dtype":"F32","shape":[],"data_offsets":[8,12]}})",
                                   std::string(12, '\0'))));
  ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
  float value = 1;
  EXPECT_EQ(messageOf(checkpoint->read("a", 0, {&value, 1})),
            "tensor a is F8_E4M3, expected F32, F16 or BF16");
  EXPECT_EQ(messageOf(checkpoint->read("one", 0, {&value, 1})), "success");
  EXPECT_EQ(value, 0);
}

TEST(Checkpoint, RefusesBrokenHeaders) {
  auto one = [](llvm::StringRef fields) { return openHeader((R"({"w":{)" + fields + "}}").str()); };
  EXPECT_EQ(openHeader(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"), "success");
  EXPECT_TRUE(contains(openHeader("{"), "is not JSON"));
  EXPECT_TRUE(contains(openHeader("\xff"), "is not JSON"));
  EXPECT_TRUE(contains(openHeader("[]"), "is not an object of tensors"));
  EXPECT_TRUE(contains(openHeader(std::string(1000000, '[')), "nests deeper than 64 levels"));
  EXPECT_TRUE(contains(openHeader(R"({"__metadata__":{"a":1}})"), "__metadata__ is not an object"));
  EXPECT_TRUE(contains(openHeader(R"({"w":3})"), "tensor w is not described by an object"));

  EXPECT_TRUE(contains(one(R"("shape":[2],"data_offsets":[0,8])"), "tensor w has no dtype"));
  EXPECT_TRUE(contains(one(R"("dtype":"Q7","shape":[2],"data_offsets":[0,8])"),
                       "tensor w has the unknown dtype Q7, expected F32, F16 or BF16"));
  EXPECT_TRUE(contains(one(R"("dtype":"F32","data_offsets":[0,8])"), "tensor w has no shape"));
  for (llvm::StringRef shape : {"-1", "1.5", "\"2\"", "9223372036854775808", "null"})
    EXPECT_TRUE(
        contains(one((R"("dtype":"F32","data_offsets":[0,8],"shape":[)" + shape + "]").str()),
                 "has a shape that is not a list of sizes"));
  // 2^62 * 4 = 2^64, and 2^33 * 2^33: nothing of them is left in 64 bits.
  for (llvm::StringRef shape : {"4611686018427387904", "8589934592,8589934592"})
    EXPECT_TRUE(
        contains(one((R"("dtype":"F32","data_offsets":[0,0],"shape":[)" + shape + "]").str()),
                 "is larger than any file"));
  EXPECT_TRUE(
      contains(one(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), "does not end at a byte"));

  for (llvm::StringRef offsets : {"[0]", "[0,8,9]", "[-1,7]", "[0.5,8.5]", "3", "[\"0\",8]"})
    EXPECT_TRUE(contains(one((R"("dtype":"F32","shape":[2],"data_offsets":)" + offsets).str()),
                         "tensor w has no data_offsets [begin, end]"));
  EXPECT_TRUE(contains(one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"),
                       "ends at byte 0, before it begins at 8"));
  EXPECT_TRUE(contains(one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
                       "tensor w has 8 bytes, but F32 [3] needs 12"));
}

TEST(Checkpoint, RefusesBytesThatAreNotCoveredOnce) {
  auto two = [](llvm::StringRef a, llvm::StringRef b, size_t bytes) {
    return openHeader((R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + a +
                       R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" + b + "}}")
                          .str(),
                      bytes);
  };
  EXPECT_EQ(two("[4,8]", "[0,4]", 8), "success");
  EXPECT_TRUE(contains(two("[0,4]", "[2,6]", 6), "tensors a and b overlap at byte 2"));
  EXPECT_TRUE(contains(two("[0,4]", "[0,4]", 4), "tensors a and b overlap at byte 0"));
  EXPECT_TRUE(
      contains(two("[0,4]", "[8,12]", 12), "no tensor covers the bytes 4 to 8, before tensor b"));
  EXPECT_TRUE(
      contains(two("[4,8]", "[8,12]", 12), "no tensor covers the bytes 0 to 4, before tensor a"));
  EXPECT_TRUE(contains(two("[0,4]", "[4,8]", 11), "has 3 bytes after its last tensor"));
  EXPECT_TRUE(contains(two("[0,4]", "[4,8]", 7),
                       "is truncated: tensor b ends at byte 8 of the data, of which there are 7"));
  EXPECT_TRUE(contains(two("[0,4]", "[18446744073709551612,18446744073709551616]", 8),
                       "has no data_offsets"));
}

TEST(Checkpoint, RefusesRepeatedNames) {
  std::string entry = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_TRUE(contains(openHeader("{\"w\":" + entry + ",\"w\":" + entry + "}", 4),
                       "has the key \"w\" twice"));
  EXPECT_TRUE(contains(openHeader("{\"w\":" + entry + ",\"\\u0077\" :" + entry + "}", 4),
                       "has the key \"w\" twice"));
  EXPECT_TRUE(contains(
      openHeader(R"({"w":{"dtype":"F16","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
      "has the key \"dtype\" twice"));
  // A name may look like syntax, and the same key may be in different objects.
  EXPECT_EQ(openHeader("{\"{\\\"w\\\":[\":" + entry + "}", 4), "success");
}

TEST(Checkpoint, RefusesFilesThatAreSomethingElse) {
  TempFolder folder;
  auto open = [&](llvm::StringRef bytes) {
    return messageOf(Checkpoint::open(folder.write("a.safetensors", bytes)));
  };
  EXPECT_TRUE(contains(open(""), "is not a safetensors file: it has 0 bytes"));
  EXPECT_TRUE(contains(open("1234567"), "is not a safetensors file: it has 7 bytes"));
  EXPECT_TRUE(contains(open("\x7f"
                            "ELF1234 and so on"),
                       "is not a safetensors file: its header"));
  EXPECT_TRUE(contains(open(std::string("\x11\0\0\0\0\0\0\0{}", 10)),
                       "is truncated: its header has 17 bytes, the file 10"));
  EXPECT_TRUE(contains(open("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
                       "is a Git LFS pointer"));
  EXPECT_EQ(messageOf(Checkpoint::open(folder / "absent")),
            "there is no file or folder " + folder / "absent");
  EXPECT_TRUE(contains(messageOf(Checkpoint::open("/dev/null")), "is not a file"));
  EXPECT_FALSE(llvm::sys::fs::remove(folder / "a.safetensors"));
  EXPECT_TRUE(contains(messageOf(Checkpoint::open(folder.str())),
                       "has neither model.safetensors nor model.safetensors.index.json"));
}

// Whatever is done to a file, it opens to something that can be read, or is refused.
TEST(Checkpoint, SurvivesAnyDamage) {
  std::string valid = safetensors({{"a", "F32", {2, 3}, {1, 2, 3, 4, 5, 6}},
                                   {"b", "BF16", {4}, {1, 2, 3, 4}},
                                   {"c", "F16", {1, 1, 2}, {1, 2}}});
  std::mt19937 random(1);
  TempFolder folder;
  int opened = 0;
  for (int round = 0; round < 500; ++round) {
    std::string bytes = valid;
    for (int change = random() % 3; change >= 0; --change) {
      size_t at = random() % bytes.size();
      switch (random() % 4) {
      case 0: // the syntax of JSON more often than chance has it
        bytes[at] = "{}[]\",:0123456789-e\\ "[random() % 22];
        break;
      case 1:
        bytes[at] = char(random());
        break;
      case 2:
        bytes.erase(at, 1 + random() % 4);
        break;
      default:
        bytes.insert(at, bytes.substr(random() % bytes.size(), 1 + random() % 8));
        break;
      }
      if (bytes.empty())
        break;
    }
    auto checkpoint = Checkpoint::open(folder.write("a.safetensors", bytes));
    if (!checkpoint) {
      EXPECT_FALSE(llvm::toString(checkpoint.takeError()).empty());
      continue;
    }
    ++opened;
    for (const TensorInfo &tensor : checkpoint->tensors())
      if (tensor.dtype)
        readAll(*checkpoint, tensor.name);
  }
  EXPECT_GT(opened, 0); // changes of values and of names do no harm
}

namespace {

// Three tensors in two shards.
struct Sharded : ::testing::Test {
  TempFolder folder;

  Sharded() {
    folder.write("1.safetensors", safetensors({{"a", "F32", {1}, {1}}, {"b", "F32", {1}, {2}}}));
    folder.write("2.safetensors", safetensors({{"c", "F32", {1}, {3}}}));
  }
  std::string open(llvm::StringRef map) {
    folder.write("model.safetensors.index.json", (R"({"weight_map":{)" + map + "}}").str());
    return messageOf(Checkpoint::open(folder.str()));
  }
};

} // namespace

TEST_F(Sharded, OpensFolderAndIndex) {
  EXPECT_EQ(open(R"("a":"1.safetensors","b":"1.safetensors","c":"2.safetensors")"), "success");
  for (const std::string &path : {folder.str(), folder / "model.safetensors.index.json"}) {
    auto checkpoint = Checkpoint::open(path);
    ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
    EXPECT_EQ(checkpoint->files().size(), 2u);
    EXPECT_EQ(readAll(*checkpoint, "a"), std::vector<float>{1});
    EXPECT_EQ(readAll(*checkpoint, "b"), std::vector<float>{2});
    EXPECT_EQ(readAll(*checkpoint, "c"), std::vector<float>{3});
  }
}

TEST_F(Sharded, RefusesShardsThatDoNotFitTheIndex) {
  std::string all = R"("a":"1.safetensors","b":"1.safetensors","c":"2.safetensors")";
  EXPECT_TRUE(contains(open(all + R"(,"d":"3.safetensors")"),
                       "names files that are missing (1 of 3): 3.safetensors"));
  EXPECT_TRUE(contains(open(all + R"(,"d":"2.safetensors")"),
                       "maps tensors to 2.safetensors that the file lacks (1): d"));
  EXPECT_TRUE(contains(open(R"("a":"1.safetensors","c":"2.safetensors")"),
                       "1.safetensors holds tensors that model.safetensors.index.json does not "
                       "map to it (1): b"));
  EXPECT_TRUE(contains(open(R"("a":"1.safetensors","b":"2.safetensors","c":"2.safetensors")"),
                       "1.safetensors holds tensors that"));
  EXPECT_TRUE(contains(open(R"("a":"2.safetensors","b":"1.safetensors","c":"2.safetensors")"),
                       "1.safetensors holds tensors that"));
  EXPECT_TRUE(contains(open(all + R"(,"a":"2.safetensors")"), "has the key \"a\" twice"));

  folder.write("2.safetensors", safetensors({{"a", "F32", {1}, {1}}, {"c", "F32", {1}, {3}}}));
  EXPECT_TRUE(contains(open(all), "tensor a is in two files"));
  folder.write("2.safetensors", "short");
  EXPECT_TRUE(contains(open(all), "2.safetensors is not a safetensors file"));
}

TEST_F(Sharded, RefusesBrokenIndices) {
  for (llvm::StringRef shard : {R"("../1.safetensors")", R"("/etc/passwd")", R"("")", "3",
                                R"("..")", R"("sub/1.safetensors")", R"("1.safetensors\u0000")"})
    EXPECT_TRUE(contains(open(("\"a\":" + shard).str()),
                         "tensor a is not mapped to the name of a file in the same folder"));
  auto whole = [&](llvm::StringRef text) {
    return messageOf(Checkpoint::open(folder.write("model.safetensors.index.json", text)));
  };
  EXPECT_TRUE(contains(whole("{}"), "has no weight_map"));
  EXPECT_TRUE(contains(whole("[]"), "has no weight_map"));
  EXPECT_TRUE(contains(whole(""), "is not JSON"));
  EXPECT_TRUE(contains(whole(std::string(100000, '{')), "nests deeper than 64 levels"));
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

TEST(Checkpoint, ReadsOnSeveralThreads) {
  TempFolder folder;
  std::vector<float> values(100000);
  std::iota(values.begin(), values.end(), 0.0f);
  auto checkpoint = Checkpoint::open(
      folder.write("a.safetensors", safetensors({{"w", "F32", {100, 1000}, values}})));
  ASSERT_TRUE(bool(checkpoint)) << llvm::toString(checkpoint.takeError());
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> results(4);
  for (std::vector<float> &result : results)
    threads.emplace_back([&] { result = readAll(*checkpoint, "w"); });
  for (std::thread &thread : threads)
    thread.join();
  for (const std::vector<float> &result : results)
    EXPECT_EQ(result, values);
}
