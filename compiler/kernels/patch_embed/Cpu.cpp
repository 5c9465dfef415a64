// Patches, their product, positions and the first norm, a block of patches after the other: a
// worker makes whole rows, which the norm needs.
#include "compiler/kernels/layer_norm/Cpu.h"
#include "compiler/kernels/patch_embed/PatchEmbed.h"
#include "compiler/targets/cpu/CpuKernel.h"

namespace moe::codegen {

namespace {
struct PatchEmbed {
  CpuKernel &k;
  const CpuPatchEmbed &s;
  const ActivationRow row{s.format, s.columns()};
  const int64_t patches = s.grid * s.grid, tile = k.tileTokens(s.format), width = padded(s.hidden);
  const int64_t blockRows = 48;        // whole tiles of every target's
  Ptr values = k.scratch(3 * 256 * 4); // of each channel's bytes
  Ptr pixels = k.scratch(padded(s.columns()) * 4), x = k.scratch(blockRows * row.bytes()),
      sums = k.scratch(blockRows * width * 4), ids = k.scratch(blockRows * 4);
  Ptr tiles = k.operand(Operand::Tiles), weight = k.operand(Operand::Weight),
      classRow = k.operand(Operand::ClassRow), table = k.operand(Operand::RowTable),
      h = k.operand(Operand::H);
  const LayerNormWeights norm{k.operand(Operand::Norm), k.operand(Operand::NormBias), s.hidden,
                              s.eps};

  Val rounded(Val v) {
    Val half = k.bitcast(k.toStorage(v, Storage::BF16), k.vec(v.lanes(), k.getI16Type()));
    return k.bitcast(k.convert(half, k.i32()) << 16, v.type());
  }
  static double rounded(float value) {
    const StorageInfo &bf16 = infoOf(Storage::BF16);
    return bf16.decode(bf16.encode(value, 0), 0);
  }
  void makeValues() {
    const int64_t lanes = k.target.lanes;
    for (int64_t channel = 0; channel < 3; ++channel)
      k.loop(0, 256, lanes, [&](Val byte) {
        Val bytes =
            k.convert(k.iota(lanes) + k.broadcast(k.convert(byte, k.i32()), lanes), k.f32());
        Val v = rounded(bytes * double(s.pixels.rescale));
        v = rounded(v - rounded(s.pixels.mean[channel]));
        v = rounded(v / rounded(s.pixels.std[channel]));
        (values + channel * 256 * 4 + byte * 4).store(v);
      });
    for (int64_t c = s.columns(); c < padded(s.columns()); ++c)
      (pixels + c * 4).store(k.f32(0));
    k.loop(0, blockRows, 1, [&](Val i) { (ids + i * 4).store(k.convert(i, k.i32())); });
  }

  // One patch as a row that feeds the product.
  void readPatch(Val t, Val patch, Ptr to) {
    const int64_t side = s.grid * s.patch, p = s.patch;
    Ptr corner = tiles + t * (side * side * 3) +
                 (patch / s.grid * (p * side) + patch % k.i64(s.grid) * p) * 3;
    k.loop(0, p, 1, [&](Val y) {
      k.loop(0, p, 1, [&](Val px) {
        Ptr from = corner + (y * side + px) * 3, at = pixels + (y * p + px) * 4;
        for (int64_t channel = 0; channel < 3; ++channel) {
          Val byte = k.convert((from + channel).load(k.getI8Type()), k.i64()) & 255;
          (at + channel * p * p * 4).store((values + channel * 256 * 4 + byte * 4).load(k.f32()));
        }
      });
    });
    k.activationRow(pixels, row, to);
  }

  // Adds the table's row to `from`, norms the sum in place and puts it into row `at` of the tile.
  void writeRow(Val t, Val at, Ptr from, Ptr sum) {
    k.channels(s.hidden, [&](Val c, int64_t lanes) {
      mlir::Type type = k.vec(lanes, k.f32());
      (sum + c * 4)
          .store((from + c * 4).load(type) + (table + at * (s.hidden * 4) + c * 4).load(type));
    });
    Ptr to = h + (t * s.rows() + at) * (width * 4);
    layerNorm(k, sum, norm, [&](Val c, Val y) { (to + c * 4).store(y); });
    for (int64_t c = s.hidden; c < width; ++c)
      (to + c * 4).store(k.f32(0));
  }

  void block(Val t, Val first) {
    Val count = min(k.i64(patches) - first, k.i64(blockRows));
    k.loop(k.i64(0), count, 1, [&](Val r) { readPatch(t, first + r, x + r * row.bytes()); });
    const int64_t bytes = panelBytes(s.format, s.columns());
    k.loop(0, width / kPanel, 1, [&](Val panel) {
      k.loop(k.i64(0), count, tile, [&](Val r) {
        k.product(s.format, {x + r * row.bytes(), row.bytes(), ids}, min(count - r, k.i64(tile)),
                  weight + panel * bytes, s.columns(),
                  {sums + r * (width * 4) + panel * (kPanel * 4), width * 4, ids},
                  /*add=*/false, k.turn(r, count, tile));
      });
    });
    k.loop(k.i64(0), count, 1, [&](Val r) {
      Ptr sum = sums + r * (width * 4);
      writeRow(t, first + r, sum, sum);
    });
    k.ifThen(eq(first, 0), [&] { writeRow(t, k.i64(patches), classRow, sums); });
  }

  void run() {
    makeValues();
    const int64_t blocks = llvm::divideCeil(patches, blockRows);
    k.parts(k.tokens * blocks, Claims{k.operand(Operand::Counters), 1}, [&](Val first, Val last) {
      k.loop(first, last, 1,
             [&](Val unit) { block(unit / blocks, unit % k.i64(blocks) * blockRows); });
    });
  }
};
} // namespace

void CpuPatchEmbed::emit(CpuKernel &k) const { PatchEmbed{k, *this}.run(); }

} // namespace moe::codegen
