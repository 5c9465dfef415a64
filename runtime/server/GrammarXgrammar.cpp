// Grammars by xgrammar, whose exceptions and messages end here.
#include "runtime/server/Grammar.h"
#include "runtime/server/GrammarCache.h"
#include "runtime/server/GrammarSchema.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <xgrammar/xgrammar.h>

namespace moe::server {
namespace {
using Clock = std::chrono::steady_clock;

struct TooMuch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// How much the calls of xgrammar on this thread may still do, and what they complained of.
struct Work {
  Clock::time_point deadline = Clock::time_point::max();
  uint64_t bytes = ~uint64_t(0), steps = ~uint64_t(0); // left
  uint32_t untilClock = 0;                             // steps until the next look at it
  std::vector<std::string> warnings;
};
thread_local Work *current = nullptr;

// What xgrammar says of itself ("Check failed: (...) is false: ") means nothing to a client, and it
// quotes input of any length.
std::string forClient(std::string message) {
  constexpr std::string_view kMark = " is false: ";
  constexpr size_t kLongest = 400;
  if (const size_t mark = message.find(kMark);
      message.starts_with("Check failed: ") && mark != std::string::npos)
    message.erase(0, mark + kMark.size());
  if (message.size() > kLongest) {
    size_t end = kLongest;
    while (end > 0 && (message[end] & 0xC0) == 0x80)
      --end;
    message.resize(end);
    message += "...";
  }
  return message;
}

// Runs a call of xgrammar with limits; any exception becomes an error.
template <typename F> auto guarded(Work &work, F call) -> Result<decltype(call())> {
  struct Restore {
    ~Restore() { current = nullptr; }
  } restore;
  current = &work;
  try {
    return call();
  } catch (const TooMuch &e) {
    return Error{Code::ResourceExhausted, e.what()};
  } catch (const std::bad_alloc &) {
    return Error{Code::ResourceExhausted, "the grammar needs more memory than there is"};
  } catch (const std::exception &e) {
    return Error{Code::InvalidArgument, e.what()};
  }
}
} // namespace
} // namespace moe::server

// NOLINTBEGIN(readability-identifier-naming): xgrammar calls these.
namespace xgrammar {
void CountStep() {
  moe::server::Work *work = moe::server::current;
  if (!work)
    return;
  if (work->steps-- == 0)
    throw moe::server::TooMuch("the grammar takes too long to follow; make it simpler");
  if (work->untilClock-- != 0)
    return;
  work->untilClock = 4096;
  if (moe::server::Clock::now() > work->deadline)
    throw moe::server::TooMuch("the grammar takes too long to compile; make it simpler");
}

void CountMemory(size_t bytes) {
  moe::server::Work *work = moe::server::current;
  if (!work)
    return;
  if (bytes > work->bytes)
    throw moe::server::TooMuch("the grammar takes too much memory to compile; make it simpler");
  work->bytes -= bytes;
  CountStep();
}

// Declared in xgrammar's cpp/support/logging.h for those who build it with XGRAMMAR_LOG_CUSTOMIZE.
[[noreturn]] void LogFatalImpl(const std::string &, int, const std::string &message) {
  throw std::runtime_error(message);
}

void LogMessageImpl(const std::string &, int, int level, const std::string &message) {
  constexpr int kWarning = 2;
  if (level == kWarning && moe::server::current)
    moe::server::current->warnings.push_back(message);
}
} // namespace xgrammar
// NOLINTEND(readability-identifier-naming)

namespace moe::server {
namespace {

// Where JSON may have white space it may have any amount, and models come to write it without end.
// So after so many bytes of it something else has to follow, if anything else may: enough for a
// line break and the indentation of what people write, and little enough for an answer to end in
// time.
constexpr int32_t kMostBlanks = 32;

bool isBlank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

// A bit for each token that is white space alone.
using Blanks = std::vector<uint32_t>;

Blanks blanksOf(const std::vector<std::string> &tokens) {
  Blanks blanks((tokens.size() + 31) / 32);
  for (size_t id = 0; id < tokens.size(); ++id)
    if (!tokens[id].empty() && std::ranges::all_of(tokens[id], isBlank))
      blanks[id / 32] |= 1u << id % 32;
  return blanks;
}

class Matcher final : public GrammarMatcher {
public:
  // `blanks`: null where the grammar is not of JSON.
  Matcher(const xgrammar::CompiledGrammar &grammar, uint64_t maxSteps,
          std::shared_ptr<const Blanks> blanks)
      : tokens(grammar.GetTokenizerInfo()), matcher(grammar), maxSteps(maxSteps),
        blanks(std::move(blanks)) {}

