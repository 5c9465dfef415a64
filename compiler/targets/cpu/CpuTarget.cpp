// The table of CPU targets.
#include "compiler/targets/cpu/CpuTarget.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/TargetParser/Host.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace moe::codegen {

// AVX2: of codes 16 registers hold 4 tokens by 16 rows of accumulators, the weights, what they are
// unpacked to and one broadcast. Of floats 6 tokens fit: 12 chains of sums, where 8 would just keep
// two multiplications a cycle of a latency of 4 at work.
static CpuTarget x86V3() {
  return {.name = "cpu:x86-64-v3",
          .triple = "x86_64-unknown-linux-gnu",
          .cpu = "x86-64-v3",
          .cpuFeatures = "",
          .required = {"x86_64", "avx2", "fma", "f16c", "bmi2"},
          .lanes = 8,
          .floatTokens = 6,
          .codeTokens = 4,
          .tileRows = 16,
          .registers = 16,
          .bf16Dot = Bf16Dot::Widened,
          .codeDot = CodeDot::BytePairs};
}

// AVX2 and its dot product of bytes. Codes need one register of weights for 8 rows and one for a
// token's activations, so that 6 tokens fit, whose 12 chains of sums keep two dot products a cycle
// of a latency of 5 or 6 at work. Floats are as on AVX2.
static CpuTarget x86V3Vnni() {
  CpuTarget target = x86V3();
  target.name = "cpu:x86-64-v3-vnni";
  target.cpuFeatures = "+avxvnni";
  target.required.push_back("avx_vnni");
  target.codeTokens = 6;
  target.codeDot = CodeDot::UnsignedBytes;
  return target;
}

// AVX-512: 32 registers hold 6 tokens by 64 rows.
static CpuTarget x86V4() {
  return {.name = "cpu:x86-64-v4",
          .triple = "x86_64-unknown-linux-gnu",
          .cpu = "x86-64-v4",
          .cpuFeatures = "+avx512bf16,+avx512vnni,+avx512vbmi",
          .required = {"x86_64", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd",
                       "avx512_bf16", "avx512_vnni", "avx512vbmi"},
          .lanes = 16,
          .floatTokens = 6,
          .codeTokens = 6,
          .tileRows = 64,
          .registers = 32,
          .bf16Dot = Bf16Dot::Vdpbf16ps,
          .codeDot = CodeDot::UnsignedBytes};
}

// A tile has 16 rows. What AMX does not multiply is as on the target without it.
CpuTarget withAmx(CpuTarget target) {
  target.name += "-amx";
  target.cpuFeatures += target.cpuFeatures.empty() ? "" : ",";
  target.cpuFeatures += "+amx-tile,+amx-bf16,+amx-int8";
  target.required.append({"amx_tile", "amx_bf16", "amx_int8"});
  target.amx = true;
  return target;
}

// Armv8.2-A with NEON and its dot product: 32 registers hold 4 tokens by 16 rows.
static CpuTarget aarch64() {
  return {.name = "cpu:aarch64",
          .triple = "aarch64-unknown-linux-gnu",
          .cpu = "generic",
          .cpuFeatures = "+neon,+dotprod",
          .required = {"aarch64", "asimd", "asimddp"},
          .lanes = 4,
          .floatTokens = 4,
          .codeTokens = 4,
          .tileRows = 16,
          .registers = 32,
          .bf16Dot = Bf16Dot::Widened,
          .codeDot = CodeDot::SignedBytes};
}

// What Armv8.6-A adds and some processors of older versions have too: 32 registers hold 6 tokens by
// 16 rows, and of each two units of the weights twice a vector of interleaved rows.
static CpuTarget armV86() {
  CpuTarget target = aarch64();
  target.name = "cpu:armv8.6-a";
  target.cpuFeatures += ",+i8mm,+bf16";
  target.required.append({"i8mm", "bf16"});
  target.floatTokens = target.codeTokens = 6;
  target.bf16Dot = Bf16Dot::Bfdot;
  target.codeDot = CodeDot::UnsignedBytes;
  target.matrixDots = true;
  return target;
}

llvm::ArrayRef<llvm::StringRef> cpuTargetNames() {
  static const llvm::StringRef names[] = {"x86-64-v4-amx", "x86-64-v4", "x86-64-v3-vnni",
                                          "x86-64-v3",     "armv8.6-a", "aarch64"};
  return names;
}

llvm::Expected<CpuTarget> cpuTarget(llvm::StringRef name) {
  if (name == "x86-64-v3")
    return x86V3();
  if (name == "x86-64-v3-vnni")
    return x86V3Vnni();
  if (name == "x86-64-v4")
    return x86V4();
  if (name == "x86-64-v4-amx")
    return withAmx(x86V4());
  if (name == "aarch64")
    return aarch64();
  if (name == "armv8.6-a")
    return armV86();
  if (name == "native") {
#if defined(__aarch64__)
    // From the kernel: LLVM's list of what an Arm host has leaves these out.
    constexpr unsigned long needed = HWCAP2_I8MM | HWCAP2_BF16;
    CpuTarget target = (getauxval(AT_HWCAP2) & needed) == needed ? armV86() : aarch64();
#else
    llvm::StringMap<bool> has = llvm::sys::getHostCPUFeatures();
    auto all = [&](std::initializer_list<llvm::StringRef> features) {
      return llvm::all_of(features, [&](llvm::StringRef f) { return has.lookup(f); });
    };
    bool v4 = all({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512bf16",
                   "avx512vnni", "avx512vbmi"});
    bool amx = all({"amx-tile", "amx-bf16", "amx-int8"});
    CpuTarget target = v4 && amx               ? withAmx(x86V4())
                       : v4                    ? x86V4()
                       : has.lookup("avxvnni") ? x86V3Vnni()
                                               : x86V3();
#endif
    return target;
  }
  return llvm::createStringError(
      "unknown CPU target '" + name +
      "': use cpu:x86-64-v4-amx, cpu:x86-64-v4, cpu:x86-64-v3-vnni, cpu:x86-64-v3, cpu:armv8.6-a, "
      "cpu:aarch64 or cpu:native");
}

} // namespace moe::codegen
