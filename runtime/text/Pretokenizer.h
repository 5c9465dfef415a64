// Cuts text into the pieces that byte-pair encoding may not merge across, as Llama 4 does.
//
// The rule is this regular expression, alternatives in order, each quantifier greedy:
//
//   1  [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|…|'d)?
//   2  [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|…|'d)?
//   3  \p{N}{1,3}
//   4   ?[^\s\p{L}\p{N}]+[\r\n/]*
//   5  \s*[\r\n]+
//   6  \s+(?!\S)
//   7  \s+
//
// with (?i:'s|'t|'re|'ve|'m|'ll|'d). It is matched by hand, in time linear in the text. Classes are
// those of Unicode 16.0, as in Hugging Face's `tokenizers`. A byte that is not part of valid UTF-8
// is a character of its own, neither letter nor number nor space.
#ifndef MOE_RUNTIME_TEXT_PRETOKENIZER_H
#define MOE_RUNTIME_TEXT_PRETOKENIZER_H

#include <cstddef>
#include <string_view>

namespace moe {

// The end of the piece that starts at `start`, which is the start of a piece, < text.size().
size_t endOfPiece(std::string_view text, size_t start);

// The expression, as it stands in a tokenizer.json.
inline constexpr std::string_view kLlama4Pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// `text` without the white space at its ends, as Python's str.strip().
std::string_view trim(std::string_view text);

} // namespace moe

#endif
