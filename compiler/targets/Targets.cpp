// A new target is one more line here, and a folder.
#include "compiler/targets/Targets.h"
#include "compiler/targets/cpu/Cpu.h"
#include "compiler/targets/cuda/Cuda.h"
#include "dialects/plan/PlanDialect.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

namespace moe {

static constexpr std::unique_ptr<Target> (*kMakers[])(const TargetOptions &) = {
    makeCudaTarget,
    makeCpuTarget,
};

Targets allTargets(const TargetOptions &options) {
  Targets targets;
  for (auto make : kMakers)
    targets.push_back(make(options));
  return targets;
}

const TargetFormats *findTargetFormats(llvm::StringRef name) {
  static const Targets targets = allTargets();
  for (const std::unique_ptr<Target> &target : targets)
    if (target->name() == name)
      return target.get();
  return nullptr;
}

// "cuda:sm_100a, ..., cpu:aarch64 or cpu:native"
static std::string namesOf(const Targets &targets) {
  std::vector<std::string> names;
  for (const std::unique_ptr<Target> &target : targets) {
    for (llvm::StringRef version : target->knownVersions())
      names.push_back((target->name() + ":" + version).str());
    if (!target->nativeVersion().empty())
      names.push_back((target->name() + ":" + target->nativeVersion()).str());
  }
  std::string last = names.back();
  names.pop_back();
  return llvm::join(names, ", ") + " or " + last;
}

llvm::Expected<Targets> chooseTargets(llvm::ArrayRef<std::string> names,
                                      const TargetOptions &options) {
  Targets targets = allTargets(options);
  for (llvm::StringRef name : names) {
    auto [device, version] = name.split(':');
    auto found = llvm::find_if(targets, [&](const auto &t) { return t->name() == device; });
    if (found == targets.end() || !name.contains(':'))
      return llvm::createStringError("unknown target '" + name + "': use " + namesOf(targets));
    if (auto error = (*found)->addVersion(version))
      return std::move(error);
  }
  if (names.empty())
    for (const std::unique_ptr<Target> &target : targets)
      if (target->name() == kDefaultTarget)
        for (llvm::StringRef version : target->knownVersions())
          if (auto error = target->addVersion(version))
            return std::move(error);
  llvm::erase_if(targets, [](const auto &target) { return target->versions() == 0; });
  return targets;
}

} // namespace moe
