// Clusters: ranks, the shared memory of other blocks, and what must order accesses to it.
#include "runtime/device/ptxsim/TestBench.h"

#include <numeric>

namespace moe::ptxsim {
namespace {

using U = uint32_t;

constexpr uint64_t kSeeds = 8;

// Stores %r1 of each thread to %a0, by the number of its block.
const char kStore[] = " mov.u32 %r90, %ctaid.x; mov.u32 %r91, %ntid.x;\n"
                      "mad.lo.u32 %r90, %r90, %r91, %t; mad.wide.u32 %rd79, %r90, 4, %a0;\n"
                      "st.global.u32 [%rd79], %r1;";
const char kArrive[] = "barrier.cluster.arrive.release.aligned;\n";
const char kWait[] = "barrier.cluster.wait.acquire.aligned;\n";
const std::string kBarrier = std::string(kArrive) + kWait;

struct ClusterTest : testing::Test {
  Bench bench;

  void launch(U blocks, U size, U threads = 64) {
    bench.launch.grid = {blocks, 1, 1};
    bench.launch.block = {threads, 1, 1};
    bench.launch.cluster = {size, 1, 1};
    bench.options.residentBlocks = 2 * size;
  }
  // For every seed.
  std::vector<U> results(const std::string &body, std::vector<uint64_t> more = {}) {
    U count = bench.launch.grid[0] * bench.launch.block[0];
    std::vector<U> first;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      bench.options.seed = seed;
      std::vector<uint64_t> pointers{bench.room(count * 4)};
      pointers.insert(pointers.end(), more.begin(), more.end());
      bench.expectRun(body + kStore, pointers);
      if (testing::Test::HasFailure())
        return std::vector<U>(count);
      auto values = bench.get<U>(pointers[0], count);
      if (seed)
        EXPECT_EQ(values, first);
      first = values;
    }
    return first;
  }
  // With every seed, one of these.
  void expectReports(const std::string &body, const std::vector<std::string> &messages,
                     std::vector<uint64_t> more = {}) {
    SCOPED_TRACE(messages[0] + "\n" + body);
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      bench.options.seed = seed;
      bench.options.spinLimit = 100'000;
      std::vector<uint64_t> pointers{bench.room(bench.launch.grid[0] * bench.launch.block[0] * 4)};
      pointers.insert(pointers.end(), more.begin(), more.end());
      auto stats = bench.run(body + kStore, pointers);
      ASSERT_FALSE(stats) << "no report with seed " << seed << "\n" << body;
      bool expected = false;
      for (const std::string &message : messages)
        expected |= stats.error().message.find(message) != std::string::npos;
      EXPECT_TRUE(expected) << stats.error().message;
    }
  }
};

TEST_F(ClusterTest, RanksInThreeDimensions) {
  bench.launch.grid = {6, 4, 2};
  bench.launch.block = {32, 1, 1};
  bench.launch.cluster = {3, 2, 1};
  uint64_t out = bench.room(48 * 32);
  bench.expectRun(R"(
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z;
    mad.lo.u32 %r4, %r3, 4, %r2; mad.lo.u32 %r4, %r4, 6, %r1; mad.wide.u32 %rd1, %r4, 32, %a0;
    mov.u32 %r5, %cluster_ctarank; mov.u32 %r6, %cluster_ctaid.x; mov.u32 %r7, %cluster_ctaid.y;
    mov.u32 %r8, %clusterid.x; st.global.v4.b32 [%rd1], {%r5, %r6, %r7, %r8};
    mov.u32 %r5, %clusterid.y; mov.u32 %r6, %clusterid.z; mov.u32 %r7, %nclusterid.y;
    mov.u32 %r8, %cluster_nctarank; st.global.v4.b32 [%rd1+16], {%r5, %r6, %r7, %r8};)",
                  {out});
  auto values = bench.get<U>(out, 48 * 8);
  for (U z = 0; z < 2; ++z)
    for (U y = 0; y < 4; ++y)
      for (U x = 0; x < 6; ++x) {
        std::vector<U> want{x % 3 + 3 * (y % 2), x % 3, y % 2, x / 3, y / 2, z, 2, 6};
        auto at = values.begin() + ((z * 4 + y) * 6 + x) * 8;
        EXPECT_EQ(std::vector<U>(at, at + 8), want);
      }
}

