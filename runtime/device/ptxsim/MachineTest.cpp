// Control flow, collectives, memory and asynchronous copies of whole small kernels.
#include "runtime/device/ptxsim/TestBench.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

namespace moe::ptxsim {
namespace {

using U = uint32_t;

// Stores %r1 of each thread of the grid to %a0.
const char kStore[] = "mov.u32 %r90, %ctaid.x; mov.u32 %r91, %ntid.x;\n"
                      "mad.lo.u32 %r90, %r90, %r91, %t; mad.wide.u32 %rd79, %r90, 4, %a0;\n"
                      "st.global.u32 [%rd79], %r1;";

std::vector<U> results(const std::string &body, unsigned threads = 32, unsigned blocks = 1,
                       std::vector<uint64_t> more = {}, Bench *with = nullptr) {
  Bench own, &bench = with ? *with : own;
  bench.launch.block[0] = threads;
  bench.launch.grid[0] = blocks;
  uint64_t out = bench.room(threads * blocks * 4);
  more.insert(more.begin(), out);
  auto stats = bench.run(body + kStore, more);
  EXPECT_TRUE(stats) << stats.error().message;
  return stats ? bench.get<U>(out, threads * blocks) : std::vector<U>(threads * blocks);
}

TEST(Control, LanesDivergeAndMeet) {
  // Collatz: every lane loops for another number of rounds, with an if inside.
  auto steps = results(R"(
    add.u32 %r2, %t, 1; mov.u32 %r1, 0;
    LOOP: setp.eq.u32 %p1, %r2, 1; @%p1 bra OUT;
    and.b32 %r3, %r2, 1; setp.eq.u32 %p2, %r3, 0; @%p2 bra EVEN;
    mad.lo.u32 %r2, %r2, 3, 1; bra.uni NEXT;
    EVEN: shr.u32 %r2, %r2, 1;
    NEXT: add.u32 %r1, %r1, 1; bra.uni LOOP;
    OUT: bar.warp.sync -1;)");
  for (U lane = 0; lane < 32; ++lane) {
    U n = lane + 1, count = 0;
    for (; n != 1; ++count)
      n = n % 2 ? 3 * n + 1 : n / 2;
    EXPECT_EQ(steps[lane], count);
  }
}

TEST(Control, SomeLanesLeave) {
  Bench bench;
  bench.launch.block[0] = 64;
  uint64_t out = bench.put(std::vector<U>(64, 7));
  bench.expectRun("setp.gt.u32 %p1, %t, 20; @%p1 exit; setp.lt.u32 %p2, %t, 3; @%p2 ret;\n"
                  "mad.wide.u32 %rd1, %t, 4, %a0; st.global.u32 [%rd1], %t;",
                  {out});
  auto values = bench.get<U>(out, 64);
  for (U i = 0; i < 64; ++i)
    EXPECT_EQ(values[i], i < 3 || i > 20 ? 7 : i);
}

TEST(Control, PredicatesAndSelections) {
  auto values = results(R"(
    setp.lt.u32 %p1|%p2, %t, 16; setp.gt.and.u32 %p3, %t, 8, %p1; xor.pred %p4, %p2, %p3;
    selp.u32 %r1, 1, 0, %p4; @!%p1 add.u32 %r1, %r1, 10; set.lt.u32.u32 %r2, %t, 2;
    and.b32 %r2, %r2, 100; add.u32 %r1, %r1, %r2; mov.b32 {%rs1, %rs2}, %r1;
    mov.b32 %r1, {%rs1, %rs2};)");
  for (U t = 0; t < 32; ++t)
    EXPECT_EQ(values[t],
              U((t >= 16) != (t > 8 && t < 16)) + (t >= 16 ? 10 : 0) + (t < 2 ? 100 : 0));
}

TEST(Collectives, Shuffle) {
  auto up = results("shfl.sync.up.b32 %r1|%p1, %t, 3, 0, -1; @!%p1 mov.u32 %r1, 99;");
  auto down = results("shfl.sync.down.b32 %r1, %t, 1, 0x1807, -1;"); // segments of 8
  auto fly = results("shfl.sync.bfly.b32 %r1, %t, 5, 31, -1;");
  auto index = results("shfl.sync.idx.b32 %r1, %t, 9, 31, -1;");
  for (U t = 0; t < 32; ++t) {
    EXPECT_EQ(up[t], t < 3 ? 99 : t - 3);
    EXPECT_EQ(down[t], t % 8 == 7 ? t : t + 1);
    EXPECT_EQ(fly[t], t ^ 5);
    EXPECT_EQ(index[t], 9u);
  }
}

TEST(Collectives, VoteReduceElectMatch) {
  auto sum = results("redux.sync.add.s32 %r1, %t, -1;");
  auto most = results("redux.sync.max.u32 %r1, %t, -1;");
  auto ballot = results("setp.lt.u32 %p1, %t, 5; vote.sync.ballot.b32 %r1, %p1, -1;");
  auto any =
      results("setp.eq.u32 %p1, %t, 5; vote.sync.any.pred %p2, %p1, -1; selp.u32 %r1, 1, 0, %p2;");
  auto elected = results("elect.sync %r2|%p1, -1; selp.u32 %r1, 1, 0, %p1;");
  auto matched = results("and.b32 %r2, %t, 1; match.any.sync.b32 %r1, %r2, -1;");
  auto half = results("mov.u32 %r1, 0; setp.lt.u32 %p1, %t, 8; @!%p1 bra SKIP; "
                      "activemask.b32 %r1; SKIP: bar.warp.sync -1;");
  for (U t = 0; t < 32; ++t) {
    EXPECT_EQ(sum[t], 496u);
    EXPECT_EQ(most[t], 31u);
    EXPECT_EQ(ballot[t], 31u);
    EXPECT_EQ(any[t], 1u);
    EXPECT_EQ(elected[t], U(t == 0));
    EXPECT_EQ(matched[t], t % 2 ? 0xaaaaaaaa : 0x55555555);
    EXPECT_EQ(half[t], t < 8 ? 255u : 0u);
  }
}

// Reverses a block through shared memory, in every width.
TEST(Memory, SharedMemoryAndBarriers) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    Bench bench;
    bench.options.seed = seed;
    bench.declarations = ".extern .shared .align 16 .b8 dynamic[];";
    bench.launch.sharedBytes = 1024;
    auto values = results(R"(
      .shared .align 8 .b32 tile[256];
      mov.b64 %rd1, tile; mad.wide.u32 %rd2, %t, 4, %rd1; st.shared.u32 [%rd2], %t;
      bar.sync 0; sub.u32 %r2, 255, %t; mad.wide.u32 %rd3, %r2, 4, %rd1;
      ld.shared.u32 %r1, [%rd3];
      cvta.shared.u64 %rd4, %rd1; add.u64 %rd4, %rd4, 8; ld.u32 %r3, [%rd4];
      add.u32 %r1, %r1, %r3; shl.b32 %r4, %t, 2; mov.u32 %r5, dynamic; add.u32 %r4, %r4, %r5;
      st.shared.b32 [%r4], %r1; ld.shared.b32 %r1, [%r4];)",
                          256, 3, {}, &bench);
    for (U i = 0; i < values.size(); ++i)
      EXPECT_EQ(values[i], 255 - i % 256 + 2);
  }
}

