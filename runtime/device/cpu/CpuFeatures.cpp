// Features come from the processor itself, not from /proc, which a sandbox may hide.
#include "runtime/device/cpu/CpuFeatures.h"

#include "runtime/device/cpu/FeatureProbe.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace moe::cpu {
namespace {

bool has(std::span<const std::string> features, std::string_view name) {
  return std::find(features.begin(), features.end(), name) != features.end();
}

#if defined(__x86_64__)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx))
    return {};
  return r;
}

// The register states that the operating system saves; 0 where it does not say.
uint64_t savedStates(const Registers &leaf1) {
  if (!(leaf1.ecx >> 27 & 1)) // osxsave
    return 0;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
}

// Asks for room for the data of tiles where a thread's registers are saved, as Linux wants before
// the first use. It refuses where a thread's alternative stack for signals has no such room.
bool mayUseTiles() {
  constexpr long requestPermission = 0x1023, tileData = 18; // <asm/prctl.h>, register states
  return syscall(SYS_arch_prctl, requestPermission, tileData) == 0;
}

std::vector<std::string> detect() {
  std::vector<std::string> features{"x86_64"};
  Registers leaf1 = cpuid(1, 0), leaf7 = cpuid(7, 0), leaf7b = cpuid(7, 1);
  uint64_t saved = savedStates(leaf1);
  bool ymm = (saved & 0x06) == 0x06;
  bool zmm = (saved & 0xe6) == 0xe6; // and mask registers
  bool tmm = (saved & 0x60000) == 0x60000 && (leaf7.edx >> 24 & 1) && mayUseTiles();
  auto add = [&](bool usable, uint32_t word, int bit, const char *name) {
    if (usable && (word >> bit & 1))
      features.push_back(name);
  };
  add(ymm, leaf7.ebx, 5, "avx2");
  add(ymm, leaf1.ecx, 12, "fma");
  add(ymm, leaf1.ecx, 29, "f16c");
  add(true, leaf7.ebx, 8, "bmi2");
  add(zmm, leaf7.ebx, 16, "avx512f");
  add(zmm, leaf7.ebx, 30, "avx512bw");
  add(zmm, leaf7.ebx, 17, "avx512dq");
  add(zmm, leaf7.ebx, 31, "avx512vl");
  add(zmm, leaf7.ebx, 28, "avx512cd");
  add(zmm, leaf7b.eax, 5, "avx512_bf16");
  add(zmm, leaf7.ecx, 11, "avx512_vnni");
  add(zmm, leaf7.ecx, 1, "avx512vbmi");
  add(ymm, leaf7b.eax, 4, "avx_vnni");
  add(tmm, leaf7.edx, 24, "amx_tile");
  add(tmm, leaf7.edx, 22, "amx_bf16");
  add(tmm, leaf7.edx, 25, "amx_int8");
  return features;
}

#elif defined(__aarch64__)

std::vector<std::string> detect() {
  std::vector<std::string> features{"aarch64"};
  unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  auto add = [&](unsigned long word, int bit, const char *name) {
    if (word >> bit & 1)
      features.push_back(name);
  };
  // By number: older system headers lack the later names.
  add(first, 1, "asimd");
  add(second, 14, "bf16");
  add(first, 20, "asimddp");
  add(second, 13, "i8mm");
  add(first, 10, "asimdhp");
  add(first, 22, "sve");
  add(second, 1, "sve2");
  return features;
}

#else

std::vector<std::string> detect() { return {"unknown"}; }

#endif

// The best --target of moec for this machine, or null.
const char *suggestedTarget(std::span<const std::string> host) {
  struct Target {
    const char *name;
    std::vector<std::string_view> features;
  };
  const Target targets[] = {
      {"cpu:x86-64-v4-amx",
       {"x86_64", "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl",
        "avx512cd", "avx512_bf16", "avx512_vnni", "avx512vbmi", "amx_tile", "amx_bf16",
        "amx_int8"}},
      {"cpu:x86-64-v4",
       {"x86_64", "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl",
        "avx512cd", "avx512_bf16", "avx512_vnni", "avx512vbmi"}},
      {"cpu:x86-64-v3-vnni", {"x86_64", "avx2", "fma", "f16c", "bmi2", "avx_vnni"}},
      {"cpu:x86-64-v3", {"x86_64", "avx2", "fma", "f16c", "bmi2"}},
      {"cpu:armv8.6-a", {"aarch64", "asimd", "asimddp", "i8mm", "bf16"}},
      {"cpu:aarch64", {"aarch64", "asimd", "asimddp"}},
  };
  for (const Target &target : targets)
    if (std::all_of(target.features.begin(), target.features.end(),
                    [&](std::string_view feature) { return has(host, feature); }))
      return target.name;
  return nullptr;
}

// What the processor reports, without what the environment takes away: that is not tried either.
std::vector<std::string> reportedFeatures() {
  std::vector<std::string> features = detect();
  const char *variable = std::getenv("MOE_CPU_DISABLE");
  std::string_view disabled = variable ? variable : "";
  while (!disabled.empty()) {
    size_t comma = std::min(disabled.find(','), disabled.size());
    std::erase(features, std::string(disabled.substr(0, comma)));
    disabled.remove_prefix(std::min(comma + 1, disabled.size()));
  }
  return features;
}

} // namespace

std::vector<std::string> hostFeatures() {
  std::vector<std::string> features = reportedFeatures();
  const std::vector<std::string> untrue = notExecuted(features);
  std::erase_if(features, [&](const std::string &feature) { return has(untrue, feature); });
  return features;
}

std::vector<std::string> falseFeatures() { return notExecuted(reportedFeatures()); }

Result<size_t> chooseImage(std::span<const Image> images, std::span<const std::string> host,
                           std::span<const std::string> untrue) {
  std::string found;
  for (size_t i = 0; i < images.size(); ++i) {
    if (!images[i].launches.empty()) // PTX, not machine code
      continue;
    std::string needs, lacks;
    for (const std::string &feature : images[i].features) {
      needs += (needs.empty() ? "" : " ") + feature;
      if (!has(host, feature))
        lacks += (lacks.empty() ? "" : " ") + feature +
                 (has(untrue, feature) ? " (reports it, but does not execute it)" : "");
    }
    if (lacks.empty() && !needs.empty())
      return i;
    found += (found.empty() ? "plan has " : "; ") + images[i].target;
    found += needs.empty() ? " (names no architecture)"
                           : " (needs " + needs + "), this processor lacks " + lacks;
  }
  if (found.empty())
    found = "plan has no code for a CPU";
  const char *target = suggestedTarget(host);
  return Error{Code::Unavailable, found + (target ? "; compile with --target " + std::string(target)
                                                  : "; moec has no target for this processor")};
}

} // namespace moe::cpu
