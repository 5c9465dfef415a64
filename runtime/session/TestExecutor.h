// An executor for tests of the session: its logits and hidden states are functions of all tokens
// that a row may see, read back through the block tables, so a wrong page, position or row gives
// other ones.
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

  Status run(const Step &step) override {
    ++runs;
    if (failAt && runs == failAt)
      return Error{Code::Unavailable, "the device broke"};
    if (step.tokens > tokens || step.rows > rows)
      return Error{Code::InvalidArgument, "the step is too large"};
    const StepBinding &b = model.binding;
    const auto ids = valuesOf<int32_t>(step, *b.tokens),
               positions = valuesOf<int32_t>(step, *b.positions),
               sequences = valuesOf<int32_t>(step, *b.sequences),
               wantedRows = valuesOf<int32_t>(step, *b.rows);
    for (int32_t i = 0; i < step.tokens; ++i)
      for (size_t pool = 0; pool < pages.size(); ++pool)
        *cell(step, pool, sequences[i], positions[i]) = {ids[i], positions[i]};
    logits.assign(size_t(step.rows) * model.vocab, 0);
    hidden.assign(size_t(step.rows) * model.hiddenSize, 0);
    for (int32_t r = 0; r < step.rows; ++r) {
      size_t i = wantedRows[r];
      uint64_t hash = 14695981039346656037u;
      for (size_t pool = 0; pool < pages.size(); ++pool) {
        int64_t chunk = model.pools[pool].chunk, position = positions[i];
        for (int64_t p = chunk ? position / chunk * chunk : 0; p <= position; ++p) {
          Cell *at = cell(step, pool, sequences[i], p);
          if (!at || at->position != p)
            return Error{Code::InvalidPlan, "position " + std::to_string(p) + " is not cached"};
          hash = (hash ^ uint64_t(at->token + 1)) * 1099511628211u;
        }
      }
      for (int64_t v = 0; v < model.vocab; ++v)
        logits[r * model.vocab + v] = float((hash >> 20) * (v + 1) % 1009) / 100;
      for (int64_t c = 0; c < model.hiddenSize; ++c)
        hidden[r * model.hiddenSize + c] = float((hash >> 30) * (c + 1) % 2003) / 200 - 5;
    }
    wanted.assign(step.wanted.begin(), step.wanted.end());
    if (b.ids)
      choose(step);
    return ok();
  }
  std::span<const std::byte> output(uint32_t index) const override {
    return index == model.binding.logits   ? std::as_bytes(std::span(logits))
           : index == model.binding.hidden ? std::as_bytes(std::span(hidden))
                                           : std::as_bytes(std::span(ids));
  }
  int32_t maxTokens() const override { return tokens; }
  int32_t maxRows() const override { return rows; }
  std::string description() const override { return "fake"; }

  int runs = 0, failAt = 0;
  std::optional<int32_t> forcedId;    // instead of all ids
  std::vector<RowSampling> samplings; // of the last step, where the device chooses
  std::vector<TensorPart> wanted;     // of the last step

private:
  struct Cell {
    int32_t token;
    int64_t position;
  };
  template <typename T> static std::span<const T> valuesOf(const Step &step, uint32_t input) {
    const std::span<const std::byte> bytes = step.inputs[input];
    return {reinterpret_cast<const T *>(bytes.data()), bytes.size() / sizeof(T)};
  }
  Cell *cell(const Step &step, size_t pool, int32_t sequence, int64_t position) {
    const auto table = valuesOf<int32_t>(step, model.binding.tables[pool].input);
    int32_t page = table[size_t(sequence) * options.tableStride + position / 64];
    return page < 0 ? nullptr : &pages[pool][size_t(page) * 64 + position % 64];
  }
  // Of greedy rows the largest logit, else random % vocab; with a mask the largest logit that it
  // allows, else the allowed token of number random % how many those are.
  void choose(const Step &step) {
    const auto rowsWith = valuesOf<RowSampling>(step, *model.binding.sampling);
    samplings.assign(rowsWith.begin(), rowsWith.end());
    ids.assign(size_t(step.rows), -999);
    for (size_t r = 0; r < samplings.size(); ++r) {
      auto row = logits.begin() + r * model.vocab;
      ids[r] = forcedId                                   ? *forcedId
               : samplings[r].flags & RowSampling::masked ? chooseAllowed(step, r)
               : samplings[r].flags & RowSampling::draws
                   ? int32_t(samplings[r].random % model.vocab)
                   : int32_t(std::max_element(row, row + model.vocab) - row);
      const uint64_t first = r * model.vocab * sizeof(float);
      if (std::none_of(wanted.begin(), wanted.end(), [&](const TensorPart &part) {
            return part.index == model.binding.logits && part.offset <= first &&
                   first < part.offset + part.bytes;
          })) // none may be read
        std::fill(row, row + model.vocab, std::numeric_limits<float>::quiet_NaN());
    }
  }

  int32_t chooseAllowed(const Step &step, size_t r) const {
    const auto masks = valuesOf<uint32_t>(step, *model.binding.masks);
    const size_t words = masks.size() / size_t(options.maxSequences),
                 first = size_t(samplings[r].mask) * words;
    if (std::none_of(step.used.begin(), step.used.end(), [&](const TensorPart &part) {
          return part.index == *model.binding.masks && part.offset <= first * 4 &&
                 (first + words) * 4 <= part.offset + part.bytes;
        }))
      return badLogitId(0); // the mask was not brought
    std::vector<int32_t> allowed;
    for (int32_t token = 0; token < model.vocab; ++token)
      if (masks[first + size_t(token) / 32] >> token % 32 & 1)
        allowed.push_back(token);
    if (allowed.empty())
      return kNothingToChoose;
    if (samplings[r].flags & RowSampling::draws)
      return allowed[samplings[r].random % allowed.size()];
    const auto row = logits.begin() + int64_t(r) * model.vocab;
    return *std::max_element(allowed.begin(), allowed.end(),
                             [&](int32_t a, int32_t b) { return row[a] < row[b]; });
  }

  SessionModel model;
  ExecutorOptions options;
  int32_t tokens, rows;
  std::vector<std::vector<Cell>> pages;
  std::vector<float> logits, hidden;
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

