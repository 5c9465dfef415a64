// From the fused model to a plan: what the lowerings of all devices share. Here is said what each
// fused op uses and makes, where the kernels' buffers are, and how plan ops are written. A device
// says which kernels an op becomes (cpu/LowerToCpu.h, cuda/LowerToCuda.h):
//
//   op                    kernels of CPUs                  of GPUs, in small and in larger steps
//   moe.embed             embed                            embed
//   moe.rope_table        rope_table                       rope_table
//   moe.attention_block,  qkv | norm, qkv, attention       qkv, attention | norm, linear, finish,
//     with its moe.qkv                                       attention
//   moe.linear_residual   linear_residual                  linear_residual
//   moe.moe_block         gate_up, down | norm, gate_up,   gate_up, down | router, gate_up, down
//                           down
//   moe.mlp_block         gate_up, down | norm, gate_up,   gate_up, down | norm, gate_up, down
//                           down
//   moe.head              head                             head, sample | norm, head, sample
//   moe.final_norm        final_norm                       final_norm
//
// and of pictures, whose programs GPUs do not have:
//
//   moe.patch_embed       patch_embed
//   moe.tower_attention,  layer_norm, tower_qkv, tile_attention
//     with its moe.tower_qkv
//   moe.projection        projection, where it has a norm after layer_norm
//   moe.tower_output      tower_output
#ifndef MOE_COMPILER_TARGETS_LOWERTOPLAN_H
#define MOE_COMPILER_TARGETS_LOWERTOPLAN_H

#include "compiler/kernels/Contract.h"
#include "compiler/kernels/qkv/Qkv.h"
#include "compiler/kernels/rope_table/RopeTable.h"
#include "dialects/moe/MoeOps.h"
#include "dialects/plan/StepSpecs.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringMap.h"

namespace moe::codegen {

class LowerToPlan {
public:
  virtual ~LowerToPlan() = default;

protected:
  // Memory that a kernel works on: one of these, or a buffer of the arena.
  struct Place {
    enum Kind { Input, Output, Weight, Cache, Arena, Counters } kind;
    plan::TensorSpecAttr spec{}; // Input, Output
    llvm::StringRef symbol{};    // Weight: the moe.weight. Cache: the pool
    int64_t offset = 0;          // Cache: of the layer in a page
    int64_t buffer = 0;          // Arena: index into the program's buffers
    int64_t bytes = 0;           // Counters
  };
  // What a call passes to a kernel as one of its operands.
  struct Argument {
    Operand operand;
    Place place;
  };
  // A layer's place in its pool.
  struct CachePlace {
    CacheSpec spec;
    llvm::StringRef pool;
    int64_t offset;
  };

  //===--- What fused ops use --------------------------------------------------------------------
  struct Weight {
    Place place;
    WeightFormat format;
  };
  struct Embedding {
    EmbedOp op;
    Weight table;
    int64_t hidden;
    std::optional<Place> imageRows, images; // both or neither
  };
  struct Attention {
    QkvOp qkv; // the projections, whose raw sums nothing else reads
    AttentionBlockOp op;
    Weight norm, weight;
    Place h;
    std::optional<Place> ropeTable;
    const CachePlace &cache;
    WeightFormat output; // of the weight that the result feeds
    int64_t hidden;
    float eps;
    FinishSpec finish;
  };
  struct LinearResidual {
    LinearResidualOp op;
    Weight weight;
    Place x, h;
    int64_t inputs, outputs;
    const CacheSpec &cache; // of the attention that made x
  };
  // Of a mixture of experts, or of a dense layer: `shared` weights alone, and no experts.
  struct FeedForward {
    mlir::Operation *op;
    int64_t hidden, width, experts, k;
    float eps;
    Weight norm, sharedGateUp, sharedDown;
    Place h;
    Weight router{}, gateUp{}, down{};
  };
  struct Head {
    HeadOp op;
    Weight norm, weight;
    Place h;
    int64_t hidden, vocabulary;
    float eps;
  };

  struct HiddenStates {
    FinalNormOp op;
    Weight norm;
    Place h;
    int64_t hidden;
    float eps;
  };

