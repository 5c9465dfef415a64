// The kernels of a step, each alone: its operands, and some elements of what it should leave there,
// by plain loops in double precision.
#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/attention/AttentionLayout.h"
#include "compiler/kernels/down/Down.h"
#include "compiler/kernels/gate_up/GateUp.h"
#include "compiler/kernels/head/Head.h"
#include "compiler/kernels/linear/Linear.h"
#include "compiler/kernels/norm/Norm.h"
#include "compiler/kernels/router/Router.h"
#include "compiler/kernels/sample/Sample.h"
#include "dialects/moe/MoeReference.h"
#include "runtime/device/cuda/KernelAbi.h"
#include "tools/gpu-check/Operands.h"
#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

using namespace llvm;
using namespace moe::codegen;

namespace moe::gpucheck {

using codegen::Operand;

namespace {

constexpr float kEps = 1e-5f;
constexpr int kSamples = 32; // elements of an operand that are checked

// What is lost by sums in float32; where the kernel's norm rounds a channel to bf16 otherwise; by
// results in bf16 and in float16.
constexpr float kSum = 5e-5f, kNormed = 1e-3f, kHalf = 1.0f / 256, kFloat16 = 6e-4f;

// Where random numbers come from: each kind of operand has its own.
enum Seed : uint32_t { kH = 1, kX, kNorm, kRouter, kSums, kRope, kCache, kQ, kLogits, kWeight };

double dot(const Floats &a, const Floats &b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += double(a[i]) * b[i];
  return sum;
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

class Cases {
public:
  Cases(BundleWriter &writer, const Shapes &s, int64_t tokens, int64_t context, bool timed)
      : writer(writer), s(s), T(tokens), context(context), timed(timed),
        small(tokens <= kSmallTokens), tile(tokens <= 64 ? 64 : 128) {}

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
  using Elements = std::vector<std::pair<uint64_t, double>>; // where, and what
  struct Argument {
    Operand operand;
    fb::OperandT memory;
  };
  struct Check {
    Operand operand;
    fb::CheckT check; // its operand is not set yet
  };

  void prepare() {
    h = Numbers(fb::Element::F32, kH, 1, double(T) * padded(s.hidden));
    normWeight = Numbers(fb::Element::F32, kNorm, 1, double(s.hidden));
    routerWeight = Numbers(fb::Element::F32, kRouter, 1 / std::sqrt(float(s.hidden)),
                           double(s.experts) * s.hidden);
  }
  // Activations that feed a product.
  Numbers halves(double rows, int64_t channels) {
    return Numbers(fb::Element::BF16, kX, 1, rows * padded(channels));
  }
  Weight weight(int64_t matrices, int64_t rows, int64_t columns,
                WeightLayout::Kind kind = WeightLayout::Kind::Fragments) {
    return Weight(writer, s.format, matrices, rows, columns, kind, kWeight);
  }
  // A token and one of its channels, any.
  std::pair<int64_t, int64_t> any(int64_t channels) {
    return {int64_t(random() % T), int64_t(random() % channels)};
  }
  Floats normed(int64_t t, bool round = true) const {
    Floats x = reference::rmsNorm(h.range(t * padded(s.hidden), s.hidden),
                                  normWeight.range(0, s.hidden), kEps);
    for (float &v : x)
      v = round ? reference::roundToBfloat16(v) : v;
    return x;
  }
  // Of each sequence; every token is of its own, in a small step and where they are single ones.
  int64_t pages() const { return context / kPageTokens + 2; }

  FinishSpec finish() const {
    CacheSpec cache{.heads = s.kvHeads, .headDim = s.headDim, .storage = Storage::F16};
    cache.pageBytes = cudaLayerBytes(cache);
    return {.heads = s.heads,
            .cache = cache,
            .rope = true,
            .qkNorm = kEps,
            .temperature = std::nullopt};
  }

  static Check check(Operand operand, fb::Element element, const Elements &elements, float relative,
                     float absolute) {
    fb::CheckT check;
    check.element = element;
    for (auto [at, want] : elements) {
      check.at.push_back(at);
      check.want.push_back(float(want));
    }
    check.relative = relative;
    check.absolute = absolute;
    return {operand, check};
  }
  static Check checkInts(Operand operand, ArrayRef<int32_t> want) {
    Elements elements;
    for (auto [i, value] : enumerate(want))
      elements.push_back({i, value});
    return check(operand, fb::Element::I32, elements, 0, 0);
  }

  // An operand that the kernel makes or works on.
  template <class Contract>
  Argument made(const Contract &contract, Operand operand, int64_t rows = 1) const {
    const double bytes = double(contract.bytes(operand, {T, rows}));
    return {operand, operand == Operand::Counters ? zeros(bytes) : undefinedOperand(bytes)};
  }
  // `arguments`: all operands of the kernel, in any order.
  template <class Contract>
  void add(const char *name, const Contract &contract, ArrayRef<Argument> arguments,
           ArrayRef<Check> checks, double bytes, double flops, int64_t outputRows = 1,
           int64_t tableStride = 1) {
    if (error)
      return;
    if constexpr (requires { contract.refusal(); })
      if (std::string reason = contract.refusal(); !reason.empty())
        return void(error = createStringError(contract.name() + ": " + reason));
    add(name, ChosenKernel<CudaKernel>(contract), contract.blocks({T, outputRows}), arguments,
        checks, bytes, flops, outputRows, tableStride);
  }
  void add(const char *name, const ChosenKernel<CudaKernel> &chosen, int64_t blocks,
           ArrayRef<Argument> arguments, ArrayRef<Check> checks, double bytes, double flops,
           int64_t outputRows, int64_t tableStride) {
    auto kernel = writer.kernel(chosen);
    if (!kernel)
      return void(error = kernel.takeError());
    fb::CaseT made;
    made.kernel = *kernel;
    made.name = name;
    made.shapes = s.name;
    made.tokens = uint32_t(T);
    made.context = uint32_t(context);
    made.rows = uint32_t(outputRows);
    made.table_stride = uint32_t(tableStride);
    made.blocks = uint32_t(blocks);
    assert(arguments.size() == chosen.operands.size());
    for (Operand operand : chosen.operands) {
      auto *argument =
          llvm::find_if(arguments, [&](const Argument &a) { return a.operand == operand; });
      assert(argument != arguments.end() && "a case gives all operands of its kernel");
      made.operands.push_back(std::make_unique<fb::OperandT>(argument->memory));
    }
    for (const Check &check : checks) {
      made.checks.push_back(std::make_unique<fb::CheckT>(check.check));
      made.checks.back()->operand =
          uint32_t(llvm::find(chosen.operands, check.operand) - chosen.operands.begin());
    }
    made.timed = timed;
    made.bytes = bytes;
    made.flops = flops;
    writer.add(std::move(made));
  }
  double product(double outputs, double inputs) const { return 2 * outputs * inputs * double(T); }
  double bytesOf(double elements) const { return elements * bitsOf(s.format.element) / 8; }

  //===--- Attention -------------------------------------------------------------------------------

  void qkv() {
    const int64_t rows = finish().rows();
    CudaSmallQkv qkv{s.hidden, rows, s.format, kEps, splitsOf(rows, s.hidden)};
    Weight w = weight(1, rows, s.hidden);
    Elements elements;
    for (int i = 0; i < kSamples; ++i) {
      auto [t, row] = any(rows);
      elements.push_back({t * rows + row, dot(normed(t), w.row(0, row))});
    }
    Check sums = check(Operand::Sums, fb::Element::F32, elements, 0, kNormed);
    sums.check.terms = uint32_t(qkv.splits);
    sums.check.stride = uint64_t(T * rows);
    add("qkv", qkv,
        {{Operand::H, h.operand},
         {Operand::Norm, normWeight.operand},
         {Operand::Weight, w.operand},
         made(qkv, Operand::Sums)},
        {sums}, bytesOf(double(rows) * s.hidden), product(rows, s.hidden));
  }

  // Keys and values before a step. Small steps decode T sequences; larger ones add T tokens to one.
  struct Paged {
    Ints positions, sequences, table;
    int64_t stride; // pages of a sequence
    Numbers cache, rope;
    double bytes; // of keys and values before the step
  };
  Paged paged() {
    Paged p;
    const int64_t count = small ? T : 1;
    p.stride = pages() + (small ? 0 : T / kPageTokens);
    for (int64_t t = 0; t < T; ++t) {
      p.positions.push_back(int32_t(context + (small ? 0 : t)));
      p.sequences.push_back(small ? int32_t(t) : 0);
    }
    for (int64_t i = 0; i < count * p.stride; ++i)
      p.table.push_back(int32_t(i));
    const int64_t bytes = count * p.stride * cudaLayerBytes(finish().cache);
    p.cache = Numbers(fb::Element::F16, kCache, 1, double(bytes) / 2);
    p.rope = Numbers(fb::Element::F32, kRope, 0.7f, double(T * padded(s.headDim)));
    p.bytes = double(count) * double(context) * s.kvHeads * s.headDim * 2 * 2;
    return p;
  }
  // What all kernels of attention are passed.
  std::vector<Argument> arguments(const Paged &p) {
    return {{Operand::Positions, stored(writer, p.positions)},
            {Operand::Sequences, stored(writer, p.sequences)},
            {Operand::BlockTable, stored(writer, p.table)},
            {Operand::Cache, p.cache.operand}};
  }
  // Where a channel of a key (part 0) or a value (part 1) lies in the cache.
  uint64_t cacheIndex(const Paged &p, int64_t t, int64_t position, int64_t kvHead, int64_t part,
                      int64_t channel) const {
    const TileLayout tile{s.headDim};
    const int64_t page = p.sequences[t] * p.stride + position / kPageTokens;
    return uint64_t(page * cudaLayerBytes(finish().cache) + (kvHead * 2 + part) * tile.bytes() +
                    tile.offset(position % kPageTokens, channel)) /
           2;
  }
  // The first `count` positions that token t sees, for one head of keys.
  reference::KvCache history(const Paged &p, int64_t t, int64_t kvHead, int64_t count) const {
    Floats parts[2];
    Ints positions, sequences(count, 0);
    for (int64_t position = 0; position < count; ++position) {
      positions.push_back(int32_t(position));
      for (int64_t part = 0; part < 2; ++part)
        for (int64_t c = 0; c < s.headDim; ++c)
          parts[part].push_back(p.cache[cacheIndex(p, t, position, kvHead, part, c)]);
    }
    reference::KvCache cache(1, s.headDim);
    cache.append(parts[0], parts[1], positions, sequences);
    return cache;
  }
  // The raw q, k, v of a head of token t, and what finishing makes of q and k.
  struct Finished {
    Floats raw, q, k, v;
  };
  Finished finished(const Numbers &sums, int64_t splits, const Paged &p, int64_t t, int64_t head) {
    const int64_t D = s.headDim, rows = finish().rows(), kvHead = head / (s.heads / s.kvHeads);
    Finished f;
    for (int64_t first : {head * D, (s.heads + kvHead) * D, (s.heads + s.kvHeads + kvHead) * D})
      for (int64_t c = 0; c < D; ++c) {
        double sum = 0;
        for (int64_t split = 0; split < splits; ++split)
          sum += sums[(split * T + t) * rows + first + c];
        f.raw.push_back(float(sum));
      }
    const Floats rope = p.rope.range(t * padded(D), D);
    const auto part = [&](int64_t i) { return Floats(&f.raw[i * D], &f.raw[i * D] + D); };
    f.q = reference::headNorm(reference::rope(part(0), rope, D), D, kEps);
    f.k = reference::headNorm(reference::rope(part(1), rope, D), D, kEps);
    f.v = part(2);
    return f;
  }
  // What a step leaves in the cache of a token.
  void appended(Elements &elements, const Finished &f, const Paged &p, int64_t t, int64_t head) {
    for (int64_t part = 0; part < 2; ++part) {
      const int64_t c = random() % s.headDim;
      elements.push_back({cacheIndex(p, t, p.positions[t], head / (s.heads / s.kvHeads), part, c),
                          (part ? f.v : f.k)[c]});
    }
  }
  // Some channels of a head's result [T, heads * D], whose values are `row`.
  void someOf(Elements &elements, const Floats &row, int64_t t, int64_t head) {
    for (int i = 0; i < 8; ++i) {
      const int64_t c = random() % s.headDim;
      elements.push_back({t * padded(s.heads * s.headDim) + head * s.headDim + c, row[c]});
    }
  }
  static float largest(const Elements &elements) {
    double most = 0;
    for (auto [at, want] : elements)
      most = std::max(most, std::abs(want));
    return float(most);
  }
  double attentionFlops() const {
    double positions = small ? double(context + 1) : double(context) + double(T + 1) / 2;
    return 4.0 * double(T) * s.heads * s.headDim * positions;
  }

  void fusedAttention() {
    Paged p = paged();
    CudaFusedAttention attention{finish(),
                                 std::clamp<int64_t>(kMultiprocessors / s.kvHeads, 1, 16)};
    FinishSpec &f = attention.finish;
    f.sumSplits = splitsOf(f.rows(), s.hidden);
    Numbers sums(fb::Element::F32, kSums, 1 / std::sqrt(float(f.sumSplits)),
                 double(f.sumSplits * T * f.rows()));
    Elements results, kept;
    for (int i = 0; i < 4; ++i) {
      const auto [t, head] = any(s.heads);
      Finished one = finished(sums, f.sumSplits, p, t, head);
      reference::KvCache cache = history(p, t, head / (s.heads / s.kvHeads), context);
      const Ints position{p.positions[t]}, sequence{0};
      cache.append(one.k, one.v, position, sequence);
      someOf(results, reference::attention(cache, one.q, position, sequence), t, head);
      appended(kept, one, p, t, head);
    }
    std::vector<Argument> all = arguments(p);
    all.insert(all.end(), {{Operand::Sums, sums.operand},
                           made(attention, Operand::AttentionOut),
                           made(attention, Operand::Partials),
                           made(attention, Operand::Counters),
                           {Operand::RopeTable, p.rope.operand}});
    add("attention", attention, all,
        {check(Operand::AttentionOut, fb::Element::BF16, results, 0, 5e-3f * largest(results)),
         check(Operand::Cache, fb::Element::F16, kept, kFloat16, 1e-4f)},
        p.bytes, attentionFlops(), 1, p.stride);
  }
  // Queries come to the tiled kernels with the factor of a softmax in base 2.
  double queryFactor() const { return std::numbers::log2e / std::sqrt(double(s.headDim)); }

  void finishHeads() {
    Paged p = paged();
    CudaFinish finish{this->finish()};
    const int64_t rows = finish.finish.rows();
    Numbers sums(fb::Element::F32, kSums, 1, double(T * rows));
    Elements queries, kept;
    for (int i = 0; i < 8; ++i) {
      const auto [t, head] = any(s.heads);
      Finished one = finished(sums, 1, p, t, head);
      appended(kept, one, p, t, head);
      const int64_t c = random() % s.headDim;
      queries.push_back({(t * s.heads + head) * s.headDim + c, one.q[c] * queryFactor()});
    }
    std::vector<Argument> all = arguments(p);
    all.insert(all.end(), {{Operand::Sums, sums.operand},
                           made(finish, Operand::Q),
                           {Operand::RopeTable, p.rope.operand}});
    add("finish", finish, all,
        {check(Operand::Q, fb::Element::F16, queries, kFloat16, 1e-4f),
         check(Operand::Cache, fb::Element::F16, kept, kFloat16, 1e-4f)},
        4.0 * double(T * rows), 0, 1, p.stride);
  }
  void attention() {
    Paged p = paged();
    Numbers q(fb::Element::F16, kQ, float(queryFactor()), double(T * s.heads * s.headDim));
    Elements results;
    for (int i = 0; i < 4; ++i) {
      const auto [t, head] = any(s.heads);
      reference::KvCache cache = history(p, t, head / (s.heads / s.kvHeads), p.positions[t] + 1);
      Floats query = q.range((t * s.heads + head) * s.headDim, s.headDim);
      for (float &v : query)
        v = float(v / queryFactor());
      const Ints position{p.positions[t]}, sequence{0};
      someOf(results, reference::attention(cache, query, position, sequence), t, head);
    }
    CudaTiledAttention attention{finish()};
    std::vector<Argument> all = arguments(p);
    all.insert(all.end(), {{Operand::Q, q.operand}, made(attention, Operand::AttentionOut)});
    add("attention", attention, all,
        {check(Operand::AttentionOut, fb::Element::BF16, results, 0, 5e-3f * largest(results))},
        p.bytes, attentionFlops(), 1, p.stride);
  }

  //===--- Norms, the router and products ----------------------------------------------------------

  void norm() {
    Elements elements;
    for (int i = 0; i < kSamples; ++i) {
      auto [t, channel] = any(s.hidden);
      elements.push_back({t * padded(s.hidden) + channel, normed(t, false)[channel]});
    }
    CudaNorm norm{s.hidden, kEps};
    add("norm", norm,
        {{Operand::H, h.operand}, {Operand::Norm, normWeight.operand}, made(norm, Operand::X)},
        {check(Operand::X, fb::Element::BF16, elements, kHalf, 1e-6f)}, 4.0 * double(T * s.hidden),
        0);
  }
  void linear(const char *name, int64_t inputs, int64_t outputs) {
    Numbers x = halves(double(T), inputs);
    Weight w = weight(1, outputs, inputs);
    Elements elements;
    for (int i = 0; i < kSamples; ++i) {
      auto [t, row] = any(outputs);
      elements.push_back(
          {t * outputs + row, dot(x.range(t * padded(inputs), inputs), w.row(0, row))});
    }
    CudaTiledLinear linear{inputs, outputs, s.format, tile};
    add(name, linear,
        {{Operand::X, x.operand}, {Operand::Weight, w.operand}, made(linear, Operand::Sums)},
        {check(Operand::Sums, fb::Element::F32, elements, 0, kSum)},
        bytesOf(double(outputs) * inputs), product(outputs, inputs));
  }
  void linearResidual() {
    const int64_t inputs = s.heads * s.headDim;
    Numbers x = halves(double(T), inputs);
    Weight w = weight(1, s.hidden, inputs);
    Elements elements;
    for (int i = 0; i < kSamples; ++i) {
      auto [t, row] = any(s.hidden);
      const uint64_t at = t * padded(s.hidden) + row;
      elements.push_back({at, h[at] + dot(x.range(t * padded(inputs), inputs), w.row(0, row))});
    }
    std::vector<Argument> all{
        {Operand::X, x.operand}, {Operand::Weight, w.operand}, {Operand::H, h.operand}};
    const Check sums = check(Operand::H, fb::Element::F32, elements, 0, kSum);
    const double bytes = bytesOf(double(s.hidden) * inputs), flops = product(s.hidden, inputs);
    if (!small)
      return add("linear_residual", CudaTiledLinearResidual{inputs, s.hidden, s.format, tile}, all,
                 {sums}, bytes, flops);
    CudaSmallLinearResidual linear{inputs, s.hidden, s.format, splitsOf(s.hidden, inputs)};
    all.insert(all.end(), {made(linear, Operand::Partials), made(linear, Operand::Counters)});
    add("linear_residual", linear, all, {sums}, bytes, flops);
  }

  //===--- Experts ---------------------------------------------------------------------------------

  // The expert of each token by the router, and its score.
  struct Routes {
    Ints experts, order, offsets;
    Floats scores;
    int64_t distinct() const {
      return int64_t(std::set<int32_t>(experts.begin(), experts.end()).size());
    }
  };
  Routes routes() {
    Routes r;
    std::vector<Floats> rows;
    for (int64_t e = 0; e < s.experts; ++e)
      rows.push_back(routerWeight.range(e * s.hidden, s.hidden));
    for (int64_t t = 0; t < T; ++t) {
      const Floats x = normed(t, false);
      std::vector<double> logits;
      for (const Floats &row : rows)
        logits.push_back(dot(x, row));
      const auto best = std::max_element(logits.begin(), logits.end());
      r.experts.push_back(int32_t(best - logits.begin()));
      r.scores.push_back(float(sigmoid(*best)));
      std::sort(logits.begin(), logits.end(), std::greater<>());
      if (logits.size() > 1 && logits[0] - logits[1] < 1e-5 && !error)
        error = createStringError("two experts of a token are nearly tied: choose another seed");
    }
    group(r);
    return r;
  }
  void group(Routes &r) const {
    r.order.clear();
    for (int64_t t = 0; t < T; ++t)
      r.order.push_back(int32_t(t));
    llvm::sort(r.order, [&](int32_t a, int32_t b) {
      return std::pair(r.experts[a], a) < std::pair(r.experts[b], b);
    });
    r.offsets.assign(s.experts + 1, 0);
    for (int32_t e : r.experts)
      ++r.offsets[e + 1];
    for (int64_t e = 0; e < s.experts; ++e)
      r.offsets[e + 1] += r.offsets[e];
  }
  void router() {
    CudaRouter router{s.hidden, s.experts, kEps};
    Routes r = routes();
    Elements elements, scores;
    for (int i = 0; i < kSamples; ++i) {
      auto [t, channel] = any(s.hidden);
      elements.push_back({t * padded(s.hidden) + channel, normed(t, false)[channel]});
      scores.push_back({uint64_t(t), r.scores[t]});
    }
    add("router", router,
        {{Operand::H, h.operand},
         {Operand::Norm, normWeight.operand},
         {Operand::Router, routerWeight.operand},
         made(router, Operand::X),
         made(router, Operand::Experts),
         made(router, Operand::Scores),
         made(router, Operand::Order),
         made(router, Operand::Offsets),
         made(router, Operand::Counters)},
        {check(Operand::X, fb::Element::BF16, elements, kHalf, 1e-6f),
         checkInts(Operand::Experts, r.experts),
         check(Operand::Scores, fb::Element::F32, scores, 0, 1e-5f),
         checkInts(Operand::Order, r.order), checkInts(Operand::Offsets, r.offsets)},
        4.0 * double(s.experts * s.hidden) + 4.0 * double(T * s.hidden), 0);
  }
  void gateUp() {
    const double matrix = 2.0 * double(s.width) * double(s.hidden);
    Weight shared = weight(1, 2 * s.width, s.hidden, WeightLayout::Kind::FragmentsGateUp),
           routed = weight(s.experts, 2 * s.width, s.hidden, WeightLayout::Kind::FragmentsGateUp);
    Numbers x = halves(double(T), s.hidden);
    Routes r = routes();
    Elements elements;
    for (int i = 0; i < kSamples; ++i) {
      auto [t, channel] = any(s.width);
      const bool ofShared = i % 2;
      const Weight &w = ofShared ? shared : routed;
      const int64_t m = ofShared ? 0 : r.experts[t];
      const Floats row = small ? normed(t) : x.range(t * padded(s.hidden), s.hidden);
      const double score = ofShared ? 1 : r.scores[t], gate = score * dot(row, w.row(m, channel)),
                   up = score * dot(row, w.row(m, s.width + channel));
      elements.push_back(
          {((ofShared ? 0 : T) + t) * padded(s.width) + channel, gate * sigmoid(gate) * up});
    }
    const double bytes = bytesOf(matrix * double(1 + r.distinct()));
    const double flops = 2 * product(2.0 * double(s.width), double(s.hidden));
    std::vector<Argument> all{{Operand::SharedWeight, shared.operand},
                              {Operand::RoutedWeight, routed.operand}};
    if (small) {
      CudaSmallGateUp gateUp{s.hidden, s.width, s.experts, 1, s.format, s.format, kEps};
      all.insert(all.end(), {{Operand::H, h.operand},
                             {Operand::Norm, normWeight.operand},
                             {Operand::Router, routerWeight.operand},
                             made(gateUp, Operand::Hidden),
                             made(gateUp, Operand::Experts),
                             made(gateUp, Operand::ExpertLogits),
                             made(gateUp, Operand::Counters)});
      return add("gate_up", gateUp, all,
                 {check(Operand::Hidden, fb::Element::BF16, elements, kHalf, 2 * kNormed),
                  checkInts(Operand::Experts, r.experts)},
                 bytes, flops);
    }
    CudaTiledGateUp gateUp{s.hidden, s.width, s.experts, 1, s.format, s.format, kEps, tile};
    all.insert(all.end(), {{Operand::X, x.operand},
                           {Operand::Scores, stored(writer, r.scores)},
                           {Operand::Order, stored(writer, r.order)},
                           {Operand::Offsets, stored(writer, r.offsets)},
                           made(gateUp, Operand::Hidden)});
    add("gate_up", gateUp, all, {check(Operand::Hidden, fb::Element::BF16, elements, kHalf, kSum)},
        bytes, flops);
  }
  void down() {
    const double matrix = double(s.width) * double(s.hidden);
    Weight shared = weight(1, s.hidden, s.width), routed = weight(s.experts, s.hidden, s.width);
    Numbers x = halves(2.0 * double(T), s.width);
    Routes r = routes();
    Elements elements;
    for (int i = 0; i < kSamples; ++i) {
      auto [t, row] = any(s.hidden);
      const uint64_t at = t * padded(s.hidden) + row;
      elements.push_back(
          {at,
           h[at] + dot(x.range(t * padded(s.width), s.width), shared.row(0, row)) +
               dot(x.range((T + t) * padded(s.width), s.width), routed.row(r.experts[t], row))});
    }
    const double bytes = bytesOf(matrix * double(1 + r.distinct())),
                 flops = 2 * product(double(s.hidden), double(s.width));
    std::vector<Argument> all{{Operand::Hidden, x.operand},
                              {Operand::SharedWeight, shared.operand},
                              {Operand::RoutedWeight, routed.operand},
                              {Operand::H, h.operand}};
    const Check sums = check(Operand::H, fb::Element::F32, elements, 0, 2 * kSum);
    if (small) {
      CudaSmallDown down{s.hidden, s.width, s.experts, 1, s.format, s.format};
      down.splits = splitsOf(2 * s.hidden, s.width);
      all.insert(all.end(), {{Operand::Experts, stored(writer, r.experts)},
                             made(down, Operand::Partials),
                             made(down, Operand::Counters)});
      return add("down", down, all, {sums}, bytes, flops);
    }
    all.insert(all.end(), {{Operand::Order, stored(writer, r.order)},
                           {Operand::Offsets, stored(writer, r.offsets)}});
    add("down", CudaTiledDown{s.hidden, s.width, s.experts, 1, s.format, s.format, tile}, all,
        {sums}, bytes, flops);
  }

  //===--- From logits to ids ----------------------------------------------------------------------

  // The token that follows the first row. Weights, and so this, are the same for all steps.
  int32_t bestToken(const Weight &w, const Floats &x) {
    static std::map<std::tuple<std::string, bool>, int32_t> known;
    auto [at, isNew] = known.try_emplace({s.name, small}, 0);
    if (!isNew)
      return at->second;
    double best = -INFINITY;
    for (int64_t token = 0; token < s.vocabulary; ++token)
      if (double logit = dot(x, w.row(0, token)); logit > best) {
        best = logit;
        at->second = int32_t(token);
      }
    return at->second;
  }
  // Of one row, which is greedy: its logits are not written.
  void head() {
    Weight w = weight(1, s.vocabulary, s.hidden);
    Numbers x = halves(1, s.hidden);
    std::vector<Argument> all{
        {Operand::Sampling, stored(writer, std::vector<cuda::RowSampling>(1))},
        {Operand::Weight, w.operand},
        {Operand::Logits, undefinedOperand(4.0 * double(s.vocabulary))},
        {Operand::Ids, undefinedOperand(4)}};
    const Check best =
        checkInts(Operand::Ids, bestToken(w, small ? normed(0) : x.range(0, s.hidden)));
    const double bytes = bytesOf(double(s.vocabulary) * s.hidden),
                 flops = 2.0 * double(s.vocabulary) * double(s.hidden);
    if (small) {
      CudaSmallHead head{s.hidden, s.vocabulary, s.format, kEps};
      all.insert(all.end(), {{Operand::Rows, stored(writer, Ints{0})},
                             {Operand::H, h.operand},
                             {Operand::Norm, normWeight.operand},
                             made(head, Operand::Counters)});
      return add("head", head, all, {best}, bytes, flops);
    }
    CudaTiledHead head{s.hidden, s.vocabulary, s.format, tile};
    all.insert(all.end(), {{Operand::X, x.operand}, made(head, Operand::Counters)});
    add("head", head, all, {best}, bytes, flops);
  }
  // As many rows as the step has tokens, up to 64: greedy, then with each filter, then by a mask.
  void sample() {
    const int64_t rows = std::min<int64_t>(T, 64);
    CudaSample sample{s.vocabulary};
    Numbers logits(fb::Element::F32, kLogits, 3, double(rows) * s.vocabulary);
    // A run reads the ids that the one before wrote: token 0 is the largest logit, and is drawn.
    for (int64_t row = 0; row < rows; ++row) {
      logits.operand.at.push_back(uint64_t(row * s.vocabulary));
      logits.operand.put.push_back(6);
    }
    // Eleven of each 32 tokens, token 0 among them.
    const std::vector<uint32_t> masks(size_t(rows * sample.maskWords()), 0x49249249);
    const auto run = [&](const char *name, cuda::RowSampling row) {
      row.scale = float(std::numbers::log2e / 0.8);
      const Ints ids(rows, 0);
      add(name, sample,
          {{Operand::Sampling, stored(writer, std::vector<cuda::RowSampling>(rows, row))},
           {Operand::Masks, stored(writer, masks)},
           {Operand::Logits, logits.operand},
           {Operand::Ids, stored(writer, ids)},
           made(sample, Operand::Partials, rows),
           made(sample, Operand::Counters, rows)},
          {checkInts(Operand::Ids, ids)}, 4.0 * double(rows) * double(s.vocabulary), 0, rows);
    };
    run("sample greedy", {});
    run("sample", {3, 0, 0, 0, 0, 0, 0});
    run("sample top-k", {3, 0, 0, 0, 0, 40, 0});
    run("sample top-p", {3, 0, 0, uint64_t(0.9 * 0x1p64), 0, 0, 0});
    run("sample top-k top-p", {3, 0, 0, uint64_t(0.9 * 0x1p64), 0, 40, 0});
    run("sample masked greedy", {5, 0, 0, 0, 0, 0, 0});
    run("sample masked top-k top-p", {7, 0, 0, uint64_t(0.9 * 0x1p64), 0, 40, 0});
  }

  BundleWriter &writer;
  const Shapes &s;
  int64_t T, context;
  bool timed, small;
  int64_t tile;
  std::mt19937 random{1};
  llvm::Error error = llvm::Error::success();
  Numbers h, normWeight, routerWeight;
};

} // namespace

llvm::Error addCases(BundleWriter &writer, const Shapes &shapes, int64_t tokens, int64_t context,
                     bool timed) {
  return Cases(writer, shapes, tokens, context, timed).run();
}

} // namespace moe::gpucheck
