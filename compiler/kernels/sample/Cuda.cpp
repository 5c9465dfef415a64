// Chooses the token of each row that is not greedy or has a mask: the largest logit that the mask
// allows, top-k, top-p and min-p by thresholds, then a draw in the order of ids.
// runtime/session/Sampler.h has the formulas; every sum is of integers, so that the token is the
// one that Sampler chooses, however the work is divided.
//
// The vocabulary of a row is cut into runs of ids, one for each warp of the blocks that share the
// row. A threshold is found digit by digit, from the highest on: the blocks add up the mass
// (tokens for top-k, weights for top-p) of each value of a digit in a histogram, wait for each
// other, and each finds the digit in which the mass from above reaches what is wanted. At the end
// every warp adds up what it keeps, and the last block to arrive walks through the one run that the
// random number falls into.
//
// The heads know no masks: they tell the largest of all logits, and write those of rows with a
// mask.
#include "compiler/kernels/head/BestLogit.h"
#include "compiler/kernels/sample/Sample.h"

using namespace mlir;

namespace moe::codegen {

namespace {

constexpr int64_t kThreads = kSampleWarps * 32, kBuckets = kSampleBuckets;
constexpr int64_t kEach = kBuckets / kThreads; // buckets of a thread
constexpr int64_t kAtOnce = 4;                 // logits that a lane loads together
constexpr int64_t kDigits = 3;                 // of 11, 11 and 10 bits

class Sample {
public:
  Sample(CudaKernel &k, const CudaSample &s) : k(k), s(s) {}

  void run() {
    k.startNext();
    k.waitForPrevious();
    // Blocks share a row where there are more blocks than rows; otherwise each has rows of its own.
    Val R = k.rows(), share = min(k.blocks() / max(R, k.i32(1)), k.i32(kSampleBlocks));
    members = select(le(R, kSharedRows), max(share, k.i32(1)), k.i32(1));
    member = k.block() % members;
    shared = gt(members, 1);
    units = members * kSampleWarps;
    unit = member * kSampleWarps + k.warp();
    unitSize = ceilDiv((k.i32(s.vocabulary) + units - 1) / units, 32 * kAtOnce) * (32 * kAtOnce);
    first = min(unit * unitSize, k.i32(s.vocabulary));
    end = min(first + unitSize, k.i32(s.vocabulary));
    // With groups of several blocks there is at most one row for each.
    k.stride(k.block() / members, R, k.blocks() / members, [&](Val r) {
      parameters = k.offset(sampling, r * kRowSamplingBytes);
      Val flags = k.load(parameters, k.i32(), true);
      Val masked = eq(flags & 4, 4), draws = eq(flags & 2, 2);
      // Of the largest logit, or a code. With a mask another block may be writing it already.
      Val id = k.choose(
          masked, [&] { return SmallVector<Val>{k.i32(0)}; },
          [&] { return SmallVector<Val>{k.load(k.offset(ids, r * 4), k.i32())}; })[0];
      k.ifThen(masked | (draws & ge(id, 0)), [&] { sampleRow(r, masked, id); });
    });
  }

private:
  Val field64(int64_t offset) { return k.load(parameters + offset, k.i64(), true); }
  Val widened(Val x) { return k.val(arith::ExtUIOp::create(k, k.i64(), x.value)); }
  Val shiftRight(Val x, int64_t bits) {
    return k.val(arith::ShRUIOp::create(k, x.value, k.i64(bits).value));
  }
  Val compare(arith::CmpIPredicate how, Val x, Val y) {
    return k.val(arith::CmpIOp::create(k, how, x.value, y.value));
  }
  Val below(Val x, Val y) { return compare(arith::CmpIPredicate::ult, x, y); }
  Val atLeast(Val x, Val y) { return compare(arith::CmpIPredicate::uge, x, y); }
  Val highProduct(Val x, Val y) {
    return k.ptx("mul.hi.u64 $0, $1, $2;", k.i64(), {x, y}, "=l,l,l", /*effects=*/false)[0];
  }

