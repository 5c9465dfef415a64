// Reads a checkpoint's tokenizer: Hugging Face's tokenizer.json or Meta's tokenizer.model.
#ifndef MOE_COMPILER_IMPORT_TOKENIZERFILE_H
#define MOE_COMPILER_IMPORT_TOKENIZERFILE_H

#include "runtime/text/ChatTemplate.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"

#include <optional>
#include <string>
#include <vector>

namespace moe {

// All that a plan says about text. buildTokenizerTables makes the plan's tables of tokens and
// merges; everything else goes into its index.
struct TokenizerModel {
  std::vector<std::string> tokens;    // the bytes of each id; empty: a hole, or a special token
  std::vector<Merge> merges;          // the first to be merged first
  std::vector<SpecialToken> specials; // in order of id
  bool ignoreMerges = false;          // a piece that is a token is taken whole
  bool addBos = false;                // encoding a prompt starts with `bos`
  int32_t bos = -1;                   // -1: none
  std::optional<ChatFormat> chat;     // where the special tokens of Llama 4's layout exist
  std::string unknownTemplate;        // path of a chat template whose tools are not known

  TokenizerSettings settings() const {
    return {uint32_t(tokens.size()), specials, ignoreMerges, addBos, bos};
  }

  // `folder` holds a checkpoint; tokenizer.json goes before tokenizer.model. Nothing if it has
  // neither. What is legal but suspicious is appended to `warnings`.
  static llvm::Expected<std::optional<TokenizerModel>> open(llvm::StringRef folder,
                                                            std::vector<std::string> &warnings);

  // A tokenizer.json. It must be what Llama 4 has: byte-level BPE without normalizer, Llama 4's
  // pre-tokenizer, at most one token (BOS) added, in front. `name` starts the messages.
  static llvm::Expected<TokenizerModel> parseJson(llvm::StringRef json, llvm::StringRef name);

  // Meta's form, lines of base64 bytes, a space, and the rank. The special tokens are not in the
  // file but those of all Llama 4 models, so it must have their 200,000 tokens.
  static llvm::Expected<TokenizerModel> parseRanks(llvm::StringRef text, llvm::StringRef name);
};

// The contents of Meta's 2048 special tokens, in order of id.
std::vector<std::string> llama4SpecialTokens();

} // namespace moe

#endif
