// What tests and benchmarks of CPU kernels share: kernels compiled for a target and mapped, here or
// on an emulated processor, random weights packed from their codes, and rows of activations.
#ifndef MOE_COMPILER_TARGETS_CPU_TESTCPUKERNEL_H
#define MOE_COMPILER_TARGETS_CPU_TESTCPUKERNEL_H

#include "compiler/kernels/TestFloats.h"
#include "compiler/targets/cpu/Kernels.h"
#include "compiler/targets/cpu/TestEmulator.h"
#include "compiler/targets/cpu/ToObject.h"
#include "dialects/moe/MoeReference.h"
#include "dialects/plan/Packing.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Verifier.h"
#include "llvm/TargetParser/Host.h"
#include <gtest/gtest.h>
#include <numeric>
#include <random>
#include <set>
#include <sys/mman.h>

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

class Kernels : public testing::TestWithParam<std::tuple<std::string, Kind>> {
protected:
  void load() {
    context
        .loadDialect<func::FuncDialect, arith::ArithDialect, LLVM::LLVMDialect, math::MathDialect,
                     scf::SCFDialect, vector::VectorDialect, MoeDialect, plan::PlanDialect>();
  }
  void SetUp() override {
    load();
    target = *cpuTarget(std::get<0>(GetParam()));
    kind = std::get<1>(GetParam());
    storage = kind.element == Storage::F32 ? Storage::F32 : Storage::BF16;
    if (target.name == "cpu:aarch64" && !isAarch64) {
      std::string missing;
      emulator = Emulator::aarch64(missing);
      if (!emulator)
        GTEST_SKIP() << missing;
      return;
    }
    llvm::StringMap<bool> has = llvm::sys::getHostCPUFeatures();
    for (const char *feature : {"avx512bf16", "avx512vnni", "avx512vbmi"})
      if (target.bf16Dot && !has.lookup(feature))
        GTEST_SKIP() << "this processor has no " << feature;
    if (target.name != "cpu:aarch64" && !has.lookup("avx2"))
      GTEST_SKIP() << "this processor is not x86-64-v3";
  }
  void TearDown() override {
    for (auto [at, bytes] : mappings)
      munmap(at, bytes);
  }

