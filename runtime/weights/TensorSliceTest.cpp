// Slices of tensors, transposed or not, element by element, and the reads that they take.
#include "runtime/weights/TensorSlice.h"
#include "runtime/weights/TestTensors.h"

#include <gtest/gtest.h>
#include <numeric>
#include <random>

using namespace moe;

namespace {

using Reads = std::vector<std::pair<uint64_t, size_t>>; // begin and count

// A checkpoint of a tensor "t" whose elements are their own index.
class TensorSliceTest : public testing::Test {
protected:
  void shape(std::vector<int64_t> dims) {
    tensors = {};
    tensors.add("t", std::move(dims), [this](uint64_t begin, std::span<float> out) -> Status {
      reads.push_back({begin, out.size()});
      std::iota(out.begin(), out.end(), float(begin));
      if (begin == failingRead)
        return Error{Code::IoError, "the disk is gone"};
      return ok();
    });
  }

  // All elements of slices one after the other; empty, and a message, where that fails.
  std::vector<float> read(std::vector<TensorSlice> slices) {
    reads.clear();
    Result<WeightReader> reader = WeightReader::open(tensors, std::move(slices));
    if (!reader) {
      message = reader.error().message;
      return {};
    }
    std::vector<float> out(size_t(reader->elements()));
    if (Status status = reader->read(0, out); !status) {
      message = status.error().message;
      return {};
    }
    return out;
  }