// Each thread reads what the next block of the cluster wrote.
std::string readNeighbour(const std::string &first, const std::string &last,
                          const std::string &load = "ld.shared::cluster.u32") {
  return R"(.shared .b32 x[64]; mov.u32 %r2, x; mad.lo.u32 %r3, %t, 4, %r2;
    mov.u32 %r4, %ctaid.x; mad.lo.u32 %r5, %r4, 100, %t; st.shared.u32 [%r3], %r5; )" +
         first + R"(
    mov.u32 %r6, %cluster_ctarank; mov.u32 %r7, %cluster_nctarank; add.u32 %r6, %r6, 1;
    rem.u32 %r6, %r6, %r7; mapa.shared::cluster.u32 %r8, %r3, %r6; )" +
         load + " %r1, [%r8]; getctarank.shared::cluster.u32 %r9, %r8;\n" +
         "mad.lo.u32 %r1, %r9, 10000, %r1;\n" + last;
}

TEST_F(ClusterTest, BlocksReadEachOther) {
  for (U size : {1u, 2u, 3u, 8u}) {
    launch(3 * size, size);
    auto values = results(readNeighbour(kBarrier, kBarrier));
    for (U i = 0; i < values.size(); ++i) {
      U block = i / 64, rank = (block % size + 1) % size;
      EXPECT_EQ(values[i], (block / size * size + rank) * 100 + i % 64 + 10000 * rank);
    }
  }
}

TEST_F(ClusterTest, ThroughGenericAddresses) {
  launch(4, 2);
  auto values = results(R"(.shared .b32 x[64]; mov.u64 %rd1, x; cvta.shared.u64 %rd2, %rd1;
    mad.wide.u32 %rd3, %t, 4, %rd2; mov.u32 %r4, %ctaid.x; st.u32 [%rd3], %r4; )" +
                        kBarrier + R"(
    mov.u32 %r6, %cluster_ctarank; xor.b32 %r6, %r6, 1; mapa.u64 %rd4, %rd3, %r6;
    ld.u32 %r1, [%rd4]; isspacep.shared::cta %p1, %rd4; isspacep.shared::cluster %p2, %rd4;
    @%p1 add.u32 %r1, %r1, 100; @%p2 add.u32 %r1, %r1, 10;)" +
                        kBarrier);
  for (U i = 0; i < values.size(); ++i)
    EXPECT_EQ(values[i], (i / 64 ^ 1) + 10);
}

TEST_F(ClusterTest, MissingBarriersAreReported) {
  launch(4, 2);
  const std::string ended = "which has ended", quiet = "the block ends, and nothing orders",
                    race = "race: ", unwritten = "depends on a value that nothing wrote";
  expectReports(readNeighbour("", kBarrier), {race, unwritten});
  expectReports(readNeighbour(kBarrier, ""), {ended, quiet});
  expectReports(readNeighbour("bar.sync 0;", ""), {race, unwritten, ended, quiet});
  expectReports(
      readNeighbour("barrier.cluster.arrive.relaxed.aligned;\n" + std::string(kWait), kBarrier),
      {race});
  expectReports(readNeighbour(kArrive, kBarrier), {"a second time"});
  expectReports(readNeighbour(kWait, kBarrier), {"at which it has not arrived"});
  expectReports(readNeighbour("fence.acq_rel.cta; barrier.cluster.arrive.relaxed.aligned;\n" +
                                  std::string(kWait),
                              kBarrier),
                {race});
  expectReports(readNeighbour(kBarrier, kBarrier, "ld.shared.u32"), {"which is of another block"});
  // A fence of the cluster is enough.
  results(readNeighbour("fence.acq_rel.cluster; barrier.cluster.arrive.relaxed.aligned;\n" +
                            std::string(kWait),
                        kBarrier));
  // One block does not come.
  expectReports("mov.u32 %r1, 0; mov.u32 %r2, %cluster_ctarank; setp.eq.u32 %p1, %r2, 0;\n"
                "@%p1 bra WAIT; bar.sync 1, 96; WAIT: " +
                    kBarrier,
                {"for the barrier of its cluster, where 64 of 128 threads are"});
}

TEST_F(ClusterTest, ThreadsThatLeftAreNotWaitedFor) {
  launch(2, 2);
  auto values = results("mov.u32 %r1, 7; mov.u32 %r2, %cluster_ctarank; shr.u32 %r3, %t, 5;\n"
                        "and.b32 %r3, %r3, %r2; setp.eq.u32 %p1, %r3, 0; @!%p1 bra OUT;\n" +
                        kBarrier + "OUT:");
  EXPECT_EQ(values, std::vector<U>(128, 7));
}

