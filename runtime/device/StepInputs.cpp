// Places, sizes and copies of inputs, by what programs declare of them.
#include "runtime/device/StepInputs.h"

#include <algorithm>
#include <cstring>

namespace moe {
namespace {

// Ranges that are not further apart are one: to a GPU so many bytes are copied in the time that it
// takes to ask for another copy.
constexpr uint64_t kNear = 64 << 10;

uint64_t aligned(uint64_t bytes) {
  return (bytes + StepInputs::alignment - 1) / StepInputs::alignment * StepInputs::alignment;
}

} // namespace

StepInputs::StepInputs(const DevicePlan &plan, const ExecutorOptions &options, uint64_t headerBytes)
    : end(aligned(headerBytes)) {
  for (const TensorSpec &spec : plan.inputs)
    names.push_back(spec.name);
  const Extents unit{1, 1, options.maxSequences, options.tableStride};
  for (const Program &program : plan.programs) {
    Packed &packed = programs.emplace_back();
    packed.end = aligned(headerBytes);
    for (uint32_t input : program.inputs) {
      const TensorSpec &spec = plan.inputs[input];
      if (!spec.ofStep())
        continue;
      const Extent first = spec.dims[0].extent;
      packed.inputs.push_back({input, packed.end, *bytesOf(spec, unit), first});
      const int32_t most = first == Extent::Rows ? program.rows : program.tokens;
      packed.end += aligned(uint64_t(most) * packed.inputs.back().unitBytes);
    }
    end = std::max(end, packed.end);
  }
  for (size_t i = 0; i < plan.programs.size(); ++i)
    for (uint32_t input : plan.programs[i].inputs) {
      const TensorSpec &spec = plan.inputs[input];
      if (spec.ofStep())
        continue;
      if (!keptInput(input)) {
        kept.push_back({input, end, *bytesOf(spec, unit), Extent::Constant});
        end += aligned(kept.back().unitBytes);
      }
      programs[i].kept.push_back(uint32_t(keptInput(input) - kept.data()));
    }
  changed.resize(kept.size());
}

const StepInputs::Placed *StepInputs::keptInput(uint32_t input) const {
  for (const Placed &placed : kept)
    if (placed.input == input)
      return &placed;
  return nullptr;
}

std::optional<uint64_t> StepInputs::offsetOf(size_t program, uint32_t input) const {
  for (const Placed &placed : programs[program].inputs)
    if (placed.input == input)
      return placed.offset;
  for (uint32_t i : programs[program].kept)
    if (kept[i].input == input)
      return kept[i].offset;
  return std::nullopt;
}

Status StepInputs::checkSize(const Step &step, const Placed &placed) const {
  const uint64_t count = placed.unit == Extent::Tokens ? uint64_t(step.tokens)
                         : placed.unit == Extent::Rows ? uint64_t(step.rows)
                                                       : 1;
  const uint64_t has = step.inputs[placed.input].size();
  if (has != count * placed.unitBytes)
    return Error{Code::InvalidArgument, "input '" + names[placed.input] + "' of a step has " +
                                            std::to_string(has) + " bytes, expected " +
                                            std::to_string(count * placed.unitBytes)};
  return ok();
}

Status StepInputs::check(const Step &step, size_t program) const {
  if (step.inputs.size() != names.size())
    return Error{Code::InvalidArgument, "a step has " + std::to_string(step.inputs.size()) +
                                            " inputs, and the plan's programs " +
                                            std::to_string(names.size())};
  for (const Placed &placed : programs[program].inputs)
    MOE_TRY(checkSize(step, placed));
  for (uint32_t i : programs[program].kept)
    MOE_TRY(checkSize(step, kept[i]));
  for (const TensorPart &part : step.used) {
    const Placed *placed = keptInput(part.index);
    if (!placed || part.offset > placed->unitBytes ||
        part.bytes > placed->unitBytes - part.offset ||
        part.offset + part.bytes > step.inputs[part.index].size())
      return Error{Code::InvalidArgument, "a step uses " + std::to_string(part.bytes) +
                                              " bytes at byte " + std::to_string(part.offset) +
                                              " of input " + std::to_string(part.index) +
                                              ", which does not have them from step to step"};
  }
  return ok();
}

std::span<const StepInputs::Range> StepInputs::fill(const Step &step, size_t program,
                                                    std::byte *block) {
  for (const Placed &placed : programs[program].inputs) {
    const std::span<const std::byte> values = step.inputs[placed.input];
    if (!values.empty())
      std::memcpy(block + placed.offset, values.data(), values.size());
  }

  std::fill(changed.begin(), changed.end(), Range{});
  for (const TensorPart &part : step.used) {
    const Placed *placed = keptInput(part.index);
    const uint64_t offset = placed->offset + part.offset;
    const std::byte *from = step.inputs[part.index].data() + part.offset;
    if (part.bytes == 0 || !std::memcmp(block + offset, from, part.bytes))
      continue;
    std::memcpy(block + offset, from, part.bytes);
    Range &range = changed[size_t(placed - kept.data())];
    range = {range.empty() ? offset : std::min(range.begin, offset),
             std::max(range.end, offset + part.bytes)};
  }
  size_t count = 0; // of the ranges told
  for (const Range range : changed) {
    if (range.empty())
      continue;
    if (count && range.begin - changed[count - 1].end <= kNear)
      changed[count - 1].end = range.end;
    else
      changed[count++] = range;
  }
  return std::span(changed).first(count);
}

} // namespace moe
