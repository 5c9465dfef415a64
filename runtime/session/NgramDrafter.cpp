#include "runtime/session/NgramDrafter.h"

#include <algorithm>

namespace moe {

void NgramDrafter::reset() {
  text.clear();
  previous.clear();
  latest.assign(64, -1);
  next = -1;
  match = 0;
  // Long matches are trusted from the start, short ones must prove themselves. The weight of these
  // beliefs is that of a few tokens.
  outcomes = {{{1, 3}, {1.5, 3}, {2, 3}, {2.5, 3}, {3.6, 4}}};
}

size_t NgramDrafter::classOf(int32_t match) {
  return match < 4 ? 0 : match < 6 ? 1 : match < 9 ? 2 : match < kMostMatch ? 3 : 4;
}

// Where the n-gram that ends with position `end` is in `latest`, or is to be entered.
size_t NgramDrafter::slotOf(int32_t end) const {
  const int32_t *last = text.data() + end;
  uint64_t hash = 0;
  for (int32_t i = 0; i < kLeastMatch; ++i)
    hash = (hash ^ uint32_t(last[-i])) * 0x9e3779b97f4a7c15;
  size_t slot = size_t(hash >> 32) & (latest.size() - 1);
  while (latest[slot] >= 0 && !std::equal(last - kLeastMatch + 1, last + 1,
                                          text.data() + latest[slot] - kLeastMatch + 1))
    slot = (slot + 1) & (latest.size() - 1);
  return slot;
}

void NgramDrafter::enter(int32_t end) {
  const size_t slot = slotOf(end);
  previous[size_t(end)] = latest[slot];
  latest[slot] = end;
}

void NgramDrafter::append(int32_t token) {
  text.push_back(token);
  previous.push_back(-1);
  const int32_t end = int32_t(text.size()) - 1;
  if (text.size() * 2 > latest.size()) {
    latest.assign(latest.size() * 2, -1);
    for (int32_t i = kLeastMatch - 1; i < end; ++i)
      enter(i);
  }
  if (end >= kLeastMatch - 1)
    enter(end);
}

void NgramDrafter::findMatch() {
  next = -1;
  match = 0;
  const int32_t end = int32_t(text.size()) - 1;
  int32_t at = end < 0 ? -1 : previous[size_t(end)];
  for (int32_t i = 0; i < kCandidates && at >= 0; ++i, at = previous[size_t(at)]) {
    int32_t length = kLeastMatch;
    while (length < kMostMatch && length <= at &&
           text[size_t(at - length)] == text[size_t(end - length)])
      ++length;
    if (length > match) {
      match = length;
      next = at + 1;
    }
    if (match == kMostMatch)
      return;
  }
}

void NgramDrafter::addPrompt(std::span<const int32_t> tokens) {
  for (int32_t token : tokens)
    append(token);
  findMatch();
}

void NgramDrafter::add(int32_t token) {
  if (next >= 0) {
    Outcome &outcome = outcomes[classOf(match)];
    outcome.right += text[size_t(next)] == token;
    if (++outcome.all > 32) {
      outcome.right /= 2;
      outcome.all /= 2;
    }
  }
  append(token);
  findMatch();
}

size_t NgramDrafter::propose(std::span<int32_t> drafts, const DraftCost &cost) const {
  if (next < 0)
    return 0;
  size_t best = 0;
  double tokens = 1, chance = 1, bestRate = 1; // of a step without drafts
  for (size_t i = 0; i < drafts.size(); ++i) {
    const size_t from = size_t(next) + i;
    drafts[i] = from < text.size() ? text[from] : drafts[from - text.size()];
    chance *= outcomes[classOf(std::min<int32_t>(match + int32_t(i), kMostMatch))].chance();
    tokens += chance;
    const double rate = tokens / (1 + cost.step + cost.row * double(i + 1));
    if (rate > bestRate) {
      bestRate = rate;
      best = i + 1;
    }
  }
  return best;
}

} // namespace moe