TEST_F(ClusterTest, AtomicsInAnotherBlock) {
  launch(8, 4, 32);
  auto values = results(R"(.shared .b32 sum; mov.u32 %r2, sum; setp.eq.u32 %p1, %t, 0;
    @%p1 st.shared.u32 [sum], 0; )" +
                        kBarrier + R"(
    mapa.shared::cluster.u32 %r3, %r2, 0; mov.u32 %r4, %cluster_ctarank; add.u32 %r4, %r4, 1;
    red.relaxed.cluster.shared::cluster.add.u32 [%r3], %r4; )" +
                        kBarrier + "ld.shared::cluster.u32 %r1, [%r3];" + kBarrier);
  EXPECT_EQ(values, std::vector<U>(256, 32 * (1 + 2 + 3 + 4)));
}

// Rank 1 writes to rank 0 and arrives at its mbarrier, where rank 0 waits.
std::string remoteArrival(const std::string &arrive, const std::string &wait,
                          const std::string &start, const std::string &end) {
  return R"(.shared .b32 x[64]; .shared .align 8 .b64 full; mov.u32 %r2, x; mov.u32 %r3, full;
    mov.u32 %r1, 5; setp.ne.u32 %p1, %t, 0; mov.u32 %r4, %cluster_ctarank;
    @%p1 bra READY; mbarrier.init.shared.b64 [%r3], 64; fence.mbarrier_init.release.cluster;
    READY: )" +
         start + R"(
    setp.eq.u32 %p2, %r4, 0; @%p2 bra READER;
    mad.lo.u32 %r5, %t, 4, %r2; mapa.shared::cluster.u32 %r6, %r5, 0;
    mapa.shared::cluster.u32 %r7, %r3, 0; st.shared::cluster.u32 [%r6], %t; )" +
         arrive + R"( _, [%r7]; bra.uni END;
    READER: )" +
         wait + R"( %p3, [%r3], 0; @!%p3 bra READER;
    xor.b32 %r5, %t, 63; mad.lo.u32 %r5, %r5, 4, %r2; ld.shared.u32 %r1, [%r5];
    END: )" +
         end;
}

TEST_F(ClusterTest, ArrivalsAtTheMbarrierOfAnotherBlock) {
  launch(4, 2);
  const char *arrive = "mbarrier.arrive.release.cluster.shared::cluster.b64";
  const char *wait = "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64";
  auto values = results(remoteArrival(arrive, wait, kBarrier, ""));
  for (U i = 0; i < values.size(); ++i)
    EXPECT_EQ(values[i], i / 64 % 2 ? 5 : i % 64 ^ 63);
  // Of the block's scope only, nothing is ordered in the cluster.
  expectReports(remoteArrival("mbarrier.arrive.shared::cluster.b64", wait, kBarrier, kBarrier),
                {"race: "});
  expectReports(remoteArrival(arrive, "mbarrier.try_wait.parity.shared.b64", kBarrier, kBarrier),
                {"race: "});
  expectReports(remoteArrival(arrive, wait, "bar.sync 0;", kBarrier),
                {"race: ", "no mbarrier was initialised"});
  // Nobody waits, so the first block may end before the other arrives.
  expectReports(remoteArrival(arrive, "setp.eq.u32 %p3, 0, 0; @%p3 bra END;\n" + std::string(wait),
                              kBarrier, ""),
                {"which has ended", "the block ends, and nothing orders"});
}

// The first block of each cluster copies its half of a tile to all blocks.
std::string multicast(const std::string &bytes, const std::string &mask, const std::string &start,
                      const std::string &fence = "fence.mbarrier_init.release.cluster;") {
  return R"(.shared .align 16 .b8 tile[512]; .shared .align 8 .b64 full; mov.u32 %r2, tile;
    mov.u32 %r3, full; setp.ne.u32 %p1, %t, 0; mov.u32 %r4, %cluster_ctarank;
    @%p1 bra READY; mbarrier.init.shared.b64 [%r3], 1; )" +
         fence + R"(
    mbarrier.arrive.expect_tx.shared.b64 _, [%r3], )" +
         bytes + R"(;
    READY: )" +
         start + R"(
    @%p1 bra WAIT; mad.lo.u32 %r5, %r4, 256, %r2; mul.wide.u32 %rd1, %r4, 256;
    add.u64 %rd1, %rd1, %a1; mov.b16 %rs1, )" +
         mask + R"(;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r5],
      [%rd1], 256, [%r3], %rs1;
    WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra WAIT;
    mad.lo.u32 %r5, %t, 4, %r2; ld.shared.u32 %r1, [%r5]; ld.shared.u32 %r6, [%r5+256];
    mad.lo.u32 %r1, %r6, 1000, %r1;)";
}

