// Filling steps of the device from requests of any size, and the memory statement.
#include "runtime/session/Session.h"

#include "runtime/device/Devices.h"
#include "runtime/session/MemoryStatement.h"
#include "runtime/session/PlanPrograms.h"

#include <algorithm>
#include <chrono>
#include <unistd.h>

namespace moe {
namespace {

template <typename T> std::span<const T> elements(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const T *>(bytes.data()), bytes.size() / sizeof(T)};
}

// What a row's kernels are told. A draw, and the choice of a mask, is from logits, so those are
// then written too. `mask`: the number of the row's mask, if it has one.
RowSampling samplingOf(bool logits, bool id, const Draw &draw, int32_t mask) {
  const bool draws = id && draw.scale > 0, masked = id && draw.masked;
  return {(logits || draws || masked ? RowSampling::writesLogits : 0u) |
              (draws ? RowSampling::draws : 0u) | (masked ? RowSampling::masked : 0u),
          draw.scale,
          draw.random,
          draw.topP,
          draw.minWeight,
          draw.topK,
          masked ? mask : 0};
}

// Clients that knew the seed of hashes could choose tokens whose pages are slow to find.
uint64_t unforeseeable() {
  uint64_t seed = 0;
  if (getentropy(&seed, sizeof seed) != 0)
    seed = uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
  return seed;
}

} // namespace

Result<Session> Session::create(const Plan &plan, const SessionOptions &options) {
  std::vector<std::string> devices = planDevices(plan);
  MOE_ASSIGN(device,
             openDevice(options.device, devices, {options.threads, options.progress, options.numa},
                        [&](const Device &device) {
                          return device.supports(devicePlan(plan, device.planDevice()));
                        }));
  DevicePlan programs = devicePlan(plan, device->planDevice());
  SessionModel model;
  model.vocab = plan.index().model()->vocab_size();
  model.hiddenSize = plan.index().model()->hidden_size();
  model.maxPositions = int64_t(plan.index().model()->max_positions());
  model.pools = programs.pools;
  if (const fb::Vision *vision = plan.index().vision())
    model.vision =
        VisionModel{vision->patch(), uint64_t(vision->tile_size()) * vision->tile_size() * 3,
                    vision->rows_per_tile()};
  MOE_ASSIGN(binding, bindStep(programs, model.vocab, model.hiddenSize));
  model.binding = std::move(binding);
  for (const Program &program : programs.programs) {
    if (program.kind != ProgramKind::Step)
      continue;
    model.maxStep = std::max(model.maxStep, program.tokens);
    model.programs.push_back({program.tokens, program.rows});
  }
  MOE_TRY(device->supports(programs)); // before its memory is counted
  MOE_ASSIGN(memory, device->memory(programs));
  model.memory = std::move(memory);
  MOE_ASSIGN(session, create(std::move(model), options, [&](const ExecutorOptions &executor) {
               return device->createExecutor(programs, executor);
             }));
  session.deviceName = device->name();
  session.programsOf = device->planDevice();
  return std::move(session);
}

