// Implements the tile of codes. The integer accumulators of a piece begin at -zero times the sum of
// the activations' codes, so that what is left at its end is the sum over (code - zero) * x.
#include "compiler/targets/cpu/CodeTile.h"
#include "compiler/targets/cpu/MatrixTile.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;

namespace moe::codegen {

namespace {
class CodeTile {
public:
  CodeTile(CpuKernel &k, const WeightFormat &format, const TileOperands &operands, bool add)
      : k(k), f(format), o(operands), add(add), count(operands.rows.size()) {
    if (f.element == Storage::F8E4M3)
      pieceColumns = f.group;
    unitBytes = moe::unitBytes(f.element);
    split = f.element == Storage::I4 || looksUp() ? 2 : 1;
    rawBytes = k.target.lanes * unitColumns * (looksUp() ? 2 : 1);
  }

  void emit() {
    if (add)
      k.fetchOuts(o);
    int64_t rowsAtOnce = count == 1 ? kPanel : k.target.tileRows;
    // Half of the rows at once, if then the sums stay in registers: loading activations twice costs
    // less. With fewer chains of dot products these would wait for each other.
    constexpr int64_t chains = 8;
    if (takesLoaded() && !fits(rowsAtOnce) && fits(rowsAtOnce / 2) &&
        count * rowsAtOnce / 2 / k.target.lanes >= chains)
      rowsAtOnce /= 2;
    // Elsewhere the sums stay in the first-level cache.
    inRegisters = fits(rowsAtOnce);
    int64_t raws = rowsAtOnce / k.target.lanes / split;
    for (int64_t first = 0; first * split * k.target.lanes < kPanel; first += raws)
      block(first, raws);
  }

private:
  // Rows that one vector register has a column of. Of I4, and of F8E4M3 where bytes are looked up,
  // a load holds the codes of two such.
  struct Vector {
    int64_t row;
    bool upper;
  };
  // A weight or activation as the operands of the target's dot product: one; magnitudes and signs;
  // or the even and the odd columns apart.
  using Parts = SmallVector<Val, 2>;

  // Weights and activations that a dot product takes as they are loaded need few registers.
  bool takesLoaded() const {
    return integers() && k.target.codeDot == CodeDot::UnsignedBytes && !k.target.arm();
  }
  // Whether the sums of so many rows fit in registers beside the pieces' accumulators.
  bool fits(int64_t rows) const {
    int64_t tokens = matrices() ? MatrixTile::even(count) : count;
    return 2 * tokens * rows / k.target.lanes <= k.target.registers * (takesLoaded() ? 6 : 5) / 8;
  }
  // As products of matrices.
  bool matrices() const { return MatrixTile::takes(k.target, count); }
  bool integers() const { return f.element != Storage::F8E4M3; }
  bool bytePairs() const { return integers() && k.target.codeDot == CodeDot::BytePairs; }
  // Whether a few units of products are summed in 16 bits: a pair of 4-bit codes gives at most
  // 2 * 15 * 127 in magnitude, and eight of those fit.
  bool sumsShorts() const { return bytePairs() && f.element == Storage::I4; }
  // Whether codes of I8 are made signed, which takes the zero of the format away.
  bool signedCodes() const {
    return f.element == Storage::I8 && k.target.codeDot != CodeDot::UnsignedBytes;
  }
  // Bytes of F8E4M3 become float32.
  bool widensFloats() const { return !integers() && !k.target.takesBf16(); }
  // Bytes of F8E4M3 are looked up in a table of AVX-512.
  bool looksUp() const { return !integers() && k.target.bf16Dot == Bf16Dot::Vdpbf16ps; }
  // Unmasked codes of the upper half stand for 16 upper + lower: one mask less in each step.
  bool takesWhole(const Vector &v) const {
    return integers() && v.upper && k.target.codeDot == CodeDot::UnsignedBytes;
  }
  Type floats() { return k.vec(k.target.lanes, k.f32()); }
  Type ints() { return k.vec(k.target.lanes, k.i32()); }
  Type bytes() { return k.vec(k.target.lanes * 4, k.getI8Type()); }
  Type words() { return k.vec(k.target.lanes * 2, k.getI16Type()); }

