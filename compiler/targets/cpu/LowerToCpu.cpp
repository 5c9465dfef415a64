// Chooses the kernels of a CPU: the same ones for steps of any size, but that norms are kernels of
// their own in programs of many tokens.
#include "compiler/targets/cpu/LowerToCpu.h"
#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/down/Down.h"
#include "compiler/kernels/embed/Embed.h"
#include "compiler/kernels/final_norm/FinalNorm.h"
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/kernels/head/Head.h"
#include "compiler/kernels/layer_norm/LayerNorm.h"
#include "compiler/kernels/linear/Linear.h"
#include "compiler/kernels/norm/Norm.h"
#include "compiler/kernels/patch_embed/PatchEmbed.h"
#include "compiler/kernels/projection/Projection.h"
#include "compiler/kernels/tile_attention/TileAttention.h"
#include "compiler/kernels/tower_output/TowerOutput.h"
#include "compiler/targets/LowerToPlan.h"
#include "compiler/targets/cpu/CpuKernel.h"
#include "mlir/IR/Verifier.h"

using namespace mlir;

namespace moe::codegen {

namespace {

constexpr int64_t kFewTokens = 4;

class LowerToCpu : public LowerToPlan {
public:
  LowerToCpu(ModuleOp model, ArrayRef<CpuTarget> targets)
      : LowerToPlan(model, "cpu", /*grids=*/false), targets(targets) {}
  FailureOr<CpuPlan> run(int64_t maxStep);

private:
  Layout layoutOf(WeightRole role) const override;
  FailureOr<int64_t> layerBytes(CacheOp op, const CacheSpec &cache) override;
  FailureOr<Place> lower(const Embedding &use) override;
  FailureOr<Place> lower(RopeTableOp op, const RopeTable &table) override;
  FailureOr<Place> lower(const Attention &use) override;
  LogicalResult lower(const LinearResidual &use) override;
  LogicalResult lower(const FeedForward &use) override;
  LogicalResult lower(const Head &use) override;
  LogicalResult lower(const HiddenStates &use) override;
  FailureOr<Place> lower(const PatchEmbedding &use) override;
  FailureOr<Place> lower(const TowerAttention &use) override;
  FailureOr<Place> lower(const Projection &use) override;
  FailureOr<Place> lower(const TowerRows &use) override;
  Place normRows(const CpuLayerNorm &contract, const Place &h, const Weight &norm,
                 const Weight &bias);
  LogicalResult emitKernels();
  // Each worker of a program of few tokens norms all of them for itself, which saves a barrier.
  bool prepares() const { return tokens() > kFewTokens; }

  // Adds the kernel's own operands to the arguments.
  template <class Contract> void call(const Contract &contract, SmallVector<Argument> arguments) {
    ChosenKernel<CpuKernel> kernel(contract);
    if constexpr (requires { contract.bytes(Operand::Counters, step()); })
      for (Operand own : {Operand::Partials, Operand::Counters})
        if (llvm::is_contained(kernel.operands, own))
          arguments.push_back(made(contract, own));
    if (LowerToPlan::call(kernel.name, kernel.operands, arguments))
      kernels.emplace_back(std::move(kernel));
  }

