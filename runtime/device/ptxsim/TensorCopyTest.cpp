// Tensor maps and the boxes that they copy, compared with plain loops.
#include "runtime/device/ptxsim/Driver.h"
#include "runtime/device/ptxsim/TensorBox.h"
#include "runtime/device/ptxsim/TestBench.h"

#include <cstring>
#include <random>

namespace moe::ptxsim {
namespace {

using U = uint32_t;
using cuda::CUresult;

constexpr U kRoom = 16384; // of boxes in shared memory

// A tensor, a box of it, and which box.
struct Case {
  std::vector<uint64_t> size;
  std::vector<U> box;
  std::vector<int> start;
  cuda::TensorMapSwizzle swizzle = cuda::TensorMapSwizzle::none;
  cuda::TensorMapType type = cuda::TensorMapType::u16;
  std::vector<U> traversal = {};
  cuda::TensorMapFill fill = cuda::TensorMapFill::zero;

  U elementBytes() const {
    return type == cuda::TensorMapType::u8 ? 1 : type == cuda::TensorMapType::f32 ? 4 : 2;
  }
  U step(size_t d) const { return traversal.empty() ? 1 : traversal[d]; }
  U count(size_t d) const { return (box[d] + step(d) - 1) / step(d); }
  std::vector<uint64_t> strides() const { // rows have some room behind them
    std::vector<uint64_t> result{(size[0] * elementBytes() + 15) / 16 * 16 + 16};
    for (size_t d = 1; d < size.size(); ++d)
      result.push_back(result.back() * size[d]);
    return result;
  }
  U boxBytes() const {
    U bytes = elementBytes();
    for (size_t d = 0; d < box.size(); ++d)
      bytes *= count(d);
    return bytes;
  }
  // Calls EACH(offset in the box without swizzle, offset in the tensor or -1) for every element.
  template <class F> void each(F function) const {
    U elements = boxBytes() / elementBytes();
    for (U n = 0; n < elements; ++n) {
      int64_t at = 0;
      bool inside = true;
      U rest = n;
      for (size_t d = 0; d < size.size(); ++d) {
        int64_t c = start[d] + int64_t(rest % count(d)) * step(d);
        rest /= count(d);
        inside = inside && c >= 0 && c < int64_t(size[d]);
        at += c * int64_t(d ? strides()[d - 1] : elementBytes());
      }
      function(n * elementBytes(), inside ? at : -1);
    }
  }
  // As the manual draws it: 16 byte pieces of each row, exchanged by the number of the row.
  U swizzled(U offset) const {
    U mode = U(swizzle);
    if (!mode)
      return offset;
    U row = offset / 128, piece = offset / 16 % 8, pieces = 1u << mode;
    return row * 128 + (piece ^ row % pieces) * 16 + offset % 16;
  }
};

struct TensorCopyTest : testing::Test {
  Bench bench;
  std::vector<uint8_t> tensor;
  uint64_t memory = 0;