Result<Session> Session::create(SessionModel model, const SessionOptions &asked,
                                const MakeExecutor &makeExecutor) {
  SessionOptions options = asked;
  options.progress = nullptr; // the caller's, and for as long as this call
  if (options.maxSequences < 1)
    return Error{Code::InvalidArgument, "a session needs at least one sequence"};
  if (options.context < 0 || options.maxStep < 0 || options.threads < 0)
    return Error{Code::InvalidArgument, "context, step and threads cannot be negative"};
  if (options.context == 0)
    options.context = std::min<int64_t>(model.maxPositions, 4096);
  if (options.context > model.maxPositions)
    return Error{Code::InvalidArgument, "a context of " + std::to_string(options.context) +
                                            " tokens was asked for, the plan allows " +
                                            std::to_string(model.maxPositions) +
                                            "; ask for less with --context"};
  if (options.maxStep == 0 || options.maxStep > model.maxStep)
    options.maxStep = model.maxStep;

  MOE_ASSIGN(size, cacheSize(model, options));
  ExecutorOptions executorOptions;
  executorOptions.maxSequences = options.maxSequences;
  executorOptions.tableStride = int32_t(KvCache::tableStride(options.context));
  executorOptions.poolPages = size.pages;
  std::vector<KvCache::Pool> pools;
  for (size_t i = 0; i < model.pools.size(); ++i)
    pools.push_back({model.pools[i].chunk, size.pages[i]});
  std::optional<PrefixCache::Options> prefixes;
  if (options.prefixCache)
    prefixes = PrefixCache::Options{pageHash, unforeseeable()};
  MOE_ASSIGN(cache, KvCache::create(options.maxSequences, options.context, pools, prefixes));
  MOE_ASSIGN(executor, makeExecutor(executorOptions));
  if (executor->maxTokens() < 1 || executor->maxRows() < 1)
    return Error{Code::InvalidPlan, "the plan has no program that takes a token"};

  Session session(std::move(model), options, std::move(cache));
  session.options.maxStep = std::min(options.maxStep, executor->maxTokens());
  session.bytes = size.bytes;
  session.slots.resize(options.maxSequences);
  if (options.prefixCache)
    session.keptIds = std::make_unique_for_overwrite<int32_t[]>(size_t(options.maxSequences) *
                                                                size_t(options.context));
  for (auto *buffer : {&session.tokens, &session.positions, &session.sequences})
    buffer->reserve(session.options.maxStep);
  session.rows.reserve(executor->maxRows());
  session.outputs.reserve(executor->maxRows());
  session.samplings.reserve(executor->maxRows());
  session.segments.reserve(session.options.maxStep);
  session.growths.reserve(options.maxSequences);
  const StepBinding &binding = session.model.binding;
  session.inputs.resize(binding.inputs);
  for (const StepBinding::Table &table : binding.tables)
    session.inputs[table.input] = std::as_bytes(session.cache.table(table.pool));
  if (binding.masks) {
    session.masks.resize(size_t(options.maxSequences) * session.maskWords());
    session.inputs[*binding.masks] = std::as_bytes(std::span(session.masks));
  }
  if (binding.images) {
    session.imageRowsOf.reserve(session.options.maxStep);
    session.imageRows.resize(size_t(binding.imageCapacity) * size_t(session.model.hiddenSize));
    session.inputs[*binding.images] = std::as_bytes(std::span(session.imageRows));
  }
  // And masks, and rows of pictures.
  session.used.reserve(size_t(session.options.maxStep) * binding.tables.size() + 2);
  // Runs of logits and of hidden states, and ids.
  session.wanted.reserve(size_t(executor->maxRows()) + 1);
  session.executor = std::move(executor);
  return session;
}

int32_t Session::programTokens(int64_t tokens, int64_t rows) const {
  int32_t smallest = 0;
  for (const SessionModel::Room &room : model.programs)
    if (room.tokens >= tokens && room.rows >= rows && (smallest == 0 || room.tokens < smallest))
      smallest = room.tokens;
  return smallest;
}

Result<int32_t> Session::addSequence(uint64_t salt) {
  for (size_t i = 0; i < slots.size(); ++i)
    if (!slots[i].active) {
      slots[i] = {true};
      cache.setSalt(int32_t(i), salt);
      return int32_t(i);
    }
  return Error{Code::ResourceExhausted,
               "all " + std::to_string(slots.size()) + " sequences of the session are in use"};
}

void Session::removeSequence(int32_t sequence) {
  cache.clear(sequence);
  slots[sequence] = {};
}

Status Session::truncate(int32_t sequence, int64_t length) {
  if (length < 0 || length > slots[sequence].length)
    return Error{Code::InvalidArgument, "cannot cut a sequence of " +
                                            std::to_string(slots[sequence].length) + " tokens to " +
                                            std::to_string(length)};
  Slot &slot = slots[sequence];
  MOE_ASSIGN(computed, cache.truncate(sequence, std::min(length, slot.computed)));
  slot.length = length;
  slot.computed = computed;
  return ok();
}

Result<int64_t> Session::attach(int32_t sequence, std::span<const int32_t> tokens) {
  Slot &slot = slots[sequence];
  if (slot.length)
    return Error{Code::InvalidArgument,
                 "a sequence of " + std::to_string(slot.length) +
                     " tokens cannot take over a prefix: only an empty one can"};
  std::vector<int32_t> keys; // in place of the tokens
  if (!slot.images.empty()) {
    keys = keyTokens(tokens, slot.images);
    tokens = keys;
  }
  slot.length = slot.computed = cache.attach(sequence, tokens);
  if (slot.length)
    std::copy_n(tokens.begin(), slot.length, ids(sequence).begin());
  return slot.length;
}

