// Chooses the kernels of a GPU: README.md has the calls of small and of tiled steps.
#include "compiler/targets/cuda/LowerToCuda.h"
#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/attention/AttentionLayout.h"
#include "compiler/kernels/down/Down.h"
#include "compiler/kernels/embed/Embed.h"
#include "compiler/kernels/final_norm/FinalNorm.h"
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/kernels/head/Head.h"
#include "compiler/kernels/linear/Linear.h"
#include "compiler/kernels/norm/Norm.h"
#include "compiler/kernels/router/Router.h"
#include "compiler/kernels/sample/Sample.h"
#include "compiler/targets/LowerToPlan.h"
#include "compiler/targets/cuda/CudaKernel.h"

using namespace mlir;

namespace moe::codegen {

namespace {

class LowerToCuda : public LowerToPlan {
public:
  explicit LowerToCuda(ModuleOp model) : LowerToPlan(model, "cuda", /*grids=*/true) {}
  FailureOr<CudaPlan> run(int64_t maxStep);

private:
  Layout layoutOf(WeightRole role) const override;
  FailureOr<int64_t> layerBytes(CacheOp op, const CacheSpec &cache) override;
  using LowerToPlan::lower; // those of pictures, which it refuses
  FailureOr<Place> lower(const Embedding &use) override;
  FailureOr<Place> lower(RopeTableOp op, const RopeTable &table) override;
  FailureOr<Place> lower(const Attention &use) override;
  FailureOr<Place> lowerSmall(const Attention &use, ArrayRef<Argument> paged);
  FailureOr<Place> lowerTiled(const Attention &use, ArrayRef<Argument> paged);
  LogicalResult lower(const LinearResidual &use) override;
  LogicalResult lower(const FeedForward &use) override;
  LogicalResult lowerSmall(const FeedForward &use);
  LogicalResult lowerTiled(const FeedForward &use);
  LogicalResult lower(const Head &use) override;
  LogicalResult lower(const HiddenStates &use) override;

  bool small() const { return tokens() <= kSmallTokens; }
  // Tokens of a tile of a larger program's products.
  int64_t tile() const { return tokens() <= 64 ? 64 : 128; }

  // Adds a call; a diagnostic at `op` where no code covers the kernel.
  template <class Contract>
  LogicalResult call(Operation *op, const Contract &contract, ArrayRef<Argument> arguments) {
    if constexpr (requires { contract.refusal(); })
      if (std::string why = contract.refusal(); !why.empty())
        return op->emitOpError("has no kernel for cuda: ") << why << "; leave out the cuda targets";
    ChosenKernel<CudaKernel> kernel(contract);
    if (LowerToPlan::call(kernel.name, kernel.operands, arguments, contract.blocks(step())))
      kernels.push_back(std::move(kernel));
    return success();
  }

