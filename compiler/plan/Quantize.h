// Turns groups of a weight's elements into codes and a scale.
//
// A group is a few neighbouring columns of one row (runtime/weights/Format.h):
//
//   element = (code - zero) * scale
//
// All functions give the same bits on every machine.
#ifndef MOE_COMPILER_PLAN_QUANTIZE_H
#define MOE_COMPILER_PLAN_QUANTIZE_H

#include "runtime/weights/Format.h"
#include "llvm/ADT/ArrayRef.h"

#include <cstddef>
#include <optional>

namespace moe {

enum class ScaleChoice {
  // The largest magnitude becomes the largest code: 127 of I8, 448 of F8E4M3, and of I4, whose
  // codes are -8 to 7 around the zero, -8, so that the scale is negative where the largest element
  // is positive.
  AbsMax,
  // Of I4: the scale with the least sum of squared errors that a search finds. Larger ones are
  // tried, and smaller ones, which cut off the largest elements. It is never worse than AbsMax. The
  // other formats have AbsMax's scale: with 255 codes a search takes away a twentieth of an error
  // that is small already, and the steps of F8E4M3 grow with the elements.
  LeastSquares,
};

// Groups are quantized 16 at a time, each a lane of vectors.
constexpr int64_t kQuantizedGroups = 16;

// Element i of group g is values[i * stride + g], i < count, and codes[i * 16 + g] becomes its
// code; scales[g] becomes the group's scale, rounded to format.scale before the codes are chosen.
// It is infinite where format.scale cannot hold it; the codes are then undefined. Where it is too
// small for format.scale it is 0, as is the group then. What becomes of a group does not depend on
// the others.
//
// `values` are finite. `importance` is empty or one factor >= 0 for the squared error of the
// elements i of all groups: E[x_k^2] of the activations x that column k is multiplied with makes it
// the error of the product, where these are independent. The format is quantized and has no zeros
// of its own; its group may be of another size.
void quantizeGroups(const WeightFormat &format, ScaleChoice choice, const float *values,
                    int64_t stride, int64_t count, llvm::ArrayRef<float> importance, float *scales,
                    uint8_t *codes);

// Writes the codes that give exactly `values` with a scale and a zero that are known, and returns
// the index of the first value that has none. `values` must be what dequantize() makes of codes; of
// a scale of 0 all codes are the zero's.
std::optional<size_t> recoverCodes(const WeightFormat &format, float scale, int64_t zero,
                                   llvm::ArrayRef<float> values,
                                   llvm::MutableArrayRef<uint8_t> codes);

// The element that a code stands for, in float32.
float dequantize(const WeightFormat &format, uint8_t code, float scale, int64_t zero);

} // namespace moe

#endif
