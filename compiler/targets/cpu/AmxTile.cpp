// Implements the tiles for AMX. They are configured where a function of them begins, since their
// rows are the tokens, and released where it ends, so that nothing else need know of them.
#include "compiler/targets/cpu/AmxTile.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

using namespace mlir;

namespace moe::codegen {

bool takesAmx(const CpuTarget &target, const WeightFormat &format) {
  return target.amx && (format.element == Storage::BF16 || infoOf(format.element).integers);
}

int64_t tokensBelowAmx(const CpuTarget &target, const WeightFormat &format) {
  return format.element == Storage::BF16 ? 0 : target.codeTokens;
}

namespace {

constexpr int64_t kTileRows = 16, kTileBytes = 64; // of a row
constexpr int64_t kStepUnits = kTileRows;          // of 4 bytes of each row of the panel
constexpr int64_t kQuarters = kPanel / kTileRows;  // of a panel
constexpr int64_t kActivations = 4, kWeights = 5;  // tiles
constexpr int64_t kRestActivations = 6, kRestWeights = 7;

class AmxTile {
public:
  AmxTile(CpuKernel &k, const WeightFormat &format, const AmxOperands &operands, bool add)
      : k(k), f(format), o(operands), add(add) {
    none.ahead = o.ahead;
  }

  void emit() {
    config = k.onStack(64);
    sums = k.onStack(kTileRows * kPanel * 4);
    gathered = k.onStack(kTileRows * (codes() ? ActivationRow::longestPiece : kTileBytes));
    if (codes())
      dots = k.onStack(kTileRows * kPanel * 4);
    if (f.element == Storage::I4)
      lower = k.onStack(ActivationRow::longestPiece / 4 * unitBytes);
    together = rowsAreTogether();
    fetchOuts();
    if (codes())
      multiplyCodes();
    else
      multiplyFloats();
    amx("tilerelease", {});
    forTokens([&](Val t) {
      Ptr out = rowOf(o.outs, t);
      for (int64_t row = 0; row < kPanel; row += k.target.lanes)
        k.put((sums + t * (kPanel * 4) + row * 4).load(floats()), out + row * 4, add);
    });
  }

private:
  bool codes() const { return f.quantized(); }
  Type floats() { return k.vec(k.target.lanes, k.f32()); }
  Type ints() { return k.vec(k.target.lanes, k.i32()); }

  void amx(StringRef name, ArrayRef<Value> arguments) {
    LLVM::CallIntrinsicOp::create(k, k.getStringAttr("llvm.x86." + name), arguments);
  }
  Value tile(int64_t number) { return k.constant(k.getI8Type(), double(number)).value; }

  void forTokens(function_ref<void(Val)> body) { k.loop(k.i64(0), o.count, 1, body); }
  Val idOf(const AmxRows &rows, Val t) { return (rows.ids + t * 4).load(k.i32()); }
  Ptr rowOf(const AmxRows &rows, Val t) {
    return rows.base + k.convert(idOf(rows, t), k.i64()) * rows.stride;
  }
  // Whether the rows lie one after the other, so that a tile is loaded from them.
  Val rowsAreTogether() {
    Val first = idOf(o.rows, k.i64(0));
    Val apart =
        k.loop(k.i64(1), o.count, 1, {k.constant(k.i32(), 0)}, [&](Val t, ArrayRef<Val> apart) {
          Val off = (idOf(o.rows, t) - first) ^ k.convert(t, k.i32());
          return SmallVector<Val>{apart[0] | off};
        })[0];
    return eq(apart, 0);
  }

