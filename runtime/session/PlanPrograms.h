// The part of a plan that one device runs, in the device's own terms.
#ifndef MOE_RUNTIME_SESSION_PLANPROGRAMS_H
#define MOE_RUNTIME_SESSION_PLANPROGRAMS_H

#include "runtime/device/Programs.h"
#include "runtime/plan/Plan.h"

namespace moe {

// The devices that the plan has programs for, each once.
std::vector<std::string> planDevices(const Plan &plan);

// Views into the plan, which must outlive them.
DevicePlan devicePlan(const Plan &plan, std::string_view device);

} // namespace moe

#endif