  test::TestTensors tensors;
  Reads reads;
  std::string message;
  uint64_t failingRead = ~uint64_t(0);
};

TEST_F(TensorSliceTest, WholeTensorsAreOneRead) {
  shape({2, 3});
  EXPECT_EQ(read({{"t", {0, 0}, {2, 3}}}), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(reads, (Reads{{0, 6}}));
}

TEST_F(TensorSliceTest, SlicesAreReadInRuns) {
  shape({3, 4});
  EXPECT_EQ(read({{"t", {1, 1}, {2, 2}}}), (std::vector<float>{5, 6, 9, 10}));
  EXPECT_EQ(reads, (Reads{{5, 2}, {9, 2}}));
  // Whole rows lie one after the other.
  EXPECT_EQ(read({{"t", {1, 0}, {2, 4}}}), (std::vector<float>{4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(reads, (Reads{{4, 8}}));
  shape({2, 3, 2});
  EXPECT_EQ(read({{"t", {0, 1, 0}, {2, 1, 2}}}), (std::vector<float>{2, 3, 8, 9}));
  EXPECT_EQ(reads, (Reads{{2, 2}, {8, 2}}));
}

TEST_F(TensorSliceTest, SlicesFollowEachOther) {
  shape({4});
  EXPECT_EQ(read({{"t", {2}, {2}}, {"t", {1}, {0}}, {"t", {0}, {2}}}),
            (std::vector<float>{2, 3, 0, 1}));
  EXPECT_TRUE(read({}).empty());
  EXPECT_EQ(message, "");
}

TEST_F(TensorSliceTest, TransposesTheSlice) {
  shape({2, 3});
  EXPECT_EQ(read({{"t", {0, 0}, {2, 3}, true}}), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  // One matrix after the other; the gate is the first half of the columns.
  shape({2, 2, 4});
  EXPECT_EQ(read({{"t", {0, 0, 0}, {2, 2, 2}, true}}),
            (std::vector<float>{0, 4, 1, 5, 8, 12, 9, 13}));
  EXPECT_EQ(read({{"t", {1, 0, 2}, {1, 2, 2}, true}}), (std::vector<float>{10, 14, 11, 15}));
}

TEST_F(TensorSliceTest, TransposesInBands) {
  shape({150, 3});
  std::vector<float> out = read({{"t", {0, 0}, {150, 3}, true}});
  ASSERT_EQ(out.size(), 450u);
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t r = 0; r < 150; ++r)
      ASSERT_EQ(out[size_t(c * 150 + r)], float(r * 3 + c));
  EXPECT_EQ(reads, (Reads{{0, 192}, {192, 192}, {384, 66}}));
}

// Every range of random slices is that part of all elements, which are where their indices say.
TEST_F(TensorSliceTest, PartsOfRandomSlices) {
  std::mt19937 random(1);
  const auto below = [&](int64_t end) { return int64_t(random() % uint64_t(end)); };
  for (int round = 0; round < 300; ++round) {
    const size_t rank = size_t(1 + below(4));
    std::vector<int64_t> dims;
    for (size_t d = 0; d < rank; ++d)
      dims.push_back(1 + below(d + 1 == rank ? 90 : 5));
    shape(dims);
    std::vector<TensorSlice> slices;
    std::vector<float> expected;
    for (int64_t n = 1 + below(3); n > 0; --n) {
      TensorSlice slice{"t", {}, {}, rank > 1 && below(2)};
      for (int64_t size : dims) {
        slice.offsets.push_back(below(size));
        slice.sizes.push_back(1 + below(size - slice.offsets.back()));
      }
      std::vector<int64_t> sizes = slice.sizes;
      if (slice.transposed)
        std::swap(sizes[rank - 1], sizes[rank - 2]);
      const int64_t count =
          std::accumulate(sizes.begin(), sizes.end(), int64_t(1), std::multiplies<>());
      for (int64_t i = 0; i < count; ++i) {
        std::vector<int64_t> at(rank);
        int64_t rest = i, place = 0;
        for (size_t d = rank; d-- > 0; rest /= sizes[d])
          at[d] = rest % sizes[d];
        if (slice.transposed)
          std::swap(at[rank - 1], at[rank - 2]);
        for (size_t d = 0; d < rank; ++d)
          place = place * dims[d] + at[d] + slice.offsets[d];
        expected.push_back(float(place));
      }
      slices.push_back(std::move(slice));
    }
    Result<WeightReader> reader = WeightReader::open(tensors, slices);
    ASSERT_TRUE(reader) << reader.error().message;
    ASSERT_EQ(reader->elements(), int64_t(expected.size()));
    for (int part = 0; part < 4; ++part) {
      const int64_t begin = below(reader->elements() + 1);
      std::vector<float> found(size_t(below(reader->elements() - begin + 1)));
      ASSERT_TRUE(reader->read(begin, found));
      ASSERT_EQ(found, std::vector<float>(expected.begin() + begin,
                                          expected.begin() + begin + int64_t(found.size())));
    }
  }
}

TEST_F(TensorSliceTest, SlicesMustFit) {
  shape({3, 4});
  EXPECT_TRUE(read({{"t", {2, 0}, {2, 2}}}).empty());
  EXPECT_EQ(message, "takes the slice at [2, 0] of size [2, 2] from tensor 't' of the checkpoint, "
                     "which has the shape [3, 4]");
  for (const TensorSlice &slice : {TensorSlice{"t", {0}, {12}},
                                   {"t", {-1, 0}, {1, 1}},
                                   {"t", {0, 0}, {-1, 1}},
                                   {"t", {0, 5}, {0, 0}},
                                   {"t", {1, 0}, {INT64_MAX, 1}},
                                   {"t", {0, 0}, {3}},
                                   {"t", {}, {}}}) {
    message.clear();
    EXPECT_TRUE(read({slice}).empty());
    EXPECT_NE(message.find("which has the shape [3, 4]"), std::string::npos) << message;
  }
  EXPECT_TRUE(read({{"absent", {0}, {4}}}).empty());
  EXPECT_EQ(message, "takes a slice of tensor 'absent', which the checkpoint does not have");
  shape({4});
  EXPECT_TRUE(read({{"t", {0}, {4}, true}}).empty());
  EXPECT_EQ(message, "takes the slice at [0] of size [4], transposed, from tensor 't' of the "
                     "checkpoint, which has the shape [4]");
  failingRead = 0;
  EXPECT_TRUE(read({{"t", {0}, {2}}}).empty());
  EXPECT_EQ(message, "the disk is gone");
}

TEST_F(TensorSliceTest, TensorsAreReadInside) {
  shape({2, 3});
  std::vector<float> out(3);
  EXPECT_TRUE(tensors.read("t", 3, out));
  EXPECT_EQ(tensors.read("t", 4, out).error().message,
            "reads 3 elements from 4 of tensor t, which has 6");
  EXPECT_EQ(tensors.read("t", ~uint64_t(0), out).error().message,
            "reads 3 elements from 18446744073709551615 of tensor t, which has 6");
  EXPECT_EQ(tensors.read("u", 0, out).error().message, "the checkpoint has no tensor u");
  tensors.add("v", {3}, {1, 2, 3});
  tensors.info("v").dtype = std::nullopt;
  EXPECT_EQ(tensors.read("v", 0, out).error().message,
            "tensor v is F32, expected F32, F16 or BF16");
}

} // namespace
