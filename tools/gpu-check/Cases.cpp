// Buffers of each kernel as compiler/targets/cuda/README.md lists them.
#include "tools/gpu-check/Cases.h"
#include "runtime/device/cuda/KernelAbi.h"
#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>
#include <set>

using namespace llvm;
using namespace moe::codegen;

namespace moe::gpucheck {

namespace {

constexpr uint8_t kWeight = 0x3c; // of bf16 values of 0.0115

class Cases {
public:
  Cases(Bench &bench, const Shapes &s, int64_t tokens, int64_t context, int repetitions,
        std::vector<Row> &rows)
      : bench(bench), s(s), T(tokens), context(context), repetitions(repetitions), rows(rows),
        small(tokens <= kSmallTokens), tile(small          ? kSmallTokens
                                            : tokens <= 64 ? 64
                                                           : 128) {}

  llvm::Error run() {
    prepare();
    if (small) {
      qkv();
      fusedAttention();
    } else {
      norm();
      linear("qkv", s.hidden, finish().rows());
      finishHeads();
      attention();
    }
    linearResidual();
    if (!small)
      router();
    gateUp();
    down();
    head();
    sample();
    return std::move(error);
  }

private:
  // The first failure ends all: what follows does nothing.
  template <class V> V get(Expected<V> value) {
    if (value)
      return std::move(*value);
    fail(value.takeError());
    return V();
  }
  void fail(llvm::Error next) {
    if (error)
      consumeError(std::move(next));
    else
      error = std::move(next);
  }
  cuda::CUdeviceptr room(double bytes) { return error ? 0 : get(bench.room(uint64_t(bytes))); }
  cuda::CUdeviceptr weights(double count) {
    return error ? 0 : get(bench.filled(uint64_t(count * 2), kWeight));
  }
  cuda::CUdeviceptr zeros(double bytes) {
    return error ? 0 : get(bench.filled(uint64_t(bytes), 0));
  }
  template <class V> cuda::CUdeviceptr put(const std::vector<V> &values) {
    return error ? 0 : get(bench.put(values));
  }
  std::vector<float> random(int64_t n) {
    std::normal_distribution<float> normal;
    std::vector<float> values(n);
    for (float &v : values)
      v = normal(engine);
    return values;
  }

  void prepare() {
    h = put(random(T * padded(s.hidden)));
    normWeight = put(random(s.hidden));
    step = put(std::vector<cuda::StepInfo>{{int32_t(T), 1, int32_t(pages()), 0}});
    x = weights(double(2 * T) * padded(std::max({s.hidden, s.width, s.heads * s.headDim})));
  }
  // Of each sequence; every token is of its own, in a small step and where they are single ones.
  int64_t pages() const { return context / kPageTokens + 2; }

  FinishSpec finish() const {
    CacheSpec cache{.heads = s.kvHeads, .headDim = s.headDim, .storage = Storage::F16};
    cache.pageBytes = cudaLayerBytes(cache);
    return {.heads = s.heads,
            .cache = cache,
            .rope = true,
            .qkNorm = 1e-5f,
            .temperature = std::nullopt};
  }

  void measure(const char *name, const CudaSpec &spec, std::vector<cuda::CUdeviceptr> operands,
               double bytes, double flops, int64_t outputRows = 1) {
    if (error)
      return;
    auto kernel = bench.load(spec);
    if (!kernel)
      return fail(kernel.takeError());
    operands.push_back(step);
    Row row;
    row.kernel = name;
    row.tokens = T;
    row.context = context;
    row.bytes = bytes;
    row.flops = flops;
    row.registers = kernel->registers;
    row.sharedBytes = kernel->sharedBytes;
    row.blocks = blocksOf(spec, T, outputRows);
    auto time = bench.time(*kernel, row.blocks, operands, repetitions);
    if (!time)
      return fail(time.takeError());
    row.time = *time;
    rows.push_back(row);
  }
  double product(double outputs, double inputs) const { return 2 * outputs * inputs * double(T); }

