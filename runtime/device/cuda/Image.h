// Which image of a plan a GPU runs, and loading it.
#ifndef MOE_RUNTIME_DEVICE_CUDA_IMAGE_H
#define MOE_RUNTIME_DEVICE_CUDA_IMAGE_H

#include "runtime/device/Programs.h"
#include "runtime/device/cuda/Gpu.h"

#include <span>

namespace moe::cuda {

// Whether PTX for `target` ("sm_80", "sm_90a", "sm_100f") runs on a compute capability: PTX of a
// plain target on that one and all later, of an "a" on that one alone, of an "f" on later ones of
// its family too. Machine code (`assembled`) needs the same major version.
bool targetRunsOn(std::string_view target, int major, int minor, bool assembled);

// The index of the first image that runs on `gpu`. Error: Unavailable, with the targets that there
// are and what would be needed.
Result<size_t> chooseImage(std::span<const Image> images, const Gpu &gpu);

struct LoadedModule {
  Module module;
  bool assembled = false; // from a cubin, not by the driver's compiler
};

// Loads the cubin where there is one that the driver takes, else compiles the PTX. Errors:
// Unavailable if the driver is too old for the PTX, InvalidPlan with the compiler's words.
Result<LoadedModule> loadImage(const Image &image, const Gpu &gpu);

} // namespace moe::cuda

#endif
