// Implements the kernel builder's values and control flow.
#include "compiler/targets/Builder.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include <numbers>

using namespace mlir;

namespace moe::codegen {

int64_t Val::lanes() const {
  auto vector = dyn_cast<VectorType>(type());
  return vector ? vector.getNumElements() : 0;
}

Type Builder::vec(int64_t lanes, Type element) { return VectorType::get({lanes}, element); }

Val Builder::constant(Type type, double value) {
  Type element = getElementTypeOrSelf(type);
  TypedAttr attr = isa<FloatType>(element) ? TypedAttr(getFloatAttr(element, value))
                                           : TypedAttr(getIntegerAttr(element, int64_t(value)));
  if (auto vector = dyn_cast<VectorType>(type))
    attr = DenseElementsAttr::get(vector, Attribute(attr));
  return val(arith::ConstantOp::create(*this, attr));
}

Val Builder::i64(int64_t value) {
  return val(arith::ConstantOp::create(*this, getI64IntegerAttr(value)));
}

Val Builder::constants(ArrayRef<float> values) {
  auto type = VectorType::get({int64_t(values.size())}, f32());
  return val(arith::ConstantOp::create(*this, DenseElementsAttr::get(type, values)));
}

Val Builder::iota(int64_t lanes) {
  SmallVector<int32_t> values(lanes);
  std::iota(values.begin(), values.end(), 0);
  auto type = VectorType::get({lanes}, i32());
  return val(arith::ConstantOp::create(*this, DenseElementsAttr::get(type, ArrayRef(values))));
}

Val constantLike(Val like, double value) { return like.b->constant(like.type(), value); }

// Broadcasts the scalar of a scalar and a vector.
static void unify(Val &x, Val &y) {
  if (x.lanes() && !y.lanes())
    y = x.b->broadcast(y, x.lanes());
  else if (y.lanes() && !x.lanes())
    x = y.b->broadcast(x, y.lanes());
  assert(x.type() == y.type() && "operands of different types");
}

template <typename FloatOp, typename IntOp> static Val binary(Val x, Val y) {
  unify(x, y);
  if (x.isFloat())
    return x.b->val(FloatOp::create(*x.b, x.value, y.value));
  return x.b->val(IntOp::create(*x.b, x.value, y.value));
}
template <typename IntOp> static Val integer(Val x, Val y) {
  unify(x, y);
  return x.b->val(IntOp::create(*x.b, x.value, y.value));
}

Val operator+(Val x, Val y) { return binary<arith::AddFOp, arith::AddIOp>(x, y); }
Val operator-(Val x, Val y) { return binary<arith::SubFOp, arith::SubIOp>(x, y); }
Val operator*(Val x, Val y) { return binary<arith::MulFOp, arith::MulIOp>(x, y); }
Val operator/(Val x, Val y) { return binary<arith::DivFOp, arith::DivUIOp>(x, y); }
Val operator%(Val x, Val y) { return integer<arith::RemUIOp>(x, y); }
Val operator&(Val x, Val y) { return integer<arith::AndIOp>(x, y); }
Val operator|(Val x, Val y) { return integer<arith::OrIOp>(x, y); }
Val operator^(Val x, Val y) { return integer<arith::XOrIOp>(x, y); }
Val operator<<(Val x, Val y) { return integer<arith::ShLIOp>(x, y); }

static Val compare(Val x, Val y, arith::CmpFPredicate f, arith::CmpIPredicate i) {
  unify(x, y);
  if (x.isFloat())
    return x.b->val(arith::CmpFOp::create(*x.b, f, x.value, y.value));
  return x.b->val(arith::CmpIOp::create(*x.b, i, x.value, y.value));
}
Val lt(Val x, Val y) { return compare(x, y, arith::CmpFPredicate::OLT, arith::CmpIPredicate::slt); }
Val le(Val x, Val y) { return compare(x, y, arith::CmpFPredicate::OLE, arith::CmpIPredicate::sle); }
Val gt(Val x, Val y) { return lt(y, x); }
Val ge(Val x, Val y) { return le(y, x); }
Val eq(Val x, Val y) { return compare(x, y, arith::CmpFPredicate::OEQ, arith::CmpIPredicate::eq); }

Val ne(Val x, Val y) {
  unify(x, y);
  return x.b->val(arith::CmpIOp::create(*x.b, arith::CmpIPredicate::ne, x.value, y.value));
}

Val select(Val condition, Val x, Val y) {
  unify(x, y);
  return x.b->val(arith::SelectOp::create(*x.b, condition.value, x.value, y.value));
}
Val min(Val x, Val y) { return binary<arith::MinNumFOp, arith::MinSIOp>(x, y); }
Val max(Val x, Val y) { return binary<arith::MaxNumFOp, arith::MaxSIOp>(x, y); }
Val fma(Val x, Val y, Val z) {
  unify(x, z);
  unify(y, z);
  unify(x, z);
  return x.b->val(math::FmaOp::create(*x.b, x.value, y.value, z.value));
}
Val ceilDiv(Val x, int64_t y) { return (x + (y - 1)) / y; }
Val shiftRight(Val x, int64_t bits) {
  return x.b->val(arith::ShRUIOp::create(*x.b, x.value, constantLike(x, double(bits)).value));
}
Val shiftRight(Val x, Val bits) {
  return x.b->val(arith::ShRUIOp::create(*x.b, x.value, bits.value));
}
Val leadingZeros(Val x) { return x.b->val(math::CountLeadingZerosOp::create(*x.b, x.value)); }
Val shiftRightSigned(Val x, int64_t bits) {
  return x.b->val(arith::ShRSIOp::create(*x.b, x.value, constantLike(x, double(bits)).value));
}

Ptr Ptr::operator+(Val bytes) const {
  return {LLVM::GEPOp::create(*b, value.getType(), b->getI8Type(), value,
                              ArrayRef<LLVM::GEPArg>{bytes.value}),
          b};
}
Ptr Ptr::operator+(int64_t bytes) const { return bytes == 0 ? *this : *this + b->i64(bytes); }

static unsigned elementBytes(Type type) {
  Type element = getElementTypeOrSelf(type);
  return isa<LLVM::LLVMPointerType>(element) ? 8 : element.getIntOrFloatBitWidth() / 8;
}
Val Ptr::load(Type type) const {
  return b->val(LLVM::LoadOp::create(*b, type, value, elementBytes(type)));
}
void Ptr::store(Val x) const { LLVM::StoreOp::create(*b, x.value, value, elementBytes(x.type())); }

Val Builder::broadcast(Val scalar, int64_t lanes) {
  return val(vector::BroadcastOp::create(*this, vec(lanes, scalar.type()), scalar.value));
}
Val Builder::shuffle(Val x, Val y, ArrayRef<int64_t> lanes) {
  return val(vector::ShuffleOp::create(*this, x.value, y.value, lanes));
}
Val Builder::interleave(Val x, Val y) {
  SmallVector<int64_t> lanes;
  for (int64_t i = 0; i < x.lanes(); ++i) {
    lanes.push_back(i);
    lanes.push_back(x.lanes() + i);
  }
  return shuffle(x, y, lanes);
}
Val Builder::sum(Val vector) {
  return val(vector::ReductionOp::create(*this, vector::CombiningKind::ADD, vector.value,
                                         vector.isFloat() ? arith::FastMathFlags::reassoc
                                                          : arith::FastMathFlags::none));
}
Val Builder::maximum(Val vector) {
  if (!vector.isFloat())
    return val(vector::ReductionOp::create(*this, vector::CombiningKind::MAXSI, vector.value));
  return val(vector::ReductionOp::create(*this, vector::CombiningKind::MAXNUMF, vector.value,
                                         arith::FastMathFlags::nnan));
}

Val Builder::convert(Val x, Type type) {
  if (x.lanes() && !isa<VectorType>(type))
    type = vec(x.lanes(), type);
  if (x.type() == type)
    return x;
  Type to = getElementTypeOrSelf(type);
  unsigned from = x.elementType().getIntOrFloatBitWidth(), bits = to.getIntOrFloatBitWidth();
  if (x.isFloat() && isa<FloatType>(to))
    return bits > from ? val(arith::ExtFOp::create(*this, type, x.value))
                       : val(arith::TruncFOp::create(*this, type, x.value));
  if (x.isFloat())
    return val(arith::FPToSIOp::create(*this, type, x.value));
  if (isa<FloatType>(to))
    return val(arith::SIToFPOp::create(*this, type, x.value));
  return bits > from ? val(arith::ExtSIOp::create(*this, type, x.value))
                     : val(arith::TruncIOp::create(*this, type, x.value));
}
Val Builder::bitcast(Val x, Type type) {
  if (isa<VectorType>(type))
    return val(vector::BitCastOp::create(*this, cast<VectorType>(type), x.value));
  return val(arith::BitcastOp::create(*this, type, x.value));
}
Val Builder::floor(Val x) { return val(math::FloorOp::create(*this, x.value)); }
Val Builder::round(Val x) { return val(math::RoundEvenOp::create(*this, x.value)); }

Val Builder::exp2(Val x) {
  Val clamped = max(min(x, constantLike(x, 127)), constantLike(x, -127));
  Val n = round(clamped);
  Val f = clamped - n;
  // 2^f = e^(f ln 2) on [-1/2, 1/2] by its series: the first term left out is 3e-9.
  double term = 1;
  SmallVector<double> series;
  for (int i = 0; i <= 7; ++i, term *= std::numbers::ln2 / i)
    series.push_back(term);
  Val y = constantLike(x, series.back());
  for (int i = 6; i >= 0; --i)
    y = fma(y, f, constantLike(x, series[i]));
  // Multiplies by 2^n in the exponent's bits.
  Type ints = x.lanes() ? vec(x.lanes(), i32()) : i32();
  Val shifted = bitcast(y, ints) + (convert(n, ints) << constant(ints, 23));
  Val power = bitcast(shifted, x.type());
  return select(lt(x, constantLike(x, -126)), constantLike(x, 0), power);
}

Val Builder::sigmoid(Val x) { return constantLike(x, 1) / (exp2(x * -std::numbers::log2e) + 1); }

Val Builder::log(Val x) {
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh((m - 1) / (m + 1)).
  Val bits = bitcast(x, i64());
  Val biased = bits - i64(int64_t(0x3fe6a09e667f3bcd));
  Val e = val(arith::ShRSIOp::create(*this, biased.value, i64(52).value));
  Val m = bitcast(bits - (e << 52), f64());
  Val s = (m - 1) / (m + 1);
  Val s2 = s * s;
  Val series = constant(f64(), 1.0 / 17);
  for (int i = 15; i >= 1; i -= 2)
    series = fma(series, s2, constant(f64(), 1.0 / i));
  return fma(convert(e, f64()), constant(f64(), std::numbers::ln2), s * series * 2);
}

std::pair<Val, Val> Builder::sincos(Val x) {
  Val wide = convert(x, f64());
  // Quarter turns, then what is left of the angle: two-part pi/2 keeps 1e-9 up to 2^24.
  Val n = round(wide * (2 / std::numbers::pi));
  Val r = fma(n, constantLike(n, -1.5707963267948966), wide);
  r = fma(n, constantLike(n, -6.123233995736766e-17), r);
  Val r2 = r * r;
  auto series = [&](int first) { // 1 - r^2/((first+1)(first+2)) + ...
    Val y = constantLike(r, 1);
    for (int i = first + 12; i > first; i -= 2)
      y = fma(y * r2, constantLike(r, -1.0 / (i * (i - 1))), constantLike(r, 1));
    return y;
  };
  Val sine = series(1) * r, cosine = series(0);
  Type ints = x.lanes() ? vec(x.lanes(), i64()) : i64();
  Val quadrant = convert(n, ints);
  Val odd = eq(quadrant & 1, 1);
  Val sineOf = select(odd, cosine, sine), cosineOf = select(odd, sine, cosine);
  Val zero = constantLike(r, 0);
  sineOf = select(eq(quadrant & 2, 2), zero - sineOf, sineOf);
  cosineOf = select(eq((quadrant + 1) & 2, 2), zero - cosineOf, cosineOf);
  return {convert(sineOf, f32()), convert(cosineOf, f32())};
}

void Builder::loop(Val low, Val high, int64_t step, function_ref<void(Val)> body) {
  stride(low, high, constantLike(low, step), body);
}
SmallVector<Val> Builder::loop(Val low, Val high, int64_t step, ArrayRef<Val> init,
                               function_ref<SmallVector<Val>(Val, ArrayRef<Val>)> body) {
  return stride(low, high, constantLike(low, step), init, body);
}

void Builder::stride(Val low, Val high, Val step, function_ref<void(Val)> body) {
  stride(low, high, step, {}, [&](Val i, ArrayRef<Val>) {
    body(i);
    return SmallVector<Val>{};
  });
}

SmallVector<Val> Builder::stride(Val low, Val high, Val step, ArrayRef<Val> init,
                                 function_ref<SmallVector<Val>(Val, ArrayRef<Val>)> body) {
  SmallVector<Value> start;
  for (Val v : init)
    start.push_back(v.value);
  auto loop = scf::ForOp::create(*this, low.value, high.value, step.value, start);
  OpBuilder::InsertionGuard guard(*this);
  Block *block = loop.getBody();
  if (!block->empty())
    block->getTerminator()->erase();
  setInsertionPointToEnd(block);
  SmallVector<Val> carried;
  for (Value v : loop.getRegionIterArgs())
    carried.push_back(val(v));
  SmallVector<Value> next;
  for (Val v : body(val(loop.getInductionVar()), carried))
    next.push_back(v.value);
  scf::YieldOp::create(*this, next);
  SmallVector<Val> results;
  for (Value v : loop.getResults())
    results.push_back(val(v));
  return results;
}

void Builder::ifThen(Val condition, function_ref<void()> body) {
  auto branch = scf::IfOp::create(*this, condition.value, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(branch.thenBlock());
  body();
}

Val Builder::ifElse(Val condition, Type type, function_ref<Val()> then,
                    function_ref<Val()> otherwise) {
  auto branch = scf::IfOp::create(*this, TypeRange(type), condition.value, /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(branch.thenBlock());
  scf::YieldOp::create(*this, then().value);
  setInsertionPointToStart(branch.elseBlock());
  scf::YieldOp::create(*this, otherwise().value);
  return val(branch.getResult(0));
}

Val Builder::whileLess(Val first, Val high, function_ref<Val(Val)> next) {
  auto loop = scf::WhileOp::create(*this, TypeRange(first.type()), ValueRange(first.value));
  OpBuilder::InsertionGuard guard(*this);
  Block *before = createBlock(&loop.getBefore(), {}, TypeRange(first.type()), {getLoc()});
  scf::ConditionOp::create(*this, lt(val(before->getArgument(0)), high).value,
                           before->getArguments());
  Block *after = createBlock(&loop.getAfter(), {}, TypeRange(first.type()), {getLoc()});
  scf::YieldOp::create(*this, next(val(after->getArgument(0))).value);
  return val(loop.getResult(0));
}

} // namespace moe::codegen
