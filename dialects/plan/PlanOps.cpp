// Verifiers of the plan ops.
#include "dialects/plan/Lifetimes.h"
#include "dialects/plan/Packing.h"
#include "dialects/plan/PlanDialect.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/OpImplementation.h"

using namespace mlir;
using namespace moe::plan;

// `[spec, ...]`, each as in #plan.spec<...>.
static ParseResult parseSpecs(OpAsmParser &parser, ArrayAttr &specs) {
  SmallVector<Attribute> parsed;
  auto parseOne = [&]() -> ParseResult {
    llvm::SMLoc at = parser.getCurrentLocation();
    StringAttr name;
    Type element;
    SmallVector<int64_t> dims;
    FlatSymbolRefAttr pool;
    if (parseSpec(parser, name, element, dims, pool))
      return failure();
    const auto emitError = [&] { return parser.emitError(at); };
    auto spec = TensorSpecAttr::getChecked(function_ref<InFlightDiagnostic()>(emitError),
                                           parser.getContext(), name, element,
                                           ArrayRef<int64_t>(dims), pool);
    parsed.push_back(spec);
    return success(bool(spec));
  };
  if (parser.parseCommaSeparatedList(OpAsmParser::Delimiter::Square, parseOne))
    return failure();
  specs = parser.getBuilder().getArrayAttr(parsed);
  return success();
}

static void printSpecs(OpAsmPrinter &printer, Operation *, ArrayAttr specs) {
  printer << "[";
  llvm::interleaveComma(specs.getAsRange<TensorSpecAttr>(), printer, [&](TensorSpecAttr spec) {
    printSpec(printer, spec.getName(), spec.getElement(), spec.getDims(), spec.getPool());
  });
  printer << "]";
}

#define GET_OP_CLASSES
#include "dialects/plan/PlanOps.cpp.inc"

static bool isAligned(int64_t offset) { return offset >= 0 && offset % kAlignment == 0; }

// The generated accessors of I64Attr are unsigned; sizes and offsets are not.
static bool isPositive(int64_t size) { return size > 0; }

StringRef moe::plan::nameWithoutDevice(StringRef symbol, StringRef device) {
  StringRef rest = symbol;
  return rest.consume_front(device) && rest.consume_front(".") ? rest : symbol;
}

StringRef TensorOp::getTensorName() { return nameWithoutDevice(getSymName(), getDevice()); }
StringRef PoolOp::getPoolName() { return nameWithoutDevice(getSymName(), getDevice()); }
StringRef KernelOp::getKernelName() { return nameWithoutDevice(getSymName(), getDevice()); }
StringRef CallOp::getKernelName() {
  return nameWithoutDevice(getKernel(), (*this)->getParentOfType<ProgramOp>().getDevice());
}

LogicalResult TensorOp::verify() {
  auto type = cast<RankedTensorType>(getType());
  FailureOr<moe::WeightLayout> layout =
      moe::layoutOf(type, getPacking(), [&] { return emitOpError(); });
  if (failed(layout))
    return failure();
  if (!isAligned(getOffset())) // tensor_c1
    return emitOpError() << "is at " << int64_t(getOffset()) << ", which is no multiple of "
                         << kAlignment;
  if (int64_t(getBytes()) != layout->bytes()) // tensor_c1
    return emitOpError() << "has " << int64_t(getBytes()) << " bytes, but its packing needs "
                         << layout->bytes();
  return success();
}

LogicalResult PoolOp::verify() {
  if (!isPositive(getLayers()) || !isPositive(getPageTokens()) || !isPositive(getPageBytes()) ||
      !isPositive(getChunk().value_or(1))) // pool_c1
    return emitOpError("has a size that is not positive");
  if (!isAligned(getPageBytes())) // pool_c1
    return emitOpError() << "has pages of " << getPageBytes() << " bytes, which is no multiple of "
                         << kAlignment;
  if ((getPoolClass() == PoolClass::Chunk) != getChunk().has_value()) // pool_c2
    return emitOpError() << "is of class " << stringifyPoolClass(getPoolClass()) << " with"
                         << (getChunk() ? "" : "out") << " a chunk";
  return success();
}

LogicalResult AllocOp::verify() {
  if (!isPositive(getBytes())) // alloc_c1
    return emitOpError() << "has " << int64_t(getBytes()) << " bytes";
  if (int64_t offset = getOffset().value_or(0); !isAligned(offset)) // alloc_c1
    return emitOpError() << "is at " << offset << ", which is no multiple of " << kAlignment;
  return success();
}