  void qkv() {
    int64_t rows = finish().rows();
    CudaSpec spec{CudaQkvSpec{s.hidden, rows, kBf16, 1e-5f}, kSmallTokens,
                  splitsOf(rows, s.hidden)};
    measure("qkv", spec,
            {h, normWeight, weights(double(rows) * s.hidden), room(4.0 * spec.splits * T * rows)},
            2.0 * rows * s.hidden, product(rows, s.hidden));
  }
  struct Paged {
    cuda::CUdeviceptr positions, sequences, table, cache, rope;
    double bytes; // of keys and values before the step
  };
  // Small steps decode T sequences; larger ones add T tokens to one.
  Paged paged() {
    std::vector<int32_t> positions, sequences, table;
    int64_t count = small ? T : 1, perSequence = pages() + (small ? 0 : T / kPageTokens);
    for (int64_t t = 0; t < T; ++t) {
      positions.push_back(int32_t(context + (small ? 0 : t)));
      sequences.push_back(small ? int32_t(t) : 0);
    }
    for (int64_t i = 0; i < count * perSequence; ++i)
      table.push_back(int32_t(i));
    step = put(std::vector<cuda::StepInfo>{{int32_t(T), 1, int32_t(perSequence), 0}});
    return {put(positions),
            put(sequences),
            put(table),
            weights(double(count) * perSequence * cudaLayerBytes(finish().cache) / 2),
            put(random(T * padded(s.headDim))),
            double(count) * double(context) * s.kvHeads * s.headDim * 2 * 2};
  }
  double attentionFlops() const {
    double positions = small ? double(context + 1) : double(context) + double(T + 1) / 2;
    return 4.0 * double(T) * s.heads * s.headDim * positions;
  }
  void fusedAttention() {
    Paged p = paged();
    FinishSpec f = finish();
    f.sumSplits = splitsOf(f.rows(), s.hidden);
    CudaSpec spec{CudaAttentionSpec{f, Storage::BF16}, kSmallTokens,
                  std::clamp<int64_t>(kMultiprocessors / s.kvHeads, 1, 16)};
    measure("attention", spec,
            {p.positions, p.sequences, p.table, put(random(f.sumSplits * T * f.rows())), p.cache, x,
             room(partialBytes(spec)), zeros(counterBytes(spec)), p.rope},
            p.bytes, attentionFlops());
  }
  void finishHeads() {
    Paged p = paged();
    FinishSpec f = finish();
    measure("finish", {f, 64},
            {p.positions, p.sequences, p.table, put(random(T * f.rows())),
             room(2.0 * T * s.heads * s.headDim), p.cache, p.rope},
            4.0 * T * f.rows(), 0);
  }
  void attention() {
    Paged p = paged();
    measure(
        "attention", {CudaAttentionSpec{finish(), Storage::BF16}, tile},
        {p.positions, p.sequences, p.table, weights(double(T) * s.heads * s.headDim), p.cache, x},
        p.bytes, attentionFlops());
  }
  void norm() {
    measure("norm", {NormSpec{s.hidden, Storage::BF16, 1e-5f, false}, 64}, {h, normWeight, x},
            4.0 * T * s.hidden, 0);
  }
  void linear(const char *name, int64_t inputs, int64_t outputs) {
    measure(name, {LinearSpec{inputs, outputs, kBf16}, tile},
            {x, weights(double(padded(outputs)) * inputs), room(4.0 * T * outputs)},
            2.0 * outputs * inputs, product(outputs, inputs));
  }
  void linearResidual() {
    int64_t inputs = s.heads * s.headDim;
    CudaSpec spec{LinearResidualSpec{inputs, s.hidden, kBf16}, tile};
    std::vector<cuda::CUdeviceptr> operands{x, weights(double(padded(s.hidden)) * inputs), h};
    if (small) {
      spec.splits = splitsOf(s.hidden, inputs);
      operands.push_back(room(partialBytes(spec)));
      operands.push_back(zeros(counterBytes(spec)));
    }
    measure("linear_residual", spec, operands, 2.0 * s.hidden * inputs, product(s.hidden, inputs));
  }
  void router() {
    CudaSpec spec{RouterSpec{s.hidden, s.experts, Storage::BF16, 1e-5f}, 64};
    experts = room(4.0 * T);
    scores = room(4.0 * T);
    order = room(4.0 * T);
    offsets = room(4.0 * (s.experts + 1));
    measure("router", spec,
            {h, normWeight, put(random(s.experts * s.hidden)), room(2.0 * T * padded(s.hidden)),
             experts, scores, order, offsets, zeros(counterBytes(spec))},
            4.0 * s.experts * s.hidden + 4.0 * T * s.hidden, 0);
  }
  // Of what the router chose, so that bytes are counted of experts that are read.
  int64_t distinctExperts() {
    std::vector<int32_t> chosen(T);
    if (!error)
      if (llvm::Error copied = bench.copyOut(chosen.data(), experts, T * 4))
        fail(std::move(copied));
    return int64_t(std::set<int32_t>(chosen.begin(), chosen.end()).size());
  }
  void gateUp() {
    double matrix = 2.0 * s.width * s.hidden;
    CudaSpec spec{GateUpSpec{s.hidden, s.width, s.experts, 1, kBf16, kBf16, 1e-5f}, tile};
    cuda::CUdeviceptr shared = weights(matrix), routed = weights(matrix * double(s.experts));
    cuda::CUdeviceptr out = room(2.0 * 2 * T * padded(s.width));
    double flops = 2 * product(2.0 * double(s.width), double(s.hidden));
    if (small) {
      experts = room(4.0 * T);
      measure("gate_up", spec,
              {h, normWeight, put(random(s.experts * s.hidden)), shared, routed, out, experts,
               room(4.0 * s.experts * kSmallTokens), zeros(counterBytes(spec))},
              0, flops);
    } else {
      measure("gate_up", spec, {x, scores, order, offsets, shared, routed, out}, 0, flops);
    }
    if (!error)
      rows.back().bytes = 2 * matrix * double(1 + distinctExperts());
  }
  void down() {
    double matrix = double(s.width) * s.hidden;
    CudaSpec spec{DownSpec{s.hidden, s.width, s.experts, 1, kBf16, kBf16}, tile};
    cuda::CUdeviceptr shared = weights(matrix), routed = weights(matrix * double(s.experts));
    double bytes = 2 * matrix * double(1 + distinctExperts());
    double flops = 2 * product(double(s.hidden), double(s.width));
    if (small) {
      spec.splits = splitsOf(2 * s.hidden, s.width);
      measure("down", spec,
              {x, experts, shared, routed, h, room(partialBytes(spec)), zeros(counterBytes(spec))},
              bytes, flops);
    } else {
      measure("down", spec, {x, order, offsets, shared, routed, h}, bytes, flops);
    }
  }
  // Of one row, which is greedy: its logits are not written.
  void head() {
    CudaSpec spec{HeadSpec{s.hidden, s.vocabulary, kBf16, 1e-5f}, tile};
    cuda::CUdeviceptr w = weights(double(padded(s.vocabulary)) * s.hidden),
                      logits = room(4.0 * s.vocabulary), ids = room(4),
                      counters = zeros(double(counterBytes(spec, 1))),
                      sampling = put(std::vector<cuda::RowSampling>(1));
    std::vector<cuda::CUdeviceptr> operands{x, sampling, w, logits, ids, counters};
    if (small)
      operands = {put(std::vector<int32_t>{0}), sampling, h, normWeight, w, logits, ids, counters};
    measure("head", spec, operands, 2.0 * s.vocabulary * s.hidden, 2.0 * s.vocabulary * s.hidden);
  }
  // As many rows as the step has tokens, up to 64: greedy, then with each filter.
  void sample() {
    const int64_t rows = std::min<int64_t>(T, 64);
    CudaSpec spec{SampleSpec{s.vocabulary}};
    std::vector<float> values = random(s.vocabulary), all;
    for (float &v : values)
      v *= 3;
    // A run reads the ids that the one before wrote: token 0 is the largest logit, and is drawn.
    std::iter_swap(values.begin(), std::max_element(values.begin(), values.end()));
    for (int64_t r = 0; r < rows; ++r)
      all.insert(all.end(), values.begin(), values.end());
    cuda::CUdeviceptr logits = put(all), partials = room(double(partialBytes(spec, rows))),
                      counters = zeros(double(counterBytes(spec, rows)));
    step = put(std::vector<cuda::StepInfo>{{int32_t(T), int32_t(rows), 1, 0}});
    const auto run = [&](const char *name, cuda::RowSampling row) {
      row.scale = float(std::numbers::log2e / 0.8);
      measure(name, spec,
              {put(std::vector<cuda::RowSampling>(rows, row)), logits,
               put(std::vector<int32_t>(rows, 0)), partials, counters},
              4.0 * double(rows) * s.vocabulary, 0, rows);
    };
    run("sample greedy", {});
    run("sample", {3, 0, 0, 0, 0, 0, 0});
    run("sample top-k", {3, 0, 0, 0, 0, 40, 0});
    run("sample top-p", {3, 0, 0, uint64_t(0.9 * 0x1p64), 0, 0, 0});
    run("sample top-k top-p", {3, 0, 0, uint64_t(0.9 * 0x1p64), 0, 40, 0});
  }

  Bench &bench;
  const Shapes &s;
  int64_t T, context;
  int repetitions;
  std::vector<Row> &rows;
  bool small;
  int64_t tile;
  std::mt19937 engine{1};
  llvm::Error error = llvm::Error::success();
  cuda::CUdeviceptr h = 0, normWeight = 0, x = 0, step = 0;
  cuda::CUdeviceptr experts = 0, scores = 0, order = 0, offsets = 0;
};

} // namespace

llvm::Error timeKernels(Bench &bench, const Shapes &shapes, int64_t tokens, int64_t context,
                        int repetitions, std::vector<Row> &rows) {
  llvm::Error error = Cases(bench, shapes, tokens, context, repetitions, rows).run();
  bench.drop();
  return error;
}

} // namespace moe::gpucheck