  // weightOf of Sampler.cpp. Products and sums are rounded one by one, as there.
  Val weightOf(Val logit) {
    Val x = (logit - largest) * scale;
    Val n = k.convert(x - 0.5, k.i32());
    Val f = x - k.convert(n, k.f32());
    Val y = k.f32(1.52527338e-05f);
    for (float term : {1.54035303e-04f, 1.33335581e-03f, 9.61812911e-03f, 5.55041087e-02f,
                       2.40226507e-01f, 6.93147181e-01f, 1.0f})
      y = y * f + double(term);
    Val fixed = widened(k.convert(y * 0x1p24, k.i32())) << 12;
    Val weight = k.val(arith::ShRUIOp::create(k, fixed.value, widened(k.i32(0) - n).value));
    return select(gt(x, -37), weight, k.i64(0));
  }

  // Makes minus infinity of what the mask leaves out of the lane's logits: of the ids `from` +
  // lane, of those 32 further on.. `from` is a multiple of 32.
  void applyMask(Val from, MutableArrayRef<Val> logits) {
    Val number = k.load(maskNumber, k.i32());
    auto allowed = [&] {
      Ptr mask = masks + k.convert(number, k.i64()) * (s.maskWords() * 4);
      SmallVector<Val> bits;
      for (int64_t j = 0; j < int64_t(logits.size()); ++j) {
        Val word = min(k.shiftRight(from, 5) + j, k.i32(s.maskWords() - 1));
        Val bitsOfWord = k.load(k.offset(mask, word * 4), k.i32(), true);
        bits.push_back(k.val(arith::ShRUIOp::create(k, bitsOfWord.value, k.lane().value)) & 1);
      }
      return bits;
    };
    auto all = [&] { return SmallVector<Val>(logits.size(), k.i32(1)); };
    for (auto [logit, bit] : llvm::zip(logits, k.choose(ge(number, 0), allowed, all)))
      logit = select(eq(bit, 1), logit, k.f32(-INFINITY));
  }

  // Calls `body` with the ids from `from` on, and their logits, `kAtOnce` for a lane.
  void loadSome(Val from, Val end, function_ref<void(Val id, Val logit, Val valid)> body) {
    SmallVector<Val> ids, logits, valid;
    for (int64_t j = 0; j < kAtOnce; ++j) {
      ids.push_back(from + k.lane() + j * 32);
      valid.push_back(lt(ids[j], end));
      logits.push_back(k.load(k.offset(row, min(ids[j], end - 1) * 4), k.f32()));
    }
    applyMask(from, logits);
    for (int64_t j = 0; j < kAtOnce; ++j)
      body(ids[j], logits[j], valid[j]);
  }
  // With those of this warp's run.
  void eachLogit(function_ref<void(Val logit, Val valid)> body) {
    k.stride(first, end, k.i32(32 * kAtOnce), [&](Val from) {
      loadSome(from, end, [&](Val, Val logit, Val valid) { body(logit, valid); });
    });
  }

  Val shuffle64(Val x, Val lane) {
    Val low = k.shuffle(k.convert(x, k.i32()), lane);
    Val high = k.shuffle(k.convert(shiftRight(x, 32), k.i32()), lane);
    return widened(high) << 32 | widened(low);
  }
  Val warpScan64(Val x) {
    for (int64_t distance = 1; distance < 32; distance *= 2) {
      Val before = shuffle64(x, max(k.lane() - distance, k.i32(0)));
      x = x + select(ge(k.lane(), distance), before, k.i64(0));
    }
    return x;
  }
  // The sum of i64 over the threads up to this one, and over all of the block.
  std::pair<Val, Val> blockScan(Val x) {
    x = warpScan64(x);
    k.barrier(); // the sums before were read
    k.ifThen(eq(k.lane(), 31), [&] { k.store(k.offset(warpSums, k.warp() * 8) + 8, x); });
    k.barrier();
    k.ifThen(eq(k.warp(), 0), [&] {
      Ptr mine = k.offset(warpSums, min(k.lane(), k.i32(kSampleWarps)) * 8);
      Val sum = warpScan64(k.load(mine, k.i64()));
      k.ifThen(le(k.lane(), kSampleWarps), [&] { k.store(mine, sum); });
    });
    k.barrier();
    return {x + k.load(k.offset(warpSums, k.warp() * 8), k.i64()),
            k.load(warpSums + kSampleWarps * 8, k.i64())};
  }

