// What an answer may look like: grammars over the ids of a tokenizer.
//
// Only GrammarXgrammar.cpp and what it alone includes know the library behind it. A build without
// that library has a compiler that refuses everything and says so.
#ifndef MOE_RUNTIME_SERVER_GRAMMAR_H
#define MOE_RUNTIME_SERVER_GRAMMAR_H

#include "runtime/text/Tokenizer.h"

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moe::server {

struct GrammarSource {
  enum class Kind {
    JsonObject, // any JSON object; text is empty
    JsonSchema, // text: the schema, an object or a boolean in JSON
    Regex,      // text: the expression, of the whole answer
    Choice,     // choices: the answer is one of them
    Ebnf,       // text: GBNF as xgrammar and vLLM's `grammar` have it, with the start symbol root
    ToolCalls,  // text: JSON array of {"name", "parameters": schema, "strict": bool}, of which a
               // call has the form {"name": "f", "parameters": {...}}; with `several`, calls follow
               // each other without anything between; with `amidText`, text comes before, between
               // and after them, and all that it may not have is another beginning of a call of
               // one of these tools: what begins as one goes on as the tool's parameters ask
  };
  Kind kind = Kind::JsonObject;
  std::string text{};
  std::vector<std::string> choices{};
  bool strict = false; // what a schema asks and a grammar cannot promise is refused, else left out
  bool several = false;
  bool amidText = false;
};

// Where one answer is in its grammar. For one thread at a time.
class GrammarMatcher {
public:
  virtual ~GrammarMatcher() = default;

  // Bit i of word i / 32 of `words`, ceil(vocabulary / 32) of them: whether token i may follow.
  // Stop tokens may where the grammar can end, other special tokens never may. No bit at all:
  // nothing can follow, because `finished`, or because the grammar has become too costly to follow:
  // the answer has failed.
  virtual void fillMask(std::span<uint32_t> words) = 0;

  // False, and nothing changes, if the token may not follow.
  virtual bool accept(int32_t token) = 0;

  // Takes back the last `tokens` that were accepted; at most as many as were.
  virtual void rollback(int32_t tokens) = 0;

  // After a stop token, or where nothing but a stop token may follow.
  virtual bool finished() const = 0;
};

// Shared by any number of threads.
class CompiledGrammar {
public:
  virtual ~CompiledGrammar() = default;
  virtual std::unique_ptr<GrammarMatcher> start() const = 0;
};

struct GrammarLimits {
  size_t maxBytes = 64 << 10; // of a source
  int maxDepth = 32;          // of arrays and objects in each other, and of parentheses
  std::chrono::milliseconds maxTime{5000}; // of one call of compile
  size_t maxMemory = size_t(256) << 20;    // bytes that one call of compile may write
  uint64_t maxSteps =
      1 << 19; // of the parser in one call of fillMask or accept, some 10 million a second
  size_t cacheBytes =
      size_t(256) << 20; // of compiled grammars that are kept for the next that asks
  size_t refusalBytes = size_t(8) << 20;   // of sources that were refused, which are kept as well:
  std::chrono::milliseconds retry{60'000}; // so long where it was for their time or memory
};

class GrammarCompiler {
public:
  virtual ~GrammarCompiler() = default;

  // Compiles, or finds what was compiled or refused before; runs on the calling thread, any number
  // of them at a time. Errors: InvalidArgument, for the client, with what is wrong in the source
  // and where; ResourceExhausted, for the client too, if it takes too long or too much memory;
  // Unavailable in a build without grammars.
  virtual Result<std::shared_ptr<const CompiledGrammar>> compile(const GrammarSource &source) = 0;

  // `vocab`: how many logits there are, at least the tokenizer's ids. The tokenizer is not needed
  // afterwards. Takes some tenths of a second for Llama 4's vocabulary.
  static Result<std::unique_ptr<GrammarCompiler>> create(const Tokenizer &tokenizer, int64_t vocab,
                                                         std::span<const int32_t> stopTokens,
                                                         const GrammarLimits &limits = {});

  // Whether this build has grammars.
  static bool available();
};

} // namespace moe::server

#endif
