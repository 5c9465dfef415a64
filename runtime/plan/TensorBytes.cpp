// The formulas of dialects/plan/Packing.h once more, for numbers that nobody has checked.
#include "runtime/plan/TensorBytes.h"

#include <charconv>
#include <string>

namespace moe {
namespace {

// Above what any machine has; products and sums of a few such numbers and small factors are checked
// in 128 bits.
constexpr uint64_t kMost = uint64_t(1) << 48;
__extension__ typedef unsigned __int128 Wide;

Error invalid(const std::string &what) { return {Code::InvalidPlan, what}; }

struct Format {
  uint64_t bits = 0;
  uint64_t group = 0; // 0: no codes
  uint64_t scaleBytes = 0;
  bool zeros = false;
  uint64_t unit = 1; // columns that lie together in a panel

  uint64_t headBytes() const { return scaleBytes + zeros; } // of a row and group
};

bool consume(std::string_view &text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix)
    return false;
  text.remove_prefix(prefix.size());
  return true;
}

Result<Format> formatOf(const std::string_view storage) {
  const Error unknown = invalid("this runtime knows no such storage");
  std::string_view rest = storage;
  Format f;
  if (rest == "f32")
    return Format{32, 0, 0, false, 1};
  if (rest == "bf16")
    return Format{16, 0, 0, false, 2};
  if (consume(rest, "int4-g"))
    f = {4, 0, 0, false, 4};
  else if (consume(rest, "int8-g"))
    f = {8, 0, 0, false, 4};
  else if (consume(rest, "fp8-g"))
    f = {8, 0, 0, false, 2};
  else
    return unknown;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), f.group);
  if (error != std::errc() || f.group == 0 || rest[0] == '0')
    return unknown;
  rest.remove_prefix(end - rest.data());
  if (consume(rest, "-f32"))
    f.scaleBytes = 4;
  else if (consume(rest, "-f16") || consume(rest, "-bf16"))
    f.scaleBytes = 2;
  else
    return unknown;
  f.zeros = f.bits == 4 && consume(rest, "-z");
  if (!rest.empty())
    return unknown;
  return f;
}

constexpr uint64_t divideUp(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
constexpr uint64_t alignUp(uint64_t a, uint64_t b) { return divideUp(a, b) * b; }

// Of 64 rows of k columns. Columns and groups are at most kMost.
uint64_t panelBytes(const Format &f, uint64_t k) {
  if (!f.group)
    return divideUp(k, f.unit) * f.unit * 64 * f.bits / 8;
  return k / f.group * (64 * f.headBytes() + divideUp(f.group, f.unit) * f.unit * 64 * f.bits / 8);
}

// Of 16 rows.
uint64_t stripBytes(const Format &f, uint64_t k) {
  if (!f.group)
    return alignUp(k, 64) * 16 * f.bits / 8;
  const uint64_t block = alignUp(f.group, 64), groups = 64 % f.group == 0 ? 64 / f.group : 1;
  return divideUp(k, block) * (16 * f.headBytes() * groups + block * 16 * f.bits / 8);
}

uint64_t rowBytes(const Format &f, uint64_t k) {
  if (!f.group)
    return k * f.bits / 8;
  return alignUp(k / f.group * f.headBytes(), 4) + alignUp(divideUp(k * f.bits, 8), 4);
}

} // namespace

Result<uint64_t> tensorBytes(std::span<const uint64_t> shape, std::string_view storage,
                             std::string_view layout, uint64_t headDim) {
  MOE_ASSIGN(f, formatOf(storage));
  Wide elements = 1;
  for (uint64_t dim : shape) {
    elements *= dim;
    if (dim > kMost || elements > kMost)
      return invalid("it has more elements than any machine holds");
  }
  const uint64_t k = shape.empty() ? 1 : shape.back();
  const uint64_t n = shape.size() < 2 ? 1 : shape[shape.size() - 2];
  if (f.group && k % f.group)
    return invalid("its rows of " + std::to_string(k) + " are no multiple of a group");
  const uint64_t outer = uint64_t(elements) / n / k;
  if (layout == "rows")
    return uint64_t(elements) / k * rowBytes(f, k);
  if (shape.size() < 2)
    return invalid("only a matrix has such a layout");

  const bool fragments = layout == "fragments" || layout == "fragments_gate_up";
  const uint64_t height = fragments ? 16 : 64; // of a panel or strip
  uint64_t panels;
  if (layout == "panel" || layout == "fragments") {
    panels = divideUp(n, height);
  } else if (layout == "panel_gate_up" || layout == "fragments_gate_up") {
    if (n % 2)
      return invalid("gate and up cannot have " + std::to_string(n) + " rows together");
    panels = divideUp(n / 2, height / 2);
  } else if (layout == "panel_heads") {
    if (headDim == 0 || n % headDim)
      return invalid("heads of " + std::to_string(headDim) + " rows do not make " +
                     std::to_string(n));
    panels = n / headDim * divideUp(headDim, height);
  } else {
    return invalid("this runtime knows no such layout");
  }
  if (fragments && !f.group && f.bits != 16)
    return invalid("fragments are of bf16 or codes");
  if (fragments && f.group && f.group % 64 && 64 % f.group && f.group != k)
    return invalid("fragments have other groups");
  const Wide bytes = Wide(outer * panels) * (fragments ? stripBytes(f, k) : panelBytes(f, k));
  if (bytes > kMost)
    return invalid("it has more bytes than any machine holds");
  return uint64_t(bytes);
}

} // namespace moe