TEST(Memory, VectorsAndWidths) {
  Bench bench;
  std::vector<U> input(128);
  std::iota(input.begin(), input.end(), 0x80808080u);
  uint64_t in = bench.put(input), out = bench.room(32 * 32);
  bench.launch.block[0] = 32;
  bench.expectRun(R"(
    mad.wide.u32 %rd1, %t, 16, %a0; ld.global.nc.L1::no_allocate.v4.b32 {%r1, %r2, _, %r4}, [%rd1];
    ld.global.s8 %r5, [%rd1]; ld.global.u8 %rs1, [%rd1+1]; ld.global.v2.b64 {%rd3, %rd4}, [%rd1];
    mad.wide.u32 %rd2, %t, 32, %a1; st.global.v4.b32 [%rd2], {%r1, %r2, 5, %r4};
    st.global.b32 [%rd2+16], %r5; st.global.b16 [%rd2+20], %rs1; st.global.b8 [%rd2+22], 3;
    st.global.u8 [%rd2+23], %rs1; st.global.b64 [%rd2+24], %rd4;)",
                  {in, out});
  auto values = bench.get<U>(out, 256);
  for (U t = 0; t < 32; ++t) {
    EXPECT_EQ(values[8 * t], input[4 * t]);
    EXPECT_EQ(values[8 * t + 2], 5u);
    EXPECT_EQ(values[8 * t + 3], input[4 * t + 3]);
    EXPECT_EQ(values[8 * t + 4], U(int8_t(input[4 * t])));
    EXPECT_EQ(values[8 * t + 5], 0x80030080u);
    EXPECT_EQ(values[8 * t + 7], input[4 * t + 3]);
  }
}

