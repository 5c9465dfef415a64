// An input or output of a plan's programs: what it is called, and which bytes it has in a step.
#ifndef MOE_RUNTIME_DEVICE_TENSORSPEC_H
#define MOE_RUNTIME_DEVICE_TENSORSPEC_H

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moe {

// As ElementType and Extent of Plan.fbs, with the same values.
enum class ElementType : uint8_t { U8, I32, U32, F16, BF16, F32 };
enum class Extent : uint8_t { Constant, Tokens, Rows, Sequences, Pages };

// How many tokens and rows a step has, how many sequences a session, and how many pages each of
// those may have.
struct Extents {
  int32_t tokens = 0, rows = 0;
  int32_t sequences = 1, pages = 1;
};

struct Dimension {
  Extent extent = Extent::Constant;
  uint32_t count = 0; // of a constant
  bool operator==(const Dimension &) const = default;
};

struct TensorSpec {
  std::string name;
  ElementType element = ElementType::I32;
  std::vector<Dimension> dims;    // outermost first; Tokens and Rows only as the first
  std::optional<uint32_t> pool{}; // whose block table it is: into DevicePlan::pools

  // Whether its size is the step's. An input of another size stays from step to step.
  bool ofStep() const {
    return !dims.empty() && (dims[0].extent == Extent::Tokens || dims[0].extent == Extent::Rows);
  }
};

// Dense, in row-major order. Nothing if they are more bytes than any memory has.
std::optional<uint64_t> bytesOf(const TensorSpec &spec, const Extents &extents);

// Element and dimensions for people: "i32[T]", "f32[R, 4096]".
std::string typeText(const TensorSpec &spec);

} // namespace moe

#endif
