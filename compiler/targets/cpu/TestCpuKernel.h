// What tests and benchmarks of CPU kernels share: kernels compiled for a target and run, random
// weights, rows of activations, and the targets and formats of the tests.
#ifndef MOE_COMPILER_TARGETS_CPU_TESTCPUKERNEL_H
#define MOE_COMPILER_TARGETS_CPU_TESTCPUKERNEL_H

#include "compiler/kernels/TestFloats.h"
#include "compiler/kernels/TestWeight.h"
#include "compiler/targets/cpu/CpuKernel.h"
#include "compiler/targets/cpu/LowerToCpu.h"
#include "compiler/targets/cpu/TestProcessor.h"
#include "compiler/targets/cpu/ToObject.h"
#include "dialects/moe/MoeReference.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Verifier.h"
#include <gtest/gtest.h>
#include <numeric>
#include <random>

namespace moe::codegen {

using namespace mlir;

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;
using Bytes = std::vector<std::byte>;

// A kind of weight: its formats differ by the columns of a matrix.
struct Kind {
  std::string name;
  Storage element;
  int64_t group = 0; // -1: a whole row
  Storage scale = Storage::F32;
  bool zeros = false;

  // The group, or what of it divides the columns and is a multiple of 4.
  WeightFormat of(int64_t columns) const {
    if (group == 0)
      return {element};
    int64_t fits = group < 0 ? columns : std::gcd(group, columns);
    return {element, fits % 4 ? columns : fits, scale, zeros};
  }
};

// The tiles of AMX where the rest of a kernel is for AVX2: a target for tests alone, since a
// processor can emulate AMX and not AVX-512.
inline constexpr llvm::StringLiteral kAmxOnAvx2 = "x86-64-v3-amx";

class Kernels : public testing::TestWithParam<std::tuple<std::string, Kind>> {
protected:
  // A processor for the target, or nothing and, in `missing`, what this machine lacks.
  bool open(llvm::StringRef name, std::string &missing) {
    context.loadDialect<func::FuncDialect, arith::ArithDialect, LLVM::LLVMDialect,
                        math::MathDialect, scf::SCFDialect, vector::VectorDialect>();
    target = name == kAmxOnAvx2 ? withAmx(*cpuTarget("x86-64-v3")) : *cpuTarget(name);
    processor = TestProcessor::create({target.required.begin(), target.required.end()}, missing);
    return bool(processor);
  }
  void SetUp() override {
    kind = std::get<1>(GetParam());
    storage = kind.element == Storage::F32 ? Storage::F32 : Storage::BF16;
    std::string missing;
    if (!open(std::get<0>(GetParam()), missing))
      GTEST_SKIP() << missing;
  }

  struct Compiled {
    uint64_t kernel = 0; // its address on the processor
    Operands operands;
    int64_t fixed = 0, perRow = 0;             // scratch memory
    std::function<int64_t(Step)> counterBytes; // of its counters, where it has some
  };
  // What a kernel is passed, by name.
  struct Argument {
    Operand operand;
    Buffer buffer;
  };
  template <class Contract> Compiled compile(const Contract &contract) {
    Compiled compiled = compile(ChosenKernel<CpuKernel>(contract));
    if constexpr (requires { contract.bytes(Operand::Counters, Step{}); })
      compiled.counterBytes = [contract](Step step) {
        return contract.bytes(Operand::Counters, step);
      };
    return compiled;
  }
  Compiled compile(const ChosenKernel<CpuKernel> &kernel) {
    const std::string &name = kernel.name;
    auto module = emitKernel(&context, kernel, target);
    EXPECT_TRUE(succeeded(verify(*module)));
    Operation *function = module->lookupSymbol(name);
    Compiled compiled{0, kernel.operands, 0, 0, {}};
    compiled.fixed = function->getAttrOfType<IntegerAttr>("moe.scratch_fixed").getInt();
    compiled.perRow = function->getAttrOfType<IntegerAttr>("moe.scratch_per_row").getInt();
    EXPECT_TRUE(succeeded(lowerKernels(*module)));
    auto image = toImage(*module, target);
    if (!image) {
      ADD_FAILURE() << llvm::toString(image.takeError());
      return compiled;
    }
    compiled.kernel = processor->load(image->code) + image->entries.lookup(name);
    return compiled;
  }

