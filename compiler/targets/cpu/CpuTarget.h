// The processors that CPU kernels are compiled for.
#ifndef MOE_COMPILER_TARGETS_CPU_CPUTARGET_H
#define MOE_COMPILER_TARGETS_CPU_CPUTARGET_H

#include "runtime/weights/Format.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <algorithm>
#include <string>

namespace moe::codegen {

// A product of bytes, summed in fours into int32 lanes: of unsigned codes with signed activations,
// of signed codes with signed ones, or of unsigned with signed ones in pairs into 16 bits, which
// saturate, and these by another instruction (vpmaddubsw, vpmaddwd).
enum class CodeDot { UnsignedBytes, SignedBytes, BytePairs };

// A product of pairs of bf16, summed into float32 lanes: by multiply-adds of what they are in
// float32, or by an instruction.
enum class Bf16Dot { Widened, Vdpbf16ps, Bfdot };

struct CpuTarget {
  std::string name;   // in the plan: "cpu:x86-64-v4"
  std::string triple; // LLVM's names for it
  std::string cpu;
  std::string cpuFeatures;                    // "+avx512bf16,..."
  llvm::SmallVector<std::string, 8> required; // what the runtime asks the processor for
  int64_t lanes;                              // f32 lanes of a vector register
  int64_t floatTokens;                        // tokens that a register tile holds, of floats
  int64_t codeTokens;                         // and of codes
  int64_t tileRows;                           // weight rows of a tile with more than one token
  int64_t registers;                          // of vectors
  Bf16Dot bf16Dot;
  CodeDot codeDot;
  bool amx = false;        // multiplies tiles of bf16 and of bytes
  bool matrixDots = false; // has both dot products as products of matrices, too: see MatrixTile.h

  // Tokens that a product takes at once, at most: with weights of an element, and with any.
  int64_t tileTokens(Storage element) const {
    return amx ? 16 : infoOf(element).integers ? codeTokens : floatTokens;
  }
  int64_t tileTokens() const { return amx ? 16 : std::max(codeTokens, floatTokens); }

  bool arm() const { return required.front() == "aarch64"; }
  // Has instructions for bf16: they multiply pairs, and round float32 to it.
  bool takesBf16() const { return bf16Dot != Bf16Dot::Widened; }
};

// "x86-64-v3", "x86-64-v3-vnni", "x86-64-v4", "x86-64-v4-amx", "aarch64", "armv8.6-a", or "native"
// for the machine at hand. An unknown name is an error that lists these.
llvm::Expected<CpuTarget> cpuTarget(llvm::StringRef name);

// A target for x86-64 with AMX, of whatever vectors.
CpuTarget withAmx(CpuTarget target);

// Every target but native, best first.
llvm::ArrayRef<llvm::StringRef> cpuTargetNames();

} // namespace moe::codegen

#endif
