// Modules, their kernels, and launches.
#include "runtime/device/ptxsim/DriverCalls.h"
#include "runtime/device/ptxsim/Parser.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace moe::ptxsim {

using namespace cuda;

namespace {

// Whether a module for that target runs on the device: "a" targets run on their own only.
bool runsOn(const std::string &target, unsigned arch) {
  if (!target.starts_with("sm_"))
    return false;
  char *end = nullptr;
  unsigned wants = unsigned(std::strtoul(target.c_str() + 3, &end, 10));
  if (*end == 'a')
    return wants == arch;
  return *end == 'f' ? wants / 10 == arch / 10 && wants <= arch : wants <= arch;
}

CUresult moduleLoadData(CUmodule *module, const void *image, unsigned count, JitOption *options,
                        void **values) {
  return inContext([&](CUctx_st &context) {
    char *log = nullptr;
    size_t room = 0;
    for (unsigned n = 0; n < count; ++n) {
      if (options[n] == JitOption::errorLogBuffer)
        log = static_cast<char *>(values[n]);
      if (options[n] == JitOption::errorLogBufferSizeBytes)
        room = reinterpret_cast<uintptr_t>(values[n]);
    }
    auto refuse = [&](CUresult code, const std::string &why) {
      if (log && room)
        std::snprintf(log, room, "%s", why.c_str());
      return context.fail(code, why);
    };
    static constexpr unsigned char binary[][4] = {
        {0x7f, 'E', 'L', 'F'}, {0x50, 0xed, 0x55, 0xba}, {0xb1, 0x43, 0x62, 0x46}};
    for (const auto &magic : binary)
      if (!std::memcmp(image, magic, 4))
        return refuse(CUresult::noBinaryForGpu, "the simulator runs PTX, not machine code");
    auto parsed = parse(static_cast<const char *>(image));
    if (!parsed)
      return refuse(CUresult::invalidPtx, parsed.error().message);
    if (parsed->version > 90)
      return refuse(CUresult::unsupportedPtxVersion, "PTX newer than 9.0");
    if (!runsOn(parsed->target, context.options.arch))
      return refuse(CUresult::invalidPtx, "PTX for " + parsed->target + " on an sm_" +
                                              std::to_string(context.options.arch));
    auto globals = allocateGlobals(*parsed, context.memory);
    if (!globals)
      return refuse(CUresult::outOfMemory, globals.error().message);
    auto loaded = std::make_unique<CUmod_st>();
    loaded->module = std::move(*parsed);
    loaded->globals = std::move(*globals);
    for (const Entry &entry : loaded->module.entries) {
      auto function = std::make_unique<CUfunc_st>();
      function->module = loaded.get();
      function->entry = &entry;
      function->mostDynamic = 48 * 1024 - staticSharedBytes(entry);
      context.functions[function.get()] = loaded.get();
      loaded->functions[entry.name] = std::move(function);
    }
    *module = loaded.get();
    context.modules.emplace(*module, std::move(loaded));
    return CUresult::success;
  });
}

CUresult moduleUnload(CUmodule module) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.modules, module))
      return CUresult::invalidHandle;
    CUresult result = context.finishAll();
    for (uint64_t address : module->globals)
      (void)bool(context.memory.free(address));
    std::erase_if(context.functions, [&](const auto &each) { return each.second == module; });
    context.modules.erase(module);
    return result;
  });
}

CUresult moduleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.modules, module))
      return CUresult::invalidHandle;
    auto found = module->functions.find(name);
    if (found == module->functions.end())
      return context.fail(CUresult::notFound, "the module has no '" + std::string(name) + "'");
    *function = found->second.get();
    return CUresult::success;
  });
}

CUresult funcGetAttribute(int *value, FunctionAttribute attribute, CUfunction function) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function))
      return CUresult::invalidHandle;
    const Entry &entry = *function->entry;
    auto product = [](const std::array<uint32_t, 3> &size) {
      return int(size[0] * size[1] * size[2]);
    };
    switch (attribute) {
    case FunctionAttribute::maxThreadsPerBlock:
      *value = entry.requiredBlock[0] ? product(entry.requiredBlock)
               : entry.mostThreads[0] ? product(entry.mostThreads)
                                      : 1024;
      break;
    case FunctionAttribute::sharedSizeBytes:
      *value = staticSharedBytes(entry);
      break;
    case FunctionAttribute::localSizeBytes:
      *value = int(entry.localBytes);
      break;
    case FunctionAttribute::registers:
      *value = 0; // nobody allocates any
      break;
    case FunctionAttribute::maxDynamicSharedSizeBytes:
      *value = function->mostDynamic;
      break;
    default:
      return CUresult::invalidValue;
    }
    return CUresult::success;
  });
}

CUresult funcSetAttribute(CUfunction function, FunctionAttribute attribute, int value) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function))
      return CUresult::invalidHandle;
    int most = limitsOf(context.options.arch).sharedPerBlock - staticSharedBytes(*function->entry);
    if (attribute != FunctionAttribute::maxDynamicSharedSizeBytes || value < 0 || value > most)
      return context.fail(CUresult::invalidValue, std::to_string(value) +
                                                      " bytes of dynamic shared memory, where " +
                                                      std::to_string(most) + " are possible");
    function->mostDynamic = value;
    return CUresult::success;
  });
}

CUresult funcGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function))
      return CUresult::invalidHandle;
    if (index >= function->entry->params.size())
      return CUresult::invalidValue;
    *offset = size_t(function->entry->params[index].offset);
    if (bytes)
      *bytes = size_t(function->entry->params[index].bytes);
    return CUresult::success;
  });
}

CUresult occupancy(int *blocks, CUfunction function, int threads, size_t dynamicSharedBytes) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function))
      return CUresult::invalidHandle;
    if (threads <= 0)
      return CUresult::invalidValue;
    bool fits = threads <= 1024 && int64_t(dynamicSharedBytes) <= function->mostDynamic;
    *blocks =
        fits ? context.blocksPerMultiprocessor(function, uint64_t(threads), dynamicSharedBytes) : 0;
    return CUresult::success;
  });
}

CUresult launchKernel(const LaunchConfig *config, CUfunction function, void **parameters,
                      void **extra) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.functions, function) || !knowsStream(context, config->hStream))
      return CUresult::invalidHandle;
    LaunchWork work;
    if (CUresult result = context.checkLaunch(*config, function, work); result != CUresult::success)
      return result;
    const Entry &entry = *function->entry;
    if (extra || (!parameters && !entry.params.empty()))
      return CUresult::invalidValue;
    work.params.resize(entry.paramBytes);
    for (size_t n = 0; n < entry.params.size(); ++n)
      std::memcpy(work.params.data() + entry.params[n].offset, parameters[n],
                  size_t(entry.params[n].bytes));
    return context.enqueue(config->hStream, std::move(work));
  });
}

} // namespace

void fillModules(DriverApi &api) {
  api.cuModuleLoadDataEx = moduleLoadData;
  api.cuModuleUnload = moduleUnload;
  api.cuModuleGetFunction = moduleGetFunction;
  api.cuFuncGetAttribute = funcGetAttribute;
  api.cuFuncSetAttribute = funcSetAttribute;
  api.cuFuncGetParamInfo = funcGetParamInfo;
  api.cuOccupancyMaxActiveBlocksPerMultiprocessor = occupancy;
  api.cuLaunchKernelEx = launchKernel;
}

} // namespace moe::ptxsim
