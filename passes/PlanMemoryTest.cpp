// Memory planning on random programs: nothing that is live is overwritten, and little is wasted.
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "passes/Passes.h"
#include "llvm/Support/MathExtras.h"
#include <gtest/gtest.h>

#include <random>

using namespace mlir;
using namespace moe;

namespace {

struct Buffer {
  int64_t bytes, first = -1, last = -1; // calls
  std::optional<int64_t> offset = {};
};

// Buffers and the calls that use them, independent of the IR.
struct RandomProgram {
  std::vector<Buffer> buffers;
  std::string text;

  explicit RandomProgram(unsigned seed) {
    std::mt19937 random(seed);
    int64_t count = 1 + random() % 40, calls = 1 + random() % 60, reach = 1 + random() % 12;
    text = "plan.kernel @k device \"cpu\" operands 3\n"
           "plan.program @p step device \"cpu\" tokens 1 rows 1 scratch 0 "
           "outputs [\"ids\" : i32[R]] {\n";
    for (int64_t i = 0; i < count; ++i) {
      buffers.push_back({1 + int64_t(random() % (random() % 2 ? 100 : 5000))});
      text +=
          "  %b" + std::to_string(i) + " = plan.alloc " + std::to_string(buffers[i].bytes) + "\n";
    }
    for (int64_t call = 0; call < calls; ++call) {
      text += "  plan.call @k(";
      for (int operand = 0; operand < 3; ++operand) {
        // Mostly neighbours, as in a model; now and then a buffer that lives long.
        int64_t near = call * count / calls + int64_t(random() % reach);
        int64_t i = random() % 10 ? near % count : random() % count;
        Buffer &buffer = buffers[i];
        buffer.first = buffer.first < 0 ? call : buffer.first;
        buffer.last = call;
        text += (operand ? ", %b" : "%b") + std::to_string(i);
      }
      text += ")\n";
    }
    text += "}\n";
  }
};

TEST(PlanMemoryTest, RandomPrograms) {
  MLIRContext context;
  context.loadDialect<MoeDialect, plan::PlanDialect>();
  int64_t arenas = 0, floors = 0;
  for (unsigned seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomProgram program(seed);
    auto module = parseSourceString<ModuleOp>(program.text, &context);
    ASSERT_TRUE(module);
    PassManager pm(&context, ModuleOp::getOperationName());
    pm.addNestedPass<plan::ProgramOp>(createPlanMemory());
    ASSERT_TRUE(succeeded(pm.run(*module))); // verifies too

    auto planned = module->lookupSymbol<plan::ProgramOp>("p");
    auto allocs = planned.getBody().getOps<plan::AllocOp>();
    auto next = allocs.begin();
    std::vector<Buffer> live;
    int64_t sum = 0;
    for (Buffer &buffer : program.buffers) {
      if (buffer.first < 0)
        continue;
      ASSERT_NE(next, allocs.end());
      ASSERT_EQ(int64_t((*next).getBytes()), buffer.bytes);
      buffer.offset = int64_t(*(*next++).getOffset());
      EXPECT_EQ(*buffer.offset % 256, 0);
      sum += llvm::alignTo<256>(buffer.bytes);
      live.push_back(buffer);
    }
    EXPECT_EQ(next, allocs.end());

    int64_t floor = 0, arena = *planned.getArena();
    for (int64_t call = 0; call < 60; ++call) {
      std::vector<std::pair<int64_t, int64_t>> ranges;
      int64_t bytes = 0;
      for (Buffer &buffer : live)
        if (buffer.first <= call && call <= buffer.last) {
          ranges.push_back({*buffer.offset, *buffer.offset + buffer.bytes});
          bytes += llvm::alignTo<256>(buffer.bytes);
        }
      llvm::sort(ranges);
      for (size_t i = 1; i < ranges.size(); ++i)
        EXPECT_LE(ranges[i - 1].second, ranges[i].first) << "at call " << call;
      if (!ranges.empty())
        EXPECT_LE(ranges.back().second, arena);
      floor = std::max(floor, bytes);
    }
    EXPECT_LE(arena, sum);
    EXPECT_GE(arena, floor);
    arenas += arena;
    floors += floor;
  }
  EXPECT_LE(double(arenas), 1.1 * double(floors));
}

} // namespace
