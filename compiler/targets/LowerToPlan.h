// From the fused model to a plan: what the lowerings of all devices share. A device says which
// kernels an op becomes (cpu/LowerToCpu.h, cuda/LowerToCuda.h); here are the buffers that they work
// on, and the writing of plan ops.
#ifndef MOE_COMPILER_TARGETS_LOWERTOPLAN_H
#define MOE_COMPILER_TARGETS_LOWERTOPLAN_H

#include "compiler/targets/KernelSpec.h"
#include "dialects/moe/MoeOps.h"
#include "dialects/plan/StepSpecs.h"
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
  struct Operand {
    enum Kind { Input, Output, Weight, Cache, Arena, Counters } kind;
    plan::TensorSpecAttr spec{}; // Input, Output
    llvm::StringRef symbol{};    // Weight: the moe.weight. Cache: the pool
    int64_t offset = 0;          // Cache: of the layer in a page
    int64_t buffer = 0;          // Arena: index into the program's buffers
    int64_t bytes = 0;           // Counters
  };
  struct Call {
    std::string kernel;
    llvm::SmallVector<Operand> operands;
    std::optional<int64_t> blocks;
  };
  struct Program {
    int64_t tokens, rows;
    llvm::SmallVector<int64_t> buffers; // their bytes
    std::vector<Call> calls;
  };
  // A layer's place in its pool.
  struct CachePlace {
    CacheSpec spec;
    llvm::StringRef pool;
    int64_t offset;
  };

  // `grids`: the device launches kernels as grids of blocks of threads, so calls say how many.
  LowerToPlan(mlir::ModuleOp model, llvm::StringRef device, bool grids)
      : model(model), device(device), grids(grids) {}

  // How a weight lies in memory, for what its kernels do with it.
  virtual Layout layoutOf(WeightRole role) const = 0;

  // Adds the calls of an op to the program that is being lowered. It is asked for every op of the
  // step, once for each program.
  virtual mlir::LogicalResult lower(mlir::Operation &op) = 0;
  // Bytes of a layer in a page, or a diagnostic at `op` where the kernels cannot keep such a cache.
  virtual mlir::FailureOr<int64_t> layerBytes(CacheOp op, const CacheSpec &cache) = 0;

  // Lowers `@step` for 1, 2, 4, ... tokens, the last time for `maxStep`.
  mlir::LogicalResult lowerPrograms(int64_t maxStep);
  // The plan, memory not planned yet. `kernels`: names and counts of operands.
  mlir::OwningOpRef<mlir::ModuleOp>
  writeModule(llvm::ArrayRef<std::pair<std::string, int64_t>> kernels,
              llvm::function_ref<int64_t(int64_t tokens)> scratchBytes);

  //===--- For lowering an op --------------------------------------------------------------------
  int64_t tokens() const { return programs.back().tokens; }
  int64_t rows() const { return programs.back().rows; }
  Operand input(plan::InputName name) {
    return {.kind = Operand::Input, .spec = plan::stepInput(model.getContext(), name)};
  }
  Operand logits() {
    return {.kind = Operand::Output, .spec = plan::stepLogits(model.getContext(), vocabulary)};
  }
  Operand ids() { return {.kind = Operand::Output, .spec = plan::stepIds(model.getContext())}; }
  Operand counters(int64_t bytes) { return {.kind = Operand::Counters, .bytes = bytes}; }
  Operand newBuffer(int64_t bytes) {
    programs.back().buffers.push_back(bytes);
    return {.kind = Operand::Arena, .buffer = int64_t(programs.back().buffers.size()) - 1};
  }
  mlir::FailureOr<Operand> weight(mlir::Value value, WeightRole role);
  Storage storageOfWeight(Operand operand);
  WeightFormat formatOf(Operand weight);
  const CachePlace &cacheOf(AttentionBlockOp op) { return caches.find(op.getCache())->second; }
  Operand pages(const CachePlace &place) {
    return {.kind = Operand::Cache, .symbol = place.pool, .offset = place.offset};
  }
  Operand tableOf(const CachePlace &place) {
    auto pool = mlir::FlatSymbolRefAttr::get(model.getContext(), symbolOf(place.pool));
    return {.kind = Operand::Input, .spec = plan::blockTable(pool, device)};
  }
  // Where a kernel wrote a value of the model, or a diagnostic at the op that reads it.
  mlir::FailureOr<Operand> known(mlir::Operation *op, mlir::Value value);
  void write(mlir::Value value, Operand where) { places[value] = where; }
  // The residual stream is updated in place, so nothing may read the old value afterwards.
  mlir::FailureOr<Operand> updated(mlir::Operation *op, mlir::Value before, mlir::Value after);
  // The projections whose raw sums the op finishes; they must be its own.
  mlir::FailureOr<QkvOp> qkvOf(AttentionBlockOp op);
  void call(std::string kernel, llvm::ArrayRef<Operand> operands,
            std::optional<int64_t> blocks = std::nullopt) {
    programs.back().calls.push_back(
        {std::move(kernel), llvm::SmallVector<Operand>(operands), blocks});
  }

  static int64_t dim(mlir::Value value, unsigned i) {
    return llvm::cast<mlir::RankedTensorType>(value.getType()).getDimSize(i);
  }

  mlir::ModuleOp model;

private:
  mlir::LogicalResult placeCaches();
  std::string symbolOf(llvm::StringRef name) const;
  void writeTensors(mlir::OpBuilder &builder);
  void writeProgram(mlir::OpBuilder &builder, const Program &program, int64_t scratchBytes);

  llvm::StringRef device;
  bool grids;
  llvm::StringMap<CachePlace> caches;
  llvm::MapVector<llvm::StringRef, std::pair<int64_t, int64_t>> pools; // layers, bytes of a page
  int64_t chunk = 0, vocabulary = 0;
  std::vector<Program> programs; // the last is being lowered
  llvm::DenseMap<mlir::Value, Operand> places;
  llvm::MapVector<llvm::StringRef, WeightOp> used; // in the order of first use
};

} // namespace moe::codegen

#endif
