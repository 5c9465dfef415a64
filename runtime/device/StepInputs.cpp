// The facts that the plan format fixes about each input stand here alone: all else asks kInputs.
#include "runtime/device/StepInputs.h"

#include <algorithm>
#include <cstring>

namespace moe {
namespace {

// The first dimension of an input. Tokens and Rows: each step brings T or R elements. Sequences: a
// row of the table for each sequence, which stays from step to step.
enum class Extent : uint8_t { Tokens, Rows, Sequences };

// What the plan's format says of an input (InputName of Plan.fbs).
struct InputFacts {
  InputName name;
  Extent extent;
  uint32_t elementBytes;
};

constexpr InputFacts kInputs[] = {
    {InputName::Tokens, Extent::Tokens, sizeof(int32_t)},
    {InputName::Positions, Extent::Tokens, sizeof(int32_t)},
    {InputName::Sequences, Extent::Tokens, sizeof(int32_t)},
    {InputName::Rows, Extent::Rows, sizeof(int32_t)},
    {InputName::GlobalTable, Extent::Sequences, sizeof(int32_t)},
    {InputName::ChunkedTable, Extent::Sequences, sizeof(int32_t)},
    {InputName::Sampling, Extent::Rows, sizeof(RowSampling)},
};

uint64_t aligned(uint64_t bytes) {
  return (bytes + StepInputs::alignment - 1) / StepInputs::alignment * StepInputs::alignment;
}

bool reads(const Program &program, InputName name) {
  return std::any_of(program.calls.begin(), program.calls.end(), [&](const Call &call) {
    return std::any_of(call.operands.begin(), call.operands.end(), [&](const Operand &operand) {
      return operand.kind == OperandKind::Input && operand.index == uint32_t(name);
    });
  });
}

InputName tableOf(const CachePool &pool) {
  return pool.name == "chunked" ? InputName::ChunkedTable : InputName::GlobalTable;
}

std::span<const int32_t> valuesOf(const Step &step, InputName name) {
  switch (name) {
  case InputName::Tokens:
    return step.tokens;
  case InputName::Positions:
    return step.positions;
  case InputName::Sequences:
    return step.sequences;
  case InputName::Rows:
    return step.rows;
  case InputName::GlobalTable:
  case InputName::ChunkedTable:
  case InputName::Sampling: // which have their own ways
    break;
  }
  return {};
}

void fillSampling(const Step &step, std::byte *to) {
  for (size_t row = 0; row < step.rows.size(); ++row) {
    const RowOutput wanted = step.outputs.empty() ? RowOutput{} : step.outputs[row];
    const Draw &draw = wanted.draw;
    const bool draws = wanted.id && draw.scale > 0;
    const RowSampling sampling{(wanted.logits || draws ? RowSampling::writesLogits : 0u) |
                                   (draws ? RowSampling::draws : 0u),
                               draw.scale,
                               draw.random,
                               draw.topP,
                               draw.minWeight,
                               draw.topK,
                               0};
    std::memcpy(to + row * sizeof sampling, &sampling, sizeof sampling);
  }
}

} // namespace

StepInputs::StepInputs(const DevicePlan &plan, const ExecutorOptions &options, uint64_t headerBytes)
    : tableStride(size_t(options.tableStride)), end(aligned(headerBytes)) {
  for (const Program &program : plan.programs) {
    Packed &packed = programs.emplace_back();
    packed.end = aligned(headerBytes);
    for (const InputFacts &input : kInputs) {
      if (input.extent == Extent::Sequences || !reads(program, input.name))
        continue;
      packed.inputs.push_back({input.name, packed.end});
      const int32_t most = input.extent == Extent::Rows ? program.rows : program.tokens;
      packed.end += aligned(uint64_t(most) * input.elementBytes);
    }
    end = std::max(end, packed.end);
  }
  for (const InputFacts &input : kInputs) {
    if (input.extent != Extent::Sequences ||
        std::none_of(plan.programs.begin(), plan.programs.end(),
                     [&](const Program &program) { return reads(program, input.name); }))
      continue;
    Table &table = tables.emplace_back(Table{input.name, end, {}});
    for (size_t pool = 0; pool < plan.pools.size(); ++pool)
      if (tableOf(plan.pools[pool]) == input.name)
        table.pools.push_back(pool);
    end += aligned(uint64_t(options.maxSequences) * tableStride * input.elementBytes);
  }
}

std::optional<uint64_t> StepInputs::offsetOf(size_t program, uint32_t input) const {
  for (const Placed &placed : programs[program].inputs)
    if (uint32_t(placed.name) == input)
      return placed.offset;
  for (const Table &table : tables)
    if (uint32_t(table.name) == input)
      return table.offset;
  return std::nullopt;
}

StepInputs::Range StepInputs::fill(const Step &step, size_t program, std::byte *block) const {
  for (const Placed &input : programs[program].inputs) {
    if (input.name == InputName::Sampling) {
      fillSampling(step, block + input.offset);
      continue;
    }
    const std::span<const int32_t> values = valuesOf(step, input.name);
    if (!values.empty())
      std::memcpy(block + input.offset, values.data(), values.size_bytes());
  }

  Range changed{UINT64_MAX, 0};
  for (size_t i = 0; i < step.tokens.size(); ++i) {
    if (i + 1 < step.tokens.size() && step.sequences[i + 1] == step.sequences[i] &&
        step.positions[i + 1] >= step.positions[i])
      continue; // it is not the sequence's last token
    const size_t row = size_t(step.sequences[i]) * tableStride;
    const size_t bytes = (size_t(step.positions[i]) / 64 + 1) * sizeof(int32_t);
    for (const Table &table : tables)
      for (size_t pool : table.pools) {
        const uint64_t offset = table.offset + row * sizeof(int32_t);
        const int32_t *from = step.tables[pool].data() + row;
        if (!std::memcmp(block + offset, from, bytes))
          continue;
        std::memcpy(block + offset, from, bytes);
        changed.begin = std::min(changed.begin, offset);
        changed.end = std::max(changed.end, offset + bytes);
      }
  }
  return changed.begin < changed.end ? changed : Range{};
}

} // namespace moe
