// One check for each hazard. What LLVM does is that of version 22; test/targets/nvvm-hazards.mlir
// shows each.
#include "compiler/targets/cuda/HazardCheck.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;

namespace moe::codegen {

namespace {

class Hazards {
public:
  explicit Hazards(ModuleOp module) : symbols(module) {}

  LogicalResult check(Operation *op) {
    return llvm::TypeSwitch<Operation *, LogicalResult>(op)
        .Case<LLVM::AtomicRMWOp, LLVM::CallOp, LLVM::GlobalOp, LLVM::LLVMFuncOp, LLVM::InlineAsmOp>(
            [&](auto typed) { return check(typed); })
        .Case<LLVM::LoadOp>([&](LLVM::LoadOp load) {
          return checkVector(load, load.getType(), load.getAlignment());
        })
        .Case<LLVM::StoreOp>([&](LLVM::StoreOp store) {
          return checkVector(store, store.getValue().getType(), store.getAlignment());
        })
        .Default([&](Operation *other) { return checkByName(other); });
  }

private:
  LogicalResult check(LLVM::AtomicRMWOp op);
  LogicalResult check(LLVM::CallOp op);
  LogicalResult check(LLVM::GlobalOp op);
  LogicalResult check(LLVM::LLVMFuncOp op);
  LogicalResult check(LLVM::InlineAsmOp op);
  LogicalResult checkVector(Operation *op, Type type, std::optional<uint64_t> alignment);
  LogicalResult checkByName(Operation *op);

