// The remaining instructions that kernels use, each in a few lines, with what it gives.
#include "runtime/device/ptxsim/TestBench.h"

#include <cmath>

namespace moe::ptxsim {
namespace {

using U = uint32_t;

// What BODY leaves in %r1 of each thread. %a1 points to 512 words: 0, 1, 2...
std::vector<U> results(const std::string &body, unsigned threads = 32, uint64_t seed = 0) {
  Bench bench;
  bench.launch.block[0] = threads;
  bench.options.seed = seed;
  std::vector<U> words(512);
  for (U i = 0; i < 512; ++i)
    words[i] = i;
  uint64_t out = bench.room(threads * 4), in = bench.put(words);
  auto stats =
      bench.run(body + " mad.wide.u32 %rd79, %t, 4, %a0; st.global.u32 [%rd79], %r1;", {out, in});
  EXPECT_TRUE(stats) << stats.error().message << "\n" << body;
  return stats ? bench.get<U>(out, threads) : std::vector<U>(threads);
}

TEST(Features, PairsOfFloats) {
  Bench bench;
  std::vector<float> a{1.5f, -2.0f}, b{3.0f, 0.1f}, c{0.25f, 1e-9f};
  uint64_t out = bench.room(32);
  bench.expectRun(
      "ld.global.b64 %rd0, [%a0]; ld.global.b64 %rd1, [%a1]; ld.global.b64 %rd2, [%a2];\n"
      "add.rn.f32x2 %rd3, %rd0, %rd1; st.global.b64 [%a3], %rd3;\n"
      "sub.rn.f32x2 %rd3, %rd0, %rd1; st.global.b64 [%a3+8], %rd3;\n"
      "mul.rn.f32x2 %rd3, %rd0, %rd1; st.global.b64 [%a3+16], %rd3;\n"
      "fma.rn.f32x2 %rd3, %rd0, %rd1, %rd2; st.global.b64 [%a3+24], %rd3;",
      {bench.put(a), bench.put(b), bench.put(c), out});
  std::vector<float> want;
  for (int i : {0, 1})
    want.push_back(a[i] + b[i]);
  for (int i : {0, 1})
    want.push_back(a[i] - b[i]);
  for (int i : {0, 1})
    want.push_back(a[i] * b[i]);
  for (int i : {0, 1})
    want.push_back(std::fma(a[i], b[i], c[i]));
  EXPECT_EQ(bench.get<float>(out, 8), want);
}

TEST(Features, Approximations) {
  auto roots = results("cvt.rn.f32.u32 %r2, %t; add.f32 %r2, %r2, 0f3F800000;\n"
                       "rsqrt.approx.f32 %r1, %r2;");
  auto inverses = results("cvt.rn.f32.u32 %r2, %t; add.f32 %r2, %r2, 0f3F800000;\n"
                          "rcp.approx.ftz.f32 %r1, %r2;");
  auto powers = results("cvt.rn.f32.u32 %r2, %t; ex2.approx.ftz.f32 %r1, %r2;");
  for (U t = 0; t < 32; ++t) {
    EXPECT_NEAR(std::bit_cast<float>(roots[t]), 1 / std::sqrt(t + 1.0f), 1e-6);
    EXPECT_NEAR(std::bit_cast<float>(inverses[t]), 1 / (t + 1.0f), 1e-6);
    EXPECT_EQ(std::bit_cast<float>(powers[t]), std::exp2(float(t)));
  }
}

TEST(Features, CopiesArriveAtAnMbarrier) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    auto values = results(R"(
      .shared .align 16 .b8 tile[1024]; .shared .align 8 .b64 full;
      setp.ne.u32 %p1, %t, 0; mov.u32 %r2, tile; mov.u32 %r3, full;
      @!%p1 mbarrier.init.shared.b64 [%r3], 64; bar.sync 0;
      mad.lo.u32 %r4, %t, 16, %r2; mad.wide.u32 %rd1, %t, 16, %a1;
      cp.async.cg.shared.global [%r4], [%rd1], 16;
      cp.async.mbarrier.arrive.noinc.shared.b64 [%r3];
      LAB: mbarrier.test_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra LAB;
      xor.b32 %r5, %t, 63; mad.lo.u32 %r5, %r5, 16, %r2; ld.shared.u32 %r1, [%r5];)",
                          64, seed);
    for (U t = 0; t < 64; ++t)
      EXPECT_EQ(values[t], (t ^ 63) * 4);
  }
}