  // `id`: of the largest logit, where there is no mask.
  void sampleRow(Val r, Val masked, Val id) {
    row = logits + k.convert(r, k.i64()) * (s.vocabulary * 4);
    Val place = select(shared, r, k.i32(0));
    arrivals = k.offset(counters, place * 4);
    histograms = k.offset(counters, place * kSampleHistogramBytes) + kSharedRows * 4;
    k.ifThen(eq(k.thread(), 0), [&] {
      k.store(maskNumber, select(masked, k.load(parameters + 36, k.i32(), true), k.i32(-1)));
    });
    k.barrier();

    // How often blocks have met: which histogram is next.
    Val met = select(masked, k.i32(1), k.i32(0));
    id = k.choose(
        masked, [&] { return SmallVector<Val>{largestAllowed()}; },
        [&] { return SmallVector<Val>{id}; })[0];
    Val draws = eq(k.load(parameters, k.i32(), true) & 2, 2);
    k.ifElse(
        draws & ge(id, 0), [&] { drawRow(r, id, met); },
        [&] {
          leave(met,
                [&] { k.ifThen(eq(k.thread(), 0), [&] { k.store(k.offset(ids, r * 4), id); }); });
        });
    k.barrier(); // what is in shared memory was read
  }

  // The id of the largest logit that the mask allows, or a code: blocks meet for the first time.
  Val largestAllowed() {
    Val key =
        k.stride(first, end, k.i32(32 * kAtOnce), {k.i64(0)}, [&](Val from, ArrayRef<Val> carried) {
          SmallVector<Val> key(carried);
          loadSome(from, end, [&](Val id, Val logit, Val valid) {
            Val mine = select(valid, logitKey(k, logit, id), k.i64(0));
            key[0] = unsignedMax(key[0], mine);
          });
          return key;
        })[0];
    auto ofWarp = [&](Val key) {
      for (int64_t lanes : {16, 8, 4, 2, 1})
        key = unsignedMax(key, shuffleXor64(k, key, lanes));
      return key;
    };
    key = ofWarp(key);
    k.ifThen(k.one(), [&] { k.store(k.offset(warpSums, k.warp() * 8), key); });
    k.barrier();
    k.ifThen(eq(k.warp(), 0), [&] {
      static_assert(kSampleWarps <= 32);
      Val mine = k.load(k.offset(warpSums, min(k.lane(), k.i32(kSampleWarps - 1)) * 8), k.i64());
      Val ofBlock = ofWarp(mine);
      k.ifThen(k.one(), [&] {
        k.store(left, ofBlock);
        k.ifThen(shared, [&] {
          k.ptx("red.relaxed.gpu.global.max.u64 [$0], $1;", {}, {k.addressOf(histograms), ofBlock},
                "l,l,~{memory}");
        });
      });
    });
    k.barrier();
    k.ifThen(shared, [&] { meet(k.i32(0)); });
    Val found = k.choose(
        shared,
        [&] {
          return k.ptx("ld.relaxed.gpu.global.u64 $0, [$1];", k.i64(), {k.addressOf(histograms)},
                       "=l,l,~{memory}");
        },
        [&] { return SmallVector<Val>{k.load(left, k.i64())}; })[0];
    k.barrier(); // `left` was read
    return idOfKey(k, found);
  }

  // Draws from a row whose largest logit is that of `id`.
  void drawRow(Val r, Val id, Val met) {
    largest = k.load(k.offset(row, id * 4), k.f32());
    scale = k.load(parameters + 4, k.f32(), true);
    Val topK = k.load(parameters + 32, k.i32(), true);
    Val counts = gt(topK, 0) & lt(topK, s.vocabulary), weighs = ne(field64(16), k.i64(0));
    k.ifThen(eq(k.thread(), 0), [&] {
      k.store(warpSums, k.i64(0)); // before the first warp
      k.store(threshold, k.i32(0));
      k.store(left, widened(topK));
      k.store(floor, k.i32(0));
      k.store(excess, k.i64(0));
    });
    k.barrier();
    met = k.loop(k.i32(0), k.i32(2 * kDigits), 1, {met}, [&](Val p, ArrayRef<Val> met) {
      Val weights = ge(p, kDigits);
      return k.choose(
          select(weights, weighs, counts),
          [&] {
            findDigit(p % kDigits, weights, met[0]);
            return SmallVector<Val>{met[0] + 1};
          },
          [&] { return SmallVector<Val>(met); });
    })[0];
    draw(r, counts | weighs, weighs, met);
  }

  //===--- Thresholds ----------------------------------------------------------------------------

