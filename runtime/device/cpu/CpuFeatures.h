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
// spells them; only those whose registers the operating system saves, and those that the processor
// executes when it is tried. The tiles of AMX it saves for programs that ask: this asks, for the
// whole process, and where it is refused the processor counts as one without AMX. The environment
// variable MOE_CPU_DISABLE="avx512_bf16,avx512_vnni" takes some away, to test a machine one does
// not have.
std::vector<std::string> hostFeatures();

// Those that the processor reports and does not execute.
std::vector<std::string> falseFeatures();

// The index of the first image whose features are all in `host`. An image names its architecture
// first. Error: Unavailable, with what is missing, whether that is reported all the same
// (`untrue`), and the target to compile for.
Result<size_t> chooseImage(std::span<const Image> images, std::span<const std::string> host,
                           std::span<const std::string> untrue = {});

} // namespace moe::cpu

#endif
