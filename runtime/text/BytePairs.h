// Byte-pair encoding of one piece of text.
#ifndef MOE_RUNTIME_TEXT_BYTEPAIRS_H
#define MOE_RUNTIME_TEXT_BYTEPAIRS_H

#include "runtime/text/TokenizerTables.h"

namespace moe {

// Appends the ids of `piece`: its bytes, merged pair by pair, always the pair of lowest rank and of
// equal ones the leftmost. O(n log n) in the bytes of the piece.
void encodeBytePairs(const TokenizerTables &tables, std::string_view piece,
                     std::vector<int32_t> &out);

} // namespace moe

#endif
