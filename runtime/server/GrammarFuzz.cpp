// Compiles grammars out of arbitrary bytes and follows them. The first byte chooses the kind, the
// rest is the source; in a grammar that compiles, tokens are tried that the bytes choose, and mask
// and accept must agree.
#include "runtime/server/TestGrammars.h"

#include <cstdlib>

using namespace moe;
using namespace moe::server;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const TestVocabularyOfJson json = jsonVocabulary(5, 400);
  static const std::unique_ptr<GrammarCompiler> compiler = [] {
    const int32_t stops[] = {kEnd, kTurn};
    GrammarLimits limits;
    limits.maxTime = std::chrono::milliseconds(500);
    limits.maxMemory = 32 << 20;
    limits.maxSteps = 1 << 16;
    limits.cacheBytes = 1 << 20;
    return std::move(*GrammarCompiler::create(json.owned.tokenizer, json.vocab, stops, limits));
  }();
  if (size == 0)
    return 0;
  GrammarSource source;
  source.kind = GrammarSource::Kind(data[0] % 6);
  source.strict = data[0] & 64;
  source.several = data[0] & 128;
  source.text.assign(reinterpret_cast<const char *>(data + 1), size - 1);
  source.choices = {source.text.substr(0, source.text.size() / 2),
                    source.text.substr(source.text.size() / 2)};
  const auto grammar = compiler->compile(source);
  if (!grammar)
    return 0;
  const auto matcher = (*grammar)->start();
  for (size_t i = 1; i < size && i < 40; ++i) {
    const auto mask = maskOf(*matcher, json.vocab);
    const auto ids = idsOf(mask, json.vocab);
    if (ids.empty())
      return 0;
    const auto tried = int32_t(data[i] * 3 % json.vocab);
    const bool taken = matcher->accept(tried);
    // A matcher that has given up takes nothing, whatever its last mask says.
    if (taken != bit(mask, tried) && !matcher->finished())
      std::abort();
    if (taken)
      matcher->rollback(1);
    if (!matcher->accept(ids[data[i] % ids.size()]))
      return 0;
  }
  return 0;
}