  // One digit of the threshold of top-k or, with `weights`, of top-p.
  void findDigit(Val digit, Val weights, Val met) {
    Val start = eq(digit, 0), last = eq(digit, kDigits - 1);
    Val shift = select(start, k.i32(21), select(last, k.i32(0), k.i32(10)));
    Val known = select(start, k.i32(0), select(last, k.i32(-1024), k.i32(-(1 << 21))));
    Val digits = select(last, k.i32(1023), k.i32(2047));
    Val prefix = select(start, k.i32(0), k.load(threshold, k.i32()));
    Val from = select(weights, k.load(floor, k.i32()), k.i32(0));

    k.stride(k.thread() * 4, k.i32(kBuckets * 2), k.i32(kThreads * 4),
             [&](Val i) { k.store(k.offset(histogram, i * 4), k.constant(k.vec(4, k.i32()), 0)); });
    k.barrier();
    eachLogit([&](Val logit, Val valid) {
      Val key = orderedBits(k, logit);
      k.ifThen(valid & eq(key & known, prefix) & atLeast(key, from), [&] {
        Val mass = select(weights, weightOf(logit), k.i64(1));
        Val bucket = k.val(arith::ShRUIOp::create(k, key.value, shift.value)) & digits;
        k.ifThen(ne(mass, k.i64(0)), [&] { addTo(bucket, mass); });
      });
    });
    k.barrier();
    Ptr merged = k.offset(histograms, met % 3 * (kBuckets * 8));
    k.ifThen(shared, [&] {
      k.stride(k.thread(), k.i32(kBuckets), k.i32(kThreads), [&](Val b) {
        Val mass = massOf(b);
        k.ifThen(ne(mass, k.i64(0)), [&] {
          k.ptx("red.relaxed.gpu.global.add.u64 [$0], $1;", {},
                {k.addressOf(k.offset(merged, b * 8)), mass}, "l,l,~{memory}");
        });
      });
      meet(met);
      // All have read the histogram before this one; it is the next but one.
      Ptr used = k.offset(histograms, (met + 2) % 3 * (kBuckets * 8));
      k.stride(member * kThreads + k.thread(), k.i32(kBuckets), members * kThreads,
               [&](Val b) { k.store(k.offset(used, b * 8), k.i64(0)); });
    });

    // Each thread has some buckets, the first thread the highest.
    Val highest = k.i32(kBuckets - 1) - k.thread() * kEach;
    SmallVector<Val> masses;
    Val sum = k.i64(0);
    for (int64_t j = 0; j < kEach; ++j) {
      masses.push_back(k.choose(
          shared,
          [&] {
            return k.ptx("ld.relaxed.gpu.global.u64 $0, [$1];", k.i64(),
                         {k.addressOf(k.offset(merged, (highest - j) * 8))}, "=l,l,~{memory}");
          },
          [&] { return SmallVector<Val>{massOf(highest - j)}; })[0]);
      sum = sum + masses.back();
    }
    Val wanted = k.load(left, k.i64());
    auto [through, all] = blockScan(sum);
    // Of top-p: a share of what top-k has left.
    Val total =
        all - k.load(excess, k.i64()) * weightOf(fromOrderedBits(k, k.load(floor, k.i32())));
    Val share = highProduct(field64(16), total);
    share = select(eq(share, k.i64(0)), k.i64(1), share);
    wanted = select(weights & start, share, wanted);
    k.barrier(); // `left`, `floor` and `excess` were read
    Val before = through - sum;
    for (int64_t j = 0; j < kEach; ++j) {
      Val after = before + masses[j];
      k.ifThen(below(before, wanted) & atLeast(after, wanted), [&] {
        Val found = prefix | (highest - j) << shift;
        k.store(threshold, found);
        k.store(left, wanted - before);
        k.ifThen(weights ^ k.constant(k.i1(), 1), [&] {
          k.store(floor, found);
          k.store(excess, after - wanted);
        });
      });
      before = after;
    }
    k.barrier();
  }

