// Whether the processor executes the features that it reports. Under an emulator, or a hypervisor
// that moved this machine to another processor, it may not, and a kernel would end the process.
#ifndef MOE_RUNTIME_DEVICE_CPU_FEATUREPROBE_H
#define MOE_RUNTIME_DEVICE_CPU_FEATUREPROBE_H

#include <span>
#include <string>
#include <vector>

namespace moe::cpu {

// Whether `instruction` returns; false if the processor refuses it by SIGILL. That signal's action
// is another one for as long as this takes, but for this thread alone: where others get the signal,
// the action that was there before takes place. From any thread.
bool executes(void (*instruction)());

// Those of the features, as hostFeatures names them, of which an instruction was tried in vain.
std::vector<std::string> notExecuted(std::span<const std::string> features);

} // namespace moe::cpu

#endif