  // All rows of `raws` vector loads of each unit.
  void block(int64_t firstRaw, int64_t raws) {
    vectors.clear();
    int64_t lanes = k.target.lanes;
    for (int64_t raw = firstRaw; raw < firstRaw + raws; ++raw) {
      int64_t row = raw * lanes;
      if (split == 2)
        row = row / 16 * 32 + row % 16; // see Layout.h
      vectors.push_back({row, false});
      if (split == 2)
        vectors.push_back({row + 16, true});
    }
    this->firstRaw = firstRaw;
    this->raws = raws;
    SmallVector<Val> sums;
    for (int64_t t = 0; t < count; ++t)
      for (size_t v = 0; v < vectors.size(); ++v) {
        if (inRegisters)
          sums.push_back(k.constant(floats(), 0));
        else
          sumInMemory(t, v).store(k.constant(floats(), 0));
      }
    int64_t headBytes = groupHeadBytes(f);
    int64_t groupBytes = headBytes + llvm::divideCeil(f.group, unitColumns) * unitBytes;
    sums = k.loop(k.i64(0), o.steps, 1, sums, [&](Val g, ArrayRef<Val> carried) {
      Ptr head = o.panel + g * groupBytes, codes = head + headBytes;
      loadHead(head);
      SmallVector<Val> sums(carried);
      SmallVector<Ptr> rows;
      for (Ptr row : o.rows)
        rows.push_back(row + g * activations.groupBytes());
      int64_t whole = f.group / pieceColumns;
      auto at = [&](Val p) {
        SmallVector<Ptr> moved;
        for (Ptr row : rows)
          moved.push_back(row + p * activations.pieceBytes());
        return moved;
      };
      int64_t wholeBytes = pieceColumns / unitColumns * unitBytes;
      int64_t wholeUnits = pieceColumns / unitColumns;
      Val unit = g * llvm::divideCeil(f.group, unitColumns);
      if (whole == 1)
        sums = piece(codes, rows, pieceColumns, unit, sums);
      else
        sums = k.loop(k.i64(0), k.i64(whole), 1, sums, [&](Val p, ArrayRef<Val> sums) {
          return piece(codes + p * wholeBytes, at(p), pieceColumns, unit + p * wholeUnits, sums);
        });
      if (int64_t rest = f.group - whole * pieceColumns)
        sums = piece(codes + whole * wholeBytes, at(k.i64(whole)), rest, unit + whole * wholeUnits,
                     sums);
      return sums;
    });
    for (int64_t t = 0; t < count; ++t)
      for (size_t v = 0; v < vectors.size(); ++v) {
        Ptr to = o.outs[t] + vectors[v].row * 4;
        if (inRegisters)
          k.put(sums[t * vectors.size() + v], to, add);
        else if (add)
          k.put(sumInMemory(t, v).load(floats()), to, add);
      }
  }

  // Where a sum is kept that has no register: in its place, unless that is added to at the end.
  Ptr sumInMemory(int64_t t, int64_t v) {
    if (!add)
      return o.outs[t] + vectors[v].row * 4;
    int64_t each = k.target.lanes * 4, bytes = count * vectors.size() * each;
    if (!memory.value)
      memory = k.onStack(bytes);
    return memory + (t * vectors.size() + v) * each;
  }

