#include "compiler/import/ChatTemplates.h"

#include "runtime/text/ChatTemplate.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/SHA256.h"

using llvm::StringRef;

namespace moe {

namespace {
struct KnownTemplate {
  const char *hash;
  const char *tools;
};
} // namespace

// Each line as check-chat-template.py prints it.
static constexpr KnownTemplate kKnown[] = {
    // what the converter of transformers 4.51 to 5 writes into Llama 4 checkpoints
    {"e7bffb2fb351fbfdd8cddb0ec47bc0addc5dbe402527eb4dab6723fba8d99d96", ChatFormat::kHfJson},
    // models/cria
    {"7e435eaf4f1dbb568fc310bd10435f2c494fc854475087774441f9d1c28976d2", ChatFormat::kHfJson},
};

std::string chatTemplateHash(StringRef text) {
  std::string kept;
  while (!text.empty()) {
    const auto [code, rest] = text.split("{#");
    for (const char c : code)
      if (!llvm::isSpace(c))
        kept += c;
    text = rest.split("#}").second;
  }
  return llvm::toHex(llvm::SHA256::hash(llvm::arrayRefFromStringRef(kept)), /*LowerCase=*/true);
}

const char *toolsOfChatTemplate(StringRef text) {
  const std::string hash = chatTemplateHash(text);
  for (const KnownTemplate &known : kKnown)
    if (hash == known.hash)
      return known.tools;
  return nullptr;
}

} // namespace moe
