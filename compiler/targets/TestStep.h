// Runs the step programs of a plan, as it is lowered, call by call: every buffer is a memory of its
// own, and holds NaN before a step, so that what no kernel wrote shows in the results.
#ifndef MOE_COMPILER_TARGETS_TESTSTEP_H
#define MOE_COMPILER_TARGETS_TESTSTEP_H

#include "compiler/kernels/TestWeight.h"
#include "compiler/targets/TestRunner.h"
#include "dialects/plan/Packing.h"
#include "runtime/device/RowSampling.h"
#include "llvm/ADT/TypeSwitch.h"
#include <map>

namespace moe::codegen {

// What a step is asked.
struct TestStep {
  std::vector<int32_t> tokens, positions, sequences, rows;
};

// What it made.
struct TestStepResult {
  // [T, hidden], the residual stream after each call that changed it: after the embedding, and
  // after each op that adds to it, for kernels do that in an op's last call.
  std::vector<std::vector<float>> streams;
  std::vector<float> logits;               // [R, vocabulary]
  std::vector<float> hidden;               // [R, hidden], where the model gives them
  std::optional<std::vector<int32_t>> ids; // [R], where the target chooses tokens
};

class StepRunner {
public:
  static constexpr int32_t kSequences = 3, kTableStride = 3; // pages of a sequence

  // Draws weights. The module and the kernels must outlive it.
  StepRunner(mlir::ModuleOp plan, KernelRunner &kernels, int64_t hidden, int64_t vocabulary)
      : plan(plan), kernels(kernels), hidden(hidden), vocabulary(vocabulary) {
    std::mt19937 random(7);
    for (auto tensor : plan.getOps<plan::TensorOp>()) {
      auto type = mlir::cast<mlir::RankedTensorType>(tensor.getType());
      bool product = type.getRank() > 1 && tensor.getTensorName() != "embed";
      TestWeight w = testWeight(random, *layoutOf(type, tensor.getPacking()),
                                product ? 1 / std::sqrt(float(type.getShape().back())) : 1);
      w.bytes.resize(w.bytes.size() + 64); // kernels may fetch ahead
      weights[tensor.getSymName()] = kernels.place(w.bytes);
      values[tensor.getTensorName()] = std::move(w.values);
    }
    int64_t most = 4;
    plan.walk([&](plan::CountersOp op) { most = std::max<int64_t>(most, op.getBytes()); });
    zeros.resize(most);
    counters = kernels.place(zeros);
    for (auto pool : plan.getOps<plan::PoolOp>())
      pools[pool.getSymName()] = kernels.place(pagesOf(pool));
  }

  // As the plan stores it, row by row.
  const std::vector<float> &weight(llvm::StringRef name) const { return values.find(name)->second; }

  // Pages come back from other sequences with any numbers in them.
  void forget() {
    for (auto pool : plan.getOps<plan::PoolOp>())
      kernels.write(pools.lookup(pool.getSymName()), pagesOf(pool));
  }

  // `width`: see KernelRunner.
  TestStepResult run(const TestStep &step, int64_t width) {
    plan::ProgramOp program; // the smallest that has room
    for (auto other : plan.getOps<plan::ProgramOp>())
      if (other.getTokens() >= step.tokens.size() && other.getRows() >= step.rows.size() &&
          (!program || other.getTokens() < program.getTokens()))
        program = other;
    TestStepResult result;
    std::optional<size_t> stream; // memories
    logits = kernels.place(Bytes(program.getRows() * vocabulary * 4, kUnwritten));
    ids = kernels.place(Bytes(program.getRows() * 4, kUnwritten));
    states = kernels.place(Bytes(program.getRows() * hidden * 4, kUnwritten));
    std::map<void *, size_t> memories; // of values
    for (mlir::Operation &op : program.getBody().front()) {
      if (auto call = llvm::dyn_cast<plan::CallOp>(op)) {
        KernelRunner::Call launch{.kernel = call.getKernelName(),
                                  .operands = {},
                                  .tokens = int32_t(step.tokens.size()),
                                  .rows = int32_t(step.rows.size()),
                                  .tableStride = kTableStride,
                                  .scratchBytes = int64_t(program.getScratch()),
                                  .blocks = int64_t(call.getBlocks().value_or(0))};
        for (mlir::Value operand : call.getOperands()) {
          auto cache = operand.getDefiningOp<plan::CacheOp>();
          launch.operands.push_back(
              {memories[operand.getAsOpaquePointer()], cache ? int64_t(cache.getOffset()) : 0});
          // The embedding comes first, and all ops add to what it writes.
          if (!stream && operand.getDefiningOp<plan::AllocOp>())
            stream = launch.operands.back().memory;
        }
        kernels.run(launch, width);
        EXPECT_EQ(kernels.read(counters), zeros) << launch.kernel.str() << " leaves its counters";
        if (!stream)
          continue;
        std::vector<float> h = streamOf(*stream, step.tokens.size());
        if (result.streams.empty() ||
            memcmp(h.data(), result.streams.back().data(), h.size() * sizeof(float)))
          result.streams.push_back(std::move(h));
        continue;
      }
      memories[op.getResult(0).getAsOpaquePointer()] = memoryOf(op, program, step);
    }
    result.logits = valuesOf<float>(logits);
    result.logits.resize(step.rows.size() * vocabulary);
    if (plan::ProgramOp::find(program.getOutputs(), "hidden")) {
      result.hidden = valuesOf<float>(states);
      result.hidden.resize(step.rows.size() * hidden);
    }
    if (plan::ProgramOp::find(program.getOutputs(), "ids")) {
      result.ids = valuesOf<int32_t>(ids);
      result.ids->resize(step.rows.size());
    }
    return result;
  }

