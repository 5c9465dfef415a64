// What a plan's index must satisfy beyond being a well-formed FlatBuffer.
#ifndef MOE_RUNTIME_PLAN_CHECK_H
#define MOE_RUNTIME_PLAN_CHECK_H

#include "runtime/Status.h"
#include "runtime/plan/Plan_generated.h"

#include <cstdint>

namespace moe {

// Checks every number and name of a verified FlatBuffer that a runtime relies on; the sections must
// lie before `indexOffset`. The writer asks before it writes, the reader before it trusts. Takes
// time linear in the index. Error: InvalidPlan, naming the thing, what was found and what was
// expected.
Status checkIndex(const fb::Plan &index, uint64_t indexOffset);

} // namespace moe

#endif