  ArrayRef<CpuTarget> targets;
  std::vector<CpuPlanKernel> kernels;
};

} // namespace

Layout LowerToCpu::layoutOf(WeightRole role) const {
  switch (role) {
  case WeightRole::Rows:
    return Layout::Rows;
  case WeightRole::Matrix:
    return Layout::Panel;
  case WeightRole::GateUp:
    return Layout::PanelGateUp;
  case WeightRole::Heads:
    return Layout::PanelHeads;
  }
  llvm_unreachable("unknown role");
}

FailureOr<int64_t> LowerToCpu::layerBytes(CacheOp op, const CacheSpec &cache) {
  if (cache.storage == Storage::F16)
    return op.emitOpError("keeps f16, and a CPU's kernels take f32, bf16 or i8");
  if (cache.headDim % 2)
    return op.emitOpError() << "has head dimension " << cache.headDim
                            << ", and the kernels need an even one";
  return cache.layerBytes();
}

FailureOr<LowerToPlan::Place> LowerToCpu::lower(const Embedding &use) {
  Embed embed{use.hidden, use.table.format, bool(use.images)};
  Argument h = made(embed, Operand::H);
  SmallVector<Argument> arguments{
      {Operand::Tokens, input(plan::InputName::Tokens)}, {Operand::Embedding, use.table.place}, h};
  if (use.images)
    arguments.append({{Operand::ImageRows, *use.imageRows}, {Operand::Images, *use.images}});
  call(embed, arguments);
  return h.place;
}

FailureOr<LowerToPlan::Place> LowerToCpu::lower(RopeTableOp, const RopeTable &table) {
  Argument made = this->made(table, Operand::RopeTable);
  call(table, {{Operand::Positions, input(plan::InputName::Positions)}, made});
  return made.place;
}

// The projections finish the heads that they make, so q, k and v never leave as raw sums.
FailureOr<LowerToPlan::Place> LowerToCpu::lower(const Attention &use) {
  CpuQkv qkv{use.hidden, use.weight.format, use.eps, use.finish, prepares()};
  CpuAttention attention{use.finish.heads, use.output, use.cache.spec};
  Argument positions{Operand::Positions, input(plan::InputName::Positions)};
  Argument sequences{Operand::Sequences, input(plan::InputName::Sequences)};
  Argument table{Operand::BlockTable, tableOf(use.cache)};
  Argument cache{Operand::Cache, pages(use.cache)};
  Argument norm{Operand::Norm, use.norm.place}, h{Operand::H, use.h};
  Argument q = made(qkv, Operand::Q), out = made(attention, Operand::AttentionOut);
  SmallVector<Argument> arguments{positions, sequences, table, {Operand::Weight, use.weight.place},
                                  q,         cache};
  if (use.ropeTable)
    arguments.push_back({Operand::RopeTable, *use.ropeTable});
  if (!prepares()) {
    qkv.attention = use.output;
    arguments.append({h, norm, out});
    call(qkv, arguments);
    return out.place;
  }
  CpuNorm rows{use.hidden, /*experts=*/0, /*k=*/0, qkv.format, qkv.format, use.eps};
  Argument x = made(rows, Operand::X);
  call(rows, {h, norm, x});
  arguments.push_back(x);
  call(qkv, arguments);
  call(attention, {positions, sequences, table, q, cache, out});
  return out.place;
}

LogicalResult LowerToCpu::lower(const LinearResidual &use) {
  const WeightFormat &format = use.weight.format;
  CpuAttention from{use.inputs / use.cache.headDim, format, use.cache};
  call(CpuLinearResidual{use.inputs, use.outputs, format, from.outputsFloats()},
       {{Operand::X, use.x}, {Operand::Weight, use.weight.place}, {Operand::H, use.h}});
  return success();
}

LogicalResult LowerToCpu::lower(const FeedForward &use) {
  const bool routes = use.experts;
  const WeightFormat &shared = use.sharedGateUp.format, &sharedDown = use.sharedDown.format;
  const WeightFormat &routed = routes ? use.gateUp.format : shared,
                     &routedDown = routes ? use.down.format : sharedDown;
  CpuGateUp gateUp{use.hidden, use.width, use.experts, use.k,      shared,
                   routed,     use.eps,   sharedDown,  routedDown, prepares()};
  CpuDown down{use.hidden, use.width, use.experts, use.k, sharedDown, routedDown};
  Argument h{Operand::H, use.h}, hidden = made(gateUp, Operand::Hidden);
  SmallVector<Argument> norming{h, {Operand::Norm, use.norm.place}},
      widening{{Operand::SharedWeight, use.sharedGateUp.place}, hidden},
      narrowing{hidden, {Operand::SharedWeight, use.sharedDown.place}, h};
  SmallVector<Argument> chosen; // experts, and where they are made before the kernel, scores
  if (routes) {
    norming.push_back({Operand::Router, use.router.place});
    widening.push_back({Operand::RoutedWeight, use.gateUp.place});
    chosen.push_back(made(gateUp, Operand::Experts));
    narrowing.append({{Operand::RoutedWeight, use.down.place}, chosen[0]});
  }
  if (prepares()) {
    CpuNorm rows{use.hidden, use.experts, use.k, shared, routed, use.eps};
    if (routes)
      chosen.push_back(made(rows, Operand::Scores));
    Argument x = made(rows, Operand::X);
    norming.push_back(x);
    norming.append(chosen);
    call(rows, norming);
    widening.push_back(x);
  } else {
    widening.append(norming);
  }
  widening.append(chosen);
  call(gateUp, widening);
  call(down, narrowing);
  return success();
}

LogicalResult LowerToCpu::lower(const Head &use) {
  call(CpuHead{use.hidden, use.vocabulary, use.weight.format, use.eps},
       {{Operand::Rows, input(plan::InputName::Rows)},
        {Operand::H, use.h},
        {Operand::Norm, use.norm.place},
        {Operand::Weight, use.weight.place},
        {Operand::Logits, logits()}});
  return success();
}

LogicalResult LowerToCpu::lower(const HiddenStates &use) {
  call(FinalNorm{use.hidden, use.eps}, {{Operand::Rows, input(plan::InputName::Rows)},
                                        {Operand::H, use.h},
                                        {Operand::Norm, use.norm.place},
                                        {Operand::HiddenStates, hiddenStates(use.hidden)}});
  return success();
}

//===--- Pictures --------------------------------------------------------------------------------

FailureOr<LowerToPlan::Place> LowerToCpu::lower(const PatchEmbedding &use) {
  PatchEmbedOp op = use.op;
  PixelValues pixels{op.getRescale().convertToFloat(), {}, {}};
  llvm::copy(op.getMean(), pixels.mean.begin());
  llvm::copy(op.getStd(), pixels.std.begin());
  CpuPatchEmbed embed{use.grid, int64_t(op.getPatch()), use.hidden,
                      pixels,   use.weight.format,      op.getEps().convertToFloat()};
  Argument h = made(embed, Operand::H);
  call(embed, {{Operand::Tiles, use.tiles},
               {Operand::Weight, use.weight.place},
               {Operand::ClassRow, use.classRow.place},
               {Operand::RowTable, use.positions.place},
               {Operand::Norm, use.norm.place},
               {Operand::NormBias, use.normBias.place},
               h});
  return h.place;
}

LowerToPlan::Place LowerToCpu::normRows(const CpuLayerNorm &contract, const Place &h,
                                        const Weight &norm, const Weight &bias) {
  Argument x = made(contract, Operand::X);
  call(contract,
       {{Operand::H, h}, {Operand::Norm, norm.place}, {Operand::NormBias, bias.place}, x});
  return x.place;
}

FailureOr<LowerToPlan::Place> LowerToCpu::lower(const TowerAttention &use) {
  TowerQkvOp op = use.qkv;
  const auto grid = int64_t(op.getGrid()), heads = int64_t(op.getHeads());
  const Storage storage = use.weight.format.element == Storage::F32 ? Storage::F32 : Storage::BF16;
  const TileHeads of{heads, use.headDim, grid * grid + 1, storage};
  CpuTowerQkv qkv{use.hidden, grid, op.getTheta().convertToFloat(), use.weight.format, of};
  CpuTileAttention attention{of, use.output};
  Place x = normRows({of.rows, use.hidden, use.weight.format, op.getEps().convertToFloat()}, use.h,
                     use.norm, use.normBias);
  Argument q = made(qkv, Operand::Q), keys = made(qkv, Operand::Keys),
           values = made(qkv, Operand::Values), out = made(attention, Operand::AttentionOut);
  call(qkv, {{Operand::X, x},
             {Operand::Weight, use.weight.place},
             {Operand::Bias, use.bias.place},
             q,
             keys,
             values});
  call(attention, {q, keys, values, out});
  return out.place;
}

FailureOr<LowerToPlan::Place> LowerToCpu::lower(const Projection &use) {
  using To = CpuProjection::To;
  ProjectionOp op = use.op;
  CpuProjection projection{use.rows,
                           use.inputs,
                           use.outputs,
                           use.weight.format,
                           use.h      ? To::Stream
                           : use.next ? To::Rows
                                      : To::Images,
                           bool(use.bias),
                           op.getGelu(),
                           use.next.value_or(WeightFormat{})};
  Place x = use.x;
  if (use.norm)
    x = normRows({use.rows, use.inputs, use.weight.format, op.getEps()->convertToFloat()}, x,
                 *use.norm, *use.normBias);
  Argument result = use.h      ? Argument{Operand::H, *use.h}
                    : use.next ? made(projection, Operand::Hidden)
                               : Argument{Operand::Images, imageRows(use.rows, use.outputs)};
  SmallVector<Argument> arguments{{Operand::X, x}, {Operand::Weight, use.weight.place}, result};
  if (use.bias)
    arguments.push_back({Operand::Bias, use.bias->place});
  call(projection, arguments);
  return result.place;
}

FailureOr<LowerToPlan::Place> LowerToCpu::lower(const TowerRows &use) {
  TowerOutputOp op = use.op;
  CpuTowerOutput output{use.grid, use.hidden, use.output, op.getEps().convertToFloat()};
  Argument x = made(output, Operand::X);
  call(output, {{Operand::H, use.h},
                {Operand::Norm, use.norm.place},
                {Operand::NormBias, use.normBias.place},
                x});
  return x.place;
}

OwningOpRef<ModuleOp> emitKernel(MLIRContext *context, const ChosenKernel<CpuKernel> &kernel,
                                 const CpuTarget &target) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(context), kernel.name);
  CpuKernel code(*module, target, kernel.name, kernel.operands);
  kernel.emit(code);
  code.finish();
  return module;
}

