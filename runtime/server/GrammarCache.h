// What a compiler of grammars has done before: grammars, and why others were refused.
#ifndef MOE_RUNTIME_SERVER_GRAMMARCACHE_H
#define MOE_RUNTIME_SERVER_GRAMMARCACHE_H

#include "runtime/server/Grammar.h"

#include <list>
#include <mutex>
#include <optional>
#include <unordered_map>

namespace moe::server {

// Those that were asked for last are kept, as many as have room. Grammars and refusals have a room
// each, so that senseless requests cannot displace what others use. From any number of threads.
class GrammarCache {
public:
  using Clock = std::chrono::steady_clock;
  using Outcome = Result<std::shared_ptr<const CompiledGrammar>>;

  GrammarCache(size_t grammarBytes, size_t refusalBytes, std::chrono::milliseconds retry)
      : grammars{grammarBytes}, refusals{refusalBytes}, retry(retry) {}

  // Nothing: has not been compiled, or may be tried again.
  std::optional<Outcome> find(const std::string &key, Clock::time_point now = Clock::now());
  void keep(std::string key, std::shared_ptr<const CompiledGrammar> grammar, size_t bytes);
  // What is wrong stays wrong. What took too long or too much memory may have had a machine that
  // was busy: that is believed for the time of `retry`.
  void refuse(std::string key, Error error, Clock::time_point now = Clock::now());

private:
  struct Entry {
    std::string key;
    Outcome outcome;
    size_t bytes;
    Clock::time_point until;
  };
  struct Shelf {
    size_t room;
    std::list<Entry> recent{}; // the latest first
    std::unordered_map<std::string_view, std::list<Entry>::iterator> byKey{};
    size_t bytes = 0;

    std::optional<Outcome> find(const std::string &key, Clock::time_point now);
    void put(Entry entry);
    void remove(std::list<Entry>::iterator entry);
  };

  std::mutex mutex; // of the shelves
  Shelf grammars, refusals;
  const std::chrono::milliseconds retry;
};

} // namespace moe::server

#endif