  struct PatchEmbedding {
    PatchEmbedOp op;
    Weight weight, classRow, positions, norm, normBias;
    Place tiles;
    int64_t grid, hidden;
  };
  struct TowerAttention {
    TowerQkvOp qkv; // whose result nothing else reads
    TowerAttentionOp op;
    Weight norm, normBias, weight, bias;
    Place h;
    int64_t hidden, headDim;
    WeightFormat output; // of the weight that the result feeds
  };
  struct Projection {
    ProjectionOp op;
    Weight weight;
    std::optional<Weight> norm, normBias, bias;
    Place x;      // of the stream where there is a norm, else rows that feed the product
    int64_t rows; // of a tile
    int64_t inputs, outputs;
    // Where the result goes: added to the stream, to rows that feed a product with such a weight,
    // or to the program's output.
    std::optional<Place> h;
    std::optional<WeightFormat> next;
  };
  struct TowerRows {
    TowerOutputOp op;
    Weight norm, normBias;
    Place h;
    int64_t grid, hidden;
    WeightFormat output; // of the weight that the result feeds
  };

  // `grids`: the device launches kernels as grids of blocks of threads, so calls say how many.
  LowerToPlan(mlir::ModuleOp model, llvm::StringRef device, bool grids)
      : model(model), device(device), grids(grids) {}

  // How a weight lies in memory, for what its kernels do with it.
  virtual Layout layoutOf(WeightRole role) const = 0;
  // Bytes of a layer in a page, or a diagnostic at `op` where the kernels cannot keep such a cache.
  virtual mlir::FailureOr<int64_t> layerBytes(CacheOp op, const CacheSpec &cache) = 0;

  // Each adds the calls of an op to the program that is being lowered, and returns where the op's
  // result is; those of the residual stream work in place. They are asked for every op of the step,
  // once for each program.
  virtual mlir::FailureOr<Place> lower(const Embedding &use) = 0;
  virtual mlir::FailureOr<Place> lower(RopeTableOp op, const RopeTable &table) = 0;
  virtual mlir::FailureOr<Place> lower(const Attention &use) = 0;
  virtual mlir::LogicalResult lower(const LinearResidual &use) = 0;
  virtual mlir::LogicalResult lower(const FeedForward &use) = 0;
  virtual mlir::LogicalResult lower(const Head &use) = 0;
  virtual mlir::LogicalResult lower(const HiddenStates &use) = 0;

  // Those of pictures, of `@vision`. A device that has no kernels for them leaves these as they
  // are: they refuse.
  virtual mlir::FailureOr<Place> lower(const PatchEmbedding &use) { return refuse(use.op); }
  virtual mlir::FailureOr<Place> lower(const TowerAttention &use) { return refuse(use.op); }
  virtual mlir::FailureOr<Place> lower(const Projection &use) { return refuse(use.op); }
  virtual mlir::FailureOr<Place> lower(const TowerRows &use) { return refuse(use.op); }

  mlir::FailureOr<Place> refuse(mlir::Operation *op);

  // Lowers `@step` for 1, 2, 4, ... tokens, the last time for `maxStep`, and `@vision`, where there
  // is one, for 1, 4 and 16 tiles.
  mlir::LogicalResult lowerPrograms(int64_t maxStep);
  // The plan, memory not planned yet. A program's workers have room for what the most demanding
  // kernel of its kind of programs keeps: scratchBytes(kernel, tokens).
  mlir::OwningOpRef<mlir::ModuleOp>
  writeModule(llvm::function_ref<int64_t(llvm::StringRef kernel, int64_t tokens)> scratchBytes);

  //===--- For lowering an op --------------------------------------------------------------------
  int64_t tokens() const { return programs.back().tokens; }
  // What the program that is being lowered is made for.
  Step step() const { return {programs.back().tokens, programs.back().rows}; }
  Place input(plan::InputName name) {
    return {.kind = Place::Input, .spec = plan::stepInput(model.getContext(), name)};
  }
  Place masks() {
    return {.kind = Place::Input, .spec = plan::stepMasks(model.getContext(), vocabulary)};
  }
  Place logits() {
    return {.kind = Place::Output, .spec = plan::stepLogits(model.getContext(), vocabulary)};
  }
  Place ids() { return {.kind = Place::Output, .spec = plan::stepIds(model.getContext())}; }
  Place hiddenStates(int64_t channels) {
    return {.kind = Place::Output, .spec = plan::stepHidden(model.getContext(), channels)};
  }
  // The rows that a vision program gives, `rows` of each tile.
  Place imageRows(int64_t rows, int64_t channels) {
    return {.kind = Place::Output,
            .spec = plan::visionImageRows(model.getContext(), rows, channels)};
  }
  Place newBuffer(int64_t bytes) {
    programs.back().buffers.push_back(bytes);
    return {.kind = Place::Arena, .buffer = int64_t(programs.back().buffers.size()) - 1};
  }
  // An operand that a kernel writes or works on.
  template <class Contract> Argument made(const Contract &contract, Operand operand) {
    int64_t bytes = contract.bytes(operand, step());
    return {operand, operand == Operand::Counters ? Place{.kind = Place::Counters, .bytes = bytes}
                                                  : newBuffer(bytes)};
  }
  Place pages(const CachePlace &place) {
    return {.kind = Place::Cache, .symbol = place.pool, .offset = place.offset};
  }
  Place tableOf(const CachePlace &place) {
    auto pool = mlir::FlatSymbolRefAttr::get(model.getContext(), symbolOf(place.pool));
    return {.kind = Place::Input, .spec = plan::blockTable(pool, device)};
  }
  // Adds a call, which passes all operands of the kernel and no others, in any order. Returns
  // whether no program has called the kernel before.
  bool call(const std::string &kernel, const Operands &operands, llvm::ArrayRef<Argument> arguments,
            std::optional<int64_t> blocks = std::nullopt);

