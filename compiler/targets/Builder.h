// Values with operators, pointers, loops and conditions, so that a kernel reads like a kernel while
// it builds MLIR (arith, math, vector, scf and llvm ops).
//
// Integers are i64 unless said otherwise; addresses are counted in bytes. A scalar and a vector
// meet by broadcasting the scalar.
#ifndef MOE_COMPILER_TARGETS_BUILDER_H
#define MOE_COMPILER_TARGETS_BUILDER_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/STLFunctionalExtras.h"

namespace moe::codegen {

class Builder;

// An SSA value: an integer, a float, or a vector of either.
struct Val {
  mlir::Value value;
  Builder *b = nullptr;

  mlir::Type type() const { return value.getType(); }
  mlir::Type elementType() const { return mlir::getElementTypeOrSelf(type()); }
  bool isFloat() const { return llvm::isa<mlir::FloatType>(elementType()); }
  // 0 for a scalar.
  int64_t lanes() const;
};

Val operator+(Val x, Val y);
Val operator-(Val x, Val y);
Val operator*(Val x, Val y);
Val operator/(Val x, Val y); // integers: unsigned
Val operator%(Val x, Val y); // integers only, unsigned
Val operator&(Val x, Val y);
Val operator|(Val x, Val y);
Val operator^(Val x, Val y);
Val operator<<(Val x, Val y);

// A constant takes the type of the value that it meets.
Val constantLike(Val like, double value);
template <typename T>
concept Number = std::is_arithmetic_v<T>;
#define MOE_MIXED(op)                                                                              \
  template <Number T> Val operator op(Val x, T y) { return x op constantLike(x, double(y)); }      \
  template <Number T> Val operator op(T x, Val y) { return constantLike(y, double(x)) op y; }
MOE_MIXED(+)
MOE_MIXED(-)
MOE_MIXED(*)
MOE_MIXED(/)
MOE_MIXED(%)
MOE_MIXED(&)
MOE_MIXED(^)
MOE_MIXED(<<)
#undef MOE_MIXED

// Comparisons give i1, or a vector of it; integers compare as signed.
Val lt(Val x, Val y);
Val le(Val x, Val y);
Val gt(Val x, Val y);
Val ge(Val x, Val y);
Val eq(Val x, Val y);
Val ne(Val x, Val y); // integers only
template <Number T> Val lt(Val x, T y) { return lt(x, constantLike(x, double(y))); }
template <Number T> Val le(Val x, T y) { return le(x, constantLike(x, double(y))); }
template <Number T> Val gt(Val x, T y) { return gt(x, constantLike(x, double(y))); }
template <Number T> Val ge(Val x, T y) { return ge(x, constantLike(x, double(y))); }
template <Number T> Val eq(Val x, T y) { return eq(x, constantLike(x, double(y))); }

Val select(Val condition, Val x, Val y);
Val min(Val x, Val y);
Val max(Val x, Val y);
Val fma(Val x, Val y, Val z); // x * y + z, rounded once
Val ceilDiv(Val x, int64_t y);
Val shiftRight(Val x, int64_t bits); // zeros come in
Val shiftRightSigned(Val x, int64_t bits);
Val shiftRight(Val x, Val bits);
Val leadingZeros(Val x); // all bits of a zero

// A byte address.
struct Ptr {
  mlir::Value value;
  Builder *b = nullptr;

  Ptr operator+(Val bytes) const;
  Ptr operator+(int64_t bytes) const;
  // The alignment is that of an element: vectors may start at any element.
  Val load(mlir::Type type) const;
  void store(Val value) const;
};

class Builder : public mlir::ImplicitLocOpBuilder {
public:
  using ImplicitLocOpBuilder::ImplicitLocOpBuilder;

  mlir::Type i1() { return getI1Type(); }
  mlir::Type i32() { return getI32Type(); }
  mlir::Type i64() { return getI64Type(); }
  mlir::Type f32() { return getF32Type(); }
  mlir::Type f64() { return getF64Type(); }
  mlir::Type bf16() { return getBF16Type(); }
  mlir::Type vec(int64_t lanes, mlir::Type element);

  Val val(mlir::Value value) { return {value, this}; }
  Ptr ptr(mlir::Value value) { return {value, this}; }
  Val constant(mlir::Type type, double value);
  Val i64(int64_t value);
  Val f32(double value) { return constant(f32(), value); }
  Val constants(llvm::ArrayRef<float> values); // a vector
  Val iota(int64_t lanes);                     // 0, 1, 2... as i32

  Val broadcast(Val scalar, int64_t lanes);
  Val shuffle(Val x, Val y, llvm::ArrayRef<int64_t> lanes);
  Val interleave(Val x, Val y);        // x0 y0 x1 y1...
  Val sum(Val vector);                 // of f32 lanes, in any order, or of integers
  Val maximum(Val vector);             // of f32 lanes, or of signed integers
  Val convert(Val x, mlir::Type type); // by value: int to int (sign), int to float, float to float
  Val bitcast(Val x, mlir::Type type);
  Val floor(Val x);
  Val round(Val x); // to the nearest integer, ties to even, still a float
  Val exp2(Val x);  // f32; 0 below -126; two units in the last place
  Val sigmoid(Val x);
  Val log(Val x);                    // natural, of a positive finite f64
  std::pair<Val, Val> sincos(Val x); // of f32 up to 2^24, with full range reduction

  // for (i = low; i < high; i += step)
  void loop(Val low, Val high, int64_t step, llvm::function_ref<void(Val)> body);
  // The same with values carried from one iteration to the next; returns the last ones.
  llvm::SmallVector<Val>
  loop(Val low, Val high, int64_t step, llvm::ArrayRef<Val> init,
       llvm::function_ref<llvm::SmallVector<Val>(Val, llvm::ArrayRef<Val>)> body);
  // The same with a step that is a value.
  void stride(Val low, Val high, Val step, llvm::function_ref<void(Val)> body);
  llvm::SmallVector<Val>
  stride(Val low, Val high, Val step, llvm::ArrayRef<Val> init,
         llvm::function_ref<llvm::SmallVector<Val>(Val, llvm::ArrayRef<Val>)> body);
  void loop(int64_t low, int64_t high, int64_t step, llvm::function_ref<void(Val)> body) {
    loop(i64(low), i64(high), step, body);
  }
  void ifThen(Val condition, llvm::function_ref<void()> body);
  Val ifElse(Val condition, mlir::Type type, llvm::function_ref<Val()> then,
             llvm::function_ref<Val()> otherwise);
  // for (i = first; i < high; i = next(i)); returns the last i.
  Val whileLess(Val first, Val high, llvm::function_ref<Val(Val)> next);
};

} // namespace moe::codegen

#endif