  void fillMask(std::span<uint32_t> words) override { fill(words); }

  bool accept(int32_t token) override {
    if (tooBlank() && token >= 0 && token < tokens.GetVocabSize() && has(*blanks, token)) {
      std::vector<uint32_t> mask(blanks->size());
      fill(mask);
      if (!has(mask, token))
        return false;
    }
    const auto accepted = run([&] { return matcher.AcceptToken(token); });
    if (!accepted || !*accepted)
      return false;
    ended.reset();
    if (blanks)
      blankRuns.push_back(blankRun(tokens.GetDecodedVocab()[size_t(token)]));
    return true;
  }

  void rollback(int32_t count) override {
    ended.reset();
    const auto back = run([&] {
      matcher.Rollback(count);
      return true;
    });
    if (back && blanks)
      blankRuns.resize(blankRuns.size() - size_t(count));
  }

  bool finished() const override {
    if (failed || matcher.IsTerminated())
      return true;
    if (!matcher.IsCompleted())
      return false;
    if (!ended)
      ended = onlyStopTokens();
    return *ended;
  }

private:
  static bool has(std::span<const uint32_t> words, int32_t token) {
    return words[size_t(token) / 32] >> (token % 32) & 1;
  }

  bool tooBlank() const { return blanks && !blankRuns.empty() && blankRuns.back() >= kMostBlanks; }

  // Bytes of white space at the end, with `token` after the tokens before.
  int32_t blankRun(const std::string &token) const {
    const auto last = std::find_if_not(token.rbegin(), token.rend(), isBlank);
    const auto own = int32_t(last - token.rbegin());
    const int32_t before = blankRuns.empty() ? 0 : blankRuns.back();
    return last == token.rend() ? std::min(before + own, kMostBlanks) : own;
  }

  void fill(std::span<uint32_t> words) const {
    std::ranges::fill(words, 0);
    if (failed || matcher.IsTerminated())
      return;
    int64_t shape[] = {int64_t(words.size())};
    DLTensor mask{words.data(), {kDLCPU, 0}, 1, {kDLInt, 32, 1}, shape, nullptr, 0};
    if (!run([&] { return matcher.FillNextTokenBitmask(&mask); })) {
      std::ranges::fill(words, 0);
      return;
    }
    const int32_t vocab = tokens.GetVocabSize();
    if (vocab % 32 != 0) // what follows the last token xgrammar leaves to chance
      words.back() &= (1u << vocab % 32) - 1;
    if (!tooBlank())
      return;
    bool others = false;
    for (size_t i = 0; i < words.size(); ++i)
      others |= (words[i] & ~(*blanks)[i]) != 0;
    for (size_t i = 0; others && i < words.size(); ++i)
      words[i] &= ~(*blanks)[i];
  }

  // A call that was cut short leaves a state that is neither the one before nor the one after, so
  // it is the last.
  template <typename F> auto run(F call) const -> std::optional<decltype(call())> {
    if (failed)
      return std::nullopt;
    Work work;
    work.steps = maxSteps;
    auto result = guarded(work, call);
    failed = !result;
    if (failed)
      return std::nullopt;
    return *result;
  }

  bool onlyStopTokens() const {
    std::vector<uint32_t> words(size_t(tokens.GetVocabSize() + 31) / 32);
    fill(words);
    for (int32_t stop : matcher.GetStopTokenIds())
      words[size_t(stop) / 32] &= ~(1u << stop % 32);
    return std::ranges::all_of(words, [](uint32_t word) { return word == 0; });
  }