std::optional<uint32_t> ProgramOp::find(ArrayAttr specs, StringRef name) {
  for (auto [i, spec] : llvm::enumerate(specs.getAsRange<TensorSpecAttr>()))
    if (spec.getName() == name)
      return i;
  return std::nullopt;
}

static LogicalResult checkNames(ProgramOp op, ArrayAttr specs, StringRef what) {
  for (auto [i, spec] : llvm::enumerate(specs.getAsRange<TensorSpecAttr>()))
    if (ProgramOp::find(specs, spec.getName()) != i) // program_c3
      return op.emitOpError() << "has two " << what << " called " << spec.getName();
  return success();
}

static LogicalResult checkOutputs(ProgramOp op) {
  for (auto output : op.getOutputs().getAsRange<TensorSpecAttr>())
    if (output.getPool() || llvm::any_of(output.getDims(), [](int64_t dim) {
          return dim == TensorSpecAttr::Sequences || dim == TensorSpecAttr::Pages;
        })) // program_c3
      return op.emitOpError() << "has the output " << output.getName()
                              << " with S, P or a pool, which only inputs have";
  if (op.getKind() == ProgramKind::Step && !ProgramOp::find(op.getOutputs(), "logits") &&
      !ProgramOp::find(op.getOutputs(), "ids")) // program_c4
    return op.emitOpError("is a step without an output \"logits\" or \"ids\"");
  return success();
}

// Whether `specs` is one of that name and element, T by `constants` positive constants.
static TensorSpecAttr onlySpec(ArrayAttr specs, StringRef name, Type element, size_t constants) {
  auto spec = specs.size() == 1 ? cast<TensorSpecAttr>(specs[0]) : TensorSpecAttr();
  if (!spec || spec.getName() != name || spec.getElement() != element || spec.getPool() ||
      spec.getDims().size() != constants + 1 || spec.getDims()[0] != TensorSpecAttr::Tokens ||
      llvm::any_of(spec.getDims().drop_front(), [](int64_t dim) { return dim < 1; }))
    return {};
  return spec;
}

static LogicalResult checkVision(ProgramOp op) {
  Builder builder(op.getContext());
  TensorSpecAttr tiles =
      onlySpec(op.getInputs(), "tiles", builder.getIntegerType(8, /*isSigned=*/false), 3);
  if (!tiles || tiles.getDims()[1] != tiles.getDims()[2] || tiles.getDims()[3] != 3) // program_c6
    return op.emitOpError("is of kind vision, expected the one input \"tiles\" : ui8[T, S, S, 3]");
  if (!onlySpec(op.getOutputs(), "image_rows", builder.getF32Type(), 2)) // program_c6
    return op.emitOpError(
        "is of kind vision, expected the one output \"image_rows\" : f32[T, t, D]");
  return success();
}

LogicalResult ProgramOp::verify() {
  const bool step = getKind() == ProgramKind::Step;
  if (!step && getRows() != 0) // program_c1
    return emitOpError() << "is of kind " << stringifyProgramKind(getKind()) << " and has "
                         << int64_t(getRows()) << " rows, which only steps have";
  if (!isPositive(getTokens()) || (step && !isPositive(getRows()))) // program_c1
    return emitOpError() << "has room for " << int64_t(getTokens()) << " tokens and "
                         << int64_t(getRows()) << " rows";
  if (int64_t(getScratch()) < 0 || int64_t(getArena().value_or(0)) < 0)
    return emitOpError("has a negative arena or scratch");
  if (failed(checkNames(*this, getInputs(), "inputs")) ||
      failed(checkNames(*this, getOutputs(), "outputs")) || failed(checkOutputs(*this)))
    return failure();
  return step ? success() : checkVision(*this);
}

LogicalResult ProgramOp::verifySymbolUses(SymbolTableCollection &symbols) {
  for (auto input : getInputs().getAsRange<TensorSpecAttr>()) {
    if (!input.getPool())
      continue;
    auto pool = symbols.lookupNearestSymbolFrom<PoolOp>(*this, input.getPool());
    if (!pool) // program_c5
      return emitOpError() << "has a block table of " << input.getPool()
                           << ", which is no plan.pool";
    if (pool.getDevice() != getDevice()) // program_c5
      return emitOpError() << "has a block table of " << input.getPool() << " of \""
                           << pool.getDevice() << "\" in a program of \"" << getDevice() << "\"";
  }
  return success();
}

LogicalResult InputOp::verify() {
  auto program = cast<ProgramOp>((*this)->getParentOp());
  if (!ProgramOp::find(program.getInputs(), getName())) // input_c1
    return emitOpError() << getNameAttr() << " is not declared by its program";
  return success();
}

