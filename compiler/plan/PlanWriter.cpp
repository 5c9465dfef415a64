// Threads pack pieces and write them where they belong; the calling thread hashes them in order.
// Header and index are written when every section is there.
#include "compiler/plan/PlanWriter.h"

#include "compiler/plan/Index.h"
#include "compiler/plan/OutputFile.h"
#include "dialects/moe/WeightSources.h"
#include "dialects/plan/PlanDialect.h"
#include "runtime/plan/Check.h"
#include "runtime/plan/Format.h"

#include "llvm/ADT/ScopeExit.h"

#include <condition_variable>
#include <ctime>
#include <mutex>
#include <thread>

using namespace llvm;
using namespace moe;

namespace {

llvm::Error fail(const Twine &message) {
  return createStringError(inconvertibleErrorCode(), message);
}

llvm::Error cancelledError() {
  return createStringError(std::make_error_code(std::errc::operation_canceled),
                           "cancelled: no plan was written");
}

// The bytes so far, in order; what is skipped is zero in the file.
class Hash {
public:
  Hash() { XXH3_64bits_reset(&state); }
  void update(ArrayRef<char> data) {
    XXH3_64bits_update(&state, data.data(), data.size());
    at += data.size();
  }
  void zerosUntil(uint64_t offset) {
    static const char zeros[kSectionAlignment] = {};
    while (at < offset)
      update(ArrayRef(zeros).take_front(std::min<uint64_t>(sizeof(zeros), offset - at)));
  }
  uint64_t digest() const { return XXH3_64bits_digest(&state); }

private:
  XXH3_state_t state;
  uint64_t at = 0;
};

// A tensor to pack, and the first of its pieces among those of all tensors.
struct Work {
  Packer packer;
  int64_t offset; // in the weights section
  int64_t firstPiece;
};

// Packs all tensors of a device into its weights section.
class WeightsWriter {
public:
  WeightsWriter(const PlanInputs &inputs, OutputFile &file, std::string device, uint64_t section)
      : inputs(inputs), file(file), device(std::move(device)), section(section) {}

  // Opens all sources, so that what is missing is known at once.
  llvm::Error prepare();
  // Calls `progress` with the bytes of the section that are done; it returns false to stop.
  Expected<uint64_t> write(uint64_t length, function_ref<bool(uint64_t)> progress);
  void addTo(PackingFigures &figures) const;

private:
  // The pieces are dealt in order, and piece i is packed into slot i modulo the number of slots, as
  // soon as the piece before in that slot is hashed.
  struct Slot {
    std::vector<char> bytes;
    int64_t done = -1; // the piece that is in it
  };
  void work();
  llvm::Error packPiece(int64_t index, std::vector<char> &bytes);
  const Work &workOf(int64_t index) const;

  const PlanInputs &inputs;
  OutputFile &file;
  const std::string device;
  const uint64_t section;
  std::vector<Work> tensors;
  int64_t pieces = 0;

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Slot> slots;
  int64_t next = 0, hashed = 0;
  bool stop = false;
  std::optional<llvm::Error> firstError;
  PackingFigures own;
};

llvm::Error WeightsWriter::prepare() {
  mlir::ModuleOp module = inputs.module;
  SmallVector<plan::TensorOp> ops(
      make_filter_range(module.getOps<plan::TensorOp>(),
                        [&](plan::TensorOp op) { return op.getDevice() == device; }));
  sort(ops, [](plan::TensorOp a, plan::TensorOp b) { return a.getOffset() < b.getOffset(); });
  for (plan::TensorOp op : ops) {
    Expected<WeightOp> weight = weightOf(inputs, op);
    if (!weight)
      return weight.takeError();
    Expected<Packer> packer =
        Packer::create(op.getSymName(), cast<mlir::RankedTensorType>(op.getType()),
                       slicesOf(*weight), op.getPacking(), *inputs.tensors, inputs.packing);
    if (!packer)
      return packer.takeError();
    if (packer->bytes() != int64_t(op.getBytes()))
      return fail("tensor '" + op.getSymName() + "' has room for " + Twine(op.getBytes()) +
                  " bytes, and packed it takes " + Twine(packer->bytes()));
    own.bytesRead += packer->storedBits() / 8;
    const int64_t count = packer->pieces();
    tensors.push_back({std::move(*packer), int64_t(op.getOffset()), pieces});
    pieces += count;
  }
  return llvm::Error::success();
}

const Work &WeightsWriter::workOf(int64_t index) const {
  return *std::prev(upper_bound(
      tensors, index, [](int64_t piece, const Work &work) { return piece < work.firstPiece; }));
}

llvm::Error WeightsWriter::packPiece(int64_t index, std::vector<char> &bytes) {
  const Work &work = workOf(index);
  const Packer::Piece piece = work.packer.piece(index - work.firstPiece);
  bytes.resize(piece.bytes);
  if (llvm::Error error = work.packer.pack(index - work.firstPiece, bytes))
    return error;
  return file.write(section + work.offset + piece.offset, bytes);
}

void WeightsWriter::addTo(PackingFigures &figures) const {
  figures.threads = std::max(figures.threads, own.threads);
  figures.seconds += own.seconds;
  figures.busySeconds += own.busySeconds;
  figures.bytesRead += own.bytesRead;
}

static double secondsOf(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

void WeightsWriter::work() {
  std::unique_lock lock(mutex);
  auto count = scope_exit([&] { own.busySeconds += secondsOf(CLOCK_THREAD_CPUTIME_ID); });
  while (next < pieces && !stop) {
    const int64_t index = next++;
    Slot &slot = slots[index % slots.size()];
    changed.wait(lock, [&] { return stop || index < hashed + int64_t(slots.size()); });
    if (stop)
      return;
    lock.unlock();
    llvm::Error error = packPiece(index, slot.bytes);
    lock.lock();
    if (error) {
      if (stop)
        consumeError(std::move(error)); // one is enough
      else
        firstError = std::move(error);
      stop = true;
    }
    slot.done = index;
    changed.notify_all();
  }
}

Expected<uint64_t> WeightsWriter::write(uint64_t length, function_ref<bool(uint64_t)> progress) {
  const unsigned machine = std::max(1u, std::thread::hardware_concurrency());
  const int64_t jobs = std::clamp<int64_t>(inputs.jobs ? inputs.jobs : machine, 1,
                                           std::clamp<int64_t>(pieces, 1, 64));
  slots.resize(jobs + 2);
  const double start = secondsOf(CLOCK_MONOTONIC);
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < jobs; ++i)
    threads.emplace_back([this] { work(); });

  Hash hash;
  for (int64_t index = 0; index < pieces; ++index) {
    Slot &slot = slots[index % slots.size()];
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stop || slot.done == index; });
      if (stop)
        break;
    }
    const Work &work = workOf(index);
    const Packer::Piece piece = work.packer.piece(index - work.firstPiece);
    hash.zerosUntil(work.offset + piece.offset);
    hash.update(slot.bytes);
    const bool go = progress(work.offset + piece.offset + piece.bytes);
    std::lock_guard lock(mutex);
    hashed = index + 1;
    stop |= !go;
    changed.notify_all();
  }
  for (std::thread &thread : threads)
    thread.join();
  own.threads = unsigned(jobs);
  own.seconds = secondsOf(CLOCK_MONOTONIC) - start;
  if (firstError)
    return std::move(*firstError);
  if (stop)
    return cancelledError();
  hash.zerosUntil(length);
  return hash.digest();
}

