// Implements the parts that CUDA kernels are built of.
#include "compiler/targets/cuda/CudaKernel.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include <numbers>

using namespace mlir;

namespace moe::codegen {

enum { kGlobal = 1, kShared = 3, kConstant = 4 }; // LLVM's address spaces

static LLVM::LLVMPointerType pointer(MLIRContext *context, unsigned space) {
  return LLVM::LLVMPointerType::get(context, space);
}
static unsigned spaceOf(Ptr p) {
  return cast<LLVM::LLVMPointerType>(p.value.getType()).getAddressSpace();
}

CudaKernel::CudaKernel(ModuleOp module, const CudaTarget &target, StringRef name,
                       const Operands &operandNames)
    : Builder(module.getLoc(), module.getContext()), target(target), module(module),
      names(operandNames) {
  setInsertionPointToEnd(module.getBody());
  // The launch says how large it is. 1024 is what the swizzles of wgmma and tensor copies want.
  Type bytes = LLVM::LLVMArrayType::get(getI8Type(), 0);
  LLVM::GlobalOp::create(*this, bytes, /*isConstant=*/false, LLVM::Linkage::External,
                         "shared_memory", Attribute(), /*alignment=*/1024, kShared);
  SmallVector<Type> parameters(names.size() + 1, pointer(getContext(), kGlobal));
  Type type = LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(getContext()), parameters);
  function = LLVM::LLVMFuncOp::create(*this, name, type, LLVM::Linkage::External,
                                      /*dsoLocal=*/false, LLVM::CConv::PTX_Kernel);
  entry = function.addEntryBlock(*this);
  setInsertionPointToStart(entry);
}

void CudaKernel::finish() {
  LLVM::ReturnOp::create(*this, ValueRange());
  auto limit = [&](StringRef name, int64_t value) -> Attribute {
    return getStrArrayAttr({name, std::to_string(value)});
  };
  function.setPassthroughAttr(
      getArrayAttr({limit("nvvm.reqntid", threads), limit("nvvm.minctasm", blocksPerSm)}));
  function->setAttr("moe.threads", getI64IntegerAttr(threads));
  function->setAttr("moe.shared_bytes", getI64IntegerAttr(llvm::alignTo(sharedBytes, 128)));
  function->setAttr("moe.blocks_per_sm", getI64IntegerAttr(blocksPerSm));
  if (dependent)
    function->setAttr("moe.dependent", getUnitAttr());
}

//===----------------------------------------------------------------------===//
// Where it runs
//===----------------------------------------------------------------------===//

// Read once, where every use can see it.
Val CudaKernel::special(StringRef name) {
  Value &value = specials[name];
  if (!value) {
    InsertionGuard guard(*this);
    setInsertionPointToStart(entry);
    value = intrinsic(("llvm.nvvm.read.ptx.sreg." + name).str(), i32(), {}).value;
  }
  return val(value);
}

Val CudaKernel::thread() { return special("tid.x"); }
Val CudaKernel::lane() { return thread() & 31; }
Val CudaKernel::warp() {
  // The same in all lanes, which the compiler cannot see in a thread's number.
  Value &value = specials["warp"];
  if (!value) {
    Val t = thread();
    InsertionGuard guard(*this);
    setInsertionPointAfterValue(t.value);
    value = shuffle(shiftRight(t, 5), i32(0)).value;
  }
  return val(value);
}
Val CudaKernel::block() { return special("ctaid.x"); }
Val CudaKernel::blocks() { return special("nctaid.x"); }

Val CudaKernel::stepField(int64_t offset) {
  Value &value = specials["step" + std::to_string(offset)];
  if (!value) {
    InsertionGuard guard(*this);
    setInsertionPointToStart(entry);
    value = load(ptr(entry->getArguments().back()) + offset, i32(), true).value;
  }
  return val(value);
}
Val CudaKernel::tokens() { return stepField(0); }
Val CudaKernel::rows() { return stepField(4); }
Val CudaKernel::tableStride() { return stepField(8); }

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