  // Scales and zeros of a group.
  void loadHead(Ptr head) {
    scales.clear();
    zeros.clear();
    int64_t lanes = k.target.lanes;
    for (const Vector &v : vectors) {
      Val scale = k.loadFloats(head + v.row * bytesOf(f.scale), lanes, f.scale);
      // Without a table, weights of F8E4M3 are 2^-8 of what they stand for.
      double factor = takesWhole(v) ? 0x1p-4 : integers() || looksUp() ? 1 : 0x1p8;
      scales.push_back(factor == 1 ? scale : scale * factor);
    }
    if (f.zeros)
      for (const Vector &v : vectors)
        zeros.push_back(k.convert(
            (head + kPanel * bytesOf(f.scale) + v.row).load(k.vec(lanes, k.getI8Type())), k.i32()));
  }

  // What the accumulators of token t begin at.
  void begin(Ptr row, SmallVectorImpl<Val> &start) {
    if (!integers() || signedCodes()) {
      start.append(vectors.size(), k.constant(integers() ? ints() : floats(), 0));
      return;
    }
    auto load = [&](int64_t at) { return k.broadcast((row + at).load(k.i32()), k.target.lanes); };
    Val one = load(ActivationRow::startAt);
    for (size_t v = 0; v < vectors.size(); ++v) {
      bool whole = takesWhole(vectors[v]);
      if (f.zeros)
        start.push_back((whole ? (zeros[v] << 4) + zeros[v - 1] : zeros[v]) * one);
      else
        start.push_back(whole ? load(ActivationRow::upperStartAt) : one);
    }
  }

  // Sums the products of units 0 to count.
  SmallVector<Val> units(int64_t count, ArrayRef<Val> start,
                         function_ref<SmallVector<Val>(Val, ArrayRef<Val>)> unit) {
    if (!sumsShorts())
      return k.loop(k.i64(0), k.i64(count), 1, start, unit);
    constexpr int64_t atOnce = 8;
    SmallVector<Val> zeros(start.size(), k.constant(words(), 0));
    auto some = [&](Val first, int64_t n, ArrayRef<Val> sums) {
      auto shorts = k.loop(k.i64(0), k.i64(n), 1, zeros,
                           [&](Val u, ArrayRef<Val> sums) { return unit(first + u, sums); });
      SmallVector<Val> next;
      for (auto [sum, pairs] : llvm::zip_equal(sums, shorts))
        next.push_back(addPairs(sum, pairs));
      return next;
    };
    int64_t whole = count / atOnce;
    SmallVector<Val> sums(start);
    if (whole)
      sums = k.loop(k.i64(0), k.i64(whole), 1, sums,
                    [&](Val i, ArrayRef<Val> sums) { return some(i * atOnce, atOnce, sums); });
    if (int64_t rest = count % atOnce)
      sums = some(k.i64(whole * atOnce), rest, sums);
    return sums;
  }

  // `firstUnit`: how many units of the row come before.
  SmallVector<Val> piece(Ptr codes, ArrayRef<Ptr> rows, int64_t columns, Val firstUnit,
                         ArrayRef<Val> sums) {
    SmallVector<Val> start;
    for (Ptr row : rows)
      begin(row, start);
    const int64_t count = llvm::divideCeil(columns, unitColumns);
    auto dots = matrices() ? matrixDots(codes, rows, count, firstUnit, start)
                           : units(count, start, [&](Val u, ArrayRef<Val> dots) {
                               if (firstRaw == 0)
                                 k.fetch(o, firstUnit + u);
                               return unit(codes, rows, u, dots);
                             });
    if (looksUp())
      sortRows(dots);
    SmallVector<Val> result(sums);
    if (!inRegisters)
      keepInMemory();
    for (size_t t = 0; t < rows.size(); ++t) {
      Val factor;
      if (integers())
        factor = k.broadcast((rows[t] + ActivationRow::scaleAt).load(k.f32()), k.target.lanes);
      for (size_t v = 0; v < vectors.size(); ++v) {
        size_t i = t * vectors.size() + v;
        Val dot = takesWhole(vectors[v]) ? dots[i] - dots[i - 1] : dots[i];
        Val scaled = k.convert(dot, k.f32()) * scales[v];
        auto added = [&](Val sum) { return factor.b ? fma(scaled, factor, sum) : sum + scaled; };
        if (inRegisters) {
          result[i] = added(result[i]);
          continue;
        }
        Ptr at = sumInMemory(t, v);
        at.store(added(at.load(floats())));
      }
    }
    return result;
  }