  CUresult encode(const Case &c, cuda::TensorMapBytes &map, uint64_t address) {
    std::vector<U> ones(5, 1);
    auto strides = c.strides();
    return simulatedDriver().cuTensorMapEncodeTiled(
        &map, c.type, U(c.size.size()), reinterpret_cast<void *>(address), c.size.data(),
        strides.data(), c.box.data(), c.traversal.empty() ? ones.data() : c.traversal.data(),
        cuda::TensorMapInterleave::none, c.swizzle, cuda::TensorMapPromotion::bytes128, c.fill);
  }
  // The tensor, full of noise, and its map, both in global memory.
  uint64_t prepare(const Case &c) {
    std::mt19937 random(U(c.size[0]));
    tensor.resize(c.strides().back());
    for (uint8_t &byte : tensor)
      byte = uint8_t(random());
    memory = bench.put(tensor);
    cuda::TensorMapBytes map;
    EXPECT_EQ(encode(c, map, memory), CUresult::success);
    return bench.put(std::vector<cuda::TensorMapBytes>{map});
  }
  static std::string coordinates(const Case &c) {
    std::string text;
    for (size_t d = 0; d < c.start.size(); ++d)
      text += (d ? ", " : "") + std::to_string(c.start[d]);
    return "{" + text + "}";
  }
  static std::string name(const Case &c) {
    return "cp.async.bulk.tensor." + std::to_string(c.size.size()) + "d.";
  }
};

// Loads the box to shared memory, and copies what it finds there to %a0.
std::string loading(const Case &c, const std::string &bytes = "", const std::string &wait = "",
                    U at = 0) {
  return R"(.shared .align 1024 .b8 tile[)" + std::to_string(kRoom) + R"(];
    .shared .align 8 .b64 full; mov.u32 %r2, tile; mov.u32 %r3, full; setp.ne.u32 %p1, %t, 0;
    @%p1 bra WAIT; prefetch.tensormap [%a1];
    mbarrier.init.shared.b64 [%r3], 1; fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r3], )" +
         (bytes.empty() ? std::to_string(c.boxBytes()) : bytes) + ";\n" + TensorCopyTest::name(c) +
         "shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2+" + std::to_string(at) +
         "], [%a1, " + TensorCopyTest::coordinates(c) + "], [%r3];\nWAIT: bar.sync 0;\n" +
         (wait.empty()
              ? "POLL: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra POLL;\n"
              : wait) +
         R"(mov.u32 %r4, %t; mov.u64 %rd1, %a0; mad.wide.u32 %rd1, %t, 4, %rd1;
    mad.lo.u32 %r5, %t, 4, %r2; mov.u32 %r6, )" +
         std::to_string(c.boxBytes() / 4) + R"(;
    COPY: setp.ge.u32 %p3, %r4, %r6; @%p3 bra END; ld.shared.u32 %r7, [%r5];
    st.global.u32 [%rd1], %r7; add.u32 %r4, %r4, 64; add.u32 %r5, %r5, 256;
    add.u64 %rd1, %rd1, 256; bra COPY; END:)";
}

// Fills shared memory from %a0 and stores the box.
std::string storing(const Case &c, const std::string &fence = "fence.proxy.async.shared::cta;",
                    const std::string &wait = "cp.async.bulk.wait_group 0;") {
  return R"(.shared .align 1024 .b8 tile[)" + std::to_string(kRoom) + R"(]; mov.u32 %r2, tile;
    mov.u32 %r4, %t; mad.wide.u32 %rd1, %t, 4, %a0; mad.lo.u32 %r5, %t, 4, %r2;
    setp.ne.u32 %p1, %t, 0;
    COPY: setp.ge.u32 %p3, %r4, )" +
         std::to_string(c.boxBytes() / 4) + R"(; @%p3 bra FULL; ld.global.u32 %r7, [%rd1];
    st.shared.u32 [%r5], %r7; add.u32 %r4, %r4, 64; add.u32 %r5, %r5, 256;
    add.u64 %rd1, %rd1, 256; bra COPY; FULL: )" +
         fence + " bar.sync 0; @%p1 bra END;\n" + TensorCopyTest::name(c) +
         "global.shared::cta.tile.bulk_group [%a1, " + TensorCopyTest::coordinates(c) +
         "], [%r2]; cp.async.bulk.commit_group;\n" + wait + " END:";
}