TEST_F(ClusterTest, CopiesToSeveralBlocks) {
  launch(4, 2);
  std::vector<U> input(128);
  std::iota(input.begin(), input.end(), 1);
  uint64_t in = bench.put(input);
  auto values = results(multicast("512", "3", kBarrier), {in});
  for (U i = 0; i < values.size(); ++i)
    EXPECT_EQ(values[i], i % 64 + 1 + 1000 * (i % 64 + 65));
  expectReports(multicast("256", "3", kBarrier),
                {"no warp can go on", "still writing", "ends while", "that nothing wrote"}, {in});
  expectReports(multicast("1024", "3", kBarrier), {"lacks 0 arrivals and 512 bytes"}, {in});
  expectReports(multicast("512", "1", kBarrier), {"bytes"}, {in});
  expectReports(multicast("512", "4", kBarrier), {"mask 0x4 in a cluster of 2"}, {in});
  expectReports(multicast("512", "0", kBarrier), {"mask 0x0 in a cluster of 2"}, {in});
  expectReports(multicast("512", "3", "bar.sync 0;"),
                {"no mbarrier was initialised", "race: ", "initialised without"}, {in});
  expectReports(multicast("512", "3", kBarrier, ""), {"was initialised without a fence"}, {in});
}

TEST_F(ClusterTest, CopiesBetweenBlocks) {
  launch(4, 2);
  auto body = [](const std::string &fence, const std::string &end) {
    return R"(.shared .align 16 .b8 from[256]; .shared .align 16 .b8 to[256];
      .shared .align 8 .b64 full; mov.u32 %r2, from; mov.u32 %r3, to; mov.u32 %r4, full;
      setp.ne.u32 %p1, %t, 0; mov.u32 %r5, %cluster_ctarank; mov.u32 %r6, %ctaid.x;
      @%p1 bra READY; mbarrier.init.shared.b64 [%r4], 1; fence.mbarrier_init.release.cluster;
      mbarrier.arrive.expect_tx.shared.b64 _, [%r4], 256;
      READY: mad.lo.u32 %r7, %t, 4, %r2; mad.lo.u32 %r8, %r6, 100, %t; st.shared.u32 [%r7], %r8; )" +
           fence + kBarrier + R"(
      @%p1 bra WAIT; xor.b32 %r9, %r5, 1; mapa.shared::cluster.u32 %r10, %r3, %r9;
      mapa.shared::cluster.u32 %r11, %r4, %r9;
      cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r10], [%r2], 256, [%r11];
      WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 0; @!%p2 bra WAIT;
      mad.lo.u32 %r7, %t, 4, %r3; ld.shared.u32 %r1, [%r7];)" +
           end;
  };
  const char *fence = "fence.proxy.async.shared::cta;";
  auto values = results(body(fence, kBarrier));
  for (U i = 0; i < values.size(); ++i)
    EXPECT_EQ(values[i], (i / 64 ^ 1) * 100 + i % 64);
  expectReports(body("", kBarrier), {"without a fence.proxy.async in between"});
  // Its source is lent until the other block has it.
  expectReports(body(fence, "mov.u32 %r7, from; st.shared.u32 [%r7], 1;" + kBarrier),
                {"still reading", "race: "});
}

TEST_F(ClusterTest, LaunchesThatCannotBe) {
  launch(3, 2);
  bench.expectError("", {}, "is not whole clusters of (2, 1, 1)");
  launch(9, 9);
  bench.expectError("", {}, "a cluster of 9 blocks, expected 1 to 8");
  launch(4, 2);
  bench.expectError("mapa.shared::cluster.u32 %r1, %t, 2;", {}, "rank 2 of a cluster of 2");
  auto module = parse(".version 8.0\n.target sm_90a\n.address_size 64\n"
                      ".visible .entry k() .explicitcluster .reqnctapercluster 4, 1, 1 { ret; }");
  ASSERT_TRUE(module) << module.error().message;
  auto stats = run(*module, "k", bench.launch, bench.memory);
  ASSERT_FALSE(stats);
  EXPECT_NE(stats.error().message.find("asks for (4, 1, 1)"), std::string::npos)
      << stats.error().message;
  bench.launch.cluster = {};
  EXPECT_TRUE(run(*module, "k", bench.launch, bench.memory));
}

} // namespace
} // namespace moe::ptxsim
