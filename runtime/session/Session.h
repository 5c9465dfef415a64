// Sequences that grow by ragged steps: tokens in, logits or the tokens that follow out.
//
// A session owns the KV cache and the device's memory for any number of sequences, which join and
// leave between steps. It knows ids alone; Generate.h adds text.
#ifndef MOE_RUNTIME_SESSION_SESSION_H
#define MOE_RUNTIME_SESSION_SESSION_H

#include "runtime/device/Device.h"
#include "runtime/device/cpu/Nodes.h"
#include "runtime/plan/Plan.h"
#include "runtime/session/KvCache.h"
#include "runtime/session/Sampler.h"
#include "runtime/session/SequenceImages.h"
#include "runtime/session/StepBinding.h"

#include <atomic>
#include <functional>
#include <memory>
#include <type_traits>

namespace moe {

struct SessionOptions {
  std::string device = "auto";
  int threads = 0;          // of a CPU; 0: one for each core that this process may use
  int32_t maxSequences = 1; // at a time
  int64_t context = 0;      // positions of each sequence; 0: what the plan allows, up to 4096
  int32_t maxStep = 0;      // most tokens of one step of the device; 0: the plan's largest
  uint64_t memoryLimit = 0; // bytes that the KV cache may have; 0: what the device has available
  // Bytes of the KV cache; 0: what maxSequences of context need, so that pages never run out. With
  // less than that a run may fail with ResourceExhausted.
  uint64_t cacheBudget = 0;
  // In place of a budget: this part, up to 1, of what the device has for it (of the system's
  // memory, which others use too, at most half), but at most twice what maxSequences of context
  // need.
  double cacheShare = 0;
  // Keeps the pages of ended sequences for prompts that begin as they did. Needs layers that see
  // all positions: a plan whose layers all attend within chunks keeps none.
  bool prefixCache = false;
  // Told how many bytes of the weights are in the device's own memory, or in a CPU's copies.
  std::function<void(uint64_t done, uint64_t total)> progress{};
  cpu::Numa numa = cpu::Numa::Auto; // of a CPU: where weights lie
};

// What a session needs to know of pictures.
struct VisionModel {
  int32_t patch = 0;      // id of the tokens that take rows
  uint64_t tileBytes = 0; // of a tile's pixels
  int64_t rowsPerTile = 0;
};

// What a session needs to know of the model and its programs.
struct SessionModel {
  int64_t vocab = 0;
  int64_t hiddenSize = 0; // channels of the residual stream
  int64_t maxPositions = 0;
  int32_t maxStep = 0; // tokens of the largest program
  struct Room {
    int32_t tokens, rows;
  };
  std::vector<Room> programs{}; // what each has room for
  std::vector<CachePool> pools;
  StepBinding binding;
  std::optional<DeviceMemory> memory{}; // of a device with its own
  std::optional<VisionModel> vision{};  // of a plan that takes pictures
};

// A sequence's part of a step.
struct Append {
  int32_t sequence;
  std::span<const int32_t> tokens; // follow what the sequence has
  int64_t rows = 1; // logits of that many of the last tokens are wanted, at most tokens.size()
  bool tentative = false; // truncate may go back before these tokens even across a chunk boundary,
                          // until the sequence's next step
  // Where set, the token after the last one is chosen by `sampler` and written to `*sampled`, by
  // the device itself if it can; the last row's logits are then not told to the sink. Needs a row.
  Sampler *sampler = nullptr;
  int32_t *sampled = nullptr;
  // The sink is told the hidden states of the rows and not their logits. Only where
  // Session::hidden() is not 0, and without a sampler.
  bool hidden = false;
};

// Receives rows: (index of the Append, index into its tokens, float32 [vocab], or float32
// [Session::hidden()] where the Append wants hidden states), valid during the call. An error ends
// the step. Refers to the callable it was made from and does not own it.
class RowSink {
public:
  template <typename F>
    requires std::is_invocable_r_v<Status, F &, size_t, int64_t, std::span<const float>>
  RowSink(F &&f)
      : object(const_cast<void *>(static_cast<const void *>(&f))),
        call([](void *object, size_t part, int64_t token, std::span<const float> values) {
          return Status((*static_cast<std::remove_reference_t<F> *>(object))(part, token, values));
        }) {}
  Status operator()(size_t part, int64_t token, std::span<const float> values) const {
    return call(object, part, token, values);
  }

private:
  void *object;
  Status (*call)(void *, size_t, int64_t, std::span<const float>);
};

// Not for use from two threads at once.
class Session {
public:
  // Opens the device and allocates everything. The plan must outlive the session.
  static Result<Session> create(const Plan &plan, const SessionOptions &options);