// The FlatBuffer of the index, checked as a reader will check it.
Expected<flatbuffers::DetachedBuffer> finish(const fb::PlanT &plan, uint64_t offset) {
  flatbuffers::FlatBufferBuilder builder(1 << 16);
  fb::FinishPlanBuffer(builder, fb::Plan::Pack(builder, &plan));
  flatbuffers::DetachedBuffer buffer = builder.Release();
  if (Status status = checkIndex(*fb::GetPlan(buffer.data()), offset); !status)
    return fail("the plan would be refused by every runtime: " + status.error().message);
  return std::move(buffer);
}

} // namespace

llvm::Error moe::writePlan(const PlanInputs &inputs, StringRef path, const WriteProgress &progress,
                           std::atomic<bool> *cancel, PackingFigures *figures) {
  Expected<std::unique_ptr<fb::PlanT>> made = makeIndex(inputs);
  if (!made)
    return made.takeError();
  fb::PlanT &plan = **made;
  const uint64_t end = indexOffset(plan);
  Expected<flatbuffers::DetachedBuffer> draft = finish(plan, end);
  if (!draft)
    return draft.takeError();
  const uint64_t total = end + draft->size(); // hashes do not change the size

  Expected<OutputFile> file = OutputFile::create(path, total);
  if (!file)
    return file.takeError();
  // False to stop.
  const auto report = [&](uint64_t done) {
    if (progress)
      progress(done, total);
    return !cancel || !cancel->load(std::memory_order_relaxed);
  };

  // What is wrong with any weight is known before the first is packed.
  const std::vector<std::string> devices = weightDevices(inputs.module);
  const size_t firstWeights = plan.sections.size() - devices.size();
  std::vector<std::unique_ptr<WeightsWriter>> writers;
  for (const auto &[i, device] : enumerate(devices)) {
    writers.push_back(std::make_unique<WeightsWriter>(inputs, *file, device,
                                                      plan.sections[firstWeights + i]->offset));
    if (llvm::Error error = writers.back()->prepare())
      return error;
  }
  report(0);
  const auto writeSection = [&](fb::SectionT &section, ArrayRef<char> bytes) {
    section.hash = hashBytes(bytes.data(), bytes.size());
    return file->write(section.offset, bytes);
  };
  for (const auto &[image, input] : zip(plan.images, inputs.images)) {
    if (llvm::Error error = writeSection(*plan.sections[image->section], input.code))
      return error;
    if (image->cubin >= 0)
      if (llvm::Error error = writeSection(*plan.sections[image->cubin], input.cubin))
        return error;
  }
  if (inputs.tokenizer)
    if (llvm::Error error =
            writeSection(*plan.sections[plan.tokenizer->section], inputs.tokenizer->tables))
      return error;
  for (const auto &[i, writer] : enumerate(writers)) {
    fb::SectionT &weights = *plan.sections[firstWeights + i];
    Expected<uint64_t> hash =
        writer->write(weights.length, [&](uint64_t done) { return report(weights.offset + done); });
    if (!hash)
      return hash.takeError();
    weights.hash = *hash;
    if (figures)
      writer->addTo(*figures);
  }

  Expected<flatbuffers::DetachedBuffer> index = finish(plan, end);
  if (!index)
    return index.takeError();
  const Header header =
      makeHeader(end, index->size(), hashBytes(index->data(), index->size()), "moec " MOE_VERSION);
  if (llvm::Error error =
          file->write(end, {reinterpret_cast<const char *>(index->data()), index->size()}))
    return error;
  if (llvm::Error error = file->write(0, {reinterpret_cast<const char *>(&header), sizeof(header)}))
    return error;
  if (!report(total))
    return cancelledError();
  return file->commit();
}
