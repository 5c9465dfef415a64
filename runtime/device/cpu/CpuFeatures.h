// What this processor can run, and which image of a plan fits it.
#ifndef MOE_RUNTIME_DEVICE_CPU_CPUFEATURES_H
#define MOE_RUNTIME_DEVICE_CPU_CPUFEATURES_H

#include "runtime/Status.h"
#include "runtime/device/Programs.h"

#include <span>
#include <string>
#include <vector>

namespace moe::cpu {

// The architecture ("x86_64", "aarch64"), then the features that plans name, as /proc/cpuinfo
// spells them; only those whose registers the operating system saves. The environment variable
// MOE_CPU_DISABLE="avx512_bf16,avx512_vnni" takes some away, to test a machine one does not have.
std::vector<std::string> hostFeatures();

// The index of the first image whose features are all in `host`. An image names its architecture
// first. Error: Unavailable, with what is missing and the target to compile for.
Result<size_t> chooseImage(std::span<const Image> images, std::span<const std::string> host);

} // namespace moe::cpu

#endif