  // `arguments` are all operands of the kernel and no others, in any order, but for counters, which
  // it must leave as it finds them.
  void run(const Compiled &compiled, std::vector<Argument> arguments, int32_t tokens, int32_t rows,
           int32_t stride, int32_t workers) {
    Bytes counters;
    if (llvm::is_contained(compiled.operands, Operand::Counters)) {
      counters.resize(compiled.counterBytes({tokens, rows}));
      arguments.push_back({Operand::Counters, counters});
    }
    ASSERT_EQ(arguments.size(), compiled.operands.size());
    std::vector<Buffer> operands;
    for (Operand operand : compiled.operands) {
      auto argument =
          llvm::find_if(arguments, [&](const Argument &a) { return a.operand == operand; });
      ASSERT_NE(argument, arguments.end()) << nameOf(operand).str();
      operands.push_back(argument->buffer);
    }
    uint64_t scratchBytes = compiled.fixed + compiled.perRow * std::max(tokens, rows);
    processor->run(compiled.kernel, operands, {tokens, rows, stride, workers, scratchBytes});
    EXPECT_EQ(counters, Bytes(counters.size()));
  }

  Floats random(size_t n, float scale = 1) { return normalFloats(generator, n, scale); }
  // With room after it, for kernels fetch ahead.
  TestWeight matrix(ArrayRef<int64_t> shape, WeightLayout::Kind layout, const WeightFormat &format,
                    float size, int64_t headDim = 0) {
    TestWeight w =
        testWeight(generator, *WeightLayout::create(shape, format, layout, headDim), size);
    w.bytes.resize(w.bytes.size() + 64);
    return w;
  }
  TestWeight norms(int64_t n) { return matrix({n}, WeightLayout::Kind::Rows, {Storage::F32}, 1); }

  static void put(Bytes &bytes, int64_t index, float value, Storage as) {
    uint16_t half = reference::toBfloat16(value);
    if (as == Storage::F32)
      memcpy(&bytes[index * 4], &value, 4);
    else
      memcpy(&bytes[index * 2], &half, 2);
  }
  static float get(const Bytes &bytes, int64_t index, Storage as) {
    float value;
    uint16_t half;
    if (as == Storage::F32) {
      memcpy(&value, &bytes[index * 4], 4);
      return value;
    }
    memcpy(&half, &bytes[index * 2], 2);
    return reference::fromBfloat16(half);
  }
  // [rows, n] with rows padded to 64 channels of zeros.
  Bytes rowsOf(const Floats &values, int64_t n, Storage as) {
    int64_t rows = values.size() / n;
    Bytes bytes(rows * padded(n) * bytesOf(as));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < n; ++c)
        put(bytes, r * padded(n) + c, values[r * n + c], as);
    return bytes;
  }
  Floats valuesOf(const Bytes &bytes, int64_t rows, int64_t n, Storage as) {
    Floats values;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < n; ++c)
        values.push_back(get(bytes, r * padded(n) + c, as));
    return values;
  }

  // Rows that feed a product, quantized here as ActivationRow says.
  Bytes activations(const Floats &values, const ActivationRow &row) {
    if (!row.quantized())
      return rowsOf(values, row.columns, row.storage());
    int64_t rows = values.size() / row.columns;
    Bytes bytes(rows * row.bytes());
    for (int64_t r = 0; r < rows; ++r)
      forPieces(row, [&](int64_t first, int64_t n, int64_t at) {
        std::byte *piece = &bytes[r * row.bytes() + at];
        const float *x = &values[r * row.columns + first];
        float most = 0;
        for (int64_t c = 0; c < n; ++c)
          most = std::max(most, std::abs(x[c]));
        float scale = most * (1.0f / 127), inverse = most > 0 ? 127 / most : 0;
        int32_t sum = 0;
        for (int64_t c = 0; c < n; ++c) {
          int32_t code = int32_t(std::nearbyint(x[c] * inverse));
          piece[row.codesAt() + c] = std::byte(code);
          sum += code;
        }
        memcpy(piece + ActivationRow::scaleAt, &scale, 4);
        bool nibbles = row.weight.element == Storage::I4;
        int32_t start = sum * (row.weight.zeros ? -1 : nibbles ? -8 : -128), upper = 17 * start;
        memcpy(piece + 4, &start, 4);
        if (nibbles)
          memcpy(piece + 8, &upper, 4);
      });
    return bytes;
  }
  Floats valuesOf(const Bytes &bytes, int64_t rows, const ActivationRow &row) {
    if (!row.quantized())
      return valuesOf(bytes, rows, row.columns, row.storage());
    Floats values(rows * row.columns);
    for (int64_t r = 0; r < rows; ++r)
      forPieces(row, [&](int64_t first, int64_t n, int64_t at) {
        const std::byte *piece = &bytes[r * row.bytes() + at];
        float scale;
        memcpy(&scale, piece + ActivationRow::scaleAt, 4);
        for (int64_t c = 0; c < n; ++c)
          values[r * row.columns + first + c] = scale * float(int8_t(piece[row.codesAt() + c]));
      });
    return values;
  }
  // visit(first column, columns, offset in the row)
  static void forPieces(const ActivationRow &row,
                        llvm::function_ref<void(int64_t, int64_t, int64_t)> visit) {
    int64_t at = 0;
    for (int64_t group = 0; group < row.columns; group += row.weight.group)
      for (int64_t c = 0; c < row.weight.group; c += 128) {
        int64_t n = std::min<int64_t>(128, row.weight.group - c);
        visit(group + c, n, at);
        at += (row.weight.element == Storage::I4 ? 12 : 8) + (n + 3) / 4 * 4;
      }
  }

  // Relative to the largest value: what float32 sums, or activations of bf16 or codes, can lose.
  void expectNear(const Floats &got, const Floats &want, double factor = 1) {
    ASSERT_EQ(got.size(), want.size());
    double largest = 0, error = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i])) << "element " << i;
      largest = std::max(largest, std::abs(double(want[i])));
      error = std::max(error, std::abs(double(got[i]) - want[i]));
    }
    double allowed = kind.element == Storage::F32 ? 2e-6 : kind.group ? 2.5e-2 : 1.5e-2;
    EXPECT_LE(error, factor * largest * allowed);
  }

  MLIRContext context;
  CpuTarget target;
  std::unique_ptr<TestProcessor> processor;
  Kind kind;
  Storage storage; // of activations where they are not codes, and of the cache
  std::mt19937 generator{7};
};