TEST(Memory, LocalConstAndGlobalVariables) {
  Bench bench;
  bench.declarations = ".const .align 4 .b32 table[2] = {5, 6};\n.global .align 4 .b32 sum;";
  auto values = results(R"(
    .local .align 8 .b8 depot[8]; .reg .b64 %SP, %SPL;
    mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL; st.u32 [%SP+4], %t; ld.local.u32 %r1, [%SPL+4];
    ld.const.u32 %r2, [table+4]; add.u32 %r1, %r1, %r2; mov.u64 %rd1, sum;
    atom.global.add.u32 %r3, [%rd1], 1; red.global.max.u32 [sum], 0;)",
                        64, 1, {}, &bench);
  for (U t = 0; t < 64; ++t)
    EXPECT_EQ(values[t], t + 6);
}

TEST(Memory, Atomics) {
  Bench bench;
  bench.launch = {{4, 1, 1}, {64, 1, 1}, 0, {}, {}};
  uint64_t counters = bench.put(std::vector<U>(8, 0));
  bench.expectRun(R"(
    atom.global.add.u32 %r1, [%a0], 2; red.global.add.f32 [%a0+4], 0f3F800000;
    atom.global.max.s32 %r2, [%a0+8], %t; atom.global.or.b32 %r3, [%a0+12], %t;
    atom.global.cas.b32 %r4, [%a0+16], 0, 9; atom.global.inc.u32 %r5, [%a0+20], 6;
    red.release.gpu.global.add.u64 [%a0+24], 1;)",
                  {counters});
  auto values = bench.get<U>(counters, 8);
  EXPECT_EQ(values, (std::vector<U>{512, std::bit_cast<U>(256.0f), 63, 63, 9, 256 % 7, 256, 0}));
}

// A grid-wide sum: the last block to arrive adds what the others released.
const char kLastBlock[] = R"(
  mov.u32 %r1, %ctaid.x; mad.wide.u32 %rd1, %r1, 4, %a1; setp.ne.u32 %p1, %t, 0;
  @%p1 bra END;
  st.global.u32 [%rd1], %r1; FENCE
  atom.global.add.u32 %r2, [%a2], 1; FENCE
  setp.ne.u32 %p2, %r2, 7; @%p2 bra END;
  mov.u32 %r3, 0; mov.u32 %r4, 0;
  LOOP: mad.wide.u32 %rd2, %r3, 4, %a1; ld.global.u32 %r5, [%rd2]; add.u32 %r4, %r4, %r5;
  add.u32 %r3, %r3, 1; setp.lt.u32 %p3, %r3, 8; @%p3 bra LOOP;
  st.global.u32 [%a0], %r4; END:)";