// What the sequence has will not change any more.
void Session::publish(int32_t sequence) {
  if (options.prefixCache)
    cache.publish(sequence, ids(sequence).first(size_t(slots[sequence].computed)));
}

Status Session::check(std::span<const Append> parts) {
  for (const Append &part : parts) {
    if (!has(part.sequence))
      return Error{Code::InvalidArgument, "there is no sequence " + std::to_string(part.sequence)};
    slots[part.sequence].filled = slots[part.sequence].length;
  }
  for (const Append &part : parts) {
    int64_t count = int64_t(part.tokens.size());
    if (part.rows < 0 || part.rows > count)
      return Error{Code::InvalidArgument, "logits of " + std::to_string(part.rows) +
                                              " rows are wanted of " + std::to_string(count) +
                                              " tokens"};
    if (part.sampler && (part.rows < 1 || !part.sampled))
      return Error{Code::InvalidArgument,
                   "a token is to be sampled without a row, or without a place for it"};
    if (part.hidden && !model.binding.hidden)
      return Error{Code::InvalidArgument,
                   "this plan gives no hidden states: compile it with --embeddings"};
    if (part.hidden && part.sampler)
      return Error{Code::InvalidArgument,
                   "a token is to be sampled of a part whose hidden states are wanted"};
    for (int64_t i = 0; i < count; ++i)
      if (part.tokens[i] < 0 || part.tokens[i] >= model.vocab)
        return Error{Code::InvalidArgument,
                     "token " + std::to_string(i) + " has id " + std::to_string(part.tokens[i]) +
                         ", the vocabulary ends at " + std::to_string(model.vocab - 1)};
    Slot &slot = slots[part.sequence];
    const int64_t first = slot.filled, length = slot.filled += count;
    if (length > options.context)
      return Error{Code::ResourceExhausted,
                   std::to_string(length) + " tokens do not fit in the context of " +
                       std::to_string(options.context) + "; ask for more with --context" +
                       (options.context < model.maxPositions
                            ? ", up to " + std::to_string(model.maxPositions)
                            : " of a plan with more positions")};
    if (model.vision)
      for (int64_t i = 0; i < count; ++i)
        slot.images.advance(first + i, isPatch(part.tokens[i]));
  }
  return ok();
}

// That a run of several steps finds pages to its end: a step that finds none undoes itself alone.
// After check().
Status Session::checkPages(std::span<const Append> parts) {
  growths.clear();
  int64_t count = 0, rowsOfAll = 0;
  for (const Append &part : parts) {
    rowsOfAll += part.rows;
    Slot &slot = slots[part.sequence];
    if (part.tokens.empty() || slot.filled == slot.computed) // or counted already
      continue;
    growths.push_back({part.sequence, slot.computed, slot.filled});
    count += slot.filled - slot.computed;
    slot.filled = slot.computed;
  }
  if (count <= options.maxStep && rowsOfAll <= maxRows())
    return ok();
  return cache.checkPages(growths, options.maxStep);
}

Status Session::run(std::span<const Append> parts, const RowSink &sink) {
  MOE_TRY(check(parts));
  MOE_TRY(checkPages(parts));
  auto clear = [&] {
    for (auto *buffer : {&tokens, &positions, &sequences, &rows})
      buffer->clear();
    outputs.clear();
    masked = 0;
    imageRowsOf.clear();
    imageRowCount = 0;
    segments.clear();
  };
  clear();
  for (const Append &part : parts) {
    slots[part.sequence].filled = slots[part.sequence].computed;
    publish(part.sequence); // what was tentative
  }
  for (size_t p = 0; p < parts.size(); ++p) {
    const Append &part = parts[p];
    Slot &slot = slots[part.sequence];
    int64_t count = int64_t(part.tokens.size()), wanted = count - part.rows;
    const int64_t again = count ? std::max<int64_t>(slot.length - slot.filled, 0) : 0;
    for (int64_t i = -again; i < count; ++i) {
      if (tokens.size() == size_t(options.maxStep) ||
          (i >= wanted && rows.size() == size_t(maxRows()))) {
        MOE_TRY(runFilled(parts, sink));
        clear();
      }
      if (segments.empty() || segments.back().part != p)
        segments.push_back({p, i, slot.filled, 0});
      ++segments.back().count;
      if (i >= wanted) {
        rows.push_back(int32_t(tokens.size()));
        outputs.push_back(outputOf(part, i + 1 == count));
        masked += outputs.back().draw.masked;
      }
      const int32_t token = i < 0 ? ids(part.sequence)[slot.filled] : part.tokens[i];
      // Below zero is how the prefix cache knows a patch that has a row.
      tokens.push_back(token < 0 ? model.vision->patch : token);
      if (model.binding.images)
        imageRowsOf.push_back(placeImageRow(slot.images, slot.filled, isPatch(tokens.back())));
      positions.push_back(int32_t(slot.filled++));
      sequences.push_back(part.sequence);
    }
  }
  return tokens.empty() ? ok() : runFilled(parts, sink);
}

