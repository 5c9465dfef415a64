// Checks of single values of a plan's index, and words about them, for the checks of its tables.
//
// All numbers may be hostile. Ranges are checked by subtraction, products by division, and each
// count is bounded by the tables that the FlatBuffers verifier has counted, or by a cap here.
#ifndef MOE_RUNTIME_PLAN_CHECKVALUES_H
#define MOE_RUNTIME_PLAN_CHECKVALUES_H

#include "runtime/Status.h"
#include "runtime/plan/Format.h"
#include "runtime/plan/Plan_generated.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace moe::check {

// Far above what any model or machine has, and low enough for sums and products of a few.
inline constexpr uint64_t kMaxName = 4096;
// Tokens of a vocabulary or a step, channels, layers.
inline constexpr uint64_t kMaxCount = 1 << 24;
inline constexpr uint64_t kMaxBytes = uint64_t(1) << 48; // of one buffer
inline constexpr uint64_t kMaxDevices = 64;

using Name = flatbuffers::String;

inline std::string number(uint64_t value) { return std::to_string(value); }

// A name for a message: short, and without what could harm a terminal.
inline std::string quote(const Name *name) {
  std::string text = "'";
  for (char c : name->string_view().substr(0, 100))
    text += c >= ' ' && c <= '~' ? c : '?';
  return text + (name->size() > 100 ? "...'" : "'");
}

inline Error invalid(const std::string &what) { return {Code::InvalidPlan, what}; }

inline bool inRange(uint64_t offset, uint64_t bytes, uint64_t size) {
  return offset <= size && bytes <= size - offset;
}

inline Status checkName(const Name *name, const std::string &what) {
  if (name->size() == 0)
    return invalid(what + " has an empty name");
  const std::string_view text = name->string_view();
  if (text.size() > kMaxName ||
      std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 127; }))
    return invalid(what + " has a name that is no name, " + quote(name));
  return ok();
}

inline Status checkRange(uint64_t value, uint64_t low, uint64_t high, const std::string &what) {
  if (value < low || value > high)
    return invalid(what + " is " + number(value) + ", expected " + number(low) + " to " +
                   number(high));
  return ok();
}

// FlatBuffers' verifier checks where the length of a vector is, not where its elements are.
template <typename Vector> Status checkAligned(const Vector &vector, const std::string &what) {
  if (reinterpret_cast<uintptr_t>(vector.Data()) % 8)
    return invalid(what + " are not at a multiple of 8 bytes");
  return ok();
}

// "cpu" of "cpu:x86-64-v4".
inline std::string_view deviceOf(const fb::Image &image) {
  const std::string_view target = image.target()->string_view();
  return target.substr(0, target.find(':'));
}

// No two names are equal. Sorts, so that many names cost little.
inline Status checkUnique(std::vector<std::string> &names, const char *what) {
  std::sort(names.begin(), names.end());
  auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end())
    return invalid(std::string("two ") + what + " are called '" + twice->substr(0, 100) + "'");
  return ok();
}

// A section of the kind that its user needs.
inline Result<const fb::Section *> sectionOf(const fb::Plan &plan, uint32_t index,
                                             fb::SectionKind kind, const std::string &user) {
  if (index >= plan.sections()->size())
    return invalid(user + " is in section " + number(index) + " of " +
                   number(plan.sections()->size()));
  const fb::Section *section = plan.sections()->Get(index);
  if (section->kind() != kind)
    return invalid(user + " is in section " + quote(section->name()) + " of kind " +
                   fb::EnumNameSectionKind(section->kind()) + ", expected " +
                   fb::EnumNameSectionKind(kind));
  return section;
}

} // namespace moe::check

#endif
