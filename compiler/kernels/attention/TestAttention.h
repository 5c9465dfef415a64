// What the tests of the kernels of attention share: sequences with keys and values in the pages of
// a cache, what a step makes of them by the reference, and the launches of the kernels.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_TESTATTENTION_H
#define MOE_COMPILER_KERNELS_ATTENTION_TESTATTENTION_H

#include "compiler/kernels/attention/Attention.h"
#include "compiler/kernels/attention/AttentionLayout.h"
#include "compiler/targets/cuda/TestPtx.h"
#include "dialects/moe/MoeReference.h"
#include <numeric>

namespace moe::codegen {

inline uint16_t toHalf(float x, Storage s) {
  return s == Storage::BF16 ? toBf16(x) : std::bit_cast<uint16_t>(_Float16(x));
}
inline float fromHalf(uint16_t x, Storage s) {
  return s == Storage::BF16 ? fromBf16(x) : float(std::bit_cast<_Float16>(x));
}

// Sequences with a history in the cache, and a step that continues them.
class World {
public:
  struct Token {
    int32_t sequence, position;
  };

  // `lengths`: positions in the cache, by sequence; `step`: the sequence of each of its tokens.
  // `stride`: pages that a sequence may have. `pool`: pages of the cache, at least those needed.
  World(const FinishSpec &spec, const Ints &lengths, const Ints &step, int32_t stride = 24,
        int64_t pool = 0)
      : spec(spec), stride(stride), oracle(kv.heads, kv.headDim, kv.chunk) {
    Ints end = lengths;
    for (int32_t sequence : step)
      tokens.push_back({sequence, end[sequence]++});
    // Pages in a scrambled order; of chunked layers those before the current chunk are gone.
    table.assign(lengths.size() * stride, -1);
    auto pagesOf = [&](auto each) {
      for (size_t i = 0; i < lengths.size(); ++i)
        for (int32_t p = kv.chunk ? lengths[i] / kv.chunk * kv.chunk / 64 : 0; p * 64 < end[i]; ++p)
          each(table[i * stride + p]);
    };
    pagesOf([&](int32_t &) { ++pages; });
    pages = std::max(pages, pool);
    Ints order(pages);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
    pagesOf([&](int32_t &page) {
      page = order.back();
      order.pop_back();
    });

    int64_t channels = kv.heads * kv.headDim;
    for (size_t i = 0; i < lengths.size(); ++i) {
      keys.push_back(rounded(lengths[i] * channels));
      values.push_back(rounded(lengths[i] * channels));
      Ints positions(lengths[i]), sequences(lengths[i], int32_t(i));
      std::iota(positions.begin(), positions.end(), 0);
      oracle.append(keys.back(), values.back(), positions, sequences);
    }

    int64_t n = spec.rows() * int64_t(tokens.size());
    qkv.assign(n, 0);
    for (int64_t split = 0; split < spec.sumSplits; ++split)
      for (int64_t i = 0; i < n; ++i) {
        sums.push_back(normal(generator) / std::sqrt(float(spec.sumSplits)));
        qkv[i] += sums.back();
      }
    for (Token t : tokens) {
      positions.push_back(t.position);
      sequences.push_back(t.sequence);
    }
    Floats frequencies = reference::ropeFrequencies(500000, kv.headDim);
    Floats rope = reference::ropeTable(positions, frequencies);
    for (size_t t = 0; t < tokens.size(); ++t) {
      ropeRows.insert(ropeRows.end(), &rope[t * kv.headDim], &rope[t * kv.headDim] + kv.headDim);
      ropeRows.resize((t + 1) * padded(kv.headDim), 0);
    }
    reference::AttentionOptions options;
    if (spec.rope)
      options.ropeTable = rope;
    options.qkNormEps = spec.qkNorm;
    if (spec.temperature)
      options.temperature =
          reference::Temperature{spec.temperature->first, spec.temperature->second};
    want = reference::attentionBlock(oracle, qkv, positions, sequences, options);
  }

  struct Buffers {
    uint64_t positions, sequences, table, sums, cache, rope;

    // What all kernels of attention take.
    std::vector<PtxArgument> paged() const {
      return {{Operand::Positions, positions},
              {Operand::Sequences, sequences},
              {Operand::BlockTable, table},
              {Operand::Cache, cache}};
    }
  };
  Buffers put(PtxBench &bench) {
    Buffers b;
    b.positions = bench.put(positions, "positions");
    b.sequences = bench.put(sequences, "sequences");
    b.table = bench.put(table, "table");
    b.sums = bench.put(sums, "sums");
    // The last layer of the pool's, but for what is left of 256 bytes.
    b.cache =
        bench.room(pages * kv.pageBytes, "cache") + (kv.pageBytes - cudaLayerBytes(kv)) / 256 * 256;
    b.rope = bench.put(ropeRows, "rope");
    for (size_t i = 0; i < keys.size(); ++i)
      for (int64_t p = 0; p < int64_t(keys[i].size()) / (kv.heads * kv.headDim); ++p)
        for (int64_t head = 0; head < kv.heads; ++head)
          for (int64_t part = 0; part < 2; ++part) {
            int32_t page = table[i * stride + p / 64];
            if (page < 0)
              continue;
            const float *from = &(part ? values : keys)[i][(p * kv.heads + head) * kv.headDim];
            for (int64_t c = 0; c < kv.headDim; c += 8) {
              Halves chunk(8);
              for (int64_t j = 0; j < 8; ++j)
                chunk[j] = toHalf(from[c + j], kv.storage);
              bench.copyIn(chunkAddress(b, page, p, head, part, c),
                           std::as_bytes(std::span(chunk)));
            }
          }
    return b;
  }
  Step size() const { return {int64_t(tokens.size()), 0}; }
  cuda::StepInfo step() const { return {int32_t(tokens.size()), 0, stride, 0}; }