std::string lastBlock(const char *fence) {
  std::string body = kLastBlock;
  for (size_t at; (at = body.find("FENCE")) != std::string::npos;)
    body.replace(at, 5, fence);
  return body;
}

TEST(Memory, BlocksSynchroniseThroughFences) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    Bench bench;
    bench.options.seed = seed;
    bench.launch = {{8, 1, 1}, {64, 1, 1}, 0, {}, {}};
    uint64_t out = bench.room(4), parts = bench.room(32), count = bench.put(std::vector<U>{0});
    bench.expectRun(lastBlock("fence.acq_rel.gpu;"), {out, parts, count});
    EXPECT_EQ(bench.get<U>(out, 1)[0], 28u);
    count = bench.put(std::vector<U>{0});
    bench.expectError(lastBlock(""), {bench.room(4), bench.room(32), count}, "race: reads global");
  }
}

// Loads a tile through cp.async, waits, and reads a neighbour's word.
std::string asyncTile(const std::string &wait) {
  return R"(
    .shared .align 16 .b8 tile[1024];
    mov.u32 %r2, tile; shl.b32 %r3, %t, 4; add.u32 %r3, %r2, %r3; mad.wide.u32 %rd1, %t, 16, %a1;
    cp.async.cg.shared.global [%r3], [%rd1], 16; cp.async.commit_group;)" +
         wait + R"(
    xor.b32 %r4, %t, 63; shl.b32 %r4, %r4, 4; add.u32 %r4, %r2, %r4; ld.shared.u32 %r1, [%r4+4];)";
}

TEST(Async, CopiesArriveAtTheWait) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    std::vector<U> input(256);
    std::iota(input.begin(), input.end(), 0);
    Bench bench;
    bench.options.seed = seed;
    uint64_t in = bench.put(input);
    auto values = results(asyncTile("cp.async.wait_group 0; bar.sync 0;"), 64, 1, {in}, &bench);
    for (U t = 0; t < 64; ++t)
      EXPECT_EQ(values[t], (t ^ 63) * 4 + 1);
    uint64_t out = bench.room(256);
    bench.expectError(asyncTile("bar.sync 0;") + kStore, {out, in}, "a wait is missing");
    bench.expectError(asyncTile("cp.async.wait_group 1; bar.sync 0;") + kStore, {out, in},
                      "a wait is missing");
    auto stats = bench.run(asyncTile("cp.async.wait_group 0;") + kStore, {out, in});
    ASSERT_FALSE(stats); // the other warp's part may not even have been issued
  }
}

TEST(Async, ZeroFills) {
  Bench bench;
  uint64_t in = bench.put(std::vector<U>{1, 2, 3, 4});
  auto values = results(R"(
    .shared .align 16 .b8 tile[512];
    mov.u32 %r2, tile; shl.b32 %r3, %t, 4; add.u32 %r3, %r2, %r3; mov.u32 %r5, 8;
    cp.async.cg.shared.global [%r3], [%a1], 16, %r5; cp.async.wait_all;
    ld.shared.v4.u32 {%r6, %r7, %r8, %r9}, [%r3]; add.u32 %r1, %r6, %r7; add.u32 %r1, %r1, %r8;)",
                        32, 1, {in}, &bench);
  EXPECT_EQ(values, std::vector<U>(32, 3));
}

