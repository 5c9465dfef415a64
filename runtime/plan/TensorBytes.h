// How many bytes a tensor of a plan takes, by its shape, storage and layout.
#ifndef MOE_RUNTIME_PLAN_TENSORBYTES_H
#define MOE_RUNTIME_PLAN_TENSORBYTES_H

#include "runtime/Status.h"

#include <cstdint>
#include <span>
#include <string_view>

namespace moe {

// `storage` is "f32", "bf16", or of codes "int4-g128-f16": the element, the columns of a group, the
// type of the scales, and "-z" where each group has a zero. `layout` is as in Plan.fbs, `headDim`
// of "panel_heads". Dimensions are at least 1. Any numbers may come: too large a tensor, or one
// that its layout cannot have, is an InvalidPlan that says why.
//
// Codes in panels of 64 rows and in rows lie as follows, with u columns in a unit, 4 of int8 and
// int4, 2 of fp8, and h bytes of scales and zeros a row and group:
//
//   panel  k / group * (64 h + ceil(group / u) * 64 u * bits / 8)
//   row    k / group * h, then k * bits / 8, each up to a multiple of 4
//
// and in strips of 16 rows, in blocks of as many columns as the least multiple of 64 that holds a
// group:
//
//   strip  ceil(k / block) * (16 h * groups of a block + 16 block * bits / 8)
Result<uint64_t> tensorBytes(std::span<const uint64_t> shape, std::string_view storage,
                             std::string_view layout, uint64_t headDim);

} // namespace moe

#endif
