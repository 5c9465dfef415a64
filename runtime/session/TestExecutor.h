// An executor for tests of the session: its logits are a function of all tokens that a row may see,
// read back through the block tables, so a wrong page, position or row gives other logits.
#ifndef MOE_RUNTIME_SESSION_TESTEXECUTOR_H
#define MOE_RUNTIME_SESSION_TESTEXECUTOR_H

#include "runtime/session/Session.h"

#include <algorithm>
#include <limits>
#include <optional>

namespace moe {

class FakeExecutor final : public Executor {
public:
  FakeExecutor(const SessionModel &model, const ExecutorOptions &options, int32_t tokens,
               int32_t rows)
      : model(model), options(options), tokens(tokens), rows(rows) {
    for (size_t pool = 0; pool < model.pools.size(); ++pool)
      pages.emplace_back(size_t(options.poolPages[pool]) * 64, Cell{-1, -1});
  }

  Result<StepResult> run(const Step &step) override {
    ++runs;
    if (failAt && runs == failAt)
      return Error{Code::Unavailable, "the device broke"};
    if (int32_t(step.tokens.size()) > tokens || int32_t(step.rows.size()) > rows)
      return Error{Code::InvalidArgument, "the step is too large"};
    for (size_t i = 0; i < step.tokens.size(); ++i)
      for (size_t pool = 0; pool < pages.size(); ++pool)
        *cell(step, pool, step.sequences[i], step.positions[i]) = {step.tokens[i],
                                                                   step.positions[i]};
    logits.assign(step.rows.size() * model.vocab, 0);
    for (size_t r = 0; r < step.rows.size(); ++r) {
      size_t i = step.rows[r];
      uint64_t hash = 14695981039346656037u;
      for (size_t pool = 0; pool < pages.size(); ++pool) {
        int64_t chunk = model.pools[pool].chunk, position = step.positions[i];
        for (int64_t p = chunk ? position / chunk * chunk : 0; p <= position; ++p) {
          Cell *at = cell(step, pool, step.sequences[i], p);
          if (!at || at->position != p)
            return Error{Code::InvalidPlan, "position " + std::to_string(p) + " is not cached"};
          hash = (hash ^ uint64_t(at->token + 1)) * 1099511628211u;
        }
      }
      for (int64_t v = 0; v < model.vocab; ++v)
        logits[r * model.vocab + v] = float((hash >> 20) * (v + 1) % 1009) / 100;
    }
    outputs.assign(step.outputs.begin(), step.outputs.end());
    if (!choosing)
      return StepResult{logits, {}};
    ids.assign(step.rows.size(), -999);
    for (size_t r = 0; r < outputs.size(); ++r) {
      auto row = logits.begin() + r * model.vocab;
      if (outputs[r].id)
        ids[r] = forcedId ? *forcedId
                 : outputs[r].draw.scale > 0
                     ? int32_t(outputs[r].draw.random % model.vocab)
                     : int32_t(std::max_element(row, row + model.vocab) - row);
      if (!outputs[r].logits) // none may be read
        std::fill(row, row + model.vocab, std::numeric_limits<float>::quiet_NaN());
    }
    return StepResult{logits, ids};
  }
  int32_t maxTokens() const override { return tokens; }
  int32_t maxRows() const override { return rows; }
  std::string description() const override { return "fake"; }

  bool samples() const override { return choosing; }

  int runs = 0, failAt = 0;
  bool choosing = false;           // ids: of greedy rows the largest logit, else random % vocab
  std::optional<int32_t> forcedId; // instead of all ids
  std::vector<RowOutput> outputs;  // of the last step

private:
  struct Cell {
    int32_t token;
    int64_t position;
  };
  Cell *cell(const Step &step, size_t pool, int32_t sequence, int64_t position) {
    int32_t page = step.tables[pool][size_t(sequence) * options.tableStride + position / 64];
    return page < 0 ? nullptr : &pages[pool][size_t(page) * 64 + position % 64];
  }

  SessionModel model;
  ExecutorOptions options;
  int32_t tokens, rows;
  std::vector<std::vector<Cell>> pages;
  std::vector<float> logits;
  std::vector<int32_t> ids;
};

// A session on a FakeExecutor, which `*fake` then points to.
inline Result<Session> fakeSession(SessionModel model, const SessionOptions &options,
                                   int32_t maxRows = 1 << 20, FakeExecutor **fake = nullptr) {
  return Session::create(
      model, options, [&](const ExecutorOptions &executor) -> Result<std::unique_ptr<Executor>> {
        auto made = std::make_unique<FakeExecutor>(model, executor, model.maxStep, maxRows);
        if (fake)
          *fake = made.get();
        return std::unique_ptr<Executor>(std::move(made));
      });
}

// Two pools, a chunk of `chunk`.
inline SessionModel fakeModel(int32_t chunk = 96, int32_t maxStep = 32) {
  SessionModel model;
  model.vocab = 50;
  model.maxPositions = 2000;
  model.maxStep = maxStep;
  model.pools = {{"global", 0, 64, 1024}, {"chunked", chunk, 64, 4096}};
  return model;
}

} // namespace moe

#endif