  // 64 bits as two halves: shared memory adds 32 bits by itself.
  void addTo(Val bucket, Val mass) {
    Ptr at = k.offset(histogram, bucket * 8);
    Val low = k.convert(mass, k.i32()), high = k.convert(shiftRight(mass, 32), k.i32());
    Val old = k.ptx("atom.relaxed.cta.shared.add.u32 $0, [$1], $2;", k.i32(),
                    {k.addressOf(at), low}, "=r,r,r,~{memory}")[0];
    high = high + select(below(old + low, low), k.i32(1), k.i32(0));
    k.ifThen(ne(high, k.i32(0)), [&] {
      k.ptx("red.relaxed.cta.shared.add.u32 [$0], $1;", {}, {k.addressOf(at + 4), high},
            "r,r,~{memory}");
    });
  }
  Val massOf(Val bucket) { return k.load(k.offset(histogram, bucket * 8), k.i64()); }

  // Waits for all blocks of the row, which have met `met` times before.
  void meet(Val met) {
    k.barrier();
    k.ifThen(eq(k.thread(), 0), [&] {
      k.releaseAdd(arrivals, k.i32(1));
      k.awaitCounter(arrivals, members * (met + 1));
    });
    k.barrier();
  }

  //===--- The draw ------------------------------------------------------------------------------

  void draw(Val r, Val filtered, Val weighs, Val met) {
    at = select(filtered, k.load(threshold, k.i32()), k.i32(0));
    least = field64(24);
    Val atWeight = weightOf(fromOrderedBits(k, at)), rest = k.load(left, k.i64());
    Val one = select(weighs & ne(atWeight, k.i64(0)), atWeight, k.i64(1));
    ties = select(filtered, (rest + (one - k.i64(1))) / one, k.i64(0));
    tieWeight = select(atLeast(atWeight, least), atWeight, k.i64(0));

    SmallVector<Val> sums{k.i64(0), k.i32(0)}; // above the threshold; how many are at it
    sums = k.stride(first, end, k.i32(32 * kAtOnce), sums, [&](Val from, ArrayRef<Val> carried) {
      SmallVector<Val> sums(carried);
      loadSome(from, end, [&](Val, Val logit, Val valid) {
        auto [weight, tie] = kept(logit, valid);
        sums[0] = sums[0] + weight;
        sums[1] = sums[1] + tie;
      });
      return sums;
    });
    for (int64_t mask = 16; mask; mask /= 2)
      sums[0] = sums[0] + shuffleXor64(k, sums[0], mask);
    sums[1] = k.warpSum(sums[1]);
    Ptr ofRow = partials + k.convert(r, k.i64()) * (k.convert(units, k.i64()) * 16);
    k.ifThen(k.one(), [&] {
      Ptr to = k.offset(ofRow, unit * 16);
      k.store(to, sums[0]);
      k.store(to + 8, sums[1]);
    });
    leave(met, [&] { choose(r, ofRow); });
  }

  // The last block that comes here does what is left to do, and makes the row's counters zero.
  void leave(Val met, function_ref<void()> body) {
    k.barrier();
    k.ifThen(eq(k.thread(), 0), [&] {
      Val old = k.choose(
          shared, [&] { return SmallVector<Val>{k.atomicAdd(arrivals, k.i32(1))}; },
          [&] { return SmallVector<Val>{k.i32(0)}; })[0];
      k.store(flag, old);
    });
    k.barrier();
    Val others = select(shared, members * (met + 1) - 1, k.i32(0));
    k.ifThen(eq(k.load(flag, k.i32()), others), [&] {
      body();
      k.ifThen(shared, [&] { cleanUp(met); });
    });
  }

  // By the last block: the run that the random number falls into, and the token there.
  void choose(Val r, Ptr ofRow) {
    auto none = [&] { return SmallVector<Val>{k.i64(0), k.i64(0)}; };
    auto mine = k.choose(
        lt(k.thread(), units),
        [&] {
          Ptr from = k.offset(ofRow, k.thread() * 16);
          return SmallVector<Val>{k.load(from, k.i64()), widened(k.load(from + 8, k.i32()))};
        },
        none);
    Val tiesHere = mine[1], tiesBefore = blockScan(tiesHere).first - tiesHere;
    Val kept = max(min(ties - tiesBefore, tiesHere), k.i64(0));
    Val sum = mine[0] + kept * tieWeight;
    auto [through, total] = blockScan(sum);
    Val before = through - sum, target = highProduct(field64(8), total);
    k.ifThen(eq(k.thread(), 0), [&] {
      k.store(foundUnit, k.i32(0));
      k.store(foundTies, k.i64(0));
      k.store(foundTarget, k.i64(-1)); // never reached
    });
    k.barrier();
    k.ifThen(atLeast(target, before) & below(target, through), [&] {
      k.store(foundUnit, k.thread());
      k.store(foundTies, tiesBefore);
      k.store(foundTarget, target - before);
    });
    k.barrier();
    k.ifThen(eq(k.warp(), 0), [&] { walk(r); });
  }