TEST(Features, OrderedAccesses) {
  // The first warp publishes, the second polls; without the order it is a race.
  auto body = [](const std::string &store, const std::string &load) {
    return R"(
      .shared .b32 data; .shared .b32 flag; mov.u32 %r1, 0; shr.u32 %r2, %t, 5;
      setp.eq.u32 %p1, %t, 0; @%p1 st.shared.u32 [flag], 0; bar.sync 0;
      setp.ne.u32 %p2, %r2, 0; @%p2 bra READER; @!%p1 bra END;
      st.shared.u32 [data], 7; )" +
           store + R"( bra.uni END;
      READER: nanosleep.u32 20; )" +
           load + R"( setp.ne.u32 %p3, %r3, 1; @%p3 bra READER;
      ld.shared.u32 %r1, [data];
      END: bar.warp.sync -1;)";
  };
  for (uint64_t seed = 0; seed < 6; ++seed) {
    for (auto [store, load] :
         {std::pair("st.release.cta.shared.u32 [flag], 1;",
                    "ld.acquire.cta.shared.u32 %r3, [flag];"),
          std::pair("red.release.gpu.shared.add.u32 [flag], 1;",
                    "ld.acquire.gpu.shared.u32 %r3, [flag];"),
          std::pair("fence.acq_rel.gpu; atom.relaxed.gpu.shared.exch.b32 %r3, [flag], 1;",
                    "ld.relaxed.gpu.shared.u32 %r3, [flag]; fence.acq_rel.gpu;")}) {
      auto values = results(body(store, load), 64, seed);
      for (U t = 32; t < 64; ++t)
        EXPECT_EQ(values[t], 7u);
    }
  }
  Bench bench;
  bench.launch.block[0] = 64;
  bench.expectError(
      body("st.relaxed.cta.shared.u32 [flag], 1;", "ld.acquire.cta.shared.u32 %r3, [flag];"), {},
      "race: ");
}

TEST(Features, BarriersThatCountAndReduce) {
  auto counts = results("setp.lt.u32 %p1, %t, 40; bar.red.popc.u32 %r1, 0, %p1;", 64);
  auto any = results("setp.eq.u32 %p1, %t, 40; bar.red.or.pred %p2, 1, %p1; "
                     "selp.u32 %r1, 1, 0, %p2;",
                     64);
  auto all = results("setp.eq.u32 %p1, %t, 40; bar.red.and.pred %p2, 2, 64, %p1; "
                     "selp.u32 %r1, 1, 0, %p2;",
                     64);
  // The first warp only arrives.
  auto handed = results(R"(.shared .b32 x; mov.u32 %r1, 0; setp.lt.u32 %p1, %t, 32;
    @!%p1 bra SECOND; setp.eq.u32 %p2, %t, 0; @%p2 st.shared.u32 [x], 5; bar.arrive 3, 64;
    bra.uni END; SECOND: bar.sync 3, 64; ld.shared.u32 %r1, [x]; END: bar.sync 0;)",
                        64);
  for (U t = 0; t < 64; ++t) {
    EXPECT_EQ(counts[t], 40u);
    EXPECT_EQ(any[t], 1u);
    EXPECT_EQ(all[t], 0u);
    EXPECT_EQ(handed[t], t < 32 ? 0u : 5u);
  }
}

TEST(Features, ClustersOfOneBlock) {
  auto values = results(R"(.shared .b32 x[64]; mov.u32 %r2, x; mad.lo.u32 %r3, %t, 4, %r2;
    st.shared.u32 [%r3], %t; barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned; mapa.shared::cluster.u32 %r4, %r2, 0;
    getctarank.shared::cluster.u32 %r5, %r4; xor.b32 %r6, %t, 63; mad.lo.u32 %r6, %r6, 4, %r4;
    ld.shared::cluster.u32 %r1, [%r6]; add.u32 %r1, %r1, %r5;)",
                        64);
  for (U t = 0; t < 64; ++t)
    EXPECT_EQ(values[t], t ^ 63);
}

TEST(Features, HintsHaveNoEffect) {
  auto values = results(R"(
    createpolicy.fractional.L2::evict_last.b64 %rd1, 1.0; mad.wide.u32 %rd2, %t, 4, %a1;
    prefetch.global.L2 [%rd2]; applypriority.global.L2::evict_normal [%a1], 128;
    cp.async.bulk.prefetch.L2.global [%a1], 1024; setmaxnreg.inc.sync.aligned.u32 240;
    ld.global.nc.L1::no_allocate.L2::cache_hint.u32 %r1, [%rd2], %rd1;
    ld.global.L2::128B.u32 %r2, [%rd2]; add.u32 %r1, %r1, %r2;
    ld.volatile.global.u32 %r3, [%rd2]; add.u32 %r1, %r1, %r3; griddepcontrol.launch_dependents;
    griddepcontrol.wait;)");
  for (U t = 0; t < 32; ++t)
    EXPECT_EQ(values[t], 3 * t);
}

TEST(Features, PoliciesMustBeMade) {
  Bench bench;
  uint64_t memory = bench.put(std::vector<U>(64, 1));
  bench.expectError("ld.global.L2::cache_hint.u32 %r1, [%a0], %rd1;", {memory},
                    "the cache policy depends on a value that nothing wrote");
}

TEST(Features, DiscardedBytesAreUnwritten) {
  Bench bench;
  uint64_t memory = bench.put(std::vector<U>(64, 1));
  bench.expectError("discard.global.L2 [%a0], 128; ld.global.u32 %r1, [%a0];\n"
                    "st.global.u32 [%a0+128], %r1;",
                    {memory}, "depends on a value that nothing wrote");
}

TEST(Features, ConstantLoadsOfWhatTheKernelWrites) {
  Bench bench;
  uint64_t memory = bench.put(std::vector<U>(64, 1));
  bench.expectError("mad.wide.u32 %rd1, %t, 4, %a0; st.global.u32 [%rd1], %t;\n"
                    "ld.global.nc.u32 %r1, [%rd1];",
                    {memory}, "as constant, but this kernel writes it");
}

} // namespace
} // namespace moe::ptxsim