Val CudaKernel::at(Val vector, int64_t lane) {
  return val(vector::ExtractOp::create(*this, vector.value, lane));
}
Val CudaKernel::vectorOf(ArrayRef<Val> scalars) {
  SmallVector<Value> values;
  for (Val v : scalars)
    values.push_back(v.value);
  return val(vector::FromElementsOp::create(
      *this, cast<VectorType>(vec(scalars.size(), scalars[0].type())), values));
}
Val CudaKernel::shiftRight(Val x, int64_t bits) {
  return val(arith::ShRUIOp::create(*this, x.value, constantLike(x, double(bits)).value));
}
Val CudaKernel::here(Val x) {
  return ptx("mov.b32 $0, $1;", x.type(), {x}, x.isFloat() ? "=f,f" : "=r,r")[0];
}
Val CudaKernel::exp2(Val x) {
  return ptx("ex2.approx.ftz.f32 $0, $1;", f32(), {x}, "=f,f", /*effects=*/false)[0];
}
Val CudaKernel::sigmoid(Val x) { return 1 / (exp2(x * -std::numbers::log2e) + 1); }
Val CudaKernel::sqrt(Val x) { return val(math::SqrtOp::create(*this, x.value)); }
Val CudaKernel::inverseRms(Val sumOfSquares, int64_t n, float eps) {
  return f32(1) / sqrt(sumOfSquares * (1.0 / double(n)) + double(eps));
}
Val CudaKernel::pack(Half type, Val low, Val high) {
  StringRef text =
      type == Half::BF16 ? "cvt.rn.bf16x2.f32 $0, $1, $2;" : "cvt.rn.f16x2.f32 $0, $1, $2;";
  return ptx(text, i32(), {high, low}, "=r,f,f", /*effects=*/false)[0];
}
std::pair<Val, Val> CudaKernel::unpack(Half type, Val pair) {
  if (type == Half::BF16) // the upper half of a float32
    return {bitcast(pair << 16, f32()), bitcast(pair & i32(-65536), f32())};
  Val halves = val(LLVM::BitcastOp::create(*this, vec(2, getF16Type()), pair.value));
  return {convert(at(halves, 0), f32()), convert(at(halves, 1), f32())};
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Ptr CudaKernel::operand(Operand operand) {
  int64_t index = llvm::find(names, operand) - names.begin();
  assert(index < int64_t(names.size()) && "an operand that the contract does not have");
  return ptr(entry->getArgument(index));
}

Ptr CudaKernel::shared(int64_t bytes, int64_t alignment) {
  if (!sharedBase) {
    InsertionGuard guard(*this);
    setInsertionPointToStart(entry);
    sharedBase = LLVM::AddressOfOp::create(*this, pointer(getContext(), kShared), "shared_memory");
  }
  sharedBytes = llvm::alignTo(sharedBytes, alignment);
  Ptr at = ptr(sharedBase) + sharedBytes;
  sharedBytes += bytes;
  return at;
}

static unsigned wholeBytes(Type type) {
  auto vector = dyn_cast<VectorType>(type);
  return getElementTypeOrSelf(type).getIntOrFloatBitWidth() / 8 *
         (vector ? vector.getNumElements() : 1);
}
Val CudaKernel::load(Ptr p, Type type, bool constantMemory) {
  return val(LLVM::LoadOp::create(*this, type, p.value, wholeBytes(type), /*isVolatile=*/false,
                                  /*isNonTemporal=*/false, constantMemory));
}
void CudaKernel::store(Ptr p, Val value) {
  LLVM::StoreOp::create(*this, value.value, p.value, wholeBytes(value.type()));
}
Val CudaKernel::addressOf(Ptr p) {
  return val(LLVM::PtrToIntOp::create(*this, spaceOf(p) == kShared ? i32() : i64(), p.value));
}
Ptr CudaKernel::offset(Ptr p, Val bytes) {
  if (spaceOf(p) == kGlobal && bytes.type() == i32())
    bytes = val(arith::ExtUIOp::create(*this, i64(), bytes.value));
  return p + bytes;
}

Ptr CudaKernel::constantTable(ArrayRef<float> values) {
  InsertionGuard guard(*this);
  setInsertionPointToStart(module.getBody());
  // Modules of kernels are joined by name, so it must be this kernel's.
  std::string name = (function.getName() + "_table").str();
  auto type = LLVM::LLVMArrayType::get(f32(), values.size());
  auto data =
      DenseElementsAttr::get(RankedTensorType::get({int64_t(values.size())}, f32()), values);
  auto table = LLVM::GlobalOp::create(*this, type, /*isConstant=*/true, LLVM::Linkage::Internal,
                                      name, data, /*alignment=*/4, kConstant);
  setInsertionPointToStart(entry);
  return ptr(LLVM::AddressOfOp::create(*this, table));
}

//===----------------------------------------------------------------------===//
// Ordering
//===----------------------------------------------------------------------===//

void CudaKernel::barrier() { intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", {}, {i32(0)}); }
void CudaKernel::barrier(int64_t id, int64_t n) {
  intrinsic("llvm.nvvm.barrier.cta.sync.aligned.count", {}, {i32(id), i32(n)});
}
void CudaKernel::syncWarp() { intrinsic("llvm.nvvm.bar.warp.sync", {}, {i32(-1)}); }

void CudaKernel::waitForPrevious() {
  if (!target.bulkCopies)
    return;
  dependent = true;
  ptx("griddepcontrol.wait;", {}, {}, "~{memory}");
}
void CudaKernel::startNext() {
  if (target.bulkCopies)
    ptx("griddepcontrol.launch_dependents;", {}, {}, "~{memory}");
}
Val CudaKernel::atomicAdd(Ptr counter, Val x) {
  return ptx("atom.acq_rel.gpu.global.add.u32 $0, [$1], $2;", i32(), {addressOf(counter), x},
             "=r,l,r,~{memory}")[0];
}
void CudaKernel::releaseAdd(Ptr counter, Val x) {
  ptx("red.release.gpu.global.add.u32 [$0], $1;", {}, {addressOf(counter), x}, "l,r,~{memory}");
}
Val CudaKernel::loadAcquire(Ptr counter) {
  return ptx("ld.acquire.gpu.global.u32 $0, [$1];", i32(), {addressOf(counter)},
             "=r,l,~{memory}")[0];
}

// while (!done()) ;
static void spin(CudaKernel &k, function_ref<Val()> done) {
  auto loop = scf::WhileOp::create(k, TypeRange(), ValueRange());
  OpBuilder::InsertionGuard guard(k);
  k.createBlock(&loop.getBefore());
  Val ended = done();
  Val again = ended ^ k.constant(k.i1(), 1);
  scf::ConditionOp::create(k, again.value, ValueRange());
  k.createBlock(&loop.getAfter());
  scf::YieldOp::create(k);
}

void CudaKernel::awaitCounter(Ptr counter, Val value) {
  spin(*this, [&] { return ge(loadAcquire(counter), value); });
}

//===----------------------------------------------------------------------===//
// Warps
//===----------------------------------------------------------------------===//

static const char *typeSuffix(Val x) { return x.isFloat() ? ".f32" : ".i32"; }

Val CudaKernel::shuffleXor(Val x, int64_t mask) {
  return intrinsic(std::string("llvm.nvvm.shfl.sync.bfly") + typeSuffix(x), x.type(),
                   {i32(-1), x, i32(mask), i32(31)});
}
Val CudaKernel::shuffle(Val x, Val lane) {
  return intrinsic(std::string("llvm.nvvm.shfl.sync.idx") + typeSuffix(x), x.type(),
                   {i32(-1), x, lane, i32(31)});
}
Val CudaKernel::warpSum(Val x, int64_t lanes) {
  for (int64_t mask = lanes / 2; mask; mask /= 2)
    x = x + shuffleXor(x, mask);
  return x;
}
Val CudaKernel::warpScan(Val x) {
  for (int64_t distance = 1; distance < 32; distance *= 2) {
    Val before = shuffle(x, max(lane() - distance, i32(0)));
    x = x + select(ge(lane(), distance), before, i32(0));
  }
  return x;
}
Val CudaKernel::one() { return eq(lane(), 0); }

//===----------------------------------------------------------------------===//
// Control
//===----------------------------------------------------------------------===//

SmallVector<Val> CudaKernel::choose(Val condition, function_ref<SmallVector<Val>()> yes,
                                    function_ref<SmallVector<Val>()> no) {
  // The results' types are known only when a side is built, so both are built aside first.
  Region regions[2];
  SmallVector<Type> types;
  for (auto [region, body] : llvm::zip(regions, ArrayRef({yes, no}))) {
    OpBuilder::InsertionGuard guard(*this);
    createBlock(&region);
    SmallVector<Value> values;
    for (Val v : body())
      values.push_back(v.value);
    types.assign(ValueRange(values).getTypes().begin(), ValueRange(values).getTypes().end());
    scf::YieldOp::create(*this, values);
  }
  auto branch = scf::IfOp::create(*this, types, condition.value, /*addThenBlock=*/false,
                                  /*addElseBlock=*/false);
  branch.getThenRegion().takeBody(regions[0]);
  branch.getElseRegion().takeBody(regions[1]);
  SmallVector<Val> results;
  for (Value v : branch.getResults())
    results.push_back(val(v));
  return results;
}

void CudaKernel::ifElse(Val condition, function_ref<void()> yes, function_ref<void()> no) {
  auto nothing = [](function_ref<void()> body) {
    return [body] {
      body();
      return SmallVector<Val>{};
    };
  };
  choose(condition, nothing(yes), nothing(no));
}

//===----------------------------------------------------------------------===//
// Asynchronous copies and their barriers
//===----------------------------------------------------------------------===//

void CudaKernel::initBarrier(Ptr mbarrier, int64_t arrivals) {
  ptx("mbarrier.init.shared.b64 [$0], $1;", {}, {addressOf(mbarrier), i32(arrivals)},
      "r,r,~{memory}");
}
void CudaKernel::barriersInitialised() {
  if (target.bulkCopies) // bulk copies arrive through another proxy
    ptx("fence.mbarrier_init.release.cluster;", {}, {}, "~{memory}");
}
void CudaKernel::arrive(Ptr mbarrier) {
  ptx("mbarrier.arrive.shared.b64 $0, [$1];", i64(), {addressOf(mbarrier)}, "=l,r,~{memory}");
}
void CudaKernel::arriveExpecting(Ptr mbarrier, Val bytes) {
  ptx("mbarrier.arrive.expect_tx.shared.b64 $0, [$1], $2;", i64(), {addressOf(mbarrier), bytes},
      "=l,r,r,~{memory}");
}
void CudaKernel::waitBarrier(Ptr mbarrier, Val parity) {
  StringRef wait = target.bulkCopies ? "try_wait" : "test_wait";
  std::string text = ("{ .reg .pred done; mbarrier." + wait +
                      ".parity.shared.b64 done, [$1], $2; selp.b32 $0, 1, 0, done; }")
                         .str();
  Val address = addressOf(mbarrier);
  spin(*this, [&] { return eq(ptx(text, i32(), {address, parity}, "=r,r,r,~{memory}")[0], 1); });
}
void CudaKernel::copyBulk(Ptr to, Ptr from, Val bytes, Ptr mbarrier) {
  ptx("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1], $2, [$3];", {},
      {addressOf(to), addressOf(from), bytes, addressOf(mbarrier)}, "r,l,r,r,~{memory}");
}
void CudaKernel::copy16(Ptr to, Ptr from) {
  ptx("cp.async.cg.shared.global [$0], [$1], 16;", {}, {addressOf(to), addressOf(from)},
      "r,l,~{memory}");
}
void CudaKernel::copy16(Ptr to, Ptr from, Val valid) {
  ptx("cp.async.cg.shared.global [$0], [$1], 16, $2;", {},
      {addressOf(to), addressOf(from), select(valid, i32(16), i32(0))}, "r,l,r,~{memory}");
}
void CudaKernel::commitCopies() { ptx("cp.async.commit_group;", {}, {}, "~{memory}"); }
void CudaKernel::waitCopies(int64_t inFlight) {
  ptx("cp.async.wait_group " + std::to_string(inFlight) + ";", {}, {}, "~{memory}");
}
void CudaKernel::fenceProxy() { ptx("fence.proxy.async.shared::cta;", {}, {}, "~{memory}"); }
void CudaKernel::arriveWhenCopied(Ptr mbarrier) {
  ptx("cp.async.mbarrier.arrive.noinc.shared.b64 [$0];", {}, {addressOf(mbarrier)}, "r,~{memory}");
}

//===----------------------------------------------------------------------===//
// Tensor cores
//===----------------------------------------------------------------------===//

CudaKernel::Acc CudaKernel::zeroAcc() {
  Val zero = f32(0);
  return {zero, zero, zero, zero};
}

CudaKernel::Acc CudaKernel::mma(Half type, ArrayRef<Val> a, ArrayRef<Val> b, const Acc &c) {
  SmallVector<Val> operands(a);
  operands.append(b.begin(), b.end());
  if (type == Half::F16)
    for (Val &v : operands)
      v = val(LLVM::BitcastOp::create(*this, vec(2, getF16Type()), v.value));
  operands.append(c.begin(), c.end());
  Type result = LLVM::LLVMStructType::getLiteral(getContext(), SmallVector<Type>(4, f32()));
  Val d = intrinsic(type == Half::BF16 ? "llvm.nvvm.mma.m16n8k16.row.col.bf16"
                                       : "llvm.nvvm.mma.m16n8k16.row.col.f32.f32",
                    result, operands);
  Acc sums;
  for (int64_t i = 0; i < 4; ++i)
    sums[i] = val(LLVM::ExtractValueOp::create(*this, d.value, i));
  return sums;
}

std::array<Val, 4> CudaKernel::loadMatrices(Ptr row, bool transposed) {
  Type result = LLVM::LLVMStructType::getLiteral(getContext(), SmallVector<Type>(4, i32()));
  Val d = intrinsic(transposed ? "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.trans.b16"
                               : "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16",
                    result, {val(row.value)});
  std::array<Val, 4> matrices;
  for (int64_t i = 0; i < 4; ++i)
    matrices[i] = val(LLVM::ExtractValueOp::create(*this, d.value, i));
  return matrices;
}

//===----------------------------------------------------------------------===//
// PTX
//===----------------------------------------------------------------------===//

SmallVector<Val> CudaKernel::ptx(StringRef text, ArrayRef<Type> results, ArrayRef<Val> operands,
                                 StringRef constraints, bool effects) {
  SmallVector<Value> values;
  for (Val v : operands)
    values.push_back(v.value);
  Type type;
  if (results.size() == 1)
    type = results[0];
  else if (results.size() > 1)
    type = LLVM::LLVMStructType::getLiteral(getContext(), results);
  auto op =
      LLVM::InlineAsmOp::create(*this, type, values, text, constraints, effects,
                                /*is_align_stack=*/false, LLVM::tailcallkind::TailCallKind::None,
                                LLVM::AsmDialectAttr(), ArrayAttr());
  SmallVector<Val> out;
  if (results.size() == 1)
    out.push_back(val(op.getRes()));
  else
    for (size_t i = 0; i < results.size(); ++i)
      out.push_back(val(LLVM::ExtractValueOp::create(*this, op.getRes(), int64_t(i))));
  return out;
}

Val CudaKernel::intrinsic(StringRef name, Type result, ArrayRef<Val> operands) {
  SmallVector<Value> values;
  for (Val v : operands)
    values.push_back(v.value);
  auto op = result ? LLVM::CallIntrinsicOp::create(*this, result, getStringAttr(name), values)
                   : LLVM::CallIntrinsicOp::create(*this, getStringAttr(name), values);
  return result ? val(op.getResults()) : Val{};
}

//===----------------------------------------------------------------------===//
// The ring
//===----------------------------------------------------------------------===//

Ring::Ring(CudaKernel &k, int64_t stages, int64_t stageBytes, int64_t consumerWarps,
           int64_t alignment)
    : Ring(k, stages, stageBytes, consumerWarps, alignment, /*producers=*/0) {
  k.ifThen(eq(k.thread(), 0), [&] { initialise(); });
}

Ring::Ring(CudaKernel &k, int64_t stages, int64_t stageBytes, int64_t consumerWarps,
           int64_t alignment, int64_t producers)
    : k(k), stages(stages), stageBytes(stageBytes), consumerWarps(consumerWarps),
      producers(producers), memory(k.shared(stages * stageBytes, alignment)),
      fullBarriers(k.mbarriers(stages)), emptyBarriers(k.mbarriers(stages)) {}

void Ring::initialise() {
  // Who begins a stage of bulk copies arrives once for them; of other copies every thread does.
  const bool bulk = k.target.bulkCopies;
  const int64_t arrivals = producers ? producers + bulk : bulk ? 1 : 32;
  for (int64_t i = 0; i < stages; ++i) {
    k.initBarrier(fullBarriers + i * 8, arrivals);
    k.initBarrier(emptyBarriers + i * 8, consumerWarps);
  }
  k.barriersInitialised();
}

Val Ring::place(Val i) { return i % stages; }
Val Ring::parity(Val i) { return (i / stages) & 1; }
Ptr Ring::full(Val i) { return k.offset(fullBarriers, place(i) * 8); }
Ptr Ring::empty(Val i) { return k.offset(emptyBarriers, place(i) * 8); }

Ptr Ring::acquire(Val i) {
  // The first round finds every place empty: the phase before the first counts as ended.
  k.waitBarrier(empty(i), parity(i) ^ 1);
  return at(i);
}

void Ring::begin(Val i, Val bytes) {
  if (k.target.bulkCopies)
    k.ifThen(k.one(), [&] { k.arriveExpecting(full(i), bytes); });
}

void Ring::copy(Val i, Ptr to, Ptr from, Val bytes) {
  if (k.target.bulkCopies)
    return k.ifThen(k.one(), [&] { k.copyBulk(to, from, bytes, full(i)); });
  Val mine = k.lane() * 16;
  k.stride(mine, bytes, k.i32(kWarpBytes),
           [&](Val at) { k.copy16(k.offset(to, at), k.offset(from, at)); });
}

void Ring::end(Val i) {
  if (!k.target.bulkCopies)
    k.arriveWhenCopied(full(i));
}

Ptr Ring::await(Val i) {
  k.waitBarrier(full(i), parity(i));
  return at(i);
}

Ptr Ring::at(Val i) { return k.offset(memory, place(i) * stageBytes); }

void Ring::release(Val i) {
  k.syncWarp();
  k.ifThen(k.one(), [&] { k.arrive(empty(i)); });
}

} // namespace moe::codegen