  mlir::ModuleOp model;

private:
  struct Call {
    std::string kernel;
    llvm::SmallVector<Place> operands;
    std::optional<int64_t> blocks;
  };
  struct Program {
    plan::ProgramKind kind;
    int64_t tokens, rows;
    llvm::SmallVector<int64_t> buffers; // their bytes
    std::vector<Call> calls;
  };

  mlir::LogicalResult placeCaches();
  mlir::LogicalResult lowerProgram(mlir::func::FuncOp function, plan::ProgramKind kind,
                                   int64_t tokens, int64_t rows);
  //===--- Taking ops apart ----------------------------------------------------------------------
  mlir::LogicalResult lowerOp(mlir::Operation &op);
  mlir::LogicalResult take(EmbedOp op);
  mlir::LogicalResult take(RopeTableOp op);
  mlir::LogicalResult take(AttentionBlockOp op);
  mlir::LogicalResult take(LinearResidualOp op);
  mlir::LogicalResult take(MoeBlockOp op);
  mlir::LogicalResult take(MlpBlockOp op);
  mlir::LogicalResult take(HeadOp op);
  mlir::LogicalResult take(FinalNormOp op);
  mlir::LogicalResult take(PatchEmbedOp op);
  mlir::LogicalResult take(TowerAttentionOp op);
  mlir::LogicalResult take(ProjectionOp op);
  mlir::LogicalResult take(TowerOutputOp op);
  // A weight of an op, packed for what the op says that it reads it for (dialects/moe/WeightUse.h).
  mlir::FailureOr<Weight> weight(mlir::OpOperand &operand);
  // The format of the projection that reads the attention's result.
  mlir::FailureOr<WeightFormat> outputOf(AttentionBlockOp op);
  // The weight of a projection without a norm that alone reads the op's result.
  mlir::FailureOr<WeightFormat> projectionOf(mlir::Operation *op);
  const CachePlace &cacheOf(AttentionBlockOp op) { return caches.find(op.getCache())->second; }
  // Where a kernel wrote a value of the model, or a diagnostic at the op that reads it.
  mlir::FailureOr<Place> known(mlir::Operation *op, mlir::Value value);
  // The residual stream is updated in place, so nothing may read the old value afterwards.
  mlir::FailureOr<Place> updated(mlir::Operation *op, mlir::Value before, mlir::Value after);
  // The projections whose raw sums the op finishes; they must be its own.
  mlir::FailureOr<QkvOp> qkvOf(AttentionBlockOp op);
  static int64_t dim(mlir::Value value, unsigned i) {
    return llvm::cast<mlir::RankedTensorType>(value.getType()).getDimSize(i);
  }

  std::string symbolOf(llvm::StringRef name) const;
  void writeTensors(mlir::OpBuilder &builder);
  void writeProgram(mlir::OpBuilder &builder, const Program &program, int64_t scratchBytes);

  llvm::StringRef device;
  bool grids;
  llvm::StringMap<CachePlace> caches;
  llvm::MapVector<llvm::StringRef, std::pair<int64_t, int64_t>> pools; // layers, bytes of a page
  int64_t chunk = 0, vocabulary = 0, mostTokens = 0;                   // of a step
  std::vector<Program> programs;                                       // the last is being lowered
  llvm::MapVector<std::string, int64_t, llvm::StringMap<unsigned>> kernels; // counts of operands
  llvm::DenseMap<mlir::Value, Place> places;
  llvm::DenseMap<mlir::Value, int64_t> tileRows;   // of values of a vision program
  llvm::MapVector<llvm::StringRef, WeightOp> used; // in the order of first use
};

} // namespace moe::codegen

#endif
