// Device functions: what they are given and give back, and what is refused.
#include "runtime/device/ptxsim/TestBench.h"

namespace moe::ptxsim {
namespace {

using U = uint32_t;

// What %r1 of each of 32 threads holds in the end.
std::vector<U> results(const std::string &functions, const std::string &body) {
  Bench bench;
  bench.declarations = functions;
  bench.launch.block[0] = 32;
  uint64_t out = bench.room(128);
  bench.expectRun(body + " mad.wide.u32 %rd79, %t, 4, %a0; st.global.u32 [%rd79], %r1;", {out});
  return bench.get<U>(out, 32);
}

void expectRefused(const std::string &functions, const std::string &body,
                   const std::string &message) {
  Bench bench;
  bench.declarations = functions;
  bench.launch.block[0] = 32;
  bench.expectError(body, {}, message);
}

// As LLVM writes them, with a loop that ends at another time in each lane.
const char kCollatz[] = R"(
.visible .func (.param .b32 func_retval0) collatz(.param .b32 collatz_param_0)
{
  .reg .pred %p<4>; .reg .b32 %r<9>;
  ld.param.b32 %r1, [collatz_param_0]; mov.b32 %r2, 0;
  setp.eq.s32 %p1, %r1, 1; @%p1 bra $L__BB0_4;
$L__BB0_1:
  and.b32 %r3, %r1, 1; setp.eq.u32 %p2, %r3, 0; shr.u32 %r4, %r1, 1;
  mad.lo.u32 %r5, %r1, 3, 1; selp.b32 %r1, %r4, %r5, %p2; add.u32 %r2, %r2, 1;
  setp.ne.u32 %p3, %r1, 1; @%p3 bra $L__BB0_1;
$L__BB0_4:
  st.param.b32 [func_retval0], %r2;
  ret;
})";

U collatz(U n) {
  U count = 0;
  for (; n != 1; ++count)
    n = n % 2 ? 3 * n + 1 : n / 2;
  return count;
}

TEST(Functions, ParametersInMemory) {
  // Twice, so that names of the body are declared twice, and once for some lanes only.
  auto values = results(kCollatz, R"(
    mov.u32 %r1, 1000; add.u32 %r2, %t, 1; setp.lt.u32 %p1, %t, 20;
    { .param .b32 param0; st.param.b32 [param0], %r2; .param .b32 retval0;
      @%p1 call.uni (retval0), collatz, (param0); @%p1 ld.param.b32 %r1, [retval0]; }
    add.u32 %r2, %t, 7;
    { .param .b32 param0; st.param.b32 [param0+0], %r2; .param .b32 retval0;
      call.uni (retval0), collatz, (param0); ld.param.b32 %r3, [retval0+0]; }
    mad.lo.u32 %r1, %r3, 10000, %r1;)");
  for (U t = 0; t < 32; ++t)
    EXPECT_EQ(values[t], (t < 20 ? collatz(t + 1) : 1000) + 10000 * collatz(t + 7));
}

TEST(Functions, ParametersInRegisters) {
  // One that calls another, leaves early in some lanes, and is defined behind a declaration.
  auto values = results(R"(
    .func (.reg .b32 sum) twice(.reg .b32 x);
    .func (.reg .b64 wide, .reg .b32 low) both(.reg .b32 x, .reg .b64 y)
    { .reg .pred %p1; .reg .b32 %r1; call (low), twice, (x); cvt.u64.u32 wide, low;
      setp.gt.u32 %p1, x, 9; @%p1 ret; add.u64 wide, wide, y; ret; }
    .func (.reg .b32 sum) twice(.reg .b32 x) { add.u32 sum, x, x; })",
                        R"(call (%rd1, %r2), both, (%t, 100); cvt.u32.u64 %r1, %rd1;
                           mad.lo.u32 %r1, %r2, 1000, %r1;)");
  for (U t = 0; t < 32; ++t)
    EXPECT_EQ(values[t], 2000 * t + 2 * t + (t > 9 ? 0 : 100));
}

TEST(Functions, ArraysAndSharedMemory) {
  auto values = results(R"(
    .shared .align 4 .b8 tile[128];
    .func exchange(.param .align 8 .b8 pair[8])
    { .reg .b32 %r<6>; ld.param.v2.b32 {%r1, %r2}, [pair]; mov.u32 %r3, tile;
      mad.lo.u32 %r3, %r1, 4, %r3; st.shared.b32 [%r3], %r2; bar.sync 0; ret; })",
                        R"({ .param .align 8 .b8 args[8]; mul.lo.u32 %r2, %t, 3;
      st.param.b32 [args], %t; st.param.b32 [args+4], %r2; call exchange, (args); }
      mov.u32 %r3, tile; xor.b32 %r4, %t, 31; mad.lo.u32 %r3, %r4, 4, %r3;
      ld.shared.b32 %r1, [%r3];)");
  for (U t = 0; t < 32; ++t)
    EXPECT_EQ(values[t], 3 * (t ^ 31));
}

TEST(Functions, WhatIsRefused) {
  const char *self = ".func f() { call f; }";
  expectRefused(self, "call f;", "'f' calls itself, perhaps through others");
  expectRefused(".func g(); .func f() { call g; } .func g() { call f; }", "call f;",
                "'f' calls itself, perhaps through others");
  expectRefused(".extern .func (.param .b32 r) vprintf(.param .b64 a);",
                "{ .param .b32 r; .param .b64 a; call (r), vprintf, (a); }",
                "'vprintf' has no body in this module");
  expectRefused("", "call (%r1), %rd1, (%r2), proto;", "calls through a register");
  const char *takes = ".func (.reg .b32 r) f(.param .b64 x) { mov.u32 r, 1; }";
  expectRefused(takes, "call (%r1), f, ();", "0 arguments and 1 results, expected 1 and 1");
  expectRefused(takes, "call (%r1), f, (%rd1);", "'%rd1' is no .param variable of 8 bytes");
  expectRefused(takes, "{ .param .b32 x; call (%r1), f, (x); }", "is no .param variable of 8");
  expectRefused(takes, "{ .param .b64 x; call (%rd1), f, (x); }", "has 64 bits, expected 32");
  expectRefused(".func f() { .shared .b32 x; }", "call f;", "shared variables of device functions");
  // The caller's names are out of sight.
  expectRefused(".func f() { mov.u32 %r1, 1; }", "call f;", "unknown name '%r1'");
  // Reports name the line of the body.
  expectRefused(".func f()\n{\n.reg .b64 %x; mov.u64 %x, 8;\nst.global.u32 [%x], 1;\n}", "call f;",
                "line 7 (st)");
}

// Functions that each call the next twice would fill the memory.
TEST(Functions, ExpansionIsBounded) {
  std::string functions = ".func f0() { bar.warp.sync -1; }\n";
  for (int n = 1; n < 40; ++n) {
    std::string before = "f" + std::to_string(n - 1);
    functions +=
        ".func f" + std::to_string(n) + "() { call " + before + "; call " + before + "; }\n";
  }
  expectRefused(functions, "call f39;", "instructions, those of the functions it calls included");
}

} // namespace
} // namespace moe::ptxsim