// A bulk copy in, doubled by all threads, and a bulk copy out.
std::string bulk(const std::string &bytes, const std::string &proxyFence,
                 const std::string &storeWait = "cp.async.bulk.wait_group 0;") {
  return R"(
    .shared .align 16 .b8 tile[512]; .shared .align 8 .b64 full;
    setp.ne.u32 %p1, %t, 0; mov.u32 %r2, tile; mov.u32 %r3, full; @%p1 bra READY;
    mbarrier.init.shared.b64 [%r3], 1; fence.mbarrier_init.release.cluster;
    READY: bar.sync 0; @%p1 bra WAIT;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r3], )" +
         bytes + R"(;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%a1], 512, [%r3];
    WAIT: { .reg .pred P; LAB: mbarrier.try_wait.parity.shared.b64 P, [%r3], 0; @P bra.uni DONE;
    bra.uni LAB; DONE: }
    shl.b32 %r4, %t, 2; add.u32 %r4, %r2, %r4; ld.shared.u32 %r5, [%r4]; add.u32 %r1, %r5, %r5;
    st.shared.u32 [%r4], %r1;)" +
         proxyFence + R"( bar.sync 0; @%p1 bra END;
    cp.async.bulk.global.shared::cta.bulk_group [%a2], [%r2], 512; cp.async.bulk.commit_group;)" +
         storeWait + " END:";
}

TEST(Async, BulkCopiesThroughAnMbarrier) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    Bench bench;
    bench.options.seed = seed;
    std::vector<U> input(128);
    std::iota(input.begin(), input.end(), 1);
    uint64_t in = bench.put(input), out = bench.room(512), copy = bench.room(512);
    const char *fence = "fence.proxy.async.shared::cta;";
    auto values = results(bulk("512", fence), 128, 1, {in, copy}, &bench);
    auto copied = bench.get<U>(copy, 128);
    for (U t = 0; t < 128; ++t) {
      EXPECT_EQ(values[t], 2 * input[t]);
      EXPECT_EQ(copied[t], 2 * input[t]);
    }
    bench.expectError(bulk("1024", fence) + kStore, {out, in, copy},
                      "lacks 0 arrivals and 512 bytes");
    bench.expectError(bulk("512", "") + kStore, {out, in, copy},
                      "without a fence.proxy.async in between");
    bench.expectError(bulk("512", fence, "") + kStore, {out, in, copy},
                      "may still read its shared memory");
  }
}

// What LLVM makes of c = exp(a + b) on 1000 floats, as it prints it.
const char kFromLlvm[] = R"(
.version 8.4
.target sm_90a
.address_size 64
	// .globl	vadd
.visible .entry vadd(
	.param .u64 .ptr .global .align 1 vadd_param_0,
	.param .u64 .ptr .global .align 1 vadd_param_1,
	.param .u64 .ptr .global .align 1 vadd_param_2,
	.param .u64 vadd_param_3
)
.maxntid 256, 1, 1
{
	.reg .pred 	%p<2>;
	.reg .b32 	%r<19>;
	.reg .b64 	%rd<12>;

	mov.u32 	%r1, %ctaid.x;
	ld.param.b64 	%rd5, [vadd_param_3];
	mov.u32 	%r2, %ntid.x;
	mov.u32 	%r3, %tid.x;
	cvt.u64.u32 	%rd6, %r3;
	mul.wide.u32 	%rd7, %r1, %r2;
	add.s64 	%rd1, %rd7, %rd6;
	setp.ge.u64 	%p1, %rd1, %rd5;
	@%p1 bra 	$L__BB0_2;
	ld.param.b64 	%rd4, [vadd_param_2];
	ld.param.b64 	%rd3, [vadd_param_1];
	ld.param.b64 	%rd2, [vadd_param_0];
	shl.b64 	%rd8, %rd1, 2;
	add.s64 	%rd9, %rd2, %rd8;
	ld.global.b32 	%r4, [%rd9];
	add.s64 	%rd10, %rd3, %rd8;
	ld.global.b32 	%r5, [%rd10];
	add.rn.f32 	%r6, %r4, %r5;
	fma.rn.f32 	%r7, %r6, 0f3BBB989D, 0f3F000000;
	cvt.sat.f32.f32 	%r8, %r7;
	mov.b32 	%r9, 0f4B400001;
	mov.b32 	%r10, 0f437C0000;
	fma.rm.f32 	%r11, %r8, %r10, %r9;
	add.rn.f32 	%r12, %r11, 0fCB40007F;
	neg.f32 	%r13, %r12;
	fma.rn.f32 	%r14, %r6, 0f3FB8AA3B, %r13;
	fma.rn.f32 	%r15, %r6, 0f32A57060, %r14;
	shl.b32 	%r16, %r11, 23;
	ex2.approx.ftz.f32 	%r17, %r15;
	mul.rn.f32 	%r18, %r17, %r16;
	add.s64 	%rd11, %rd4, %rd8;
	st.global.b32 	[%rd11], %r18;
$L__BB0_2:
	ret;

}
)";