std::vector<Case> cases() {
  using S = cuda::TensorMapSwizzle;
  using T = cuda::TensorMapType;
  return {{{100}, {64}, {16}},
          {{100}, {64}, {70}},  // past the end
          {{100}, {64}, {-13}}, // before the beginning
          {{37, 21}, {16, 7}, {5, 3}},
          {{37, 21}, {16, 7}, {30, 18}, S::bytes32},
          {{37, 21}, {32, 11}, {-3, -2}, S::bytes64},
          {{101, 50}, {64, 33}, {40, 20}, S::bytes128},
          {{101, 50}, {128, 40}, {0, 15}, S::bytes128, T::u8},
          {{70, 9}, {32, 8}, {50, 2}, S::bytes128, T::f32},
          {{70, 9}, {32, 8}, {50, 2}, S::none, T::f32, {}, cuda::TensorMapFill::nan},
          {{19, 7, 5}, {8, 3, 4}, {15, 5, 2}},
          {{64, 7, 5}, {64, 3, 4}, {0, 6, -1}, S::bytes128},
          {{24, 6, 5, 4}, {16, 2, 3, 2}, {9, 1, 3, 3}, S::bytes32},
          {{16, 4, 3, 3, 3}, {8, 2, 2, 2, 2}, {4, 1, 1, 2, -1}},
          {{80, 21}, {64, 9}, {8, 2}, S::none, T::u16, {2, 3}}};
}

TEST_F(TensorCopyTest, LoadsBoxes) {
  for (const Case &c : cases()) {
    for (uint64_t seed = 0; seed < 2; ++seed) {
      bench.launch.block = {64, 1, 1};
      bench.options.seed = seed;
      uint64_t map = prepare(c), out = bench.room(kRoom);
      bench.expectRun(loading(c), {out, map});
      if (HasFailure())
        return;
      auto words = bench.get<U>(out, c.boxBytes() / 4);
      auto *got = reinterpret_cast<const uint8_t *>(words.data());
      c.each([&](U offset, int64_t from) {
        uint32_t want = c.fill == cuda::TensorMapFill::nan ? 0x7fffffff : 0, value = 0;
        if (from >= 0)
          std::memcpy(&want, &tensor[size_t(from)], c.elementBytes());
        std::memcpy(&value, got + c.swizzled(offset), c.elementBytes());
        ASSERT_EQ(value, want) << name(c) << " byte " << offset << " of the box";
      });
    }
  }
}

TEST_F(TensorCopyTest, StoresBoxes) {
  for (const Case &c : cases()) {
    bench.launch.block = {64, 1, 1};
    uint64_t map = prepare(c);
    std::vector<uint8_t> image(c.boxBytes());
    for (size_t n = 0; n < image.size(); ++n)
      image[n] = uint8_t(n * 7 + n / 256);
    std::vector<uint8_t> want = tensor;
    c.each([&](U offset, int64_t to) {
      if (to >= 0)
        std::memcpy(&want[size_t(to)], &image[c.swizzled(offset)], c.elementBytes());
    });
    bench.expectRun(storing(c), {bench.put(image), map});
    EXPECT_EQ(bench.get<uint8_t>(memory, want.size()), want) << name(c);
  }
}

