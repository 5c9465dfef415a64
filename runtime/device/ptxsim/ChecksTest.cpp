// Each check on a kernel that is wrong, and on its sibling that is right.
#include "runtime/device/ptxsim/TestBench.h"

namespace moe::ptxsim {
namespace {

using U = uint32_t;

struct Checks : testing::Test {
  Bench bench;
  uint64_t out = bench.room(1024), in = bench.put(std::vector<U>(256, 1));
  void SetUp() override { bench.launch.block[0] = 64; }
};

TEST_F(Checks, Bounds) {
  const char *store = "mad.wide.u32 %rd1, %t, 16, %a0; st.global.u32 [%rd1+";
  bench.expectRun(store + std::string("12], %t;"), {out});
  bench.expectError(store + std::string("16], %t;"), {out},
                    "line 11 (st), block (0, 0, 0), thread (63, 0, 0): writes 4 bytes at global");
  bench.expectError(store + std::string("16], %t;"), {out}, "0 bytes past the end of the 1024");
  bench.expectError("ld.global.u32 %r1, [%a0+-4];", {out}, "belongs to no allocation");
  ASSERT_TRUE(bench.memory.free(in));
  bench.expectError("ld.global.u32 %r1, [%a0];", {in}, "reads 4 bytes at global");
}

TEST_F(Checks, BoundsOfSharedMemory) {
  const char *tiles = ".shared .align 4 .b8 a[4]; .shared .align 4 .b8 b[4];\n"
                      "setp.ne.u32 %p1, %t, 0; @%p1 exit; ";
  bench.expectRun(tiles + std::string("st.shared.u32 [a], 1; st.shared.u32 [b], 1;"), {});
  bench.expectError(tiles + std::string("st.shared.u32 [a+4], 1;"), {},
                    "which belongs to no variable");
  bench.expectError("mov.u32 %r1, 0; ld.shared.u32 %r2, [%r1];", {},
                    "which belongs to no variable");
  bench.expectError("mov.u32 %r1, 65536; ld.shared.u32 %r2, [%r1];", {}, "past the end of shared");
  bench.expectError("ld.shared.u32 %r2, [1024];", {}, "immediate addresses are allowed only");
}

TEST_F(Checks, Alignment) {
  bench.expectRun("ld.global.v2.u32 {%r1, %r2}, [%a0+8];", {in});
  bench.expectError("ld.global.v2.u32 {%r1, %r2}, [%a0+4];", {in}, "which is not aligned");
}

TEST_F(Checks, UnwrittenValues) {
  // An unwritten value may be moved about, but nothing may depend on it.
  bench.launch.block[0] = 32;
  bench.expectRun("mov.u32 %r2, %r1; add.u32 %r2, %r2, 1;", {});
  bench.expectError("mov.u32 %r2, %r1;\n setp.eq.u32 %p1, %r2, 0;\n @%p1 bra L; L:", {},
                    "line 12 (bra), block (0, 0, 0), thread (0, 0, 0): the guard depends on a "
                    "value that nothing wrote");
  bench.expectError("ld.global.u32 %r1, [%a0];\n mad.wide.u32 %rd1, %t, 4, %a1;\n"
                    "add.u32 %r2, %r1, 1; st.global.u32 [%rd1], %r2;",
                    {bench.room(4), out},
                    "the value depends on a value that nothing wrote, since line 12");
  bench.expectError(".shared .b32 x; ld.shared.u32 %r1, [x]; cvt.u64.u32 %rd1, %r1;\n"
                    "ld.global.u32 %r2, [%rd1];",
                    {}, "the address depends on");
  // Written by some lanes only.
  bench.expectError("setp.lt.u32 %p1, %t, 3; @%p1 mov.u32 %r1, 1;\n mad.wide.u32 %rd1, %t, 4, %a0;"
                    "st.global.u32 [%rd1], %r1;",
                    {out}, "thread (3, 0, 0)");
}

TEST_F(Checks, RacesInSharedMemory) {
  const char *exchange = ".shared .align 4 .b32 x[64]; mov.u64 %rd1, x;\n"
                         "mad.wide.u32 %rd2, %t, 4, %rd1; st.shared.u32 [%rd2], %t; SYNC\n"
                         "sub.u32 %r1, 63, %t; mad.wide.u32 %rd3, %r1, 4, %rd1;"
                         "ld.shared.u32 %r2, [%rd3];";
  std::string right = exchange, wrong = exchange;
  right.replace(right.find("SYNC"), 4, "bar.sync 0;");
  wrong.replace(wrong.find("SYNC"), 4, "bar.warp.sync -1;");
  for (uint64_t seed = 0; seed < 8; ++seed) {
    bench.options.seed = seed;
    bench.expectRun(right, {});
    auto stats = bench.run(wrong, {});
    ASSERT_FALSE(stats); // a race, or a value not yet written, as the order has it
    EXPECT_NE(stats.error().message.find("race: "), std::string::npos) << stats.error().message;
  }
  bench.expectError(".shared .b32 x; st.shared.u32 [x], %t;", {}, "race: lanes 0 and 1 write");
  bench.expectRun(".shared .b32 x; and.b32 %r1, %t, 32; setp.ne.u32 %p1, %r1, 0;\n"
                  "@%p1 exit; st.shared.u32 [x], %r1;",
                  {});
}

TEST_F(Checks, RacesBetweenBlocks) {
  bench.launch = {{2, 1, 1}, {32, 1, 1}, 0, {}, {}};
  bench.expectError("mad.wide.u32 %rd1, %t, 4, %a0; mov.u32 %r1, %ctaid.x;\n"
                    "st.global.u32 [%rd1], %r1;",
                    {out}, "race: writes global");
  bench.expectRun("mad.wide.u32 %rd1, %t, 4, %a0; red.global.add.u32 [%rd1], 1;", {in});
  bench.options.races = false;
  bench.expectRun("mad.wide.u32 %rd1, %t, 4, %a0; mov.u32 %r1, %ctaid.x;\n"
                  "st.global.u32 [%rd1], %r1;",
                  {out});
}

TEST_F(Checks, Divergence) {
  const char *some = "setp.lt.u32 %p1, %t, 3; @%p1 bra L; bar.sync 0; L: bar.warp.sync -1;";
  bench.expectError(some, {}, "must do so together");
  bench.expectError("setp.lt.u32 %p1, %t, 3; @%p1 bra L; shfl.sync.bfly.b32 %r1, %t, 1, 31, -1; L:",
                    {}, "the member mask is 0xffffffff, but lanes 0xfffffff8 execute this");
  bench.expectRun("setp.lt.u32 %p1, %t, 32; @%p1 bra L; bar.sync 1, 32; L: bar.sync 0;", {});
}

TEST_F(Checks, Deadlocks) {
  bench.expectError("setp.lt.u32 %p1, %t, 32; @%p1 bra L; bar.sync 1, 64; L: bar.sync 0;", {},
                    "no warp can go on");
  bench.expectError("setp.lt.u32 %p1, %t, 32; @%p1 bra L; bar.sync 1, 64; L: bar.sync 0;", {},
                    "warp 1 waits at line 10 for barrier 1, where 32 of 64 threads are");
  bench.options.spinLimit = 10000;
  bench.expectError("L: ld.volatile.global.u32 %r1, [%a0]; setp.eq.u32 %p1, %r1, 1; @%p1 bra L;",
                    {in}, "spins at line 11");
  bench.expectError(".shared .align 8 .b64 m; setp.ne.u32 %p1, %t, 0;\n"
                    "@!%p1 mbarrier.init.shared.b64 [m], 2; bar.sync 0;\n"
                    "@!%p1 mbarrier.arrive.shared.b64 _, [m];\n"
                    "L: mbarrier.try_wait.parity.shared.b64 %p2, [m], 0; @!%p2 bra L;",
                    {}, "which lacks 1 arrivals and 0 bytes");
}

TEST_F(Checks, MbarriersNeedInitialisation) {
  bench.expectError(".shared .align 8 .b64 m; mbarrier.arrive.shared.b64 _, [m];", {},
                    "no mbarrier was initialised");
  bench.expectError(".shared .align 8 .b64 m; mbarrier.init.shared.b64 [m], 64;\n"
                    "mbarrier.arrive.shared.b64 _, [m];",
                    {}, "race: ");
}

// What lanes of one warp hand each other through shared memory.
TEST_F(Checks, LanesMustMeet) {
  bench.launch.block[0] = 64;
  std::vector<U> words(512);
  for (U i = 0; i < 512; ++i)
    words[i] = i;
  uint64_t in = bench.put(words);
  const std::string begin = ".shared .align 16 .b8 x[2048]; mov.u32 %r2, x;\n"
                            "mad.lo.u32 %r3, %t, 16, %r2; xor.b32 %r4, %t, 1;\n"
                            "mad.lo.u32 %r5, %r4, 16, %r2; mov.b32 %r20, 7;\n";
  const std::string store = "st.shared.u32 [%r3], %t;\n", load = "ld.shared.u32 %r1, [%r5];\n",
                    wide = "st.shared.v4.u32 [%r3], {%t, %t, %t, %t};\n",
                    copy = "mad.wide.u32 %rd1, %t, 16, %a0;\n"
                           "cp.async.cg.shared.global [%r3], [%rd1], 16; cp.async.wait_all;\n",
                    matrix = "and.b32 %r6, %t, 31; shr.u32 %r7, %t, 5; mad.lo.u32 %r7, %r7, 512, "
                             "%r2; xor.b32 %r6, %r6, 1; mad.lo.u32 %r6, %r6, 16, %r7;\n"
                             "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r8, %r9, %r10, %r11}, "
                             "[%r6];\n";
  const char *message = "of the same warp wrote, without a bar.warp.sync in between";
  for (const std::string &meet : {std::string("bar.warp.sync -1;\n"), std::string("bar.sync 0;\n"),
                                  std::string("shfl.sync.idx.b32 %r9, %t, 0, 31, -1;\n")}) {
    for (const std::string &write : {store, wide, copy})
      bench.expectRun(begin + write + meet + load, {in});
    bench.expectRun(begin + wide + meet + matrix, {in});
    bench.expectRun(begin + copy + meet + matrix, {in});
  }
  for (const std::string &write : {store, wide, copy})
    bench.expectError(begin + write + load, {in}, message);
  bench.expectError(begin + wide + matrix, {in}, message);
  bench.expectError(begin + copy + matrix, {in}, message);
  bench.expectError(begin + store + "mov.u32 %r6, 5; st.shared.u32 [%r5], %r6;", {in},
                    "race: writes shared");
  // Diverged lanes have not met either, though one path came first.
  bench.expectError(begin + "and.b32 %r6, %t, 1; setp.eq.u32 %p1, %r6, 0; @%p1 bra READS;\n" +
                        store + "bra.uni END; READS: st.shared.u32 [%r3+4], %t; END:\n" + load,
                    {in}, message);
  // Each lane reads its own, all write the same, or what another wrote before they met.
  bench.expectRun(begin + wide + "ld.shared.v2.u32 {%r1, %r6}, [%r3+8];", {in});
  bench.expectRun(begin + "st.shared.u32 [%r3], %r20; st.shared.u32 [%r5], %r20;", {in});
  bench.expectRun(begin + store + "bar.warp.sync -1; st.shared.u32 [%r3+4], %t;\n" + load, {in});
  bench.options.races = false;
  bench.expectRun(begin + store + load, {in});
}

TEST_F(Checks, CountsSectorsAndConflicts) {
  bench.launch.block[0] = 32;
  auto stats = bench.run("mad.wide.u32 %rd1, %t, 4, %a0; ld.global.u32 %r1, [%rd1];\n"
                         "mad.wide.u32 %rd2, %t, 32, %a0; ld.global.u32 %r2, [%rd2];",
                         {bench.put(std::vector<U>(256))});
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->globalLoads, 2u);
  EXPECT_EQ(stats->globalSectors, 4u + 32u);
  EXPECT_EQ(stats->globalBytes, 256u);
  stats = bench.run(".shared .align 16 .b8 x[4096]; mov.u64 %rd1, x;\n"
                    "mad.wide.u32 %rd2, %t, 128, %rd1; st.shared.u32 [%rd2], %t;\n"
                    "bar.warp.sync -1; mad.wide.u32 %rd3, %t, 16, %rd1; st.shared.v4.u32 [%rd3], "
                    "{%t, %t, %t, %t};",
                    {});
  ASSERT_TRUE(stats) << stats.error().message;
  EXPECT_EQ(stats->sharedConflicts, 31u);
}

TEST_F(Checks, RefusesWrongLaunches) {
  bench.launch.block[0] = 2048;
  bench.expectError("", {}, "a block of 2048 threads");
  bench.launch.block[0] = 32;
  bench.expectError("addc.u32 %r1, %t, %t;", {}, "this form of 'addc' is not simulated");
  EXPECT_FALSE(bench.memory.free(out + 4));
  EXPECT_FALSE(bench.memory.copy(out, in, 2048));
}

} // namespace
} // namespace moe::ptxsim
