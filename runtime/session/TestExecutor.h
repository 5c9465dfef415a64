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
    if (step.kind == ProgramKind::Vision)
      return runTiles(step);
    if (step.tokens > tokens || step.rows > rows)
      return Error{Code::InvalidArgument, "the step is too large"};
    const StepBinding &b = model.binding;
    const auto ids = valuesOf<int32_t>(step, *b.tokens),
               positions = valuesOf<int32_t>(step, *b.positions),
               sequences = valuesOf<int32_t>(step, *b.sequences),
               wantedRows = valuesOf<int32_t>(step, *b.rows);
    for (int32_t i = 0; i < step.tokens; ++i)
      for (size_t pool = 0; pool < pages.size(); ++pool)
        *cell(step, pool, sequences[i], positions[i]) = {seenAs(step, i, ids[i]), positions[i]};
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
    return index == model.binding.tileRows ? std::as_bytes(std::span(tileRows))
           : index == model.binding.logits ? std::as_bytes(std::span(logits))
           : index == model.binding.hidden ? std::as_bytes(std::span(hidden))
                                           : std::as_bytes(std::span(ids));
  }
  int32_t maxTokens() const override { return tokens; }
  int32_t maxRows() const override { return rows; }
  int32_t maxTiles() const override { return model.binding.tiles ? 3 : 0; }
  std::string description() const override { return "fake"; }

  // Row `row` of a tile: numbers that its bytes decide.
  static std::vector<float> rowOfTile(std::span<const std::byte> tile, int64_t row,
                                      int64_t channels) {
    uint64_t hash = 1469598103934665603u + uint64_t(row);
    for (std::byte byte : tile)
      hash = (hash ^ uint64_t(byte)) * 1099511628211u;
    std::vector<float> values;
    for (int64_t c = 0; c < channels; ++c)
      values.push_back(float((hash >> 24) * uint64_t(c + 1) % 1013));
    return values;
  }
  // What the cache has of a token with such a row.
  static int32_t tokenOfRow(std::span<const float> row) {
    uint64_t hash = 7;
    for (float value : row)
      hash = hash * 31 + uint64_t(value);
    return int32_t(1000 + hash % 1000000);
  }

  int runs = 0, failAt = 0;
  std::vector<int32_t> tilesOfRuns;   // of each run of tiles
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
  Status runTiles(const Step &step) {
    const auto tiles = step.inputs[*model.binding.tiles];
    const size_t bytes = model.vision->tileBytes;
    if (step.tokens > maxTiles() || tiles.size() != size_t(step.tokens) * bytes)
      return Error{Code::InvalidArgument, "too many tiles, or other bytes"};
    tilesOfRuns.push_back(step.tokens);
    tileRows.clear();
    for (int32_t tile = 0; tile < step.tokens; ++tile)
      for (int64_t row = 0; row < model.vision->rowsPerTile; ++row) {
        const auto values =
            rowOfTile(tiles.subspan(size_t(tile) * bytes, bytes), row, model.hiddenSize);
        tileRows.insert(tileRows.end(), values.begin(), values.end());
      }
    tileRows.resize(size_t(maxTiles() * model.vision->rowsPerTile * model.hiddenSize), -1);
    return ok();
  }

  // A token's id, or what its row of a picture makes of it, which must be among what is used.
  int32_t seenAs(const Step &step, int32_t token, int32_t id) const {
    const StepBinding &b = model.binding;
    const int32_t row = b.imageRows ? valuesOf<int32_t>(step, *b.imageRows)[size_t(token)] : -1;
    if (row < 0)
      return id;
    const uint64_t bytes = uint64_t(model.hiddenSize) * sizeof(float),
                   first = uint64_t(row) * bytes;
    if (std::none_of(step.used.begin(), step.used.end(), [&](const TensorPart &part) {
          return part.index == *b.images && part.offset <= first &&
                 first + bytes <= part.offset + part.bytes;
        }))
      return -2; // the row was not brought
    return tokenOfRow(
        valuesOf<float>(step, *b.images)
            .subspan(size_t(row) * size_t(model.hiddenSize), size_t(model.hiddenSize)));
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
  std::vector<float> logits, hidden, tileRows;
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

// The programs of one that takes pictures: tiles of 2 by 2 pixels and 4 rows.
inline DevicePlan visionPlan(const SessionModel &model) {
  using E = Extent;
  const auto channels = uint32_t(model.hiddenSize);
  DevicePlan plan = fakePlan(model.pools, uint32_t(model.vocab), false);
  Program &steps = plan.programs[0];
  steps.tokens = model.maxStep;
  for (TensorSpec spec :
       {TensorSpec{"images",
                   ElementType::F32,
                   {{E::Constant, uint32_t(model.maxStep)}, {E::Constant, channels}}},
        TensorSpec{"image_rows", ElementType::I32, {{E::Tokens}}}}) {
    steps.inputs.push_back(uint32_t(plan.inputs.size()));
    plan.inputs.push_back(std::move(spec));
  }
  Program vision{3, 0};
  vision.kind = ProgramKind::Vision;
  vision.inputs = {uint32_t(plan.inputs.size())};
  vision.outputs = {uint32_t(plan.outputs.size())};
  plan.inputs.push_back({"tiles",
                         ElementType::U8,
                         {{E::Tokens}, {E::Constant, 2}, {E::Constant, 2}, {E::Constant, 3}}});
  plan.outputs.push_back(
      {"image_rows", ElementType::F32, {{E::Tokens}, {E::Constant, 4}, {E::Constant, channels}}});
  plan.programs.push_back(std::move(vision));
  return plan;
}

// One that takes pictures, in the place of tokens of id 49.
inline SessionModel visionModel(int32_t chunk = 96, int32_t maxStep = 32) {
  SessionModel model = fakeModel(chunk, maxStep);
  model.vision = VisionModel{49, 12, 4};
  model.binding = *bindStep(visionPlan(model), model.vocab, model.hiddenSize);
  return model;
}

} // namespace moe

#endif
