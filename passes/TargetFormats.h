// What a pass asks of the target that a model is packed for. Targets implement it.
#ifndef MOE_PASSES_TARGETFORMATS_H
#define MOE_PASSES_TARGETFORMATS_H

#include "dialects/moe/MoeDialect.h"

#include <functional>
#include <string>

namespace moe {

class TargetFormats {
public:
  virtual ~TargetFormats() = default;

  // Why the target's kernels cannot read a weight of `columns` columns that is stored as `format`,
  // for example "the kernels for cuda take bf16 or codes in groups of ...: use ..."; empty where
  // they can.
  virtual std::string refusal(WeightRole role, const WeightFormat &format,
                              int64_t columns) const = 0;
};

// The formats of a target by its name, "cpu"; null where there is no such target. Who registers
// passes knows the targets.
using FindTarget = std::function<const TargetFormats *(llvm::StringRef name)>;

} // namespace moe

#endif