  // The same with another executor, for tests.
  using MakeExecutor = std::function<Result<std::unique_ptr<Executor>>(const ExecutorOptions &)>;
  static Result<Session> create(SessionModel model, const SessionOptions &options,
                                const MakeExecutor &makeExecutor);

  // An empty sequence's number, below maxSequences. It shares cached prefixes with sequences of the
  // same salt alone. Error: ResourceExhausted.
  Result<int32_t> addSequence(uint64_t salt = 0);
  void removeSequence(int32_t sequence);
  bool has(int32_t sequence) const {
    return sequence >= 0 && size_t(sequence) < slots.size() && slots[sequence].active;
  }
  // Tokens that the sequence has.
  int64_t length(int32_t sequence) const { return slots[sequence].length; }
  // Forgets the tokens from `length` on. Error: InvalidArgument if what then comes first in the
  // chunk is no longer in the cache. With a prefix cache up to 63 tokens before `length` may lie in
  // a page that can no longer be written to: the sequence's next step computes them again, beside
  // its own.
  Status truncate(int32_t sequence, int64_t length);

  // An empty sequence becomes the longest prefix of `tokens` whose pages are in the prefix cache:
  // its length, a multiple of 64 and less than tokens.size(). The caller appends the rest. Error:
  // InvalidArgument if the sequence is not empty.
  Result<int64_t> attach(int32_t sequence, std::span<const int32_t> tokens);
  // What attach would give a sequence of this salt with these pictures. Changes nothing.
  int64_t cachedPrefix(std::span<const int32_t> tokens, uint64_t salt = 0,
                       std::span<const ImageSpan> images = {}) const;

  // Whether encode and setImages take pictures here. Error: InvalidArgument, that says why not.
  Status checkPictures() const;
  // The rows of pictures, each of `counts` tiles; `tiles`: the bytes of all of them, uint8 [tiles,
  // S, S, 3]. Runs between steps, and changes nothing of any sequence; tiles of several pictures
  // are run together. Errors: InvalidArgument, Cancelled.
  Result<std::vector<std::shared_ptr<const EncodedImage>>> encode(std::span<const std::byte> tiles,
                                                                  std::span<const int32_t> counts);
  Result<std::shared_ptr<const EncodedImage>> encode(std::span<const std::byte> tiles,
                                                     int32_t count);
  // The pictures of what a sequence is to be appended, at its length and after; they replace those
  // that were told for there. The sequence holds them until it is removed, as it may need their
  // rows again. Comes before attach, which takes the cached pages of the same pictures alone.
  // Error: InvalidArgument, and nothing is changed.
  Status setImages(int32_t sequence, std::span<const ImageSpan> images);

  // Appends tokens to sequences in as many steps of the device as it takes. A patch token takes the
  // next row of the sequence's picture there, and where that has none left, or there is no picture,
  // its own embedding as other tokens do. Requests that cannot succeed change nothing; after
  // another error (also Cancelled) length() says how far it came. Where pages run out (only with a
  // cacheBudget) nothing is changed. Allocates nothing.
  Status run(std::span<const Append> parts, const RowSink &sink);

  // Appends to one sequence; the logits of the last token, valid until the next step.
  Result<std::span<const float>> append(int32_t sequence, std::span<const int32_t> tokens);

  // Appends to one sequence and chooses the token that follows. Does not observe it. Errors of the
  // sampler come when the tokens are appended already.
  Result<int32_t> sample(int32_t sequence, std::span<const int32_t> tokens, Sampler &sampler);

  // Where run looks between steps of the device: true makes it return Cancelled. May be null.
  void setCancel(const std::atomic<bool> *flag) { cancel = flag; }

  int64_t vocab() const { return model.vocab; }
  // Channels of a hidden state; 0: the plan gives none, it was compiled without --embeddings.
  int64_t hidden() const { return model.binding.hidden ? model.hiddenSize : 0; }
  int64_t context() const { return options.context; }
  int32_t maxSequences() const { return options.maxSequences; }
  int32_t maxStep() const { return options.maxStep; }          // tokens of one step of the device
  int32_t maxRows() const { return int32_t(rows.capacity()); } // rows of one
  // The tokens that the program of such a step has room for: the smallest that holds it; 0 if the
  // executor's programs are not known.
  int32_t programTokens(int64_t tokens, int64_t rows) const;
  uint64_t cacheBytes() const { return bytes; } // of the KV cache when all of it is in use

