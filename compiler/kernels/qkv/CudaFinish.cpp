// Finishes q, k and v of larger steps: q for the kernel of attention, k and v into the cache. A
// warp takes a head of a token.
#include "compiler/kernels/qkv/CudaFinisher.h"

namespace moe::codegen {

void CudaFinish::emit(CudaKernel &k) const {
  const FinishSpec &s = finish;
  const CacheSpec &c = s.cache;
  TileLayout layout{c.headDim};
  k.blocksPerSm = c.headDim <= 128 ? 4 : 1;
  Ptr positions = k.operand(Operand::Positions), sequences = k.operand(Operand::Sequences),
      table = k.operand(Operand::BlockTable), sums = k.operand(Operand::Sums),
      q = k.operand(Operand::Q), cache = k.operand(Operand::Cache);
  std::optional<Ptr> rope;
  if (s.rope)
    rope = k.operand(Operand::RopeTable);
  Finisher finisher(k, s, positions, sums, rope);

  // Where the token's tile of keys or values is, and its row there.
  auto slot = [&](Val token, Val tile) {
    Val position = k.load(k.offset(positions, token * 4), k.i32(), true);
    Val sequence = k.load(k.offset(sequences, token * 4), k.i32(), true);
    Val entry = sequence * k.tableStride() + position / kPageTokens;
    Val page = k.load(k.offset(table, entry * 4), k.i32(), true);
    Ptr to = cache +
             (k.convert(page, k.i64()) * c.pageBytes + k.convert(tile, k.i64()) * layout.bytes());
    return std::pair(to, position % kPageTokens);
  };
  int64_t warps = k.threads / 32, heads = s.heads + 2 * c.heads;
  k.startNext();
  k.waitForPrevious();
  k.stride(k.block() * warps + k.warp(), k.tokens() * heads, k.blocks() * warps, [&](Val i) {
    Val token = i / heads, head = i % heads;
    k.ifThen(lt(head, k.i32(s.heads)), [&] {
      Ptr to = q + k.convert(token * s.heads + head, k.i64()) * (c.headDim * 2);
      finisher.query(token, head,
                     [&](Val pair, Val packed) { k.store(k.offset(to, pair * 4), packed); });
    });
    Val key = head - s.heads, value = key - c.heads;
    k.ifThen(ge(key, 0) & lt(value, 0), [&] {
      auto [to, row] = slot(token, key * 2);
      finisher.key(token, key, [&, to = to, row = row](Val pair, Val packed) {
        finisher.storePair(to, layout, row, pair, packed);
      });
    });
    k.ifThen(ge(value, 0), [&] {
      auto [to, row] = slot(token, value * 2 + 1);
      finisher.value(token, value, [&, to = to, row = row](Val pair, Val packed) {
        finisher.storePair(to, layout, row, pair, packed);
      });
    });
  });
}

} // namespace moe::codegen