// What the device is asked for: of a row whose token is sampled the id, or the logits to sample
// from.
Session::RowOutput Session::outputOf(const Append &part, bool last) const {
  if (part.hidden)
    return {.logits = false, .hidden = true};
  if (!last || !part.sampler || !samplesOnDevice())
    return {};
  const std::optional<Draw> draw = part.sampler->draw();
  const bool hasMask = model.binding.masks && masked < options.maxSequences;
  if (!draw || (draw->masked && !hasMask))
    return {};
  return {.logits = false, .id = true, .draw = *draw, .sampler = part.sampler};
}

std::span<const float> Session::rowOf(uint32_t output, size_t row, int64_t columns) const {
  return elements<float>(executor->output(output)).subspan(row * size_t(columns), size_t(columns));
}

Status Session::tellRow(const Append &part, size_t index, int64_t token, size_t row,
                        const RowSink &sink) {
  if (outputs[row].hidden)
    return sink(index, token, rowOf(*model.binding.hidden, row, hidden()));
  const auto logits = outputs[row].logits ? rowOf(model.binding.logits, row, model.vocab)
                                          : std::span<const float>();
  if (!part.sampler || token + 1 < int64_t(part.tokens.size()))
    return sink(index, token, logits);
  if (outputs[row].id) {
    const int32_t id = elements<int32_t>(executor->output(*model.binding.ids))[row];
    if (id < 0)
      return part.sampler->errorOf(id);
    if (id >= model.vocab)
      return Error{Code::InvalidPlan, "the plan's kernels chose token " + std::to_string(id) +
                                          ", the vocabulary ends at " +
                                          std::to_string(model.vocab - 1)};
    part.sampler->advance();
    *part.sampled = id;
    return ok();
  }
  MOE_ASSIGN(id, part.sampler->sample(logits));
  *part.sampled = id;
  return ok();
}

// One step of the device: pages, run, lengths, outputs.
Status Session::runFilled(std::span<const Append> parts, const RowSink &sink) {
  if (Status run = runOnDevice(parts); !run) {
    for (const Segment &segment : segments) {
      int32_t sequence = parts[segment.part].sequence;
      auto undone = cache.truncate(sequence, slots[sequence].computed);
      assert(undone && *undone == slots[sequence].computed); // nothing of the step was published
      (void)undone;
    }
    return run;
  }
  auto added = tokens.begin();
  for (const Segment &segment : segments) {
    const Append &part = parts[segment.part];
    Slot &slot = slots[part.sequence];
    if (options.prefixCache)
      for (int64_t i = 0; i < segment.count; ++i) {
        const int64_t position = slot.computed + i;
        ids(part.sequence)[size_t(position)] =
            isPatch(added[i]) ? keyOfPatch(slot.images, position) : added[i];
      }
    added += segment.count;
    slot.computed += segment.count;
    slot.length = std::max(slot.length, slot.computed);
    if (part.tentative)
      continue;
    publish(part.sequence);
    cache.release(part.sequence, slot.computed);
  }
  size_t row = 0;
  for (const Segment &segment : segments) {
    int64_t wanted = int64_t(parts[segment.part].tokens.size()) - parts[segment.part].rows;
    int64_t end = segment.first + segment.count;
    for (int64_t token = std::max(segment.first, wanted); token < end; ++token, ++row)
      MOE_TRY(tellRow(parts[segment.part], segment.part, token, row, sink));
  }
  return ok();
}