  bool keepsPrefixes() const { return options.prefixCache; }
  // The pools of the KV cache, in pages of KvCache::pageTokens positions.
  size_t pools() const { return model.pools.size(); }
  int32_t poolChunk(size_t pool) const { return model.pools[pool].chunk; } // 0: all positions
  PoolUse poolUse(size_t pool) const { return cache.use(pool); }
  // Cached pages of a pool that were given up so far because others were needed.
  uint64_t evictions(size_t pool) const { return cache.evictions(pool); }
  // Told of each page of the prefix cache that comes and goes, during calls of this session; of
  // patch tokens their id. May be empty.
  void setPageObserver(PageObserver observer);

  std::string description() const { return executor->description(); }
  bool samplesOnDevice() const { return model.binding.ids.has_value(); } // without bias, penalty
  // Whether weights and cache are in the system's memory, and not in one of the device's own.
  bool inSystemMemory() const { return !model.memory; }
  const std::string &device() const { return deviceName; }     // that was opened: "cpu", "null"
  const std::string &planDevice() const { return programsOf; } // whose programs run: "cpu", "cuda"

private:
  struct Slot {
    bool active = false;
    int64_t length = 0;
    int64_t computed = 0; // of those, that are in the cache: all but for what truncate has to redo
    int64_t filled = 0;   // computed, with the tokens of the step being filled
    SequenceImages images{};
  };
  // What is wanted of a row.
  struct RowOutput {
    bool logits = true;
    bool hidden = false;
    bool id = false; // a token chosen by `draw`; only where samplesOnDevice()
    Draw draw{};
    const Sampler *sampler = nullptr; // of the draw
  };
  // A run of tokens of one part in the step being filled.
  struct Segment {
    size_t part;
    int64_t first; // of the part's tokens; before 0: tokens that the sequence had
    int64_t from;  // position of that one
    int64_t count;
  };

  Session(SessionModel model, SessionOptions options, KvCache cache)
      : model(std::move(model)), options(std::move(options)), cache(std::move(cache)) {}
  Status check(std::span<const Append> parts);
  Status checkPages(std::span<const Append> parts);
  std::span<int32_t> ids(int32_t sequence) const {
    return {keptIds.get() + sequence * options.context, size_t(options.context)};
  }
  bool isPatch(int32_t token) const { return model.vision && token == model.vision->patch; }
  std::vector<int32_t> keyTokens(std::span<const int32_t> tokens, SequenceImages &images) const;
  int32_t keyOfPatch(const SequenceImages &images, int64_t position) const;
  int32_t placeImageRow(const SequenceImages &images, int64_t position, bool patch);
  void publish(int32_t sequence);
  Status runFilled(std::span<const Append> parts, const RowSink &sink);
  Status runOnDevice(std::span<const Append> parts);
  void fillStep(std::span<const Append> parts);
  RowOutput outputOf(const Append &part, bool last) const;
  size_t maskWords() const { return size_t(model.vocab + 31) / 32; }
  std::span<uint32_t> maskOf(int32_t number) {
    return std::span(masks).subspan(size_t(number) * maskWords(), maskWords());
  }
  // Row `row` of an output of `columns` float32.
  std::span<const float> rowOf(uint32_t output, size_t row, int64_t columns) const;
  void want(uint32_t output, uint64_t rowBytes, bool RowOutput::*of);
  Status tellRow(const Append &part, size_t index, int64_t token, size_t row, const RowSink &sink);

  SessionModel model;
  SessionOptions options; // with the defaults filled in
  KvCache cache;
  std::unique_ptr<Executor> executor;
  std::string deviceName, programsOf;
  const std::atomic<bool> *cancel = nullptr;
  uint64_t bytes = 0;
  std::vector<Slot> slots;
  // [maxSequences, context] tokens of the sequences, with a prefix cache; untouched until used. Of
  // patch tokens that have a row what the cache knows them by, which is below zero.
  std::unique_ptr<int32_t[]> keptIds;

  // The step being filled; capacities are fixed at creation.
  std::vector<int32_t> tokens, positions, sequences, rows;
  std::vector<RowOutput> outputs;     // of `rows`
  std::vector<RowSampling> samplings; // the same, as kernels read it
  int32_t masked = 0;                 // of them those with a mask
  std::vector<uint32_t> masks;      // for as many rows as there may be sequences; those come first
  std::vector<float> imageRows;     // [C, H], the first of them those of the step
  std::vector<int32_t> imageRowsOf; // of `tokens`: rows of imageRows, or -1
  int32_t imageRowCount = 0;
  std::vector<Segment> segments;
  std::vector<KvCache::Growth> growths;           // of a run of several steps, per sequence
  std::vector<std::span<const std::byte>> inputs; // per input of the plan's programs
  std::vector<TensorPart> used, wanted;           // of tables, and of outputs
};

} // namespace moe

#endif
