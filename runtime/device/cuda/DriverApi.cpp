// Finds the driver. It is never unloaded: its threads would lose their code.
#include "runtime/device/cuda/DriverApi.h"

#include "runtime/device/cuda/Gpu.h"

#include <dlfcn.h>
#include <string>

namespace moe::cuda {
namespace {

// cuLaunchKernelEx is the newest of the functions that the table must have.
constexpr const char *kNeeded = "CUDA 11.8";

} // namespace

Result<DriverApi> loadDriverFrom(const char *library) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char *reason = dlerror();
    return Error{Code::Unavailable, std::string("there is no CUDA driver (") +
                                        (reason ? reason : library) +
                                        "): install NVIDIA's driver, or choose --device cpu"};
  }
  DriverApi api;
  const char *missing = nullptr;
#define MOE_CUDA_LOAD(name, symbol, parameters)                                                    \
  if (void *found = dlsym(handle, #symbol))                                                        \
    api.name = reinterpret_cast<CUresult(*) parameters>(found);
#define MOE_CUDA_REQUIRE(name, symbol, parameters)                                                 \
  MOE_CUDA_LOAD(name, symbol, parameters)                                                          \
  if (!api.name && !missing)                                                                       \
    missing = #symbol;
  MOE_CUDA_FUNCTIONS(MOE_CUDA_REQUIRE, MOE_CUDA_LOAD)
#undef MOE_CUDA_REQUIRE
#undef MOE_CUDA_LOAD
  if (missing) {
    int version = 0;
    bool known =
        api.cuDriverGetVersion && api.cuDriverGetVersion(&version) == CUresult::success && version;
    return Error{Code::Unavailable,
                 std::string("the CUDA driver ") + library + " is of " +
                     (known ? "CUDA " + versionText(version) : "an unknown version") +
                     " and lacks " + missing + ": update NVIDIA's driver to one of " + kNeeded +
                     " or later, or choose --device cpu"};
  }
  return api;
}

Result<const DriverApi *> loadDriver() {
  static const Result<DriverApi> loaded = loadDriverFrom("libcuda.so.1");
  if (!loaded)
    return loaded.error();
  return &*loaded;
}

} // namespace moe::cuda