LogicalResult LowerToCpu::emitKernels() {
  for (CpuPlanKernel &kernel : kernels)
    for (const CpuTarget &target : targets) {
      kernel.modules.push_back(emitKernel(model.getContext(), kernel.chosen, target));
      if (failed(mlir::verify(*kernel.modules.back())))
        return failure();
    }
  return success();
}

FailureOr<CpuPlan> LowerToCpu::run(int64_t maxStep) {
  if (failed(lowerPrograms(maxStep)) || failed(emitKernels()))
    return failure();
  auto scratch = [&](StringRef name, int64_t tokens) {
    auto kernel =
        llvm::find_if(kernels, [&](const CpuPlanKernel &k) { return k.chosen.name == name; });
    int64_t most = 0;
    for (auto &module : kernel->modules) {
      Operation *function = ModuleOp(*module).lookupSymbol(name);
      auto attr = [&](StringRef name) {
        return function->getAttrOfType<IntegerAttr>(name).getInt();
      };
      most = std::max(most, attr("moe.scratch_fixed") + tokens * attr("moe.scratch_per_row"));
    }
    return most;
  };
  CpuPlan plan;
  plan.module = writeModule(scratch);
  plan.kernels = std::move(kernels);
  return plan;
}

FailureOr<CpuPlan> lowerToCpu(ModuleOp model, ArrayRef<CpuTarget> targets, int64_t maxStep) {
  return LowerToCpu(model, targets).run(maxStep);
}

} // namespace moe::codegen