  // LLVM would keep the sums of a loop's pieces in registers, of which there are too few, and spill
  // and reload them twice as often.
  void keepInMemory() {
    auto dialect = LLVM::AsmDialectAttr::get(k.getContext(), LLVM::AsmDialect::AD_ATT);
    // Given away, memory of this function cannot become registers either.
    SmallVector<Value> given;
    if (memory.value)
      given.push_back(memory.value);
    LLVM::InlineAsmOp::create(k, TypeRange(), given, "",
                              given.empty() ? "~{memory}" : "r,~{memory}",
                              /*has_side_effects=*/true, /*is_align_stack=*/false,
                              LLVM::TailCallKind::None, dialect, ArrayAttr());
  }

  SmallVector<Val> matrixDots(Ptr codes, ArrayRef<Ptr> rows, int64_t units, Val firstUnit,
                              ArrayRef<Val> start) {
    MatrixTile tile(k, count, vectors.size());
    auto add = [&](Val u, ArrayRef<Val> registers, bool one) {
      if (firstRaw == 0)
        for (int64_t i = 0; i < (one ? 1 : 2); ++i)
          k.fetch(o, firstUnit + u + i);
      SmallVector<Ptr> xs;
      for (Ptr row : rows)
        xs.push_back(activationsOf(row, u));
      SmallVector<Val> next(registers);
      tile.add(next, xs, one, [&](int64_t v) {
        Ptr at = codes + u * unitBytes + (firstRaw + v / split) * rawBytes;
        Type type = k.vec(k.target.lanes, k.getIntegerType(8 * unitColumns));
        auto [lower, upper] = tile.interleave(
            at.load(type), one ? std::nullopt : std::optional((at + unitBytes).load(type)));
        SmallVector<MatrixTile::Weights, 2> weights;
        for (auto [first, second] : llvm::zip_equal(unpack(lower), unpack(upper)))
          weights.push_back({first.front(), second.front()});
        return weights;
      });
      return next;
    };
    auto registers = k.loop(k.i64(0), k.i64(units / 2 * 2), 2, tile.arrange(start),
                            [&](Val u, ArrayRef<Val> before) { return add(u, before, false); });
    if (units % 2)
      registers = add(k.i64(units - 1), registers, true);
    return tile.separate(registers);
  }

  // Four codes of a unit, or two bf16 channels.
  Ptr activationsOf(Ptr row, Val u) {
    return (integers() ? row + activations.codesAt() : row) + u * 4;
  }

  // The columns that lie together.
  SmallVector<Val> unit(Ptr codes, ArrayRef<Ptr> rows, Val u, ArrayRef<Val> dots) {
    SmallVector<Parts> weights;
    k.fetchStream(o, codes + u * unitBytes + firstRaw * rawBytes, raws * rawBytes);
    auto load = [&](int64_t end) {
      const int64_t atOnce = widensFloats() ? 2 : 1;
      for (int64_t raw = weights.size() / split; raw < end; raw += atOnce)
        weights.append(unpack((codes + u * unitBytes + (firstRaw + raw) * rawBytes)
                                  .load(k.vec(atOnce * rawBytes, k.getI8Type()))));
    };
    // Registers have no room for all weights beside the sums of one token: where LLVM would spill,
    // they are loaded in parts.
    const int64_t part = k.target.bf16Dot == Bf16Dot::Bfdot ? raws / 4 : raws;
    load(part);
    SmallVector<Val> next(dots);
    for (size_t t = 0; t < rows.size(); ++t) {
      Parts x = activation(k.broadcast(activationsOf(rows[t], u).load(k.i32()), k.target.lanes));
      for (size_t v = 0; v < vectors.size(); ++v) {
        if (v == weights.size()) {
          SmallVector<Val *> sums;
          for (size_t made = v - part * split; made < v; ++made)
            sums.push_back(&next[made]);
          k.loadAfter(sums);
          load(v / split + part);
        }
        Val &sum = next[t * vectors.size() + v];
        if (bytePairs()) {
          sum = pairsDot(sum, weights[v], x[0]);
          continue;
        }
        for (size_t part = 0; part < x.size(); ++part)
          sum = dot(sum, weights[v][part], x[part]);
      }
    }
    return next;
  }

