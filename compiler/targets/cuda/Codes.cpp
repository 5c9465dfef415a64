// Codes to pairs of bf16.
#include "compiler/targets/cuda/Codes.h"
#include "compiler/targets/cuda/Strips.h"

using namespace mlir;

namespace moe::codegen {

// Pairs of bf16, the same value twice.
static constexpr int64_t kOne = 0x3f803f80;

static Val bits(CudaKernel &k, int64_t value) { return k.i32(int64_t(int32_t(value))); }

Codes::Rows Codes::scales(Ptr head, int64_t group) {
  const int64_t bytes = bytesOf(format.scale);
  // The two rows of a lane are neighbours.
  Ptr at = k.offset(head, k.shiftRight(k.lane(), 2) * (2 * bytes)) +
           group * WeightLayout::stripRows * bytes;
  if (format.scale == Storage::F32) {
    Val both = k.load(at, k.vec(2, k.f32()));
    return {k.at(both, 0), k.at(both, 1)};
  }
  auto both = k.unpack(format.scale == Storage::F16 ? Half::F16 : Half::BF16, k.load(at, k.i32()));
  return {both.first, both.second};
}

// -(128 + zero), twice: a code of I4 becomes 128 + code first, see below.
Codes::Rows Codes::biases(Ptr head, int64_t group) {
  if (!format.zeros)
    return {bits(k, 0xc308c308), bits(k, 0xc308c308)};
  Ptr zeros = k.offset(head, k.shiftRight(k.lane(), 2) * 2) +
              WeightLayout::stripRows * (strip.groupsPerBlock * bytesOf(format.scale) + group);
  Val both = k.convert(k.load(zeros, k.getI16Type()), k.i32());
  auto row = [&](int64_t row) { // the zero lies in the mantissa of -128
    return (k.shiftRight(both, 8 * row) & 0xff) * 0x10001 | bits(k, 0xc300c300);
  };
  return {row(0), row(1)};
}

SmallVector<Val> Codes::load(Ptr tile) {
  SmallVector<Val> words;
  for (int64_t at = 0; at < strip.tileBytes; at += kFragmentBytes) {
    Val four = k.load(k.offset(tile, k.lane() * 16) + at, k.vec(4, k.i32()));
    for (int64_t i = 0; i < 4; ++i)
      words.push_back(k.at(four, i));
  }
  return words;
}

SmallVector<Val> Codes::operand(ArrayRef<Val> tile, int64_t k16, const Rows &biases) {
  SmallVector<Val> a;
  for (int64_t pair = 0; pair < 4; ++pair)
    switch (format.element) {
    case Storage::I4:
      // 128 + code - (128 + zero), both steps exact.
      a.push_back(fma2(fourBits(tile[k16], pair), bits(k, kOne), biases[pair % 2]));
      break;
    case Storage::I8:
      a.push_back(eightBits(tile[k16 * 2 + pair / 2], pair % 2));
      break;
    default:
      a.push_back(fp8(tile[k16 * 2 + pair / 2], pair % 2));
    }
  return a;
}

Val Codes::fma2(Val a, Val b, Val c) {
  return k.ptx("fma.rn.bf16x2 $0, $1, $2, $3;", k.i32(), {a, b, c}, "=r,r,r,r",
               /*effects=*/false)[0];
}

// 128 has a mantissa whose last bit is 1: a code put into it is added.
Val Codes::fourBits(Val word, int64_t pair) {
  Val low = pair ? k.shiftRight(word, 4 * pair) : word;
  return (low & 0x000f000f) | bits(k, 0x43004300);
}

// The mantissa has room for seven bits of the eight. The highest one makes the difference between
// -256 and -128: it is the last bit of their exponent.
Val Codes::eightBits(Val word, int64_t pair) {
  Val both = pair ? k.shiftRight(word, 8) : word;
  Val low = (both & 0x007f007f) | bits(k, 0x43004300);
  Val high = (both & 0x00800080) ^ bits(k, 0xc380c380);
  return fma2(low, bits(k, kOne), high);
}

// Exponent and mantissa in place, but for the bias of the exponent: times 2 to the 120.
Val Codes::fp8(Val word, int64_t pair) {
  Val high = pair ? word : word << 8;
  Val value = (high & bits(k, 0x80008000)) | k.shiftRight(high & 0x7f007f00, 4);
  return fma2(value, bits(k, 0x7b807b80), bits(k, 0x80008000));
}

void Codes::add(MutableArrayRef<Val> sums, ArrayRef<Val> part, const Rows &scales) {
  for (size_t i = 0; i < sums.size(); ++i)
    sums[i] = fma(part[i], scales[i / 2 % 2], sums[i]);
}

StageStrip::StageStrip(CudaKernel &k, std::optional<Codes> &codes, Ptr at)
    : codes(codes ? &*codes : nullptr) {
  if (codes) {
    for (int64_t g = 0; g < codes->groupsOfTile(); ++g)
      biases.push_back(codes->biases(at, g));
    words = codes->load(at + codes->headBytes());
    return;
  }
  for (int64_t k16 = 0; k16 < 4; ++k16) {
    Val a = k.load(k.offset(at, k.lane() * 16) + k16 * kFragmentBytes, k.vec(4, k.i32()));
    for (int64_t i = 0; i < 4; ++i)
      words.push_back(k.at(a, i));
  }
}

StageStrip::StageStrip(std::optional<Codes> &codes, ArrayRef<Val> values)
    : codes(codes ? &*codes : nullptr) {
  const int64_t groups = codes ? codes->groupsOfTile() : 0;
  const int64_t carried = codes && codes->zeros() ? 2 * groups : 0;
  words.assign(values.begin(), values.end() - carried);
  ArrayRef<Val> rest = values.take_back(carried);
  for (int64_t g = 0; g < groups; ++g)
    biases.push_back(carried ? Codes::Rows{rest[2 * g], rest[2 * g + 1]} : codes->biases({}, g));
}

SmallVector<Val> StageStrip::values() const {
  SmallVector<Val> out = words;
  if (codes && codes->zeros())
    for (const Codes::Rows &rows : biases)
      out.append(rows.begin(), rows.end());
  return out;
}

SmallVector<Val> StageStrip::operand(int64_t k16) {
  if (codes)
    return codes->operand(words, k16, biases[k16 / codes->productsOfGroup()]);
  return SmallVector<Val>(ArrayRef(words).slice(4 * k16, 4));
}

} // namespace moe::codegen