  // Compares the step's output, its rows at `out`, and what it appended to the cache.
  void check(PtxBench &bench, const Buffers &b, uint64_t out) {
    int64_t n = spec.channels(), row = padded(n);
    auto got = bench.get<uint16_t>(out, tokens.size() * row);
    double largest = 0, error = 0;
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (int64_t c = 0; c < n; ++c) {
        float x = fromBf16(got[t * row + c]);
        ASSERT_TRUE(std::isfinite(x)) << "token " << t << " channel " << c;
        largest = std::max<double>(largest, std::abs(want[t * n + c]));
        error = std::max<double>(error, std::abs(double(x) - want[t * n + c]));
      }
      for (int64_t c = n; c < row; ++c)
        EXPECT_EQ(got[t * row + c], 0) << "padding of token " << t;
    }
    // The output loses up to 2^-9, q, k, v and the weights up to 2^-9 each (bf16) or 2^-12 (f16)
    // of their values; those of many keys cancel, those of a token's largest do not.
    EXPECT_LE(error, largest * (kv.storage == Storage::BF16 ? 1.6e-2 : 5e-3));

    Halves kept;
    for (size_t t = 0; t < tokens.size(); ++t)
      for (int64_t head = 0; head < kv.heads; ++head)
        for (int64_t part = 0; part < 2; ++part) {
          auto [sequence, position] = tokens[t];
          int32_t page = table[sequence * stride + position / 64];
          auto row =
              part ? oracle.value(sequence, position, head) : oracle.key(sequence, position, head);
          for (int64_t c = 0; c < kv.headDim; ++c) {
            if (c % 8 == 0)
              kept = bench.get<uint16_t>(chunkAddress(b, page, position, head, part, c), 8);
            ASSERT_NEAR(fromHalf(kept[c % 8], kv.storage), row[c],
                        std::abs(row[c]) * (kv.storage == Storage::BF16 ? 4e-3 : 5e-4) + 1e-6)
                << "token " << t << " head " << head << (part ? " value " : " key ") << c;
          }
        }
  }

  const FinishSpec spec;
  const CacheSpec &kv = spec.cache;
  const int32_t stride;
  std::vector<Token> tokens;
  Ints positions, sequences, table;
  Floats sums, qkv, ropeRows, want;

private:
  // Of eight channels of a key (part 0) or a value (part 1) in the cache.
  uint64_t chunkAddress(const Buffers &b, int32_t page, int64_t position, int64_t head,
                        int64_t part, int64_t channel) {
    TileLayout layout{kv.headDim};
    return b.cache + page * kv.pageBytes + (head * 2 + part) * layout.bytes() +
           layout.offset(position % 64, channel);
  }
  // About normal in size, with 8 bits, which both storages hold.
  Floats rounded(int64_t n) {
    Floats x(n);
    for (float &v : x)
      v = (int32_t(generator() % 223) - 111) / 64.0f;
    return x;
  }

  std::mt19937 generator{11};
  std::normal_distribution<float> normal;
  reference::KvCache oracle;
  std::vector<Floats> keys, values; // of the history, by sequence
  int64_t pages = 0;
};

// The order of bytes in a page is there for this.
inline void expectFewConflicts(const PtxBench &bench) {
  EXPECT_LE(bench.stats.sharedConflicts * 10, bench.stats.sharedAccesses);
}

inline Halves checkAttention(World &world, PtxBench &bench, const World::Buffers &b, uint64_t out) {
  if (testing::Test::HasFatalFailure())
    return {};
  expectFewConflicts(bench);
  world.check(bench, b, out);
  return bench.get<uint16_t>(out, world.tokens.size() * padded(world.spec.channels()));
}

// Runs the kernels of a step, compares what they leave, and returns the rows of attention.
inline Halves runTiled(World &world, const PtxKernel &finish, int64_t finishBlocks,
                       const PtxKernel &attend, int64_t blocks, uint64_t seed) {
  PtxBench bench(seed);
  World::Buffers b = world.put(bench);
  PtxArgument q = bench.made(CudaFinish{world.spec}, Operand::Q, world.size()),
              out = bench.made(CudaTiledAttention{world.spec}, Operand::AttentionOut, world.size());
  std::vector<PtxArgument> finishing = b.paged(), attending = b.paged();
  finishing.insert(finishing.end(), {{Operand::Sums, b.sums}, q});
  if (world.spec.rope)
    finishing.push_back({Operand::RopeTable, b.rope});
  attending.insert(attending.end(), {q, out});
  bench.run(finish, finishBlocks, finishing, world.step());
  bench.run(attend, blocks, attending, world.step());
  return checkAttention(world, bench, b, out.address);
}
inline Halves runFused(World &world, const CudaFusedAttention &contract, const PtxKernel &kernel,
                       int64_t blocks, uint64_t seed) {
  PtxBench bench(seed);
  World::Buffers b = world.put(bench);
  auto made = [&](Operand operand) { return bench.made(contract, operand, world.size()); };
  PtxArgument out = made(Operand::AttentionOut), counters = made(Operand::Counters);
  std::vector<PtxArgument> arguments = b.paged();
  arguments.insert(arguments.end(),
                   {{Operand::Sums, b.sums}, out, made(Operand::Partials), counters});
  if (world.spec.rope)
    arguments.push_back({Operand::RopeTable, b.rope});
  bench.run(kernel, blocks, arguments, world.step());
  Halves rows = checkAttention(world, bench, b, out.address);
  if (!testing::Test::HasFatalFailure())
    bench.expectZeros(counters.address, contract.bytes(Operand::Counters, world.size()));
  return rows;
}

} // namespace moe::codegen

#endif