  SymbolTable symbols;
};

} // namespace

LogicalResult Hazards::check(LLVM::AtomicRMWOp op) {
  if (op.getOrdering() == LLVM::AtomicOrdering::monotonic ||
      op.getOrdering() == LLVM::AtomicOrdering::not_atomic)
    return success();
  return op.emitOpError() << "has ordering " << stringifyAtomicOrdering(op.getOrdering())
                          << ", which the PTX back end drops without a word: use monotonic with "
                             "fences around it, or inline PTX (red.release, atom.acq_rel)";
}

// 16 bytes are the most that one instruction moves.
LogicalResult Hazards::checkVector(Operation *op, Type type, std::optional<uint64_t> alignment) {
  auto vector = dyn_cast<VectorType>(type);
  if (!vector || !vector.getElementType().isIntOrFloat() || !alignment)
    return success(); // without an alignment it is the vector's own
  int64_t bits = vector.getNumElements() * vector.getElementTypeBitWidth();
  int64_t needed = std::min<int64_t>(llvm::divideCeil(bits, 8), 16);
  if (int64_t(*alignment) >= needed)
    return success();
  return op->emitOpError() << "of " << vector << " is aligned to " << *alignment << " of " << needed
                           << " bytes, so it becomes one access for each element or few: give it "
                              "the alignment that its address has";
}

LogicalResult Hazards::check(LLVM::CallOp op) {
  std::optional<StringRef> callee = op.getCallee();
  if (!callee)
    return op.emitOpError("calls through a pointer, which kernels cannot");
  auto function = symbols.lookup<LLVM::LLVMFuncOp>(*callee);
  if (function && !function.isExternal())
    return success();
  return op.emitOpError() << "calls @" << *callee
                          << ", which is not in the module: nothing is linked to a plan's PTX, not "
                             "even libdevice; use an intrinsic that has an instruction, or inline "
                             "PTX";
}

LogicalResult Hazards::checkByName(Operation *op) {
  StringRef name = op->getName().getStringRef();
  if (name == "nvvm.wgmma.wait.group.sync.aligned")
    return op->emitOpError("does not name the accumulators that it waits for, so their uses may "
                           "move before it: use inline PTX with them as tied operands");
  if (!name.consume_front("llvm.intr."))
    return success();
  enum { Fine, Approximate, Missing };
  int kind = llvm::StringSwitch<int>(name)
                 .Cases({"sin", "cos", "tanh"}, Approximate)
                 .Cases({"exp", "exp10", "log", "log2", "log10", "pow", "powi"}, Missing)
                 .Cases({"tan", "asin", "acos", "atan", "atan2", "sinh", "cosh"}, Missing)
                 .Cases({"sincos", "frexp", "ldexp"}, Missing)
                 .Default(Fine);
  if (kind == Missing)
    return op->emitOpError("has no PTX instruction, and no library is linked that would have it: "
                           "write it with llvm.intr.exp2 or inline PTX (ex2.approx, lg2.approx)");
  auto fast = dyn_cast<LLVM::FastmathFlagsInterface>(op);
  if (kind == Approximate &&
      !(fast && bitEnumContainsAll(cast<LLVM::FastmathFlagsAttr>(fast.getFastmathAttr()).getValue(),
                                   LLVM::FastmathFlags::afn)))
    return op->emitOpError("has only an approximate PTX instruction, and the back end ends without "
                           "a diagnostic unless that is allowed: give it fastmath<afn>");
  return success();
}

LogicalResult Hazards::check(LLVM::GlobalOp op) {
  auto array = dyn_cast<LLVM::LLVMArrayType>(op.getGlobalType());
  if (op.getAddrSpace() != 3 || !array || array.getNumElements() != 0 ||
      op.getLinkage() == LLVM::Linkage::External)
    return success();
  return op.emitOpError() << "is dynamic shared memory with " << stringifyLinkage(op.getLinkage())
                          << " linkage, which becomes a variable of one byte: it must be external";
}

LogicalResult Hazards::check(LLVM::LLVMFuncOp op) {
  if (op.getCConv() != LLVM::CConv::PTX_Kernel && !op->hasAttr("nvvm.kernel"))
    return success();
  for (auto [i, type] : llvm::enumerate(op.getArgumentTypes()))
    if (!isa<LLVM::LLVMPointerType>(type) ||
        op.getArgAttr(i, LLVM::LLVMDialect::getByValAttrName()))
      return op.emitOpError()
             << "takes parameter " << i
             << " by value, and the runtime passes addresses: take a pointer to it";
  return success();
}

//===----------------------------------------------------------------------===//
// wgmma
//===----------------------------------------------------------------------===//

static bool multiplies(LLVM::InlineAsmOp op) {
  return op.getAsmString().contains("wgmma.mma_async");
}
static bool waits(LLVM::InlineAsmOp op) { return op.getAsmString().contains("wgmma.wait_group"); }

// The constraints of the operands, in order: "=f,=f,l,0,1" gives "l", "0", "1".
static SmallVector<StringRef> operandConstraints(LLVM::InlineAsmOp op) {
  SmallVector<StringRef> inputs;
  for (StringRef constraint : llvm::split(op.getConstraints(), ','))
    if (!constraint.starts_with("=") && !constraint.starts_with("~"))
      inputs.push_back(constraint);
  return inputs;
}

static bool isTied(LLVM::InlineAsmOp op, OpOperand &use) {
  SmallVector<StringRef> inputs = operandConstraints(op);
  return use.getOperandNumber() < inputs.size() &&
         llvm::all_of(inputs[use.getOperandNumber()], llvm::isDigit);
}

// The results of a product are written some time later. Until they have gone through a wait as
// operands that are tied to its results, only another product may have them, or a loop carry them.
LogicalResult Hazards::check(LLVM::InlineAsmOp op) {
  if (!multiplies(op) && !waits(op))
    return success();
  if (!op.getHasSideEffects())
    return op.emitOpError("is of wgmma and not marked has_side_effects, so it may move or go");
  if (!multiplies(op))
    return success();

  SmallVector<Value> pending(op->getResults());
  llvm::DenseSet<Value> seen;
  while (!pending.empty()) {
    Value value = pending.pop_back_val();
    if (!seen.insert(value).second)
      continue;
    for (OpOperand &use : value.getUses()) {
      Operation *user = use.getOwner();
      if (isa<LLVM::ExtractValueOp, LLVM::InsertValueOp>(user)) {
        pending.push_back(user->getResult(0));
        continue;
      }
      if (auto inlineAsm = dyn_cast<LLVM::InlineAsmOp>(user);
          inlineAsm && (multiplies(inlineAsm) || waits(inlineAsm)) && isTied(inlineAsm, use))
        continue;
      if (auto branch = dyn_cast<BranchOpInterface>(user))
        if (auto argument = branch.getSuccessorBlockArgument(use.getOperandNumber())) {
          pending.push_back(*argument);
          continue;
        }
      InFlightDiagnostic error = user->emitOpError(
          "uses an accumulator of wgmma that no wait has returned: pass it through the inline PTX "
          "of wgmma.wait_group as an operand that is tied to a result, and use that");
      error.attachNote(op.getLoc()) << "the accumulator is written here";
      return error;
    }
  }
  return success();
}

LogicalResult checkNvvmHazards(ModuleOp module) {
  Hazards hazards(module);
  bool good = true;
  module.walk([&](Operation *op) { good &= succeeded(hazards.check(op)); });
  return success(good);
}

//===----------------------------------------------------------------------===//
// As a pass
//===----------------------------------------------------------------------===//

namespace {
struct CheckNvvmHazards : PassWrapper<CheckNvvmHazards, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(CheckNvvmHazards)

  StringRef getArgument() const override { return "moe-check-nvvm-hazards"; }
  StringRef getDescription() const override {
    return "find in CUDA kernels what LLVM or the hardware would silently get wrong";
  }
  void runOnOperation() override {
    if (failed(checkNvvmHazards(getOperation())))
      signalPassFailure();
  }
};
} // namespace

std::unique_ptr<Pass> createCheckNvvmHazards() { return std::make_unique<CheckNvvmHazards>(); }
void registerCheckNvvmHazards() { PassRegistration<CheckNvvmHazards>(); }

} // namespace moe::codegen
