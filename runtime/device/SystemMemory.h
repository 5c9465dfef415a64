// The system's memory: how much of it this process can still get.
#ifndef MOE_RUNTIME_DEVICE_SYSTEMMEMORY_H
#define MOE_RUNTIME_DEVICE_SYSTEMMEMORY_H

#include <cstdint>
#include <string>

namespace moe {

// Bytes that this process can still get: what the system calls available, or less where a control
// group says so. UINT64_MAX where neither says anything. `root`: the folder in which /proc and /sys
// lie, another in tests.
uint64_t availableMemory(const std::string &root = "");

// For people: "1.5 MiB", "40.0 GiB".
std::string mebibytes(uint64_t bytes);

} // namespace moe

#endif