//===--- What kernels are tested for ---------------------------------------------------------------

inline const Kind kF32Kind{"f32", Storage::F32}, kBf16Kind{"bf16", Storage::BF16},
    kInt8Kind{"int8", Storage::I8, -1, Storage::F32},
    kInt4Kind{"int4_g128", Storage::I4, 128, Storage::F16},
    kInt4ZerosKind{"int4_g32_z", Storage::I4, 32, Storage::BF16, true},
    kFp8Kind{"fp8", Storage::F8E4M3, 32, Storage::F32};

inline std::string nameOfCase(const testing::TestParamInfo<std::tuple<std::string, Kind>> &info) {
  return identifier(std::get<0>(info.param) + "_" + std::get<1>(info.param).name);
}

inline auto onAllTargets(const std::vector<Kind> &kinds) {
  return testing::Combine(testing::Values("x86-64-v4-amx", kAmxOnAvx2.str(), "x86-64-v4",
                                          "x86-64-v3-vnni", "x86-64-v3", "aarch64"),
                          testing::ValuesIn(kinds));
}
// Of kernels with one product: every format.
inline auto allKinds() {
  return onAllTargets({kF32Kind, kBf16Kind, kInt8Kind, kInt4Kind, kInt4ZerosKind, kFp8Kind});
}
// Of those with more. Emulated they take minutes (`emulatedKinds`), so only ./test.sh --all has
// them.
inline auto someKinds(const std::vector<Kind> &kinds = {kF32Kind, kBf16Kind, kInt4ZerosKind}) {
  return testing::Combine(testing::Values("x86-64-v4-amx", "x86-64-v4", "x86-64-v3"),
                          testing::ValuesIn(kinds));
}
inline auto emulatedKinds() {
  return testing::Combine(
      testing::Values("armv8.6-a", "aarch64", "x86-64-v3-vnni", kAmxOnAvx2.str()),
      testing::Values(kF32Kind, kBf16Kind, kInt4ZerosKind));
}
// Of those that take too long where instructions are emulated one by one.
inline auto aarch64Kinds(const std::vector<Kind> &kinds) {
  return testing::Combine(testing::Values("aarch64"), testing::ValuesIn(kinds));
}
// Where workers claim parts of weights.
inline const std::vector<Kind> kClaimedKinds{kBf16Kind, kInt8Kind, kInt4Kind};
inline auto allClaimedKinds() {
  return testing::Combine(testing::Values("aarch64", "x86-64-v4-amx", "x86-64-v4", "x86-64-v3"),
                          testing::ValuesIn(kClaimedKinds));
}
// Emulated as well. OpTest has all kernels of this target, in int4, and CodesKernel the bits of its
// products of codes, so that of the other tests only products of bf16 and fp8 run always.
inline auto onNewerArm(const std::vector<Kind> &kinds) {
  return testing::Combine(testing::Values("armv8.6-a"), testing::ValuesIn(kinds));
}
inline auto otherCodes() {
  return testing::Combine(testing::Values("x86-64-v4-amx", "x86-64-v4", "aarch64"),
                          testing::Values(kInt4Kind, kFp8Kind));
}
// What the instructions do that a processor with AVX2 alone emulates one by one.
inline auto emulatedInstructions() {
  return testing::Combine(testing::Values("x86-64-v3-vnni", kAmxOnAvx2.str()),
                          testing::Values(kBf16Kind, kInt4Kind));
}

} // namespace moe::codegen

#endif