  // `rest`: units of a last step of fewer than 16; at most 15.
  void configure(Val rest) {
    Val none = k.i64(0), some = gt(rest, 0);
    // Palette 1; bytes of a row of each tile; rows of each tile.
    config.store(k.i64(1));
    (config + 8).store(none);
    (config + 16).store(k.i64(0x0040'0040'0040'0040));
    (config + 24).store(k.i64(0x0040'0040) + (rest << 34) + select(some, k.i64(64L << 48), none));
    (config + 32).store(none);
    (config + 40).store(none);
    Val rows = o.count * k.i64(0x01'0101'0101) + k.i64(16L << 40);
    (config + 48).store(rows + select(some, o.count << 48, none) + (rest << 56));
    (config + 56).store(none);
    amx("ldtilecfg", {config.value});
  }

  // 16 or, of a last step, fewer units. `weights`: of each 16 rows of the panel; `stride`: from one
  // unit to the next.
  void step(Ptr x, Val xStride, ArrayRef<Ptr> weights, int64_t stride, bool last) {
    int64_t a = last ? kRestActivations : kActivations, b = last ? kRestWeights : kWeights;
    amx("tileloadd64", {tile(a), x.value, xStride.value});
    for (auto [quarter, at] : llvm::enumerate(weights)) {
      amx("tileloadd64", {tile(b), at.value, k.i64(stride).value});
      amx(codes() ? "tdpbsud" : "tdpbf16ps", {tile(quarter), tile(a), tile(b)});
    }
  }
  void zero() {
    for (int64_t quarter = 0; quarter < kQuarters; ++quarter)
      amx("tilezero", {tile(quarter)});
  }
  void storeTo(Ptr to) {
    for (int64_t quarter = 0; quarter < kQuarters; ++quarter)
      amx("tilestored64",
          {tile(quarter), (to + quarter * kTileBytes).value, k.i64(kPanel * 4).value});
  }

  // Where a tile finds `bytes` of each row, a multiple of 4 from `at` on, and how far apart.
  std::pair<Ptr, Val> activationsAt(Val at, int64_t bytes) {
    k.ifThen(eq(k.convert(together, k.i32()), 0), [&] {
      forTokens([&](Val t) {
        Ptr from = rowOf(o.rows, t) + at;
        k.channels(bytes / 4, [&](Val word, int64_t n) {
          (gathered + t * bytes + word * 4).store((from + word * 4).load(k.vec(n, k.i32())));
        });
      });
    });
    Ptr direct = rowOf(o.rows, k.i64(0)) + at;
    return {k.ptr(select(together, k.val(direct.value), k.val(gathered.value)).value),
            select(together, o.rows.stride, k.i64(bytes))};
  }

  // Begins to bring the rows that are added to into the second-level cache; see CpuKernel.
  void fetchOuts() {
    if (!add || !o.ahead)
      return;
    forTokens([&](Val t) {
      TileOperands one;
      one.ahead = o.ahead;
      one.outs.push_back(rowOf(o.outs, t));
      k.fetchOuts(one);
    });
  }
  void fetchAhead(Val firstUnit, int64_t units) {
    if (o.ahead)
      k.ifThen(gt(o.count, 1),
               [&] { k.loop(0, units, 1, [&](Val u) { k.fetch(none, firstUnit + u); }); });
  }

  //===--- bf16 ------------------------------------------------------------------------------------

  void multiplyFloats() {
    Val whole = o.steps / kStepUnits, rest = o.steps % k.i64(kStepUnits);
    configure(rest);
    zero();
    auto at = [&](Val s, bool last) {
      Ptr weights = o.panel + s * (kStepUnits * kPanel * 4);
      // Rows are padded to multiples of a step.
      auto [x, stride] = activationsAt(s * kTileBytes, kTileBytes);
      SmallVector<Ptr> quarters;
      for (int64_t quarter = 0; quarter < kQuarters; ++quarter)
        quarters.push_back(weights + quarter * kTileBytes);
      step(x, stride, quarters, kPanel * 4, last);
    };
    k.loop(k.i64(0), whole, 1, [&](Val s) {
      k.ifThen(eq(o.count, 1), [&] {
        k.fetchStream(none, o.panel + s * (kStepUnits * kPanel * 4), kStepUnits * kPanel * 4);
      });
      fetchAhead(s * kStepUnits, kStepUnits);
      at(s, false);
    });
    k.ifThen(gt(rest, 0), [&] { at(whole, true); });
    storeTo(sums);
  }

  //===--- I8 and I4 -------------------------------------------------------------------------------

  void multiplyCodes() {
    int64_t whole = f.group / pieceColumns, rest = f.group % pieceColumns;
    // Only one of both has a last step: pieces of long groups are whole steps.
    configure(k.i64(unitsOf(whole > 1 || rest ? rest : pieceColumns) % kStepUnits));
    forTokens([&](Val t) {
      for (int64_t row = 0; row < kPanel; row += k.target.lanes)
        (sums + t * (kPanel * 4) + row * 4).store(k.constant(floats(), 0));
    });
    int64_t headBytes = groupHeadBytes(f), groupUnits = unitsOf(f.group);
    k.loop(k.i64(0), o.steps, 1, [&](Val g) {
      Ptr head = o.panel + g * (headBytes + groupUnits * unitBytes), codes = head + headBytes;
      loadHead(head);
      Val at = g * activations.groupBytes(), unit = g * groupUnits;
      int64_t units = unitsOf(pieceColumns);
      k.loop(k.i64(0), k.i64(whole), 1, [&](Val p) {
        piece(codes + p * (units * unitBytes), at + p * activations.pieceBytes(), pieceColumns,
              unit + p * units);
      });
      if (rest)
        piece(codes + whole * units * unitBytes, at + whole * activations.pieceBytes(), rest,
              unit + whole * units);
    });
  }

  static int64_t unitsOf(int64_t columns) { return llvm::divideCeil(columns, 4); }
  // Rows that I4 has in the upper halves of its bytes. As they lie these count 16 upper + lower.
  bool upper(int64_t row) const { return f.element == Storage::I4 && row / kTileRows % 2 == 1; }

  void loadHead(Ptr head) {
    int64_t lanes = k.target.lanes;
    scales.clear();
    zeros.clear();
    for (int64_t row = 0; row < kPanel; row += lanes) {
      Val scale = k.loadFloats(head + row * bytesOf(f.scale), lanes, f.scale);
      scales.push_back(upper(row) ? scale * 0.0625 : scale);
      if (f.zeros)
        zeros.push_back(k.convert(
            (head + kPanel * bytesOf(f.scale) + row).load(k.vec(lanes, k.getI8Type())), k.i32()));
    }
  }

  // `at`: where the piece begins in a row of activations. `firstUnit`: how many units of the row
  // come before.
  void piece(Ptr codes, Val at, int64_t columns, Val firstUnit) {
    int64_t units = unitsOf(columns);
    fetchAhead(firstUnit, units);
    if (f.element == Storage::I4)
      takeLower(codes, units);
    auto [x, stride] = activationsAt(at + activations.codesAt(), units * 4);
    zero();
    for (int64_t u = 0; u < units; u += kStepUnits)
      step(x + u * 4, stride, quartersOf(codes, u), unitBytes, units - u < kStepUnits);
    storeTo(dots);
    forTokens([&](Val t) { addPiece(rowOf(o.rows, t) + at, t); });
  }

  void takeLower(Ptr codes, int64_t units) {
    k.loop(0, units * unitBytes, k.target.lanes * 4, [&](Val byte) {
      Val raw = (codes + byte).load(k.vec(k.target.lanes * 4, k.getI8Type()));
      (lower + byte).store(raw & 0xf);
    });
  }

  SmallVector<Ptr> quartersOf(Ptr codes, int64_t unit) {
    SmallVector<Ptr> quarters;
    for (int64_t quarter = 0; quarter < kQuarters; ++quarter) {
      if (f.element == Storage::I8)
        quarters.push_back(codes + (unit * unitBytes + quarter * kTileBytes));
      else
        quarters.push_back((quarter % 2 ? codes : lower) +
                           (unit * unitBytes + quarter / 2 * kTileBytes));
    }
    return quarters;
  }

  // Scales what a piece gave token t, whose activations of the piece are at `row`, and adds it:
  // the arithmetic of CodeTile.
  void addPiece(Ptr row, Val t) {
    int64_t lanes = k.target.lanes;
    Val factor = k.broadcast((row + ActivationRow::scaleAt).load(k.f32()), lanes);
    Val one = k.broadcast((row + ActivationRow::startAt).load(k.i32()), lanes);
    for (int64_t v = 0; v < kPanel / lanes; ++v) {
      Ptr at = dots + t * (kPanel * 4) + v * lanes * 4;
      Val dot = at.load(ints()), start = f.zeros ? zeros[v] * one : one;
      if (upper(v * lanes))
        dot = dot - (at + -kTileBytes).load(ints()) + (start << 4);
      else
        dot = dot + start;
      Ptr sum = sums + t * (kPanel * 4) + v * lanes * 4;
      sum.store(fma(k.convert(dot, k.f32()) * scales[v], factor, sum.load(floats())));
    }
  }

  CpuKernel &k;
  const WeightFormat &f;
  const AmxOperands &o;
  bool add;
  TileOperands none; // of CpuKernel's tiles: what is fetched ahead, and no rows
  const ActivationRow activations{f, f.group}; // of one group
  int64_t pieceColumns = std::min(f.group, ActivationRow::longestPiece);
  int64_t unitBytes = codes() ? moe::unitBytes(f.element) : kPanel * 4;
  Ptr config{}, sums{}, gathered{}, dots{}, lower{}; // on the stack
  Val together{};
  SmallVector<Val> scales, zeros; // of the group at hand
};
} // namespace

void emitAmxTile(CpuKernel &k, const WeightFormat &format, const AmxOperands &operands, bool add) {
  AmxTile(k, format, operands, add).emit();
}

} // namespace moe::codegen
