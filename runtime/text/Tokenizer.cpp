#include "runtime/text/Tokenizer.h"

#include "runtime/text/BytePairs.h"
#include "runtime/text/Pretokenizer.h"

#include <algorithm>
#include <numeric>

namespace moe {

static Error invalid(std::string what) {
  return Error{Code::InvalidPlan, "tokenizer: " + std::move(what)};
}

Result<Tokenizer> Tokenizer::create(std::span<const std::byte> bytes, TokenizerSettings settings) {
  MOE_ASSIGN(tables, TokenizerTables::view(bytes));
  if (tables.vocabSize() != settings.vocabSize)
    return invalid("tables for " + std::to_string(tables.vocabSize()) + " ids, expected " +
                   std::to_string(settings.vocabSize));

  Tokenizer t(tables);
  t.ignoreMerges = settings.ignoreMerges;
  t.prependsBos = settings.addBos;
  t.bosId = settings.bos;

  std::sort(settings.specials.begin(), settings.specials.end(),
            [](const auto &a, const auto &b) { return a.content < b.content; });
  for (SpecialToken &token : settings.specials) {
    const std::string name = "special token " + std::to_string(token.id);
    if (token.content.empty())
      return invalid(name + " is empty");
    if (token.id < 0)
      return invalid(name + " has a negative id");
    if (!t.all.tokens.empty() && t.all.tokens.back().content == token.content)
      return invalid(name + " has the content of " + std::to_string(t.all.tokens.back().id));
    // Otherwise text that is not parsed for special tokens could still spell it.
    if (token.special && uint32_t(token.id) < tables.vocabSize() && !tables.token(token.id).empty())
      return invalid(name + " is also a token of the vocabulary");
    if (!token.special)
      t.ordinary.add(token);
    t.all.add(std::move(token));
  }

  t.byId.resize(t.all.tokens.size());
  std::iota(t.byId.begin(), t.byId.end(), 0);
  const auto idOf = [&](uint32_t i) { return t.all.tokens[i].id; };
  std::sort(t.byId.begin(), t.byId.end(), [&](auto a, auto b) { return idOf(a) < idOf(b); });
  for (size_t i = 1; i < t.byId.size(); ++i)
    if (idOf(t.byId[i]) == idOf(t.byId[i - 1]))
      return invalid("two special tokens have id " + std::to_string(idOf(t.byId[i])));

  if (t.bosId != -1 && t.bytes(t.bosId).empty())
    return invalid("the begin-of-sequence id " + std::to_string(t.bosId) + " is no token");
  if (t.prependsBos && t.bosId == -1)
    return invalid("a begin-of-sequence token is to be added, but there is none");
  return t;
}

void Tokenizer::encode(std::string_view text, std::vector<int32_t> &out, bool parseSpecial) const {
  for (size_t at = 0; at < text.size();) {
    const SpecialMatch match = nextSpecial(text, at, parseSpecial);
    encodeOrdinary(text.substr(at, match.begin - at), out);
    if (match.length > 0)
      out.push_back(match.id);
    at = match.begin + match.length;
  }
}

void Tokenizer::encodeOrdinary(std::string_view text, std::vector<int32_t> &out) const {
  for (size_t start = 0; start < text.size();) {
    const size_t end = endOfPiece(text, start);
    const std::string_view piece = text.substr(start, end - start);
    start = end;
    const uint32_t whole = ignoreMerges ? tables.find(piece) : TokenizerTables::kNone;
    if (whole != TokenizerTables::kNone)
      out.push_back(int32_t(whole));
    else
      encodeBytePairs(tables, piece, out);
  }
}

std::string_view Tokenizer::bytes(int32_t id) const {
  if (const SpecialToken *token = specialById(id))
    return token->content;
  return id >= 0 && uint32_t(id) < tables.vocabSize() ? tables.token(id) : std::string_view();
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skipSpecial) const {
  std::string text;
  for (const int32_t id : ids)
    if (!skipSpecial || !isSpecial(id))
      text += bytes(id);
  return text;
}

int32_t Tokenizer::special(std::string_view content) const {
  const SpecialToken *token = all.longestPrefix(content);
  return token && token->content == content ? token->id : -1;
}

bool Tokenizer::isSpecial(int32_t id) const {
  const SpecialToken *token = specialById(id);
  return token && token->special;
}

const SpecialToken *Tokenizer::specialById(int32_t id) const {
  const auto it = std::lower_bound(byId.begin(), byId.end(), id, [&](uint32_t i, int32_t wanted) {
    return all.tokens[i].id < wanted;
  });
  return it != byId.end() && all.tokens[*it].id == id ? &all.tokens[*it] : nullptr;
}

Tokenizer::SpecialMatch Tokenizer::nextSpecial(std::string_view text, size_t start,
                                               bool parseSpecial) const {
  const Matcher &matcher = parseSpecial ? all : ordinary;
  for (size_t at = matcher.tokens.empty() ? text.size() : start; at < text.size(); ++at)
    if (matcher.firstBytes[uint8_t(text[at])])
      if (const SpecialToken *token = matcher.longestPrefix(text.substr(at)))
        return {at, token->content.size(), token->id};
  return {text.size(), 0, -1};
}

void Tokenizer::Matcher::add(SpecialToken token) {
  firstBytes.set(uint8_t(token.content[0]));
  tokens.push_back(std::move(token));
}

const SpecialToken *Tokenizer::Matcher::longestPrefix(std::string_view text) const {
  // The tokens that agree with the text so far are neighbours, the one that ends here is the first.
  const SpecialToken *longest = nullptr;
  auto first = tokens.begin(), last = tokens.end();
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = text[i];
    first = std::partition_point(first, last, [&](const SpecialToken &t) {
      return t.content.size() <= i || uint8_t(t.content[i]) < byte;
    });
    last = std::partition_point(
        first, last, [&](const SpecialToken &t) { return uint8_t(t.content[i]) == byte; });
    if (first == last)
      break;
    if (first->content.size() == i + 1)
      longest = &*first;
  }
  return longest;
}

std::vector<int32_t> encodePrompt(const Tokenizer &tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids);
  const bool bos = tokenizer.addBos() && tokenizer.bos() >= 0;
  if (bos && (ids.empty() || ids[0] != tokenizer.bos())) // the text may begin with its own
    ids.insert(ids.begin(), tokenizer.bos());
  return ids;
}

} // namespace moe
