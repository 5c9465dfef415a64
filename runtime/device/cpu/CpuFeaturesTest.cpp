#include "runtime/device/cpu/CpuFeatures.h"

#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>

using namespace moe;
using namespace moe::cpu;

namespace {

using Features = std::vector<std::string>;

Image image(std::string target, Features features) {
  Image image;
  image.target = std::move(target);
  image.features = std::move(features);
  return image;
}

const Features v3{"x86_64", "avx2", "fma", "f16c", "bmi2"};
const Features v3Vnni{"x86_64", "avx2", "fma", "f16c", "bmi2", "avx_vnni"};
const Features v4{"x86_64",      "avx2",        "fma",       "f16c",     "bmi2",
                  "avx512f",     "avx512bw",    "avx512dq",  "avx512vl", "avx512cd",
                  "avx512_bf16", "avx512_vnni", "avx512vbmi"};

Features withAmx(Features features) {
  features.insert(features.end(), {"amx_tile", "amx_bf16", "amx_int8"});
  return features;
}

TEST(CpuFeatures, FirstThatFits) {
  const Image images[] = {image("cpu:aarch64", {"aarch64", "asimd"}), image("cpu:x86-64-v4", v4),
                          image("cpu:x86-64-v3-vnni", v3Vnni), image("cpu:x86-64-v3", v3)};
  EXPECT_EQ(*chooseImage(images, v4), 1u);
  EXPECT_EQ(*chooseImage(images, v3Vnni), 2u);
  EXPECT_EQ(*chooseImage(images, v3), 3u);
  EXPECT_EQ(*chooseImage(images, Features{"aarch64", "asimd", "bf16"}), 0u);
  EXPECT_FALSE(chooseImage(images, Features{"aarch64"}));
}

// Where the system does not let this process have tiles, the next image fits.
TEST(CpuFeatures, TilesMayBeRefused) {
  const Image images[] = {image("cpu:x86-64-v4-amx", withAmx(v4)), image("cpu:x86-64-v4", v4)};
  EXPECT_EQ(*chooseImage(images, withAmx(v4)), 0u);
  EXPECT_EQ(*chooseImage(images, v4), 1u);
  auto chosen = chooseImage(std::span(images).first(1), v4);
  ASSERT_FALSE(chosen);
  EXPECT_NE(chosen.error().message.find("this processor lacks amx_tile amx_bf16 amx_int8; "
                                        "compile with --target cpu:x86-64-v4"),
            std::string::npos)
      << chosen.error().message;
  EXPECT_EQ(chooseImage({}, withAmx(v4)).error().message,
            "plan has no code for a CPU; compile with --target cpu:x86-64-v4-amx");
}

TEST(CpuFeatures, NewerArmTakesItsOwn) {
  const Features older{"aarch64", "asimd", "asimddp"};
  Features newer = older;
  newer.insert(newer.end(), {"i8mm", "bf16"});
  const Image images[] = {image("cpu:armv8.6-a", newer), image("cpu:aarch64", older)};
  EXPECT_EQ(*chooseImage(images, newer), 0u);
  for (const char *taken : {"i8mm", "bf16"}) {
    Features host = newer;
    std::erase(host, taken);
    EXPECT_EQ(*chooseImage(images, host), 1u);
    EXPECT_EQ(
        chooseImage(std::span(images, 1), host).error().message,
        "plan has cpu:armv8.6-a (needs aarch64 asimd asimddp i8mm bf16), this processor lacks " +
            std::string(taken) + "; compile with --target cpu:aarch64");
  }
  EXPECT_NE(chooseImage({}, newer).error().message.find("--target cpu:armv8.6-a"),
            std::string::npos);
}

TEST(CpuFeatures, SaysWhatIsMissing) {
  Features host = v4;
  std::erase(host, "avx512_bf16");
  const Image images[] = {image("cpu:x86-64-v4", v4)};
  auto chosen = chooseImage(images, host);
  ASSERT_FALSE(chosen);
  EXPECT_EQ(chosen.error().code, Code::Unavailable);
  EXPECT_EQ(
      chosen.error().message,
      "plan has cpu:x86-64-v4 (needs x86_64 avx2 fma f16c bmi2 avx512f avx512bw avx512dq "
      "avx512vl avx512cd avx512_bf16 avx512_vnni avx512vbmi), this processor lacks avx512_bf16; "
      "compile with --target cpu:x86-64-v3");
  EXPECT_EQ(chooseImage({}, v3).error().message,
            "plan has no code for a CPU; compile with --target cpu:x86-64-v3");
  EXPECT_EQ(chooseImage({}, v3Vnni).error().message,
            "plan has no code for a CPU; compile with --target cpu:x86-64-v3-vnni");
  EXPECT_NE(chooseImage(images, Features{"riscv64"}).error().message.find("no target"),
            std::string::npos);
  const Image nameless[] = {image("cpu:native", {})};
  EXPECT_FALSE(chooseImage(nameless, v4));
}

TEST(CpuFeatures, SaysWhatIsReportedAndNotExecuted) {
  Features host = v4;
  std::erase(host, "avx512_bf16");
  std::erase(host, "avx512vbmi");
  const Image images[] = {image("cpu:x86-64-v4", v4), image("cpu:x86-64-v3", v3)};
  EXPECT_EQ(*chooseImage(images, host, Features{"avx512_bf16"}), 1u);
  auto chosen = chooseImage(std::span(images).first(1), host, Features{"avx512_bf16"});
  ASSERT_FALSE(chosen);
  EXPECT_NE(
      chosen.error().message.find("this processor lacks avx512_bf16 (reports it, but does not "
                                  "execute it) avx512vbmi; compile with"),
      std::string::npos)
      << chosen.error().message;
}

TEST(CpuFeatures, CanBeTakenAway) {
  Features all = hostFeatures();
  ASSERT_FALSE(all.empty());
  const std::string last = all.back();
  setenv("MOE_CPU_DISABLE", ("nonsense," + last).c_str(), 1);
  Features fewer = hostFeatures();
  unsetenv("MOE_CPU_DISABLE");
  EXPECT_EQ(fewer, Features(all.begin(), all.end() - 1));
}

// The operating system's own list, where it shows one.
TEST(CpuFeatures, AgreesWithProcCpuinfo) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line))
    if (line.starts_with("flags") || line.starts_with("Features"))
      break;
  if (line.empty())
    GTEST_SKIP() << "/proc/cpuinfo shows no features";
  std::istringstream words(line);
  std::vector<std::string> shown{std::istream_iterator<std::string>(words), {}};
  Features host = hostFeatures();
  auto in = [](const Features &list, const std::string &name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  for (size_t i = 1; i < host.size(); ++i)
    EXPECT_TRUE(in(shown, host[i])) << host[i];
  if (host[0] == "x86_64")
    for (const std::string &feature : v4)
      if (feature != "x86_64") {
        EXPECT_EQ(in(shown, feature), in(host, feature)) << feature;
      }
}

} // namespace