TEST(Machine, RunsWhatLlvmWrites) {
  auto module = parse(kFromLlvm);
  ASSERT_TRUE(module) << module.error().message;
  std::vector<float> a(1000), b(1000);
  for (size_t i = 0; i < a.size(); ++i)
    a[i] = float(i) / 100 - 5, b[i] = float(i % 7) / 3;
  std::vector<float> first;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    Bench bench;
    uint64_t out = bench.room(4000);
    std::vector<uint64_t> params{bench.put(a), bench.put(b), out, 1000};
    bench.launch = {{4, 1, 1}, {256, 1, 1}, 0, std::as_bytes(std::span(params)), {}};
    bench.options.seed = seed;
    auto stats = run(*module, "vadd", bench.launch, bench.memory, bench.options);
    ASSERT_TRUE(stats) << stats.error().message;
    auto values = bench.get<float>(out, 1000);
    for (size_t i = 0; i < a.size(); ++i)
      EXPECT_NEAR(values[i] / std::exp(a[i] + b[i]), 1, 1e-6);
    if (seed) {
      EXPECT_EQ(values, first);
    }
    first = values;
  }
}

// Blocks of a sample see the whole grid; nothing else runs.
TEST(Machine, RunsASampleOfTheGrid) {
  Bench bench;
  const std::vector<uint32_t> sample{3, 70000};
  bench.launch.sample = sample;
  bench.launch.grid[0] = 70001;
  uint64_t out = bench.room(70001 * 4);
  bench.expectRun(
      "mov.u32 %r1, %nctaid.x; mov.u32 %r2, %ctaid.x; mul.wide.u32 %rd1, %r2, 4;\n"
      "add.s64 %rd1, %rd1, %a0; setp.eq.u32 %p1, %t, 0; @%p1 st.global.u32 [%rd1], %r1;",
      {out});
  for (uint32_t block : sample)
    EXPECT_EQ(bench.get<U>(out + block * 4, 1)[0], 70001u);
  U other;
  EXPECT_FALSE(bench.memory.copyOut(std::as_writable_bytes(std::span(&other, 1)), out, true));
  EXPECT_FALSE(
      bench.memory.copyOut(std::as_writable_bytes(std::span(&other, 1)), out + 69999 * 4, true));

  // Clusters are sampled as a whole.
  bench.launch.grid[0] = 8;
  bench.launch.cluster = {2, 1, 1};
  const std::vector<uint32_t> one{3};
  bench.launch.sample = one;
  uint64_t ranks = bench.room(8 * 4);
  bench.expectRun(
      "mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %ctaid.x; mul.wide.u32 %rd1, %r2, 4;\n"
      "add.s64 %rd1, %rd1, %a0; st.global.u32 [%rd1], %r1;",
      {ranks});
  EXPECT_EQ(bench.get<U>(ranks + 6 * 4, 2), (std::vector<U>{0, 1}));

  for (const std::vector<uint32_t> &wrong : {std::vector<uint32_t>{4}, {1, 1}, {2, 0}}) {
    bench.launch.sample = wrong;
    bench.expectError("", {}, "ascending numbers below 4");
  }
  // Who waits for a block that does not run is told so.
  bench.launch.cluster = {};
  bench.launch.sample = one;
  bench.options.spinLimit = 1000;
  uint64_t flag = bench.put(std::vector<U>{0});
  bench.expectError("WAIT: ld.acquire.gpu.global.u32 %r1, [%a0]; setp.eq.u32 %p1, %r1, 0;\n"
                    "@%p1 bra WAIT;",
                    {flag}, "a sample of 1 blocks of the grid was launched");
}