  // The weights of one vector of rows, or of two, by the bytes of a load.
  SmallVector<Parts, 2> unpack(Val raw) {
    if (!integers())
      return unpackFloats(raw);
    Val code = k.bitcast(raw, bytes());
    if (f.element == Storage::I4)
      return {{code & 0xf},
              {k.target.codeDot == CodeDot::UnsignedBytes ? code : shiftRight(code, 4)}};
    if (signedCodes())
      code = code ^ -128;
    if (bytePairs()) // magnitudes and signs
      return {{absolute(code), code}};
    return {{code}};
  }

  Parts activation(Val quad) {
    if (!integers())
      return floatActivation(quad);
    return {k.bitcast(quad, bytes())};
  }

  Val dot(Val sum, Val w, Val x) {
    if (!integers())
      return k.target.takesBf16() ? k.bf16Dot(sum, w, x) : fma(w, x, sum);
    return k.codeDot(sum, w, x);
  }

  // Adds products of unsigned and signed bytes, summed in pairs into 16 bits. Of I8 the sign of the
  // code goes to the activation: 2 * 128 * 127 fits, where 2 * 255 * 127 would saturate.
  Val pairsDot(Val sum, const Parts &w, Val x) {
    if (f.element == Storage::I8)
      x = k.intrinsic("llvm.x86.avx2.psign.b", bytes(), {x, w[1]});
    Val pairs = k.intrinsic("llvm.x86.avx2.pmadd.ub.sw", words(), {w[0], x});
    return sumsShorts() ? sum + pairs : addPairs(sum, pairs);
  }
  Val addPairs(Val sum, Val pairs) { return k.wordDot(sum, pairs, k.constant(words(), 1)); }
  Val absolute(Val code) {
    return k.val(LLVM::AbsOp::create(k, code.type(), code.value, /*is_int_min_poison=*/false));
  }

  //===--- F8E4M3 --------------------------------------------------------------------------------

