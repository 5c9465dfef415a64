// What a kernel is to those who call it: its contract.
//
// A contract is a struct of the facts that a kernel's code depends on. It stands in the header of
// the kernel's folder, and has
//
//   std::string name() const
//       "<kernel>_<types>_<shape>": letters, digits and underscores, unique among the kernels of a
//       target.
//   Operands operands() const
//       What a call passes, in this order.
//   int64_t bytes(Operand, Step) const
//       Of a buffer that a step has for what the kernel makes or works on. Not there where the
//       kernel has none.
//   void emit(CpuKernel &) const, void emit(CudaKernel &) const
//       The schedules, one for each target that has the kernel.
//
// and, where a target launches kernels as grids of blocks,
//
//   int64_t blocks(Step) const
//       Pieces of work: the most blocks that are of use.
//   std::string refusal() const
//       Why no code covers the facts ("head_dim is 24, and ..."), or empty. Not there where all are
//       covered.
//
// Kernels that targets do not have in common have a contract for each: CpuQkv, CudaSmallQkv.
//
// Activations are rows of float32, or of the type of a weight where they only feed a product. A row
// has its channels padded with zeros to a multiple of 64 (`padded`), so that vectors need no tails.
#ifndef MOE_COMPILER_KERNELS_CONTRACT_H
#define MOE_COMPILER_KERNELS_CONTRACT_H

#include "runtime/weights/Format.h"
#include "runtime/weights/Layout.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/MathExtras.h"
#include <any>
#include <cstdint>
#include <functional>
#include <string>

namespace moe::codegen {

class CpuKernel;
class CudaKernel;

// What a kernel is passed. A name means the same in all kernels. T tokens, R rows of logits, H
// hidden channels, W width of an expert, D head dimension, E experts, k experts of a token; `pad`
// rounds up to 64. T of a vision program are tiles, each of P rows in the tower: those of its
// patches, then the class row.
enum class Operand {
  // Of the step (runtime/device/Device.h).
  Tokens,       // int32 [T]
  Positions,    // int32 [T]
  Sequences,    // int32 [T]
  BlockTable,   // int32 [sequences, table stride]: pages of the cache's pool
  Rows,         // int32 [R]: the tokens whose logits are wanted
  Sampling,     // RowSampling [R] (runtime/device/cuda/KernelAbi.h)
  Masks,        // uint32 [sequences, ceil(vocabulary / 32)]: bit i % 32 of word i / 32 is token i's
  Logits,       // float32 [R, vocabulary]
  Ids,          // int32 [R]
  HiddenStates, // float32 [R, H]
  ImageRows,    // int32 [T]: the row of Images in place of the token's embedding, or -1
  // Of a vision program, and of steps after it.
  Tiles,  // uint8 [T, side, side, 3]
  Images, // float32 [rows, H]: embeddings of pictures, not padded

  // Weights, as the target lays them out.
  Embedding,    // rows, neither packed nor padded
  Norm,         // float32 [H]
  NormBias,     // float32 [H], of a layer norm
  Router,       // float32 [E, H]
  Bias,         // float32 [outputs], of a product
  ClassRow,     // float32 [H]
  RowTable,     // float32 [P, H], added to the rows of a tile
  Weight,       // of a product
  SharedWeight, // of the shared expert, or of a dense layer
  RoutedWeight, // of the routed experts

  // Activations.
  H,         // float32 [T, pad(H)], the residual stream; GPUs leave its padding undefined
  X,         // rows that feed a product: ActivationRow on CPUs, bf16 [.., pad(channels)] on GPUs
  RopeTable, // float32 [T, pad(D)], cosine and sine in turn
  Sums,      // float32 [splits][T][rows], rows = (heads + 2 kv heads) D: q, k and v as they are
             // before they are finished
  Q,         // finished queries: rows of CacheSpec::queryRow() on CPUs, the cache's type on GPUs
  Cache,     // a layer's part of the pool's pages
  Keys,      // of tiles, as Values: see TileHeads, which Q is then a part of, too
  Values,
  AttentionOut, // rows as X of the linear that reads them
  Hidden,       // rows as X of the down projection: row t is the shared expert's, or the dense
                // layer's; row T + t k + s that of the token's choice s
  Experts,      // int32 [T, k]: chosen experts
  Scores,       // float32 [T, k]: sigmoids of their logits
  ExpertLogits, // float32 [E][8], of a small step
  Order,        // int32 [T]: tokens grouped by expert, in order inside a group
  Offsets,      // int32 [E + 1]: where each group begins

  // A kernel's own.
  Partials, // sums that blocks leave to each other
  Counters, // uint32, zero before and after every kernel
};

// "block_table"
llvm::StringRef nameOf(Operand operand);

using Operands = llvm::SmallVector<Operand, 10>;

// What a program is made for, and what its buffers have room for.
struct Step {
  int64_t tokens, rows;
};

// Workers of a CPU claim the parts of a weight that is so large, in bytes that a token reads; of
// smaller ones each has its share. Kernels that claim have counters for it (CpuKernel::parts), of
// so many bytes where they have no others.
inline constexpr int64_t kClaimedBytes = int64_t(1) << 20, kClaimCounterBytes = 4;

// Adds those counters, where such a weight is so large.
inline void addClaims(Operands &operands, int64_t weightBytes) {
  if (weightBytes >= kClaimedBytes)
    operands.push_back(Operand::Counters);
}

inline constexpr int64_t kPanel = WeightLayout::panelLanes;

inline int64_t padded(int64_t channels) { return llvm::alignTo(channels, kPanel); }

// A kernel that a lowering chose, whatever it is. `Code`: what its code is built with, CpuKernel or
// CudaKernel.
template <class Code> struct ChosenKernel {
  template <class Contract>
  explicit ChosenKernel(const Contract &contract)
      : name(contract.name()), operands(contract.operands()),
        emit([contract](Code &k) { contract.emit(k); }), contract(contract) {}
  // Its contract, if it is of that type.
  template <class Contract> const Contract *as() const {
    return std::any_cast<Contract>(&contract);
  }

  std::string name;
  Operands operands;
  std::function<void(Code &)> emit;

private:
  std::any contract;
};

//===--- For names ---------------------------------------------------------------------------------
// Letters, digits and underscores.
std::string identifier(std::string name);
// A constant that has no short spelling; several of them.
std::string numberName(float value);
std::string digest(llvm::ArrayRef<float> values);
// Of the shared expert's weight, or the dense one, and of the routed experts' where they differ.
std::string formatNames(const WeightFormat &shared, const WeightFormat &routed, int64_t experts);
// "_e16k1", or nothing.
std::string expertsName(int64_t experts, int64_t k);

} // namespace moe::codegen

#endif