  // By a warp, 32 ids at a time.
  void walk(Val r) {
    Val target = k.load(foundTarget, k.i64());
    Val from = min(k.load(foundUnit, k.i32()) * unitSize, k.i32(s.vocabulary));
    Val to = min(from + unitSize, k.i32(s.vocabulary));
    k.stride(from, to, k.i32(32), {k.i64(0), k.load(foundTies, k.i64())},
             [&](Val at, ArrayRef<Val> carried) {
               auto step = [&] {
                 Val id = at + k.lane(), valid = lt(id, to);
                 Val logit = k.load(k.offset(row, min(id, to - 1) * 4), k.f32());
                 applyMask(at, logit);
                 auto [weight, tie] = kept(logit, valid);
                 Val rank = k.warpScan(tie);
                 Val keptTie = eq(tie, 1) & lt(carried[1] + widened(rank), ties + k.i64(1));
                 weight = weight + select(keptTie, tieWeight, k.i64(0));
                 Val through = carried[0] + warpScan64(weight);
                 k.ifThen(atLeast(target, through - weight) & below(target, through),
                          [&] { k.store(k.offset(ids, r * 4), id); });
                 return SmallVector<Val>{shuffle64(through, k.i32(31)),
                                         carried[1] + widened(k.shuffle(rank, k.i32(31)))};
               };
               return k.choose(atLeast(target, carried[0]), step,
                               [&] { return SmallVector<Val>(carried); });
             });
  }

  // Of a logit above the threshold its weight; whether it is at the threshold.
  std::pair<Val, Val> kept(Val logit, Val valid) {
    Val key = orderedBits(k, logit), weight = weightOf(logit);
    Val above = valid & below(at, key) & atLeast(weight, least);
    return {select(above, weight, k.i64(0)), select(valid & eq(key, at), k.i32(1), k.i32(0))};
  }

  // Nobody else is at this row any more.
  void cleanUp(Val met) {
    k.ifThen(gt(met, 0), [&] {
      k.stride(k.thread(), k.i32(3 * kBuckets), k.i32(kThreads),
               [&](Val b) { k.store(k.offset(histograms, b * 8), k.i64(0)); });
    });
    k.ifThen(eq(k.thread(), 0), [&] { k.store(arrivals, k.i32(0)); });
  }

  CudaKernel &k;
  const CudaSample &s;
  Ptr sampling = k.operand(Operand::Sampling), masks = k.operand(Operand::Masks),
      logits = k.operand(Operand::Logits), ids = k.operand(Operand::Ids),
      partials = k.operand(Operand::Partials), counters = k.operand(Operand::Counters);
  Ptr histogram = k.shared(kBuckets * 8), warpSums = k.shared((kSampleWarps + 1) * 8, 8);
  // What the filters have found so far: the ordered bits of the threshold, as many digits as are
  // known, and how much of the mass at it is kept. Of top-k: the threshold, and the tokens at it
  // that are not kept.
  Ptr threshold = k.shared(4, 4), left = k.shared(8, 8), floor = k.shared(4, 4),
      excess = k.shared(8, 8);
  // The number of the row's mask; below 0 if it has none. (Registers are few.)
  Ptr maskNumber = k.shared(4, 4);
  Ptr flag = k.shared(4, 4), foundUnit = k.shared(4, 4), foundTies = k.shared(8, 8),
      foundTarget = k.shared(8, 8);
  // Of the grid: blocks that share a row, this one's number among them, whether there are several;
  // runs of ids, this warp's, and its first and last id.
  Val members{}, member{}, shared{}, units{}, unit{}, unitSize{}, first{}, end{};
  // Of the row.
  Ptr parameters{}, row{}, arrivals{}, histograms{};
  Val largest{}, scale{};
  // Of the draw: the threshold, how many of the tokens at it are kept, what each of them weighs,
  // and the least weight that is kept.
  Val at{}, ties{}, tieWeight{}, least{};
};

} // namespace

void CudaSample::emit(CudaKernel &k) const {
  k.threads = kThreads;
  k.blocksPerSm = 2;
  Sample(k, *this).run();
}

} // namespace moe::codegen