  SmallVector<Parts, 2> unpackFloats(Val raw) {
    int64_t lanes = k.target.lanes;
    if (looksUp()) {
      // Each byte of the bf16 comes from a table of the 128 magnitudes; bytes are paired within 128
      // bits, so that one vector gets the even quarters of the rows and the other the odd ones.
      auto byteOf = [&](int shift) {
        Val first = table(shift, 0), second = table(shift, 64);
        return k.intrinsic("llvm.x86.avx512.vpermi2var.qi.512", first.type(), {first, raw, second});
      };
      Val lower = byteOf(0), upper = byteOf(8) | (raw & -128);
      SmallVector<Parts, 2> weights;
      for (int64_t half : {0, 8}) {
        SmallVector<int64_t> pairs;
        for (int64_t quarter = 0; quarter < 64; quarter += 16)
          for (int64_t i = 0; i < 8; ++i)
            pairs.append({quarter + half + i, 64 + quarter + half + i});
        weights.push_back({k.bitcast(k.shuffle(lower, upper, pairs), k.vec(32, k.bf16()))});
      }
      return weights;
    }
    // As float16 with the exponent's bits in place: 2^-8 of the value, subnormals included.
    auto widen = [&](Val bits) {
      return k.convert(k.bitcast(bits, k.vec(bits.lanes(), k.getF16Type())), k.f32());
    };
    if (k.target.takesBf16()) {
      // All of a byte moves by 7, and of its sign, which is there twice then, the lower one goes. A
      // bf16 is the upper half of the float32: its four bits of significand fit.
      Val word = k.convert(k.bitcast(raw, k.vec(2 * lanes, k.getI8Type())), k.getI16Type());
      Val wide = k.bitcast(widen((word << 7) & -16385), k.vec(2 * lanes, k.i32()));
      Val half = k.convert(shiftRight(wide, 16), k.getI16Type());
      return {{k.bitcast(half, k.vec(2 * lanes, k.bf16()))}};
    }
    // Two loads at once, which fill a register of integers. An arithmetic shift has the sign twice,
    // and the mask takes the lower one away.
    Val pairs = k.bitcast(raw, k.vec(2 * lanes, k.getI16Type()));
    auto half = [&](Val upperByte) { return shiftRightSigned(upperByte, 1) & -16512; };
    Val first = half(pairs << 8), second = half(pairs);
    SmallVector<Parts, 2> weights;
    for (int64_t from : {int64_t(0), lanes}) {
      auto order = llvm::to_vector(llvm::seq(from, from + lanes));
      weights.push_back(
          {widen(k.shuffle(first, first, order)), widen(k.shuffle(second, second, order))});
    }
    return weights;
  }

  // A byte of the bf16 of 64 codes, from `first` on.
  Val table(int shift, int first) {
    SmallVector<int8_t> bytes;
    for (int i = 0; i < 64; ++i) {
      llvm::APFloat number(llvm::APFloat::Float8E4M3FN(), llvm::APInt(8, first + i));
      bool inexact;
      number.convert(llvm::APFloat::BFloat(), llvm::APFloat::rmNearestTiesToEven, &inexact);
      bytes.push_back(int8_t(number.bitcastToAPInt().getZExtValue() >> shift));
    }
    return k.val(arith::ConstantOp::create(
        k, DenseElementsAttr::get(VectorType::get({64}, k.getI8Type()), ArrayRef(bytes))));
  }

  // The products of vectors v and v + 1, back in the order of rows.
  void sortRows(SmallVectorImpl<Val> &dots) {
    SmallVector<int64_t> lower, upper;
    for (int64_t quarter = 0; quarter < 4; ++quarter)
      for (int64_t source : {0, 16})
        for (int64_t i = 0; i < 4; ++i)
          (quarter < 2 ? lower : upper).push_back(source + quarter * 4 + i);
    for (size_t i = 0; i < dots.size(); i += 2) {
      Val even = dots[i], odd = dots[i + 1];
      dots[i] = k.shuffle(even, odd, lower);
      dots[i + 1] = k.shuffle(even, odd, upper);
    }
  }

  Parts floatActivation(Val pair) {
    if (k.target.takesBf16())
      return {k.bitcast(pair, k.vec(2 * k.target.lanes, k.bf16()))};
    return {k.bitcast(pair << 16, floats()), k.bitcast(pair & -65536, floats())};
  }

  CpuKernel &k;
  const WeightFormat &f;
  const TileOperands &o;
  bool add;
  int64_t count;
  const ActivationRow activations{f, f.group}; // of one group
  int64_t pieceColumns = std::min(f.group, ActivationRow::longestPiece);
  int64_t unitColumns = infoOf(f.element).unitColumns, unitBytes, rawBytes, split;
  int64_t firstRaw = 0, raws = 0;
  bool inRegisters = false;
  Ptr memory{}; // of sumInMemory
  SmallVector<Vector> vectors;
  SmallVector<Val> scales, zeros; // of the group at hand, for each vector
};
} // namespace

void emitCodeTile(CpuKernel &k, const WeightFormat &format, const TileOperands &operands,
                  bool add) {
  CodeTile(k, format, operands, add).emit();
}

} // namespace moe::codegen