Status Session::runOnDevice(std::span<const Append> parts) {
  if (cancel && cancel->load(std::memory_order_relaxed))
    return Error{Code::Cancelled, "interrupted"};
  for (const Segment &segment : segments) { // what a tentative step had kept, before more is taken
    const int32_t sequence = parts[segment.part].sequence;
    cache.release(sequence, slots[sequence].computed);
  }
  for (const Segment &segment : segments)
    MOE_TRY(
        cache.reserve(parts[segment.part].sequence, segment.from, segment.from + segment.count));
  fillStep(parts);
  return executor->run({int32_t(tokens.size()), int32_t(rows.size()), inputs, used, wanted});
}

// The inputs that the programs declare, in the places that the binding says.
void Session::fillStep(std::span<const Append> parts) {
  const StepBinding &binding = model.binding;
  const auto bring = [&](std::optional<uint32_t> input, const auto &values) {
    if (input)
      inputs[*input] = std::as_bytes(std::span(values));
  };
  bring(binding.tokens, tokens);
  bring(binding.positions, positions);
  bring(binding.sequences, sequences);
  bring(binding.rows, rows);
  bring(binding.imageRows, imageRowsOf);
  if (binding.sampling) {
    samplings.clear();
    int32_t mask = 0;
    for (const RowOutput &output : outputs) {
      samplings.push_back(samplingOf(output.logits, output.id, output.draw, mask));
      if (output.draw.masked)
        output.sampler->writeMask(maskOf(mask++));
    }
    bring(binding.sampling, samplings);
  }

  // The masks of the step come first. Kernels look at a table up to the page of a sequence's last
  // token.
  used.clear();
  if (masked)
    used.push_back({*binding.masks, 0, size_t(masked) * maskWords() * sizeof(uint32_t)});
  if (imageRowCount)
    used.push_back(
        {*binding.images, 0, uint64_t(imageRowCount) * uint64_t(model.hiddenSize) * sizeof(float)});
  const auto entry = sizeof(int32_t);
  const auto stride = size_t(KvCache::tableStride(options.context));
  for (const Segment &segment : segments) {
    const size_t first = size_t(parts[segment.part].sequence) * stride;
    const int64_t pages = KvCache::tableStride(segment.from + segment.count);
    for (const StepBinding::Table &table : binding.tables)
      used.push_back({table.input, first * entry, size_t(pages) * entry});
  }

  // Ids are wanted all together.
  wanted.clear();
  want(binding.logits, uint64_t(model.vocab) * sizeof(float), &RowOutput::logits);
  if (binding.hidden)
    want(*binding.hidden, uint64_t(hidden()) * sizeof(float), &RowOutput::hidden);
  if (std::any_of(outputs.begin(), outputs.end(), [](const RowOutput &row) { return row.id; }))
    wanted.push_back({*binding.ids, 0, rows.size() * sizeof(int32_t)});
}

// Each run of rows of which an output is wanted, mostly all of them or none.
void Session::want(uint32_t output, uint64_t rowBytes, bool RowOutput::*of) {
  bool follows = false;
  for (size_t row = 0; row < outputs.size(); ++row) {
    const bool wants = outputs[row].*of;
    if (wants && follows)
      wanted.back().bytes += rowBytes;
    else if (wants)
      wanted.push_back({output, row * rowBytes, rowBytes});
    follows = wants;
  }
}

Result<std::span<const float>> Session::append(int32_t sequence, std::span<const int32_t> added) {
  if (added.empty())
    return Error{Code::InvalidArgument, "there are no tokens to append"};
  std::span<const float> last;
  const Append part{sequence, added, 1};
  MOE_TRY(run({&part, 1}, [&](size_t, int64_t, std::span<const float> logits) {
    last = logits;
    return ok();
  }));
  return last;
}

Result<int32_t> Session::sample(int32_t sequence, std::span<const int32_t> added,
                                Sampler &sampler) {
  if (added.empty())
    return Error{Code::InvalidArgument, "there are no tokens to append"};
  int32_t sampled = 0;
  const Append part{sequence, added, 1, false, &sampler, &sampled};
  MOE_TRY(run({&part, 1}, [](size_t, int64_t, std::span<const float>) { return ok(); }));
  return sampled;
}

} // namespace moe
