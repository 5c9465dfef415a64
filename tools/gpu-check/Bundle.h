// A bundle as gpu-check reads it: a folder of two files, kernels.bundle (Bundle.fbs) and cria.plan.
#ifndef MOE_TOOLS_GPU_CHECK_BUNDLE_H
#define MOE_TOOLS_GPU_CHECK_BUNDLE_H

#include "gpu-check/Bundle_generated.h"
#include "runtime/Status.h"

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace moe::gpucheck {

inline constexpr uint32_t kBundleVersion = 1;
inline constexpr const char *kKernelsFile = "kernels.bundle", *kPlanFile = "cria.plan";
inline constexpr uint64_t kMostBundleBytes = uint64_t(12) << 20; // of both files
inline constexpr uint64_t kMostOperandBytes = uint64_t(16) << 30;

// Constant; the views of root() live as long as it does, also when it is moved.
class Bundle {
public:
  // Afterwards a caller may rely on what Bundle.fbs says: indices are in range, stored operands
  // have their bytes, elements that are checked lie inside their operands. Errors: IoError where
  // the file cannot be read, InvalidArgument where it is no bundle that this version can run.
  static Result<Bundle> open(const std::string &folder);
  // The same of the bytes of kernels.bundle.
  static Result<Bundle> open(std::vector<std::byte> bytes);

  const fb::Bundle &root() const { return *index; }

private:
  std::vector<std::byte> bytes;
  const fb::Bundle *index = nullptr;
};

// How the number at `from` reads: a float, or an integer.
float readElement(fb::Element element, const std::byte *from);

// Empty where `got` is near enough to element i of the check; otherwise what differs.
std::string difference(const fb::Check &check, uint32_t i, float got);

} // namespace moe::gpucheck

#endif