  struct Compiled {
    cpu::Kernel kernel;
    int64_t fixed, perRow; // scratch memory
  };
  Compiled compiled(const KernelSpec &spec) {
    cpu::Kernel kernel = compile(spec);
    return {kernel, scratchFixed, scratchPerRow};
  }
  void run(const Compiled &compiled, std::vector<Buffer> operands, int32_t tokens, int32_t rows,
           int32_t stride, int32_t workers) {
    std::tie(scratchFixed, scratchPerRow) = std::tie(compiled.fixed, compiled.perRow);
    run(compiled.kernel, std::move(operands), tokens, rows, stride, workers);
  }
  cpu::Kernel compile(const KernelSpec &spec) {
    std::string name = nameOf(spec);
    auto module = emitKernel(&context, spec, target);
    EXPECT_TRUE(succeeded(verify(*module)));
    Operation *function = module->lookupSymbol(name);
    scratchFixed = function->getAttrOfType<IntegerAttr>("moe.scratch_fixed").getInt();
    scratchPerRow = function->getAttrOfType<IntegerAttr>("moe.scratch_per_row").getInt();
    EXPECT_TRUE(succeeded(lowerKernels(*module)));
    auto image = toImage(*module, target);
    if (!image) {
      ADD_FAILURE() << llvm::toString(image.takeError());
      return nullptr;
    }
    uint64_t entry = image->entries.lookup(name);
    if (emulator) {
      uint64_t code = emulator->load(image->code);
      EXPECT_NE(code, 0u) << "the emulated program has died";
      return reinterpret_cast<cpu::Kernel>(code + entry); // for run alone
    }
    void *at = mmap(nullptr, image->code.size(), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(at, image->code.data(), image->code.size());
    mprotect(at, image->code.size(), PROT_READ | PROT_EXEC);
    mappings.push_back({at, image->code.size()});
    return reinterpret_cast<cpu::Kernel>(static_cast<char *>(at) + entry);
  }

  // As runWorkers says; on an emulated processor where the target needs one.
  void run(cpu::Kernel kernel, std::vector<Buffer> operands, int32_t tokens, int32_t rows,
           int32_t stride, int32_t workers) {
    uint64_t scratchBytes = scratchFixed + scratchPerRow * std::max(tokens, rows);
    RunFacts facts{tokens, rows, stride, workers, scratchBytes};
    uint32_t faults;
    if (emulator) {
      std::string death;
      faults = emulator->run(reinterpret_cast<uintptr_t>(kernel), operands, facts, death);
      ASSERT_EQ(death, "");
    } else {
      std::vector<void *> pointers;
      for (const Buffer &buffer : operands)
        pointers.push_back(buffer.data);
      faults = runWorkers(kernel, pointers.data(), facts);
    }
    EXPECT_FALSE(faults & WrotePastScratch) << "the kernel wrote past its scratch memory";
    EXPECT_FALSE(faults & WrotePastOperand) << "the kernel wrote past an operand";
    EXPECT_FALSE(faults & WaitedInVain) << "the kernel waits for what never comes";
  }

  Floats random(size_t n, float scale = 1) { return normalFloats(generator, n, scale); }
  struct Matrix {
    Floats values;
    Bytes packed;
  };
  // Random elements of about `size`; with codes, every code is as likely as the others.
  Matrix matrix(ArrayRef<int64_t> shape, Layout layout, const WeightFormat &f, float size,
                int64_t headDim = 0) {
    auto count = ShapedType::getNumElements(shape);
    if (!f.quantized()) {
      Floats values =
          f.element == Storage::BF16 ? normalBf16(generator, count, size) : random(count, size);
      return {values, pack(values, shape, layout, f.element, headDim)};
    }
    auto type = RankedTensorType::get(shape, Float32Type::get(&context));
    auto g = *layoutOf(
        type, plan::PackingAttr::get(&context, layout, FormatAttr::get(&context, f), headDim));
    Matrix m{Floats(count), Bytes(g.bytes() + 64)};
    float deviation = f.element == Storage::I8 ? 74 : f.element == Storage::I4 ? 4.6f : 130;
    for (int64_t o = 0; o < g.outer; ++o)
      for (int64_t r = 0; r < g.rows; ++r)
        for (int64_t group = 0; group < g.groups(); ++group) {
          float scale =
              size / deviation * std::uniform_real_distribution<float>(0.5, 1.5)(generator);
          scale = putScale(&m.packed[g.scale(o, r, group)], scale, f.scale);
          int64_t zero = f.zero();
          if (f.zeros) {
            zero = generator() % 17;
            m.packed[g.zero(o, r, group)] = std::byte(zero);
          }
          for (int64_t c = group * f.group; c < (group + 1) * f.group; ++c) {
            unsigned code = generator() % (f.element == Storage::I4 ? 16 : 256);
            float value = (float(code) - float(zero)) * scale;
            if (f.element == Storage::F8E4M3) {
              code -= (code & 0x7f) == 0x7f; // not a number
              llvm::APFloat number(llvm::APFloat::Float8E4M3FN(), llvm::APInt(8, code));
              value = number.convertToFloat() * scale;
            }
            auto place = g.code(o, r, c);
            m.packed[place.byte] |= std::byte(code << place.shift);
            m.values[(o * g.rows + r) * g.cols + c] = value;
          }
        }
    return m;
  }
  // Returns it as it is stored.
  static float putScale(std::byte *at, float scale, Storage as) {
    if (as == Storage::F32) {
      memcpy(at, &scale, 4);
      return scale;
    }
    llvm::APFloat value(scale);
    bool inexact;
    value.convert(as == Storage::F16 ? llvm::APFloat::IEEEhalf() : llvm::APFloat::BFloat(),
                  llvm::APFloat::rmNearestTiesToEven, &inexact);
    uint16_t bits = value.bitcastToAPInt().getZExtValue();
    memcpy(at, &bits, 2);
    return value.convertToFloat();
  }
  Matrix norms(int64_t n) { return matrix({n}, Layout::Rows, {Storage::F32}, 1); }

  Bytes pack(const Floats &values, ArrayRef<int64_t> shape, Layout layout, Storage as,
             int64_t headDim = 0) {
    Type element =
        as == Storage::F32 ? Type(Float32Type::get(&context)) : Type(BFloat16Type::get(&context));
    auto type = RankedTensorType::get(shape, element);
    auto geometry = *layoutOf(type, plan::PackingAttr::get(&context, layout, element, headDim));
    Bytes bytes(geometry.bytes() + 64);
    for (int64_t o = 0; o < geometry.outer; ++o)
      for (int64_t r = 0; r < geometry.rows; ++r)
        for (int64_t c = 0; c < geometry.cols; ++c)
          put(bytes, geometry.index(o, r, c), values[(o * geometry.rows + r) * geometry.cols + c],
              as);
    return bytes;
  }
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

#if defined(__aarch64__)
  static constexpr bool isAarch64 = true;
#else
  static constexpr bool isAarch64 = false;
#endif
  MLIRContext context;
  CpuTarget target;
  std::unique_ptr<Emulator> emulator; // of a target that this machine cannot run
  Kind kind;
  Storage storage; // of activations where they are not codes, and of the cache
  std::mt19937 generator{7};
  int64_t scratchFixed = 0, scratchPerRow = 0;
  std::vector<std::pair<void *, size_t>> mappings;
};

} // namespace moe::codegen

#endif
