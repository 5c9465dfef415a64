// The machine code of a toy model, cut out of the test program itself: position-independent,
// without calls and constants, as kernels in a plan are.
#ifndef MOE_TEST_RUNTIME_TOYKERNELS_H
#define MOE_TEST_RUNTIME_TOYKERNELS_H

#include <cstddef>
#include <cstdint>
#include <span>

namespace moe::toy {

constexpr int32_t vocab = 267, eos = 257, pageInts = 64;

// The model: the next token is a letter, or sometimes the end, by the sum of all tokens so far.
constexpr int32_t nextToken(int32_t sum) { return sum % 41 == 0 ? eos : 'a' + sum % 26; }

// Its pictures: tiles of 8 by 8 pixels with 4 rows, which count as rowOfTile and not as tokens.
constexpr int32_t channels = 16, tileBytes = 8 * 8 * 3, rowsPerTile = 4;
constexpr int32_t rowOfTile(int32_t sumOfBytes, int32_t row) {
  return (sumOfBytes + 7 * row) % 1000;
}

struct Code {
  std::span<const std::byte> bytes;
  uint64_t store, head, storeImages, see; // entries
};
Code code();

// The same kernels for GPUs, of sm_80 and later; with a NUL at the end.
std::span<const std::byte> ptx();

} // namespace moe::toy

#endif