  // Where the target chooses tokens: whether a row gives its logits, and whether its id is drawn,
  // from the one largest logit, or is that of the largest logit at once.
  static bool writesLogits(size_t row) { return row % 3 != 1; }
  static bool draws(size_t row) { return row % 3 == 2; }

private:
  using Bytes = KernelRunner::Bytes;
  static constexpr std::byte kUnwritten{0xff}; // bytes of a NaN, or of a number that none is

  static Bytes pagesOf(plan::PoolOp pool) {
    return Bytes(kSequences * kTableStride * pool.getPageBytes(), std::byte(0x3c));
  }
  template <class T> std::vector<T> valuesOf(size_t memory) {
    Bytes bytes = kernels.read(memory);
    std::vector<T> all(bytes.size() / sizeof(T));
    memcpy(all.data(), bytes.data(), all.size() * sizeof(T));
    return all;
  }
  std::vector<float> streamOf(size_t memory, size_t tokens) {
    std::vector<float> rows = valuesOf<float>(memory), h;
    for (size_t t = 0; t < tokens; ++t)
      h.insert(h.end(), &rows[t * padded(hidden)], &rows[t * padded(hidden)] + hidden);
    return h;
  }
  // Memory with room for `most` elements; behind those that there are nothing makes sense.
  template <class T> size_t placeInput(const std::vector<T> &elements, size_t most) {
    Bytes bytes(most * sizeof(T), kUnwritten);
    memcpy(bytes.data(), elements.data(), elements.size() * sizeof(T));
    return kernels.place(bytes);
  }

  // What a value of a program stands for.
  size_t memoryOf(mlir::Operation &op, plan::ProgramOp program, const TestStep &step) {
    return llvm::TypeSwitch<mlir::Operation *, size_t>(&op)
        .Case([&](plan::InputOp input) { return inputOf(input.getName(), program, step); })
        .Case([&](plan::OutputOp output) {
          return output.getName() == "ids" ? ids : output.getName() == "hidden" ? states : logits;
        })
        .Case([&](plan::WeightOp weight) { return weights.lookup(weight.getTensor()); })
        .Case([&](plan::CacheOp cache) { return pools.lookup(cache.getPool()); })
        .Case([&](plan::CountersOp) { return counters; })
        .Case(
            [&](plan::AllocOp alloc) { return kernels.place(Bytes(alloc.getBytes(), kUnwritten)); })
        .Default([](mlir::Operation *other) {
          ADD_FAILURE() << other->getName().getStringRef().str() << " stands for no memory here";
          return size_t(0);
        });
  }
  // runtime/session/StepBinding.h says what inputs mean.
  size_t inputOf(llvm::StringRef name, plan::ProgramOp program, const TestStep &step) {
    mlir::ArrayAttr specs = program.getInputs();
    auto spec = mlir::cast<plan::TensorSpecAttr>(specs[*plan::ProgramOp::find(specs, name)]);
    if (spec.getPool()) { // pages in any order
      constexpr int32_t count = kSequences * kTableStride;
      std::vector<int32_t> pages;
      for (int32_t i = 0; i < count; ++i)
        pages.push_back(i * 4 % count);
      return placeInput(pages, pages.size());
    }
    if (name == "tokens")
      return placeInput(step.tokens, program.getTokens());
    if (name == "positions")
      return placeInput(step.positions, program.getTokens());
    if (name == "sequences")
      return placeInput(step.sequences, program.getTokens());
    if (name == "rows")
      return placeInput(step.rows, program.getRows());
    if (name == "masks") // which no row uses
      return placeInput(std::vector<uint32_t>(), kSequences * llvm::divideCeil(vocabulary, 32));
    EXPECT_EQ(name, "sampling");
    std::vector<RowSampling> rows(step.rows.size());
    for (size_t row = 0; row < rows.size(); ++row) {
      rows[row].flags = (writesLogits(row) ? RowSampling::writesLogits : 0) |
                        (draws(row) ? RowSampling::draws : 0);
      rows[row].scale = 1;
      rows[row].topK = 1;
      rows[row].random = row << 60;
    }
    return placeInput(rows, program.getRows());
  }

  mlir::ModuleOp plan;
  KernelRunner &kernels;
  const int64_t hidden, vocabulary;
  llvm::StringMap<size_t> weights, pools;     // by symbol: memories
  llvm::StringMap<std::vector<float>> values; // by the name of the weight
  Bytes zeros;                                // as the counters hold before and after a kernel
  size_t counters;
  size_t logits, ids, states; // of the step
};

} // namespace moe::codegen

#endif
