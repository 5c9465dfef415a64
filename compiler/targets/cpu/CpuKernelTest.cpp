// How workers divide a kernel's work among themselves, on every processor that this machine has or
// emulates: all of it is done, each unit once, and the counters are as they were.
#include "compiler/targets/cpu/TestCpuKernel.h"

using namespace mlir;
using namespace moe;
using namespace moe::codegen;

namespace {

class CpuKernelWork : public Kernels {};

// Divides as many units as the step has tokens, and writes down in Ids who did what: in [0] how
// many parts there were, then the first and the last unit of each, and the one after it.
struct WriteDownParts {
  int64_t least; // of claims; 0: none

  std::string name() const { return "write_down_parts_" + std::to_string(least); }
  Operands operands() const {
    Operands all{Operand::Ids};
    if (least)
      all.push_back(Operand::Counters);
    return all;
  }
  int64_t bytes(Operand, Step) const { return 4; }
  void emit(CpuKernel &k) const {
    Ptr parts = k.operand(Operand::Ids);
    std::optional<Claims> claims;
    if (least)
      claims = Claims{k.operand(Operand::Counters), least};
    k.parts(k.tokens, claims, [&](Val first, Val last) {
      Ptr part = parts + (k.arrive(parts) * 8 + 4);
      part.store(k.convert(first, k.i32()));
      (part + 4).store(k.convert(last, k.i32()));
    });
  }
};

TEST_P(CpuKernelWork, PartsAreAllOfIt) {
  Ints lengths;
  for (int32_t n = 0; n < 36; ++n)
    lengths.push_back(n);
  for (int32_t n : {63, 64, 65, 127, 130, 256, 1000, 4095, 99999, 20000000})
    lengths.push_back(n);
  for (int64_t least : {0, 1, 3, 16, 100000}) {
    Compiled kernel = compile(WriteDownParts{least});
    for (int32_t workers : {1, 2, 3, 7, 16, 65})
      for (int32_t n : lengths) {
        SCOPED_TRACE(testing::Message() << n << " units on " << workers << " workers, at least "
                                        << least << " claimed at once");
        Ints parts(1 + 2 * 32 * workers, 0);
        Kernels::run(kernel, {{Operand::Ids, parts}}, n, 0, 0, workers);
        const int32_t count = parts[0];
        ASSERT_LE(1 + 2 * count, int64_t(parts.size()));
        std::vector<std::pair<int32_t, int32_t>> sorted;
        for (int32_t i = 0; i < count; ++i)
          sorted.push_back({parts[1 + 2 * i], parts[2 + 2 * i]});
        std::sort(sorted.begin(), sorted.end());
        int32_t next = 0;
        for (auto [first, last] : sorted) {
          ASSERT_EQ(first, next);
          ASSERT_LE(first, last);
          // What is too little to be claimed is divided by number.
          if (count > workers)
            EXPECT_GE(last - first, least);
          next = last;
        }
        EXPECT_EQ(next, n);
        if (least == 0 || workers == 1)
          EXPECT_EQ(count, workers);
        else if (n >= 2 * workers * least)
          EXPECT_GT(count, workers);
      }
  }
}

// Walks as many pieces as the step has tokens, and counts in Ids how often each was done. Piece i
// is worker i * workers / tokens's.
struct CountPieces {
  bool claimed;

  std::string name() const { return claimed ? "count_pieces_claimed" : "count_pieces"; }
  Operands operands() const { return {Operand::Ids, Operand::Counters}; }
  int64_t bytes(Operand, Step) const { return 128; }
  void emit(CpuKernel &k) const {
    Ptr done = k.operand(Operand::Ids), counters = k.operand(Operand::Counters);
    Pieces pieces(k, k.constant(k.i1(), claimed), counters + 64);
    k.loop(k.i64(0), k.tokens, 1,
           [&](Val i) { pieces.piece(i * k.workers / k.tokens, [&] { k.arrive(done + i * 4); }); });
    k.leave(counters, k.i64(128));
  }
};

TEST_P(CpuKernelWork, EachPieceIsDoneOnce) {
  for (bool claimed : {false, true}) {
    Compiled kernel = compile(CountPieces{claimed});
    for (int32_t workers : {1, 2, 3, 7, 16, 65})
      for (int32_t n : {0, 1, 2, 3, 7, 8, 64, 65, 1000, 5000}) {
        Ints done(n + 1, 0), want(n, 1);
        want.push_back(0);
        Kernels::run(kernel, {{Operand::Ids, done}}, n, 0, 0, workers);
        EXPECT_EQ(done, want) << n << " pieces on " << workers << " workers, claimed " << claimed;
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, CpuKernelWork, someKinds({kF32Kind}), nameOfCase);
INSTANTIATE_TEST_SUITE_P(Long, CpuKernelWork, aarch64Kinds({kF32Kind}), nameOfCase);

} // namespace
