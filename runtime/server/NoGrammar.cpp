// The compiler of grammars of a build without xgrammar: refuses everything.
#include "runtime/server/Grammar.h"

namespace moe::server {
namespace {
class NoGrammarCompiler final : public GrammarCompiler {
public:
  Result<std::shared_ptr<const CompiledGrammar>> compile(const GrammarSource &source) override {
    return Error{Code::Unavailable, "this server was built without grammars (MOE_GRAMMAR): it "
                                    "cannot keep answers to a JSON schema, a "
                                    "regular expression, choices, a grammar or tool calls"};
  }
};
} // namespace

Result<std::unique_ptr<GrammarCompiler>> GrammarCompiler::create(const Tokenizer &, int64_t,
                                                                 std::span<const int32_t>,
                                                                 const GrammarLimits &) {
  return std::unique_ptr<GrammarCompiler>(std::make_unique<NoGrammarCompiler>());
}

bool GrammarCompiler::available() { return false; }

} // namespace moe::server