LogicalResult OutputOp::verify() {
  auto program = cast<ProgramOp>((*this)->getParentOp());
  if (!ProgramOp::find(program.getOutputs(), getName())) // output_c1
    return emitOpError() << getNameAttr() << " is not declared by its program";
  return success();
}

LogicalResult ProgramOp::verifyRegions() {
  if (!getArena())
    return success();
  for (AllocOp alloc : getBody().getOps<AllocOp>()) { // program_c2
    if (!alloc.getOffset())
      return alloc.emitOpError("has no offset in a program that has an arena");
    if (alloc.getBytes() > *getArena() || *alloc.getOffset() > *getArena() - alloc.getBytes())
      return alloc.emitOpError() << "reaches beyond the arena of " << *getArena() << " bytes";
  }

  // In the order of first uses, so that only those still live are to be compared.
  SmallVector<Lifetime> order = lifetimes(*this), live;
  llvm::sort(order, [](auto &a, auto &b) { return a.first < b.first; });
  for (Lifetime &life : order) {
    llvm::erase_if(live, [&](Lifetime &other) { return other.last < life.first; });
    for (Lifetime &other : live) {
      uint64_t begin = *life.alloc.getOffset(), otherBegin = *other.alloc.getOffset();
      if (begin < otherBegin + other.alloc.getBytes() &&
          otherBegin < begin + life.alloc.getBytes()) { // program_c2
        InFlightDiagnostic error = life.alloc.emitOpError("overlaps another that is live");
        error.attachNote(other.alloc.getLoc()) << "the other is here";
        return error;
      }
    }
    live.push_back(life);
  }
  return success();
}

LogicalResult CountersOp::verify() {
  if (!isPositive(getBytes()) || getBytes() % 4) // counters_c1
    return emitOpError() << "has " << int64_t(getBytes())
                         << " bytes, expected a positive multiple of 4";
  return success();
}

// What a program refers to must be of its device.
static LogicalResult checkDevice(Operation *user, FlatSymbolRefAttr name, StringRef device) {
  StringRef own = cast<ProgramOp>(user->getParentOp()).getDevice();
  if (device == own)
    return success();
  return user->emitOpError() << "uses " << name << " of \"" << device << "\" in a program of \""
                             << own << "\"";
}

LogicalResult WeightOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto tensor = symbols.lookupNearestSymbolFrom<TensorOp>(*this, getTensorAttr());
  if (!tensor) // weight_c1
    return emitOpError() << "names " << getTensorAttr() << ", which is no plan.tensor";
  return checkDevice(*this, getTensorAttr(), tensor.getDevice()); // weight_c1
}

LogicalResult CacheOp::verifySymbolUses(SymbolTableCollection &symbols) {
  if (cast<ProgramOp>((*this)->getParentOp()).getKind() != ProgramKind::Step) // cache_c2
    return emitOpError("is in a program of kind vision, and only steps have caches");
  auto pool = symbols.lookupNearestSymbolFrom<PoolOp>(*this, getPoolAttr());
  if (!pool) // cache_c1
    return emitOpError() << "names " << getPoolAttr() << ", which is no plan.pool";
  if (getOffset() >= pool.getPageBytes()) // cache_c1
    return emitOpError() << "is at " << int64_t(getOffset()) << " of pages of "
                         << pool.getPageBytes() << " bytes";
  return checkDevice(*this, getPoolAttr(), pool.getDevice()); // cache_c1
}

LogicalResult CallOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto kernel = symbols.lookupNearestSymbolFrom<KernelOp>(*this, getKernelAttr());
  if (!kernel) // call_c1
    return emitOpError() << "names " << getKernelAttr() << ", which is no plan.kernel";
  StringRef device = cast<ProgramOp>((*this)->getParentOp()).getDevice();
  if (kernel.getDevice() != device) // call_c1
    return emitOpError() << "runs a kernel of \"" << kernel.getDevice() << "\" in a program of \""
                         << device << "\"";
  if (getOperands().size() != kernel.getOperands()) // call_c1
    return emitOpError() << "has " << getOperands().size() << " operands, and its kernel takes "
                         << kernel.getOperands();
  if (!kernel.getGrid() && getBlocks()) // call_c2
    return emitOpError() << "has blocks, and " << getKernelAttr() << " is not launched as a grid";
  if (kernel.getGrid() && !isPositive(getBlocks().value_or(0))) // call_c2
    return emitOpError() << "has " << int64_t(getBlocks().value_or(0)) << " blocks, and "
                         << getKernelAttr() << " is launched as a grid, expected some";
  return success();
}