  std::vector<ChosenKernel<CudaKernel>> kernels;
};

} // namespace

// Heads are finished by another kernel than the product's.
Layout LowerToCuda::layoutOf(WeightRole role) const {
  switch (role) {
  case WeightRole::Rows:
    return Layout::Rows;
  case WeightRole::Matrix:
  case WeightRole::Heads:
    return Layout::Fragments;
  case WeightRole::GateUp:
    return Layout::FragmentsGateUp;
  }
  llvm_unreachable("unknown role");
}

FailureOr<int64_t> LowerToCuda::layerBytes(CacheOp op, const CacheSpec &cache) {
  if (cache.storage != Storage::F16 && cache.storage != Storage::BF16)
    return op.emitOpError() << "keeps " << nameOf(cache.storage)
                            << ", and a GPU's kernels take f16 or bf16";
  return cudaLayerBytes(cache);
}

FailureOr<LowerToPlan::Place> LowerToCuda::lower(const Embedding &use) {
  if (use.images)
    return refuse(use.op);
  Embed embed{use.hidden, use.table.format};
  Argument h = made(embed, Operand::H);
  if (failed(call(use.op, embed,
                  {{Operand::Tokens, input(plan::InputName::Tokens)},
                   {Operand::Embedding, use.table.place},
                   h})))
    return failure();
  return h.place;
}

FailureOr<LowerToPlan::Place> LowerToCuda::lower(RopeTableOp op, const RopeTable &table) {
  Argument made = this->made(table, Operand::RopeTable);
  if (failed(call(op, table, {{Operand::Positions, input(plan::InputName::Positions)}, made})))
    return failure();
  return made.place;
}

FailureOr<LowerToPlan::Place> LowerToCuda::lower(const Attention &use) {
  const Argument paged[]{{Operand::Positions, input(plan::InputName::Positions)},
                         {Operand::Sequences, input(plan::InputName::Sequences)},
                         {Operand::BlockTable, tableOf(use.cache)},
                         {Operand::Cache, pages(use.cache)}};
  return small() ? lowerSmall(use, paged) : lowerTiled(use, paged);
}

FailureOr<LowerToPlan::Place> LowerToCuda::lowerSmall(const Attention &use,
                                                      ArrayRef<Argument> paged) {
  CudaSmallQkv qkv{use.hidden, use.finish.rows(), use.weight.format, use.eps,
                   splitsOf(use.finish.rows(), use.hidden)};
  CudaFusedAttention attention{use.finish};
  attention.finish.sumSplits = qkv.splits;
  // As many blocks for one token as there are multiprocessors, within reason.
  attention.splits = std::clamp<int64_t>(kMultiprocessors / use.cache.spec.heads, 1, 16);
  Argument sums = made(qkv, Operand::Sums), out = made(attention, Operand::AttentionOut);
  SmallVector<Argument> arguments(paged);
  arguments.append(
      {sums, out, made(attention, Operand::Partials), made(attention, Operand::Counters)});
  if (use.ropeTable)
    arguments.push_back({Operand::RopeTable, *use.ropeTable});
  if (failed(call(use.qkv, qkv,
                  {{Operand::H, use.h},
                   {Operand::Norm, use.norm.place},
                   {Operand::Weight, use.weight.place},
                   sums})) ||
      failed(call(use.op, attention, arguments)))
    return failure();
  return out.place;
}

FailureOr<LowerToPlan::Place> LowerToCuda::lowerTiled(const Attention &use,
                                                      ArrayRef<Argument> paged) {
  CudaNorm norm{use.hidden, use.eps};
  CudaTiledLinear qkv{use.hidden, use.finish.rows(), use.weight.format, tile()};
  CudaFinish finish{use.finish};
  CudaTiledAttention attention{use.finish};
  Argument x = made(norm, Operand::X), sums = made(qkv, Operand::Sums),
           q = made(finish, Operand::Q), out = made(attention, Operand::AttentionOut);
  SmallVector<Argument> finishing(paged), attending(paged);
  finishing.append({sums, q});
  if (use.ropeTable)
    finishing.push_back({Operand::RopeTable, *use.ropeTable});
  attending.append({q, out});
  if (failed(call(use.qkv, norm, {{Operand::H, use.h}, {Operand::Norm, use.norm.place}, x})) ||
      failed(call(use.qkv, qkv, {x, {Operand::Weight, use.weight.place}, sums})) ||
      failed(call(use.op, finish, finishing)) || failed(call(use.op, attention, attending)))
    return failure();
  return out.place;
}

LogicalResult LowerToCuda::lower(const LinearResidual &use) {
  Argument x{Operand::X, use.x}, weight{Operand::Weight, use.weight.place}, h{Operand::H, use.h};
  const WeightFormat &format = use.weight.format;
  if (!small())
    return call(use.op, CudaTiledLinearResidual{use.inputs, use.outputs, format, tile()},
                {x, weight, h});
  CudaSmallLinearResidual linear{use.inputs, use.outputs, format,
                                 splitsOf(use.outputs, use.inputs)};
  return call(use.op, linear,
              {x, weight, h, made(linear, Operand::Partials), made(linear, Operand::Counters)});
}

LogicalResult LowerToCuda::lower(const FeedForward &use) {
  return small() ? lowerSmall(use) : lowerTiled(use);
}

LogicalResult LowerToCuda::lowerSmall(const FeedForward &use) {
  CudaSmallGateUp gateUp{use.hidden,        use.width, use.experts, use.k, use.sharedGateUp.format,
                         use.gateUp.format, use.eps};
  CudaSmallDown down{use.hidden,     use.width, use.experts, use.k, use.sharedDown.format,
                     use.down.format};
  down.splits = splitsOf((use.experts ? 2 : 1) * use.hidden, use.width);
  Argument h{Operand::H, use.h}, hidden = made(gateUp, Operand::Hidden);
  SmallVector<Argument> widening{
      h, {Operand::Norm, use.norm.place}, {Operand::SharedWeight, use.sharedGateUp.place}, hidden},
      narrowing{hidden,
                {Operand::SharedWeight, use.sharedDown.place},
                h,
                made(down, Operand::Partials),
                made(down, Operand::Counters)};
  if (use.experts) {
    Argument chosen = made(gateUp, Operand::Experts);
    widening.append({{Operand::Router, use.router.place},
                     {Operand::RoutedWeight, use.gateUp.place},
                     chosen,
                     made(gateUp, Operand::ExpertLogits),
                     made(gateUp, Operand::Counters)});
    narrowing.append({chosen, {Operand::RoutedWeight, use.down.place}});
  }
  return success(succeeded(call(use.op, gateUp, widening)) &&
                 succeeded(call(use.op, down, narrowing)));
}

LogicalResult LowerToCuda::lowerTiled(const FeedForward &use) {
  CudaTiledGateUp gateUp{use.hidden,        use.width, use.experts, use.k, use.sharedGateUp.format,
                         use.gateUp.format, use.eps,   tile()};
  CudaTiledDown down{use.hidden,      use.width, use.experts, use.k, use.sharedDown.format,
                     use.down.format, tile()};
  Argument h{Operand::H, use.h}, norm{Operand::Norm, use.norm.place};
  Argument hidden = made(gateUp, Operand::Hidden);
  SmallVector<Argument> widening{{Operand::SharedWeight, use.sharedGateUp.place}, hidden},
      narrowing{hidden, {Operand::SharedWeight, use.sharedDown.place}, h};
  if (use.experts) {
    CudaRouter router{use.hidden, use.experts, use.eps};
    Argument x = made(router, Operand::X), scores = made(router, Operand::Scores),
             order = made(router, Operand::Order), offsets = made(router, Operand::Offsets);
    if (failed(call(use.op, router,
                    {h,
                     norm,
                     {Operand::Router, use.router.place},
                     x,
                     made(router, Operand::Experts),
                     scores,
                     order,
                     offsets,
                     made(router, Operand::Counters)})))
      return failure();
    widening.append({x, scores, order, offsets, {Operand::RoutedWeight, use.gateUp.place}});
    narrowing.append({order, offsets, {Operand::RoutedWeight, use.down.place}});
  } else {
    CudaNorm rows{use.hidden, use.eps};
    Argument x = made(rows, Operand::X);
    if (failed(call(use.op, rows, {h, norm, x})))
      return failure();
    widening.push_back(x);
  }
  return success(succeeded(call(use.op, gateUp, widening)) &&
                 succeeded(call(use.op, down, narrowing)));
}

LogicalResult LowerToCuda::lower(const Head &use) {
  Argument wanted{Operand::Rows, input(plan::InputName::Rows)},
      sampling{Operand::Sampling, input(plan::InputName::Sampling)}, h{Operand::H, use.h},
      norm{Operand::Norm, use.norm.place}, weight{Operand::Weight, use.weight.place},
      logits{Operand::Logits, this->logits()}, ids{Operand::Ids, this->ids()};
  if (small()) {
    CudaSmallHead head{use.hidden, use.vocabulary, use.weight.format, use.eps};
    if (failed(
            call(use.op, head,
                 {wanted, sampling, h, norm, weight, logits, ids, made(head, Operand::Counters)})))
      return failure();
  } else {
    CudaNorm rows{use.hidden, use.eps, /*gather=*/true};
    CudaTiledHead head{use.hidden, use.vocabulary, use.weight.format, tile()};
    Argument x = made(rows, Operand::X);
    if (failed(call(use.op, rows, {wanted, h, norm, x})) ||
        failed(
            call(use.op, head, {x, sampling, weight, logits, ids, made(head, Operand::Counters)})))
      return failure();
  }
  CudaSample sample{use.vocabulary};
  return call(use.op, sample,
              {sampling,
               {Operand::Masks, masks()},
               logits,
               ids,
               made(sample, Operand::Partials),
               made(sample, Operand::Counters)});
}

LogicalResult LowerToCuda::lower(const HiddenStates &use) {
  return call(use.op, FinalNorm{use.hidden, use.eps},
              {{Operand::Rows, input(plan::InputName::Rows)},
               {Operand::H, use.h},
               {Operand::Norm, use.norm.place},
               {Operand::HiddenStates, hiddenStates(use.hidden)}});
}

OwningOpRef<ModuleOp> emitKernel(MLIRContext *context, const ChosenKernel<CudaKernel> &kernel,
                                 const CudaTarget &target) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(context), kernel.name);
  CudaKernel code(*module, target, kernel.name, kernel.operands);
  kernel.emit(code);
  code.finish();
  auto bytes = module->lookupSymbol<LLVM::LLVMFuncOp>(kernel.name)
                   ->getAttrOfType<IntegerAttr>("moe.shared_bytes");
  if (bytes.getInt() > target.sharedBytes) {
    emitError(module->getLoc()) << "kernel " << kernel.name << " keeps " << bytes.getInt()
                                << " bytes in shared memory, and a block on " << target.chip
                                << " has at most " << target.sharedBytes
                                << ": its rows of activations are too long; leave out the target "
                                << target.name;
    return nullptr;
  }
  return module;
}

FailureOr<CudaPlan> LowerToCuda::run(int64_t maxStep) {
  if (failed(lowerPrograms(maxStep)))
    return failure();
  CudaPlan plan;
  plan.module = writeModule([](StringRef, int64_t) { return 0; });
  plan.kernels = std::move(kernels);
  return plan;
}

FailureOr<CudaPlan> lowerToCuda(ModuleOp model, int64_t maxStep) {
  return LowerToCuda(model).run(maxStep);
}

} // namespace moe::codegen
