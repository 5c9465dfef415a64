// Targets by name, and what the driver's compiler said.
#include "runtime/device/cuda/Image.h"

#include <charconv>
#include <cstring>

namespace moe::cuda {
namespace {

// "sm_90a" among the features of an image; empty if there is none.
std::string_view targetOf(const Image &image) {
  for (const std::string &feature : image.features)
    if (feature.starts_with("sm_"))
      return feature;
  return {};
}

std::string_view textOf(std::span<const std::byte> ptx) {
  return {reinterpret_cast<const char *>(ptx.data()), ptx.size()};
}

// "8.7" of ".version 8.7"; empty if there is none.
std::string_view ptxVersion(std::string_view ptx) {
  constexpr std::string_view directive = ".version ";
  size_t at = ptx.substr(0, 4096).find(directive);
  if (at == ptx.npos)
    return {};
  ptx.remove_prefix(at + directive.size());
  return ptx.substr(0, std::min<size_t>(ptx.find_first_not_of("0123456789."), 8));
}

} // namespace

bool targetRunsOn(std::string_view target, int major, int minor, bool assembled) {
  if (!target.starts_with("sm_"))
    return false;
  int number = 0;
  auto [end, error] = std::from_chars(target.data() + 3, target.data() + target.size(), number);
  if (error != std::errc() || number < 10 || number > 9999)
    return false;
  std::string_view suffix = target.substr(end - target.data());
  int wantsMajor = number / 10, wantsMinor = number % 10;
  bool later = major == wantsMajor ? minor >= wantsMinor : major > wantsMajor;
  if (suffix == "a")
    return major == wantsMajor && minor == wantsMinor;
  if (suffix == "f" || (suffix.empty() && assembled))
    return major == wantsMajor && later;
  return suffix.empty() && later;
}

Result<size_t> chooseImage(std::span<const Image> images, const Gpu &gpu) {
  std::string targets;
  for (size_t i = 0; i < images.size(); ++i) {
    std::string_view target = targetOf(images[i]);
    if (targetRunsOn(target, gpu.major, gpu.minor, /*assembled=*/false))
      return i;
    targets += (i ? ", " : "") + (target.empty() ? images[i].target : std::string(target));
  }
  std::string here = "sm_" + std::to_string(gpu.major * 10 + gpu.minor);
  return Error{Code::Unavailable,
               "the plan has kernels for " + (targets.empty() ? "no GPU" : targets) + "; " +
                   gpu.label + " is " + here +
                   (gpu.major >= 8 ? "; compile it with a --target that this one runs, cuda:sm_80 "
                                     "at least"
                                   : ", and sm_80 is the least that moec compiles for; choose "
                                     "--device cpu")};
}

Result<LoadedModule> loadImage(const Image &image, const Gpu &gpu) {
  CUmodule module = nullptr;
  if (!image.cubin.empty() && targetRunsOn(targetOf(image), gpu.major, gpu.minor, true) &&
      gpu.api.cuModuleLoadDataEx(&module, image.cubin.data(), 0, nullptr, nullptr) ==
          CUresult::success)
    return LoadedModule{Module(gpu.api, module), true};

  std::string_view ptx = textOf(image.code);
  if (ptx.empty() || ptx.back() != '\0')
    return Error{Code::InvalidPlan, image.target + " has PTX without an end"};
  char log[4096] = {};
  JitOption options[] = {JitOption::errorLogBuffer, JitOption::errorLogBufferSizeBytes};
  void *values[] = {log, reinterpret_cast<void *>(uintptr_t(sizeof log - 1))};
  module = nullptr;
  CUresult result = gpu.api.cuModuleLoadDataEx(&module, ptx.data(), 2, options, values);
  if (result == CUresult::success)
    return LoadedModule{Module(gpu.api, module), false};
  Status failure = gpu.check(result, "load the kernels of " + image.target);
  std::string message = failure.error().message;
  std::string_view said(log, std::strlen(log));
  while (!said.empty() && (said.back() == '\n' || said.back() == ' '))
    said.remove_suffix(1);
  if (!said.empty())
    message += ": " + std::string(said);
  if (result == CUresult::unsupportedPtxVersion)
    return Error{Code::Unavailable, message + "; the plan's PTX is of version " +
                                        std::string(ptxVersion(ptx)) + ", newer than the driver, " +
                                        "which is of CUDA " + versionText(gpu.driverVersion) +
                                        ": update NVIDIA's driver"};
  if (result == CUresult::invalidPtx || result == CUresult::invalidImage)
    return Error{Code::InvalidPlan, message + "; the driver, of CUDA " +
                                        versionText(gpu.driverVersion) +
                                        ", does not take the plan's PTX: update it, or compile the "
                                        "plan again"};
  return Error{failure.error().code, message};
}

} // namespace moe::cuda
