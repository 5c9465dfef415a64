// Names, operands and buffers of the projections and of the finishing of q, k and v.
#include "compiler/kernels/qkv/Qkv.h"
#include "compiler/kernels/attention/AttentionTiles.h"
#include "llvm/Support/FormatVariadic.h"

namespace moe::codegen {

std::string nameOf(const FinishSpec &f) {
  const CacheSpec &c = f.cache;
  std::string name =
      llvm::formatv("{0}_{1}x{2}x{3}", nameOf(c.storage), f.heads, c.heads, c.headDim);
  if (c.chunk)
    name += llvm::formatv("_chunk{0}", c.chunk);
  // Of pools with different layers the pages differ.
  name += llvm::formatv("_page{0}", c.pageBytes);
  if (f.rope)
    name += "_rope";
  if (f.qkNorm)
    name += "_norm" + numberName(*f.qkNorm);
  if (f.temperature)
    name += "_temp" + numberName(f.temperature->first) + "_" + numberName(f.temperature->second);
  if (f.sumSplits > 1)
    name += llvm::formatv("_sums{0}", f.sumSplits);
  return name;
}

std::string finishRefusal(const FinishSpec &f) {
  if (f.cache.headDim % 16 || f.cache.headDim > 256)
    return llvm::formatv("head_dim is {0}, and the kernels for GPUs take multiples of 16 up to 256",
                         f.cache.headDim);
  if (f.cache.storage != Storage::F16 && f.cache.storage != Storage::BF16)
    return std::string("the caches of GPUs keep 16-bit floats, not ") + nameOf(f.cache.storage);
  return "";
}

std::string CpuQkv::name() const {
  llvm::SmallVector<float> constants{eps};
  std::string parts;
  if (prepared)
    parts += "_prepared";
  if (finish.rope)
    parts += "_rope";
  if (finish.qkNorm) {
    parts += "_norm";
    constants.push_back(*finish.qkNorm);
  }
  if (finish.temperature) {
    parts += "_temperature";
    constants.append({finish.temperature->first, finish.temperature->second});
  }
  if (attention)
    parts += "_attention_" + nameOf(*attention);
  return identifier(llvm::formatv("qkv_{0}_{1}_{2}h{3}{4}_{5}", nameOf(format),
                                  nameOf(finish.cache), hidden, finish.heads, parts,
                                  digest(constants)));
}

Operands CpuQkv::operands() const {
  Operands all{Operand::Positions, Operand::Sequences, Operand::BlockTable};
  if (prepared)
    all.push_back(Operand::X);
  else
    all.append({Operand::H, Operand::Norm});
  all.append({Operand::Weight, Operand::Q, Operand::Cache});
  if (finish.rope)
    all.push_back(Operand::RopeTable);
  if (attention)
    all.append({Operand::AttentionOut, Operand::Partials});
  if (attention || claims())
    all.push_back(Operand::Counters);
  return all;
}

int64_t CpuQkv::bytes(Operand operand, Step step) const {
  if (operand == Operand::Q)
    return step.tokens * finish.heads * finish.cache.queryRow().bytes();
  if (operand == Operand::Partials)
    return SharedSegments::bytes({finish.heads, *attention, finish.cache}, step.tokens);
  assert(operand == Operand::Counters);
  return attention ? segments() + step.tokens * finish.cache.heads * 4 : kClaimCounterBytes;
}

std::string CudaSmallQkv::name() const {
  return identifier(llvm::formatv("qkv_{0}_{1}x{2}_eps{3}{4}", nameOf(format), rows, hidden,
                                  numberName(eps), tileName(kSmallTokens, splits)));
}

int64_t CudaSmallQkv::bytes(Operand operand, Step step) const {
  assert(operand == Operand::Sums);
  return splits * step.tokens * rows * 4;
}

std::string CudaFinish::name() const { return "finish_" + nameOf(finish) + tileName(kAnyTile); }

Operands CudaFinish::operands() const {
  Operands all{Operand::Positions, Operand::Sequences, Operand::BlockTable,
               Operand::Sums,      Operand::Q,         Operand::Cache};
  if (finish.rope)
    all.push_back(Operand::RopeTable);
  return all;
}

int64_t CudaFinish::bytes(Operand operand, Step step) const {
  assert(operand == Operand::Q);
  return step.tokens * finish.channels() * bytesOf(finish.cache.storage);
}

int64_t CudaFinish::blocks(Step step) const { // a head for each warp
  return llvm::divideCeil(step.tokens * (finish.heads + 2 * finish.cache.heads), 8);
}

} // namespace moe::codegen
