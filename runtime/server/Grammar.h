// What an answer may look like: grammars over the ids of a tokenizer.
//
// Only GrammarXgrammar.cpp knows the library behind it. A build without it has a compiler that
// refuses everything and says so.
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
    JsonSchema, // text: the schema
    Regex,      // text: the expression, of the whole answer
    Choice,     // choices: one of them
    Ebnf,       // text: GBNF as xgrammar and vLLM's `grammar` have it, start symbol root
    ToolCalls,  // text: JSON array of {"name", "parameters": schema}; calls as JSON objects
                // {"name": ..., "parameters": {...}}, one or, with `several`, more, each checked
  };
  Kind kind;
  std::string text;
  std::vector<std::string> choices;
  bool strict = false; // keywords of a schema that cannot be kept to are refused
  bool several = false;
};

// Where one answer is in its grammar. For one thread.
class GrammarMatcher {
public:
  virtual ~GrammarMatcher() = default;
  // Bit i of word i / 32 of `words`, ceil(vocabulary / 32) of them: whether token i may follow.
  // Stop tokens may where the grammar can end.
  virtual void fillMask(std::span<uint32_t> words) = 0;
  // False, and nothing changes, if the token may not follow.
  virtual bool accept(int32_t token) = 0;
  virtual void rollback(int32_t tokens) = 0;
  virtual bool finished() const = 0; // after a stop token, or where nothing else may follow
};

// Shared by any number of threads.
class CompiledGrammar {
public:
  virtual ~CompiledGrammar() = default;
  virtual std::unique_ptr<GrammarMatcher> start() const = 0;
};

struct GrammarLimits {
  size_t maxBytes = 64 << 10; // of a source
  int maxDepth = 32;
  std::chrono::milliseconds maxTime{5000};
  size_t cacheBytes = 256 << 20;
};

class GrammarCompiler {
public:
  virtual ~GrammarCompiler() = default;
  // `vocab`: ids of the logits. Any number of threads. Errors: InvalidArgument, for the client,
  // with what is wrong in the source; Unavailable in a build without grammars.
  virtual Result<std::shared_ptr<const CompiledGrammar>> compile(const GrammarSource &source) = 0;

  static Result<std::unique_ptr<GrammarCompiler>> create(const Tokenizer &tokenizer, int64_t vocab,
                                                         std::span<const int32_t> stopTokens,
                                                         const GrammarLimits &limits = {});
};

} // namespace moe::server

#endif