  xgrammar::TokenizerInfo tokens;
  mutable xgrammar::GrammarMatcher matcher;
  uint64_t maxSteps;
  std::shared_ptr<const Blanks> blanks;
  std::vector<int32_t> blankRuns; // after each token
  mutable bool failed = false;
  mutable std::optional<bool> ended; // nothing but a stop token may follow
};

class Compiled final : public CompiledGrammar {
public:
  Compiled(xgrammar::CompiledGrammar grammar, uint64_t maxSteps,
           std::shared_ptr<const Blanks> blanks)
      : grammar(std::move(grammar)), maxSteps(maxSteps), blanks(std::move(blanks)) {}
  std::unique_ptr<GrammarMatcher> start() const override {
    return std::make_unique<Matcher>(grammar, maxSteps, blanks);
  }
  size_t bytes() const { return grammar.MemorySizeBytes(); }

private:
  xgrammar::CompiledGrammar grammar;
  uint64_t maxSteps;
  std::shared_ptr<const Blanks> blanks;
};

std::string keyOf(const GrammarSource &source) {
  std::string key;
  const auto add = [&](std::string_view text) {
    key.append(std::to_string(text.size())).append(":").append(text);
  };
  key += char('0' + int(source.kind));
  key += source.strict ? 's' : '-';
  key += source.several ? 's' : '-';
  key += source.amidText ? 't' : '-';
  add(source.text);
  for (const std::string &choice : source.choices)
    add(choice);
  return key;
}

std::string literal(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result = "\"";
  for (const char c : text)
    if (c == '"' || c == '\\')
      result.append({'\\', c});
    else if (uint8_t(c) < 0x20 || c == 0x7f)
      result.append({'\\', 'u', '0', '0', kDigits[uint8_t(c) >> 4], kDigits[c & 15]});
    else
      result += c;
  return result + '"';
}

class XgrammarCompiler final : public GrammarCompiler {
public:
  XgrammarCompiler(const xgrammar::TokenizerInfo &info, Blanks blanks, const GrammarLimits &limits)
      // One thread, ours, so that limits and messages find who asked; what is kept, we keep.
      : compiler(info, 1, false), blanks(std::make_shared<const Blanks>(std::move(blanks))),
        limits(limits), cache(limits.cacheBytes, limits.refusalBytes, limits.retry) {}

  Result<std::shared_ptr<const CompiledGrammar>> compile(const GrammarSource &source) override {
    MOE_TRY(checkSize(source));
    try {
      std::string key = keyOf(source);
      if (auto before = cache.find(key))
        return *std::move(before);
      auto grammar = compileFenced(source);
      if (!grammar) {
        cache.refuse(std::move(key), grammar.error());
        return grammar.error();
      }
      cache.keep(std::move(key), *grammar, (*grammar)->bytes());
      return std::shared_ptr<const CompiledGrammar>(*std::move(grammar));
    } catch (const std::bad_alloc &) {
      return noMemory();
    }
  }

private:
  static Error noMemory() {
    return {Code::ResourceExhausted, "the grammar needs more memory than there is"};
  }

  Result<std::shared_ptr<const Compiled>> compileFenced(const GrammarSource &source) {
    try {
      auto grammar = compileWhole(source);
      if (!grammar)
        return Error{grammar.error().code, forClient(grammar.error().message)};
      return grammar;
    } catch (const std::bad_alloc &) {
      return noMemory();
    } catch (const std::exception &e) { // of picojson
      return Error{Code::InvalidArgument, forClient(e.what())};
    }
  }

  Result<std::shared_ptr<const Compiled>> compileWhole(const GrammarSource &source) {
    Work work;
    work.deadline = Clock::now() + limits.maxTime;
    work.bytes = limits.maxMemory;
    MOE_ASSIGN(grammar, compileNew(source, work));
    const bool json = source.kind == GrammarSource::Kind::JsonObject ||
                      source.kind == GrammarSource::Kind::JsonSchema ||
                      (source.kind == GrammarSource::Kind::ToolCalls && !source.amidText);
    auto compiled =
        std::make_shared<const Compiled>(grammar, limits.maxSteps, json ? blanks : nullptr);
    MOE_ASSIGN(matcher, guarded(work, [&] { return compiled->start(); }));
    std::vector<uint32_t> first(blanks->size());
    matcher->fillMask(first);
    if (std::ranges::all_of(first, [](uint32_t word) { return word == 0; }))
      return Error{Code::InvalidArgument, "there is no text that the grammar allows"};
    return compiled;
  }

  Status checkSize(const GrammarSource &source) const {
    size_t bytes = source.text.size();
    for (const std::string &choice : source.choices)
      bytes += choice.size() + 1;
    if (bytes > limits.maxBytes)
      return Error{Code::InvalidArgument, "the grammar has " + std::to_string(bytes) +
                                              " bytes, and " + std::to_string(limits.maxBytes) +
                                              " is the most"};
    return ok();
  }

