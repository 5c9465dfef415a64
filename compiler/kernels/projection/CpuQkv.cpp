// Queries, keys and values of a vision tower, put where attention reads them.
#include "compiler/kernels/projection/Projection.h"
#include "compiler/kernels/projection/RowBlocks.h"
#include <numbers>
#include <numeric>

namespace moe::codegen {

namespace {
struct TowerQkv {
  CpuKernel &k;
  const CpuTowerQkv &s;
  const TileHeads &h = s.heads;
  const int64_t d = h.headDim, bytes = bytesOf(h.storage), lanes = k.target.lanes;
  // Whole heads at once.
  RowBlocks blocks{k, ActivationRow{s.format, s.hidden}, 3 * h.channels(),
                   std::lcm(d, kPanel) / kPanel};
  const int64_t width = blocks.width(), headsAtOnce = width / d;
  const int64_t angleBytes = llvm::alignTo(d, 2 * lanes) * 4; // of a row: cosine and sine in turn
  Ptr angles = k.scratch(RowBlocks::rowsOf(k.target) * angleBytes);
  Ptr stored = k.scratch(padded(d) * bytes); // a finished head in the storage type
  Ptr bias = paddedCopy(k, k.operand(Operand::Bias), 3 * h.channels(), width);
  Ptr q = k.operand(Operand::Q), keys = k.operand(Operand::Keys),
      values = k.operand(Operand::Values);

  // The angle of pair j is (x + 1) f[j] in the first half of the pairs, (y + 1) f[j - d / 4] in the
  // second, each a product of float32, and 0 of the class row.
  void makeAngles(Val row, Ptr to) {
    Val patch = row % k.i64(h.rows), isClass = eq(patch, s.grid * s.grid);
    auto place = [&](Val i) { return k.convert(select(isClass, k.i64(0), i + 1), k.f32()); };
    Val x = place(patch % k.i64(s.grid)), y = place(patch / s.grid);
    for (int64_t j = 0; j < d / 2; j += lanes) {
      llvm::SmallVector<float> ofX(lanes, 0.0f), ofY(lanes, 0.0f);
      for (int64_t i = j; i < std::min(j + lanes, d / 2); ++i)
        (i < d / 4 ? ofX : ofY)[i - j] = frequency(i % (d / 4));
      // One of both is zero.
      auto [sine, cosine] = k.sincos(k.constants(ofX) * x + k.constants(ofY) * y);
      (to + j * 8).store(k.interleave(cosine, sine));
    }
  }
  float frequency(int64_t i) const {
    return float(std::pow(double(s.theta), -4.0 * double(i) / double(d)));
  }

  // Turns a head, then multiplies it with the factor.
  void rotate(Ptr head, Ptr angles, double factor, Ptr to) {
    k.channels(d, [&](Val c, int64_t n) {
      Val x = (head + c * 4).load(k.vec(n, k.f32())), t = (angles + c * 4).load(k.vec(n, k.f32()));
      Val y = k.rotatePairs(x, t);
      (to + c * bytes).store(k.toStorage(factor == 1 ? y : y * factor, h.storage));
    });
  }

  void query(Ptr head, Ptr angles, Val tile, Val row, Val number) {
    Ptr to = q + ((tile * h.heads + number) * h.rows + row) * h.queryBytes();
    rotate(head, angles, std::numbers::log2e / std::sqrt(double(d)), to);
    for (int64_t at = d * bytes; at < h.queryBytes(); at += bytes)
      (to + at).store(k.constant(k.typeOf(h.storage), 0));
  }

  // A row of a panel: 4 bytes, a float or a pair, every 256.
  void key(Ptr head, Ptr angles, Val tile, Val row, Val number) {
    rotate(head, angles, 1, stored);
    Val panel = (tile * h.heads + number) * h.keyPanels() + row / kPanel;
    Ptr to = keys + panel * h.keyPanelBytes() + row % k.i64(kPanel) * 4;
    k.loop(0, d * bytes / 4, 1,
           [&](Val i) { (to + i * (kPanel * 4)).store((stored + i * 4).load(k.i32())); });
  }

  // A column of the panels.
  void value(Ptr head, Val tile, Val row, Val number) {
    Ptr panels = values + (tile * h.heads + number) * (h.valuePanels() * h.valuePanelBytes());
    if (h.storage == Storage::F32) {
      Ptr to = panels + row * (kPanel * 4);
      for (int64_t first = 0; first < d; first += kPanel)
        k.channels(std::min(kPanel, d - first), [&](Val c, int64_t n) {
          Val x = (head + first * 4 + c * 4).load(k.vec(n, k.f32()));
          (to + first / kPanel * h.valuePanelBytes() + c * 4).store(x);
        });
      return;
    }
    k.channels(d, [&](Val c, int64_t n) {
      (stored + c * 2).store(k.toStorage((head + c * 4).load(k.vec(n, k.f32())), h.storage));
    });
    Ptr to = panels + row / 2 * (kPanel * 4);
    auto place = [&](Val c) {
      return to + c / kPanel * h.valuePanelBytes() + c % k.i64(kPanel) * 4;
    };
    mlir::Type half = k.getI16Type();
    k.loop(0, d, 1,
           [&](Val c) { (place(c) + row % k.i64(2) * 2).store((stored + c * 2).load(half)); });
    if (h.rows % 2) // the one that makes a pair of the last
      k.ifThen(eq(row, h.rows - 1),
               [&] { k.loop(0, d, 1, [&](Val c) { (place(c) + 2).store(k.constant(half, 0)); }); });
  }

  void run() {
    blocks.run(k.operand(Operand::X), k.tokens * h.rows, k.operand(Operand::Weight),
               [&](Val first, Val count, Val group, Ptr sums) {
                 k.loop(k.i64(0), count, 1, [&](Val r) { finish(first + r, group, r, sums); });
               });
  }

  void finish(Val row, Val group, Val r, Ptr sums) {
    Ptr of = sums + r * (width * 4), rowAngles = angles + r * angleBytes;
    makeAngles(row, rowAngles);
    k.channels(width, [&](Val c, int64_t n) {
      mlir::Type type = k.vec(n, k.f32());
      Ptr at = of + c * 4;
      at.store(at.load(type) + (bias + group * (width * 4) + c * 4).load(type));
    });
    Val tile = row / h.rows, inTile = row % k.i64(h.rows), firstHead = group * headsAtOnce;
    auto heads = [&](int64_t kind, llvm::function_ref<void(Ptr, Val)> body) {
      auto place = [&](int64_t head) { // in this group
        return min(max(k.i64(head) - firstHead, k.i64(0)), k.i64(headsAtOnce));
      };
      k.loop(place(kind * h.heads), place((kind + 1) * h.heads), 1,
             [&](Val i) { body(of + i * (d * 4), firstHead + i - kind * h.heads); });
    };
    heads(0, [&](Ptr head, Val number) { query(head, rowAngles, tile, inTile, number); });
    heads(1, [&](Ptr head, Val number) { key(head, rowAngles, tile, inTile, number); });
    heads(2, [&](Ptr head, Val number) { value(head, tile, inTile, number); });
  }
};
} // namespace

void CpuTowerQkv::emit(CpuKernel &k) const { TowerQkv{k, *this}.run(); }

} // namespace moe::codegen
