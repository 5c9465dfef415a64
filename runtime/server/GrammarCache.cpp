#include "runtime/server/GrammarCache.h"

namespace moe::server {

std::optional<GrammarCache::Outcome> GrammarCache::find(const std::string &key,
                                                        Clock::time_point now) {
  const std::lock_guard lock(mutex);
  if (auto found = grammars.find(key, now))
    return found;
  return refusals.find(key, now);
}

void GrammarCache::keep(std::string key, std::shared_ptr<const CompiledGrammar> grammar,
                        size_t bytes) {
  const std::lock_guard lock(mutex);
  bytes += sizeof(Entry) + key.size();
  grammars.put({std::move(key), std::move(grammar), bytes, Clock::time_point::max()});
}

void GrammarCache::refuse(std::string key, Error error, Clock::time_point now) {
  const std::lock_guard lock(mutex);
  const size_t bytes = sizeof(Entry) + key.size() + error.message.size();
  const auto until = error.code == Code::ResourceExhausted ? now + retry : Clock::time_point::max();
  refusals.put({std::move(key), std::move(error), bytes, until});
}

std::optional<GrammarCache::Outcome> GrammarCache::Shelf::find(const std::string &key,
                                                               Clock::time_point now) {
  const auto found = byKey.find(key);
  if (found == byKey.end())
    return std::nullopt;
  if (now >= found->second->until) {
    remove(found->second);
    return std::nullopt;
  }
  recent.splice(recent.begin(), recent, found->second);
  return found->second->outcome;
}

void GrammarCache::Shelf::put(Entry entry) {
  if (entry.bytes > room)
    return;
  if (const auto before = byKey.find(entry.key); before != byKey.end()) // by another thread
    remove(before->second);
  bytes += entry.bytes;
  recent.push_front(std::move(entry));
  byKey.emplace(recent.front().key, recent.begin());
  while (bytes > room)
    remove(std::prev(recent.end()));
}

void GrammarCache::Shelf::remove(std::list<Entry>::iterator entry) {
  bytes -= entry->bytes;
  byKey.erase(entry->key);
  recent.erase(entry);
}

} // namespace moe::server