// What the programs of a plan with these pools declare that takes all that a session fills;
// `choosing`: and that chooses ids; `masking`: by masks too.
inline DevicePlan fakePlan(std::vector<CachePool> pools, uint32_t vocab, bool choosing,
                           bool masking = false) {
  using E = Extent;
  DevicePlan plan;
  plan.inputs = {{"positions", ElementType::I32, {{E::Tokens}}},
                 {"tokens", ElementType::I32, {{E::Tokens}}},
                 {"sequences", ElementType::I32, {{E::Tokens}}},
                 {"rows", ElementType::I32, {{E::Rows}}}};
  for (uint32_t pool = 0; pool < pools.size(); ++pool)
    plan.inputs.push_back(
        {pools[pool].name + "_table", ElementType::I32, {{E::Sequences}, {E::Pages}}, pool});
  plan.outputs = {{"logits", ElementType::F32, {{E::Rows}, {E::Constant, vocab}}}};
  if (choosing) {
    plan.inputs.push_back({"sampling", ElementType::U8, {{E::Rows}, {E::Constant, 40}}});
    plan.outputs.insert(plan.outputs.begin(), {"ids", ElementType::I32, {{E::Rows}}});
  }
  if (masking)
    plan.inputs.push_back(
        {"masks", ElementType::U32, {{E::Sequences}, {E::Constant, (vocab + 31) / 32}}});
  Program &program = plan.programs.emplace_back(Program{1, 1});
  for (uint32_t i = 0; i < plan.inputs.size(); ++i)
    program.inputs.push_back(i);
  for (uint32_t i = 0; i < plan.outputs.size(); ++i)
    program.outputs.push_back(i);
  plan.pools = std::move(pools);
  return plan;
}

// Two pools, a chunk of `chunk`.
inline SessionModel fakeModel(int32_t chunk = 96, int32_t maxStep = 32, bool choosing = false) {
  SessionModel model;
  model.vocab = 50;
  model.maxPositions = 2000;
  model.maxStep = maxStep;
  model.pools = {{"global", 0, 64, 1024}, {"chunked", chunk, 64, 4096}};
  model.hiddenSize = 24;
  model.binding = *bindStep(fakePlan(model.pools, 50, choosing), model.vocab, model.hiddenSize);
  return model;
}

// A device that chooses ids.
inline SessionModel choosingModel() { return fakeModel(96, 32, true); }

// One whose device chooses by masks too.
inline SessionModel maskingModel() {
  SessionModel model = fakeModel();
  model.binding = *bindStep(fakePlan(model.pools, 50, true, true), model.vocab, model.hiddenSize);
  return model;
}

// One that gives hidden states too.
inline SessionModel embeddingModel(bool choosing = false) {
  SessionModel model = fakeModel(96, 32, choosing);
  DevicePlan plan = fakePlan(model.pools, 50, choosing);
  plan.outputs.push_back({"hidden",
                          ElementType::F32,
                          {{Extent::Rows}, {Extent::Constant, uint32_t(model.hiddenSize)}}});
  plan.programs[0].outputs.push_back(uint32_t(plan.outputs.size()) - 1);
  model.binding = *bindStep(plan, model.vocab, model.hiddenSize);
  return model;
}

} // namespace moe

#endif