// Bytes of a source are made when they are first read, and no others are.
TEST(Memory, SourcesAreReadWhereTheyAreNeeded) {
  Bench bench;
  std::vector<uint64_t> made;
  const uint64_t bytes = (uint64_t(1) << 40) + 100, unit = 4096;
  auto address =
      bench.memory.allocate(bytes, "weights", {unit, [&](uint64_t offset, std::span<std::byte> to) {
                                                 made.push_back(offset);
                                                 for (size_t i = 0; i < to.size(); i += 4) {
                                                   U value = U(offset / unit + i);
                                                   std::memcpy(&to[i], &value, 4);
                                                 }
                                               }});
  ASSERT_TRUE(address);
  uint64_t out = bench.room(128), far = (uint64_t(1) << 40) - 4;
  bench.launch.block[0] = 1;
  bench.expectRun("ld.global.nc.u32 %r1, [%a0]; st.global.u32 [%a2], %r1;\n"
                  "ld.global.u32 %r1, [%a1]; st.global.u32 [%a2+4], %r1;\n"
                  "ld.global.u32 %r1, [%a1+4]; st.global.u32 [%a2+8], %r1;",
                  {*address + 8192, *address + far, out});
  const uint64_t last = (uint64_t(1) << 40) / unit;
  EXPECT_EQ(bench.get<U>(out, 3), (std::vector<U>{2, U(last - 1 + 4092), U(last)}));
  EXPECT_EQ(made, (std::vector<uint64_t>{8192, (last - 1) * unit, last * unit}));
  // The host sees them too, and what a kernel wrote stays.
  EXPECT_EQ(bench.get<U>(*address + 4096 + 8, 1)[0], 9u);
  bench.expectRun("mov.u32 %r1, 77; st.global.u32 [%a0], %r1;", {*address + 4});
  EXPECT_EQ(bench.get<U>(*address, 2), (std::vector<U>{0, 77}));
  bench.expectError("ld.global.u32 %r1, [%a0];", {*address + bytes}, "bytes past the end");
}

// Damaged kernels that still parse end, or are refused.
TEST(Machine, SurvivesDamage) {
  std::mt19937 random(7);
  for (int round = 0; round < 1500; ++round) {
    Bench bench;
    bench.options.spinLimit = 3000;
    bench.launch.block[0] = 128;
    uint64_t in = bench.put(std::vector<U>(256, 1)), out = bench.room(1024);
    std::string body = round % 2 ? bulk("512", "fence.proxy.async.shared::cta;")
                                 : asyncTile("cp.async.wait_group 0; bar.sync 0;") +
                                       "shfl.sync.up.b32 %r1|%p1, %t, 3, 0, -1;\n"
                                       "vote.sync.ballot.b32 %r1, %p1, -1;";
    std::string damaged = bench.text(body + kStore, 3);
    for (int i = 0; i < 1 + round % 4; ++i) {
      size_t at = damaged.find("mov") + random() % (damaged.size() - damaged.find("mov"));
      size_t from = random() % damaged.size();
      damaged.replace(at, random() % 6, damaged.substr(from, random() % 8));
    }
    auto module = parse(damaged);
    if (!module || !module->globals.empty())
      continue;
    std::vector<uint64_t> params{out, in, bench.room(1024)};
    bench.launch.params = std::as_bytes(std::span(params));
    (void)bool(run(*module, "k", bench.launch, bench.memory, bench.options));
  }
}

} // namespace
} // namespace moe::ptxsim
