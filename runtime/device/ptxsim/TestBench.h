// What the tests of the simulator share: a device with memory, and small kernels around a few
// instructions. MOE_PTX_DUMP names a folder that receives every kernel, for an assembler to check.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_TESTBENCH_H
#define MOE_RUNTIME_DEVICE_PTXSIM_TESTBENCH_H

#include "runtime/device/ptxsim/Machine.h"
#include "runtime/device/ptxsim/Parser.h"

#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>

namespace moe::ptxsim {

struct Bench {
  Memory memory;
  Launch launch;
  Options options;
  std::string declarations; // of the module

  template <class T> uint64_t put(const std::vector<T> &values) {
    uint64_t address = room(values.size() * sizeof(T));
    EXPECT_TRUE(memory.copyIn(address, std::as_bytes(std::span(values))));
    return address;
  }
  uint64_t room(uint64_t bytes) {
    auto address = memory.allocate(bytes);
    EXPECT_TRUE(address);
    return *address;
  }
  template <class T> std::vector<T> get(uint64_t address, size_t count) {
    std::vector<T> values(count);
    auto status = memory.copyOut(std::as_writable_bytes(std::span(values)), address, true);
    EXPECT_TRUE(status) << status.error().message;
    return values;
  }

  // Wraps BODY: %a0.. are the pointers, %t is the thread's number in its block, and %r, %rd, %rs,
  // %p are free.
  std::string text(const std::string &body, size_t pointers) const {
    std::string result =
        ".version 8.4\n.target sm_90a\n.address_size 64\n" + declarations + "\n.visible .entry k(";
    for (size_t i = 0; i < pointers; ++i)
      result += (i ? ", " : "") + std::string(".param .u64 k_") + std::to_string(i);
    result += ")\n{\n.reg .pred %p<20>; .reg .b16 %rs<40>; .reg .b32 %r<200>; .reg .b64 %rd<80>;\n"
              ".reg .b64 %a<8>; .reg .b32 %t;\nmov.u32 %t, %tid.x;\n";
    for (size_t i = 0; i < pointers; ++i)
      result += "ld.param.u64 %a" + std::to_string(i) + ", [k_" + std::to_string(i) + "];\n";
    return result + body + "\nret;\n}\n";
  }

  Result<Stats> run(const std::string &body, const std::vector<uint64_t> &pointers) {
    std::string ptx = text(body, pointers.size());
    dump(ptx);
    MOE_ASSIGN(module, parse(ptx));
    MOE_ASSIGN(globals, allocateGlobals(module, memory));
    launch.params = std::as_bytes(std::span(pointers));
    launch.globals = globals;
    return ptxsim::run(module, "k", launch, memory, options);
  }
  void expectRun(const std::string &body, const std::vector<uint64_t> &pointers) {
    auto stats = run(body, pointers);
    EXPECT_TRUE(stats) << stats.error().message << "\n" << body;
  }
  void expectError(const std::string &body, const std::vector<uint64_t> &pointers,
                   const std::string &message) {
    auto stats = run(body, pointers);
    ASSERT_FALSE(stats) << "no error: " << message << "\n" << body;
    EXPECT_NE(stats.error().message.find(message), std::string::npos) << stats.error().message;
  }

  static void dump(const std::string &ptx) {
    static int number = 0;
    if (const char *folder = std::getenv("MOE_PTX_DUMP"))
      std::ofstream(std::string(folder) + "/" + std::to_string(number++) + ".ptx") << ptx;
  }
};

} // namespace moe::ptxsim

#endif