TEST_F(TensorCopyTest, MapsAsParameters) {
  Case c{{37, 21}, {16, 7}, {5, 3}};
  prepare(c);
  struct alignas(64) {
    cuda::TensorMapBytes map;
    uint64_t out;
    std::byte pad[56];
  } params;
  ASSERT_EQ(encode(c, params.map, memory), CUresult::success);
  params.out = bench.room(kRoom);
  std::string text = ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k("
                     ".param .align 64 .b8 map[128], .param .u64 out)\n{ .reg .pred %p<9>;\n"
                     ".reg .b32 %r<20>, %t; .reg .b64 %rd<9>, %a<9>; mov.u32 %t, %tid.x;\n"
                     "ld.param.u64 %a0, [out]; mov.b64 %rd8, map; cvta.param.u64 %a1, %rd8;\n" +
                     loading(c) + " ret; }";
  auto module = parse(text);
  ASSERT_TRUE(module) << module.error().message;
  bench.launch.block = {64, 1, 1};
  bench.launch.params = std::as_bytes(std::span(&params, 1)).first(136);
  auto stats = run(*module, "k", bench.launch, bench.memory, bench.options);
  ASSERT_TRUE(stats) << stats.error().message;
  auto words = bench.get<U>(params.out, c.boxBytes() / 4);
  c.each([&](U offset, int64_t from) {
    EXPECT_EQ(
        std::memcmp(reinterpret_cast<uint8_t *>(words.data()) + offset, &tensor[size_t(from)], 2),
        0);
  });
}

TEST_F(TensorCopyTest, WhatIsReported) {
  Case c{{64, 32}, {64, 8}, {0, 0}, cuda::TensorMapSwizzle::bytes128};
  uint64_t map = prepare(c), out = bench.put(std::vector<uint8_t>(kRoom, 1));
  bench.launch.block = {64, 1, 1};
  auto expect = [&](const std::string &body, const char *message) {
    SCOPED_TRACE(message);
    for (uint64_t seed = 0; seed < 4; ++seed) {
      bench.options.seed = seed;
      bench.options.spinLimit = 100'000;
      bench.expectError(body, {out, map}, message);
    }
  };
  expect(loading(c, "2048"), "lacks 0 arrivals and 1024 bytes");
  expect(loading(c, "512"), "bytes");
  expect(loading(c, "1024", "", 64), "is not aligned to 128 bytes");
  expect(loading(c, "1024", " "), "a wait is missing");
  expect(storing(c, ""), "without a fence.proxy.async in between");
  map = prepare(c); // the other was left in the middle
  bench.expectError(storing(c, "fence.proxy.async;", ""), {out, map},
                    "may still read its shared memory");
  map = prepare(c);
  Case other = c;
  other.size = {64, 4, 8}, other.start = {0, 0, 0};
  expect(loading(other, "1024"), "3 dimensions by the map of a 2-dimensional tensor");
  expect("mov.u64 %rd5, 1; st.global.u64 [%a1+64], %rd5; prefetch.tensormap [%a1];",
         "written by this kernel");
  map = prepare(c) + 16;
  expect(loading(c), "is not aligned to 64 bytes");
  map = bench.put(std::vector<U>(64, 5));
  expect(loading(c), "there is no tensor map");
  // The map says more than there is.
  Case large = c;
  large.size[1] = 33;
  map = prepare(c);
  cuda::TensorMapBytes wrong;
  ASSERT_EQ(encode(large, wrong, memory), CUresult::success);
  map = bench.put(std::vector<cuda::TensorMapBytes>{wrong});
  large.start[1] = 30;
  expect(loading(large, "1024"), "past the end");
}

TEST_F(TensorCopyTest, MapsThatCannotBe) {
  using S = cuda::TensorMapSwizzle;
  const Case fine{{64, 32}, {64, 8}, {0, 0}, S::bytes128};
  cuda::TensorMapBytes map;
  auto result = [&](auto change, uint64_t address = 4096) {
    Case c = fine;
    change(c);
    return encode(c, map, address);
  };
  auto same = [](Case &) {};
  EXPECT_EQ(result(same), CUresult::success);
  EXPECT_EQ(result(same, 4104), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.size[1] = 0; }), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.size[1] = uint64_t(1) << 33; }), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.box[1] = 257; }), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.box[1] = 0; }), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.box[0] = 65; }), CUresult::invalidValue);  // 130 bytes
  EXPECT_EQ(result([](Case &c) { c.box[0] = 128; }), CUresult::invalidValue); // beyond the swizzle
  EXPECT_EQ(result([](Case &c) { c.box[0] = 32; }), CUresult::notSupported);
  EXPECT_EQ(result([](Case &c) { c.traversal = {1, 9}; }), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.size.resize(6, 1); }), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.type = cuda::TensorMapType(99); }), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.swizzle = S(4); }), CUresult::invalidValue);
  EXPECT_EQ(result([](Case &c) { c.fill = cuda::TensorMapFill::nan; }), CUresult::invalidValue);
}

} // namespace
} // namespace moe::ptxsim