  Result<xgrammar::CompiledGrammar> compileNew(const GrammarSource &source, Work &work) {
    switch (source.kind) {
    case GrammarSource::Kind::JsonObject:
      return bySchema(R"({"type":"object","additionalProperties":true})", work);
    case GrammarSource::Kind::JsonSchema: {
      MOE_ASSIGN(schema, prepareSchema(source.text, source.strict, limits.maxDepth));
      auto grammar = bySchema(schema, work);
      if (grammar)
        MOE_TRY(refuseWarnings(work, source.strict));
      return grammar;
    }
    case GrammarSource::Kind::Regex: {
      MOE_TRY(checkDepth(source.text, "(", ")", '\0', limits.maxDepth));
      MOE_TRY(checkRepetition(source.text));
      auto grammar = guarded(work, [&] { return compiler.CompileRegex(source.text); });
      if (grammar)
        MOE_TRY(refuseWarnings(work, true));
      return grammar;
    }
    case GrammarSource::Kind::Choice: {
      if (source.choices.empty())
        return Error{Code::InvalidArgument, "there are no choices"};
      std::string text = "root ::= ";
      for (const std::string &choice : source.choices)
        text += (&choice == source.choices.data() ? "" : " | ") + literal(choice);
      return byText(text, work);
    }
    case GrammarSource::Kind::Ebnf:
      MOE_TRY(checkDepth(source.text, "(", ")", '"', limits.maxDepth));
      MOE_TRY(checkEscapes(source.text));
      return byText(source.text, work);
    case GrammarSource::Kind::ToolCalls: {
      MOE_ASSIGN(calls, toolCallTag(source.text,
                                    {source.several, source.amidText, source.strict, kMostBlanks},
                                    limits.maxDepth));
      for (const std::string &schema : calls.strict) {
        MOE_TRY(guarded(work, [&] { return xgrammar::Grammar::FromJSONSchema(schema); }));
        MOE_TRY(refuseWarnings(work, true));
      }
      return guarded(work, [&] { return compiler.CompileStructuralTag(calls.tag); });
    }
    }
    return Error{Code::InvalidArgument, "unknown kind of grammar"};
  }

  Result<xgrammar::CompiledGrammar> bySchema(const std::string &schema, Work &work) {
    return guarded(work, [&] { return compiler.CompileJSONSchema(schema); });
  }

  Result<xgrammar::CompiledGrammar> byText(const std::string &text, Work &work) {
    return guarded(work, [&] { return compiler.CompileGrammar(text); });
  }

  // xgrammar warns of what it leaves out.
  static Status refuseWarnings(const Work &work, bool strict) {
    if (strict && !work.warnings.empty())
      return Error{Code::InvalidArgument, work.warnings.front()};
    return ok();
  }

  xgrammar::GrammarCompiler compiler;
  std::shared_ptr<const Blanks> blanks;
  GrammarLimits limits;
  GrammarCache cache;
};
} // namespace

Result<std::unique_ptr<GrammarCompiler>>
GrammarCompiler::create(const Tokenizer &tokenizer, int64_t vocab,
                        std::span<const int32_t> stopTokens, const GrammarLimits &limits) {
  if (vocab <= 0 || vocab > INT32_MAX)
    return Error{Code::InvalidArgument, "a vocabulary of " + std::to_string(vocab) + " tokens"};
  // Ids without bytes are what xgrammar never lets into a text: special tokens, and holes.
  std::vector<std::string> tokens(static_cast<size_t>(vocab));
  for (int32_t id = 0; id < vocab; ++id)
    if (!tokenizer.isSpecial(id))
      tokens[size_t(id)] = tokenizer.bytes(id);
  std::vector<int32_t> stops(stopTokens.begin(), stopTokens.end());
  for (int32_t stop : stops)
    if (stop < 0 || stop >= vocab)
      return Error{Code::InvalidArgument, "the stop token " + std::to_string(stop) +
                                              " is not among " + std::to_string(vocab) + " tokens"};
  if (stops.empty())
    return Error{Code::InvalidArgument, "a grammar ends with a stop token, and there is none"};
  Work work;
  MOE_ASSIGN(info, guarded(work, [&] {
               return xgrammar::TokenizerInfo(tokens, xgrammar::VocabType::RAW, std::nullopt,
                                              stops);
             }));
  return std::unique_ptr<GrammarCompiler>(
      std::make_unique<XgrammarCompiler>(info, blanksOf(tokens), limits));
}

bool GrammarCompiler::available() { return true; }

} // namespace moe::server
