// Implements the parts that CPU kernels are built of.
#include "compiler/targets/cpu/CpuKernel.h"
#include "compiler/targets/cpu/AmxTile.h"
#include "compiler/targets/cpu/CodeTile.h"
#include "compiler/targets/cpu/MatrixTile.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;

namespace moe::codegen {

static LLVM::LLVMPointerType pointer(MLIRContext *context) {
  return LLVM::LLVMPointerType::get(context);
}

// How far ahead of a stream to fetch. A processor's own prefetcher stops at the end of each page of
// 4 KB and keeps too few lines on their way: without this a Zen 3 core reads int4, int8 and bf16 at
// 70 to 85 % of what a plain loop of loads does, with it at 92 to 97 % (in huge pages; 1 and 4 KB
// are worse for one format or the other).
static constexpr int64_t kStreamAhead = 2048;

CpuKernel::CpuKernel(ModuleOp module, const CpuTarget &target, StringRef name,
                     const Operands &operandNames)
    : Builder(module.getLoc(), module.getContext()), target(target), module(module),
      names(operandNames) {
  setInsertionPointToEnd(module.getBody());
  Type p = pointer(getContext());
  // operands, step, scratch, worker, workers: see runtime/device/cpu/KernelAbi.h
  function = func::FuncOp::create(*this, name, getFunctionType({p, p, p, i32(), i32()}, {}));
  Block *block = function.addEntryBlock();
  setInsertionPointToStart(block);
  operands = block->getArgument(0);
  step = block->getArgument(1);
  Ptr info = ptr(step);
  scratchBase = block->getArgument(2);
  worker = convert(val(block->getArgument(3)), i64());
  workers = convert(val(block->getArgument(4)), i64());
  tokens = convert(info.load(i32()), i64());
  rows = convert((info + 4).load(i32()), i64());
  tableStride = convert((info + 8).load(i32()), i64());
  scratchRows = tokens;
}

void CpuKernel::finish() {
  func::ReturnOp::create(*this);
  function->setAttr("moe.scratch_fixed", getI64IntegerAttr(scratchFixed));
  function->setAttr("moe.scratch_per_row", getI64IntegerAttr(scratchPerRow));
}

Ptr CpuKernel::operand(Operand operand) {
  int64_t index = llvm::find(names, operand) - names.begin();
  assert(index < int64_t(names.size()) && "an operand that the contract does not have");
  return ptr((ptr(operands) + index * 8).load(pointer(getContext())).value);
}

Ptr CpuKernel::scratch(int64_t bytes, int64_t bytesPerRow) {
  Ptr at = ptr(scratchBase) + (scratchRows * scratchPerRow + scratchFixed);
  scratchFixed += llvm::alignTo(bytes, 64);
  scratchPerRow += llvm::alignTo(bytesPerRow, 64);
  return at;
}

std::pair<Val, Val> CpuKernel::share(Val n) {
  return {n * worker / workers, n * (worker + 1) / workers};
}

std::optional<Claims> CpuKernel::claims(int64_t unitBytes) {
  // Some microseconds of reading.
  constexpr int64_t leastBytes = 64 << 10;
  if (!llvm::is_contained(names, Operand::Counters))
    return std::nullopt;
  return Claims{operand(Operand::Counters), int64_t(llvm::divideCeil(leastBytes, unitBytes))};
}

// Round j divides the first half of what rounds before left of [0, n) by workers, the last round
// all of it. Round 0 is each worker's by its number, the parts of the others are claimed in order.
void CpuKernel::parts(Val n, const std::optional<Claims> &claims,
                      function_ref<void(Val, Val)> body) {
  if (!claims) {
    auto [first, last] = share(n);
    return body(first, last);
  }
  Val halves = select(eq(workers, 1), i64(0), n / (workers * (2 * claims->least)));
  Val lastRound = 64 - leadingZeros(halves);
  Val end = (lastRound + 1) * workers;
  Val stopped = whileLess(worker, end, [&](Val part) {
    Val round = part / workers, place = part % workers;
    Val left = shiftRight(n, round);
    Val take = select(eq(round, lastRound), left, left - shiftRight(left, 1));
    Val begin = n - left;
    body(begin + take * place / workers, begin + take * (place + 1) / workers);
    return ifElse(
        eq(workers, 1), i64(), [&] { return end; },
        [&] { return workers + arrive(claims->counter); });
  });
  // Everyone claims in vain once; nobody does after the last.
  ifThen(eq(stopped, end + workers - 1), [&] { claims->counter.store(constant(i32(), 0)); });
}

Val CpuKernel::arrive(Ptr counter) {
  Value before = LLVM::AtomicRMWOp::create(*this, LLVM::AtomicBinOp::add, counter.value,
                                           constant(i32(), 1).value, LLVM::AtomicOrdering::acq_rel);
  return convert(val(before), i64());
}

Pieces::Pieces(CpuKernel &k, Val claimed, Ptr counter)
    : k(k), claimed(claimed), counter(counter), index(k.scratch(8)), mine(k.scratch(8)) {
  index.store(k.i64(0));
  mine.store(k.worker);
}

void Pieces::piece(Val owner, function_ref<void()> body) {
  Val at = index.load(k.i64());
  index.store(at + 1);
  k.ifThen(select(claimed, eq(at, mine.load(k.i64())), eq(owner, k.worker)), [&] {
    body();
    k.ifThen(claimed, [&] { mine.store(k.workers + k.arrive(counter)); });
  });
}

void CpuKernel::leave(Ptr counters, Val bytes) {
  ifThen(eq(arrive(counters), workers - 1), [&] {
    loop(i64(0), bytes, 4, [&](Val at) { (counters + at).store(constant(i32(), 0)); });
  });
}

void CpuKernel::await(Ptr counter, int64_t value) {
  Type p = pointer(getContext());
  auto type = LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(getContext()), {p, i32()});
  Value function = (ptr(step) + 16).load(p).value;
  LLVM::CallOp::create(*this, type,
                       ValueRange{function, counter.value, constant(i32(), double(value)).value});
}

Ptr CpuKernel::identity() {
  if (!identityIds.value) {
    // 64 bytes per row where 4 would do: rows are few, and everything stays aligned.
    identityIds = scratch(0, 64);
    loop(i64(0), scratchRows, 1, [&](Val i) { (identityIds + i * 4).store(convert(i, i32())); });
  }
  return identityIds;
}

//===----------------------------------------------------------------------===//
// The product with a weight panel
//===----------------------------------------------------------------------===//

void CpuKernel::product(const WeightFormat &format, Rows x, Val count, Ptr panel, int64_t k,
                        Rows out, bool add, std::optional<Turn> turn) {
  std::optional<FetchAhead> ahead;
  if (turn) {
    int64_t units = llvm::divideCeil(k, infoOf(format.element).unitColumns);
    int64_t bytes = moe::panelBytes(format, k);
    Val step = i64(llvm::divideCeil(bytes, units) - 1) / turn->count + 1;
    ahead = FetchAhead{panel + turn->panels * bytes + turn->index * step * units, step};
  }
  product(format, x, count, panel, k, out, add, ahead);
}

void CpuKernel::product(const WeightFormat &format, Rows x, Val count, Ptr panel, int64_t k,
                        Rows out, bool add, const std::optional<FetchAhead> &ahead) {
  int64_t steps = format.quantized()               ? k / format.group
                  : format.element == Storage::F32 ? k
                                                   : llvm::divideCeil(k, 2);
  std::string name = nameOf(format) + (add ? "_add" : "");
  int64_t held = infoOf(format.element).integers ? target.codeTokens : target.floatTokens;
  auto amxTile = [&](const AmxOperands &operands) { emitAmxTile(*this, format, operands, add); };
  function_ref<void(const AmxOperands &)> emitAmx = nullptr;
  if (takesAmx(target, format)) {
    held = tokensBelowAmx(target, format);
    emitAmx = amxTile;
  }
  tiles(
      name, x, count, panel, steps, out, held,
      [&](const TileOperands &operands) {
        if (format.quantized())
          emitCodeTile(*this, format, operands, add);
        else
          emitTile(format.element, operands, add);
      },
      ahead, emitAmx);
}

void CpuKernel::tiles(StringRef name, Rows x, Val count, Ptr panel, int64_t steps, Rows out,
                      int64_t held, function_ref<void(const TileOperands &)> emit,
                      const std::optional<FetchAhead> &ahead,
                      function_ref<void(const AmxOperands &)> emitAmx) {
  SmallVector<Value> arguments{x.base.value,   i64(x.stride).value,   x.ids.value,
                               out.base.value, i64(out.stride).value, out.ids.value,
                               panel.value,    i64(steps).value};
  if (ahead)
    arguments.append({ahead->from.value, ahead->step.value});
  std::string full = name.str();
  if (ahead)
    full += llvm::formatv("_ahead{0}", ahead->bytes);
  func::FuncOp function =
      chooser(full, TypeRange(arguments), ahead ? ahead->bytes : 0, held, emit, emitAmx);
  arguments.push_back(count.value);
  func::CallOp::create(*this, function, arguments);
}

void CpuKernel::fetch(const TileOperands &operands, Val unit) {
  if (operands.ahead)
    for (int64_t line = 0; line < operands.ahead->bytes; line += 64)
      LLVM::Prefetch::create(*this,
                             (operands.ahead->from + (unit * operands.ahead->step + line)).value,
                             /*rw=*/0, /*hint=*/2, /*cache=*/1);
}

void CpuKernel::fetchStream(const TileOperands &operands, Ptr from, int64_t bytes) {
  if (operands.rows.size() > 1)
    return;
  // Not to be kept: what is read once must not drive other things out of the second-level cache,
  // nor pass through it. Decoding is 6 to 9 % faster than with a hint for that cache.
  for (int64_t line = 0; line < bytes; line += 64)
    LLVM::Prefetch::create(*this, (from + (kStreamAhead + line)).value, /*rw=*/0, /*hint=*/0,
                           /*cache=*/1);
}

void CpuKernel::fetchOuts(const TileOperands &operands) {
  if (!operands.ahead)
    return;
  for (Ptr row : operands.outs)
    for (int64_t line = 0; line < kPanel * 4; line += 64)
      LLVM::Prefetch::create(*this, (row + line).value, /*rw=*/1, /*hint=*/2, /*cache=*/1);
}

void CpuKernel::put(Val sum, Ptr to, bool add) { to.store(add ? to.load(sum.type()) + sum : sum); }

// Chooses the tile function for the number of tokens, which take turns where a tile does not hold
// all of them.
func::FuncOp CpuKernel::chooser(StringRef product, TypeRange types, int64_t aheadBytes,
                                int64_t held, function_ref<void(const TileOperands &)> emit,
                                function_ref<void(const AmxOperands &)> emitAmx) {
  std::string name = llvm::formatv("product_{0}", product);
  if (auto known = module.lookupSymbol<func::FuncOp>(name))
    return known;
  SmallVector<func::FuncOp> tiles;
  for (int64_t count = 1; count <= held; ++count)
    tiles.push_back(tileFunction(product, types, count, aheadBytes, emit));
  func::FuncOp amxTile = emitAmx ? amxFunction(product, types, aheadBytes, emitAmx) : nullptr;
  OpBuilder::InsertionGuard guard(*this);
  SmallVector<Type> withCount(types);
  withCount.push_back(i64());
  func::FuncOp function = startFunction(name, withCount);
  Block *block = &function.front();
  SmallVector<Value> arguments(block->getArguments().drop_back());
  Val count = val(block->getArguments().back());
  auto choose = [&](Val count) {
    for (int64_t n = 1; n <= held; ++n)
      ifThen(eq(count, n), [&] { func::CallOp::create(*this, tiles[n - 1], arguments); });
  };
  if (amxTile) {
    choose(count);
    ifThen(gt(count, held),
           [&] { func::CallOp::create(*this, amxTile, ValueRange(block->getArguments())); });
  } else if (!target.amx) {
    choose(count);
  } else {
    loop(i64(0), count, held, [&](Val first) {
      for (unsigned ids : {2, 5}) // of rows and of outs
        arguments[ids] = (ptr(block->getArgument(ids)) + first * 4).value;
      choose(min(count - first, i64(held)));
    });
  }
  func::ReturnOp::create(*this);
  return function;
}

func::FuncOp CpuKernel::startFunction(const Twine &name, TypeRange types) {
  setInsertionPointToStart(module.getBody());
  auto function = func::FuncOp::create(*this, name.str(), getFunctionType(types, {}));
  function.setPrivate();
  setInsertionPointToStart(function.addEntryBlock());
  return function;
}

func::FuncOp CpuKernel::amxFunction(StringRef product, TypeRange types, int64_t aheadBytes,
                                    function_ref<void(const AmxOperands &)> emit) {
  OpBuilder::InsertionGuard guard(*this);
  SmallVector<Type> withCount(types);
  withCount.push_back(i64());
  func::FuncOp function = startFunction("tile_" + product + "_amx", withCount);
  function->setAttr("no_inline", getUnitAttr());
  Block *block = &function.front();
  auto rowsOf = [&](unsigned first) {
    return AmxRows{ptr(block->getArgument(first)), val(block->getArgument(first + 1)),
                   ptr(block->getArgument(first + 2))};
  };
  AmxOperands operands{.rows = rowsOf(0),
                       .outs = rowsOf(3),
                       .count = val(block->getArguments().back()),
                       .panel = ptr(block->getArgument(6)),
                       .steps = val(block->getArgument(7)),
                       .ahead = {}};
  if (aheadBytes)
    operands.ahead = {ptr(block->getArgument(8)), val(block->getArgument(9)), aheadBytes};
  emit(operands);
  func::ReturnOp::create(*this);
  return function;
}

func::FuncOp CpuKernel::tileFunction(StringRef product, TypeRange types, int64_t count,
                                     int64_t aheadBytes,
                                     function_ref<void(const TileOperands &)> emit) {
  OpBuilder::InsertionGuard guard(*this);
  func::FuncOp function = startFunction("tile_" + product + "_" + Twine(count), types);
  function->setAttr("no_inline", getUnitAttr());
  Block *block = &function.front();
  auto rowsOf = [&](unsigned first) {
    Ptr base = ptr(block->getArgument(first)), ids = ptr(block->getArgument(first + 2));
    Val stride = val(block->getArgument(first + 1));
    SmallVector<Ptr> rows;
    for (int64_t t = 0; t < count; ++t)
      rows.push_back(base + convert((ids + t * 4).load(i32()), i64()) * stride);
    return rows;
  };
  TileOperands operands{.rows = rowsOf(0),
                        .outs = rowsOf(3),
                        .panel = ptr(block->getArgument(6)),
                        .steps = val(block->getArgument(7)),
                        .ahead = {}};
  // One token's tile reads as fast as memory gives.
  if (aheadBytes && count > 1)
    operands.ahead = {ptr(block->getArgument(8)), val(block->getArgument(9)), aheadBytes};
  emit(operands);
  func::ReturnOp::create(*this);
  return function;
}

// One lane is one row of the panel, so a sum runs over k in order in one accumulator; the tile's
// accumulators stay in registers. A tile of one token takes the whole panel at once, which reads
// the weights as one stream.
void CpuKernel::emitTile(Storage storage, const TileOperands &operands, bool add) {
  if (storage == Storage::BF16 && !target.takesBf16() && operands.rows.size() > 1)
    return emitWideTile(operands, add);
  ArrayRef<Ptr> xs = operands.rows, outs = operands.outs;
  Ptr panel = operands.panel;
  Val steps = operands.steps;
  int64_t count = xs.size(), lanes = target.lanes;
  int64_t rowsAtOnce = count == 1 ? kPanel : target.tileRows;
  int64_t vectors = rowsAtOnce / lanes;
  Type floats = vec(lanes, f32());
  if (add)
    fetchOuts(operands);
  const bool matrices = storage == Storage::BF16 && MatrixTile::takes(target, count);
  for (int64_t row = 0; row < kPanel; row += rowsAtOnce) {
    SmallVector<Val> init(count * vectors, constant(floats, 0));
    auto step = [&](Val k, ArrayRef<Val> sums) {
      if (row == 0)
        fetch(operands, k);
      SmallVector<Val> next(sums);
      Ptr w = panel + k * (kPanel * 4) + row * 4;
      fetchStream(operands, w, vectors * lanes * 4);
      if (storage == Storage::F32) {
        SmallVector<Val> weights;
        for (int64_t v = 0; v < vectors; ++v)
          weights.push_back((w + v * lanes * 4).load(floats));
        for (int64_t t = 0; t < count; ++t) {
          Val xk = broadcast((xs[t] + k * 4).load(f32()), lanes);
          for (int64_t v = 0; v < vectors; ++v)
            next[t * vectors + v] = fma(weights[v], xk, next[t * vectors + v]);
        }
      } else if (target.takesBf16()) {
        Type pairs = vec(2 * lanes, bf16());
        SmallVector<Val> weights;
        auto load = [&](int64_t end) {
          for (int64_t v = weights.size(); v < end; ++v)
            weights.push_back((w + v * lanes * 4).load(pairs));
        };
        const bool inHalves = 2 * vectors >= target.registers; // or they would not fit beside sums
        load(inHalves ? vectors / 2 : vectors);
        for (int64_t t = 0; t < count; ++t) {
          Val xk = bitcast(broadcast((xs[t] + k * 4).load(i32()), lanes), pairs);
          for (int64_t v = 0; v < vectors; ++v) {
            if (v == int64_t(weights.size())) {
              loadAfter({&next[v - 1]});
              load(vectors);
            }
            Val &sum = next[t * vectors + v];
            sum = bf16Dot(sum, weights[v], xk);
          }
        }
      } else {
        // A bf16 is the upper half of a float: the pair's first by a shift, its second by a mask.
        Type ints = vec(lanes, i32());
        Val upper = constant(ints, -65536);
        Val x = broadcast((xs[0] + k * 4).load(i32()), lanes);
        Val x0 = bitcast(x << 16, floats), x1 = bitcast(x & upper, floats);
        for (int64_t v = 0; v < vectors; ++v) {
          Val pair = (w + v * lanes * 4).load(ints);
          next[v] =
              fma(bitcast(pair & upper, floats), x1, fma(bitcast(pair << 16, floats), x0, next[v]));
        }
      }
      return next;
    };
    auto sums = matrices ? matrixSums(operands, row, init) : loop(i64(0), steps, 1, init, step);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t v = 0; v < vectors; ++v)
        put(sums[t * vectors + v], outs[t] + (row + v * lanes) * 4, add);
  }
}

SmallVector<Val> CpuKernel::matrixSums(const TileOperands &operands, int64_t row,
                                       ArrayRef<Val> sums) {
  const int64_t count = operands.rows.size(), vectors = sums.size() / count;
  MatrixTile tile(*this, count, vectors);
  auto add = [&](Val unit, ArrayRef<Val> registers, bool one) {
    if (row == 0)
      for (int64_t u = 0; u < (one ? 1 : 2); ++u)
        fetch(operands, unit + u);
    SmallVector<Ptr> xs;
    for (Ptr x : operands.rows)
      xs.push_back(x + unit * 4);
    SmallVector<Val> next(registers);
    tile.add(next, xs, one, [&](int64_t v) -> SmallVector<MatrixTile::Weights, 2> {
      Ptr w = operands.panel + unit * (kPanel * 4) + (row + v * target.lanes) * 4;
      Type type = vec(target.lanes, i32());
      return {tile.interleave(w.load(type),
                              one ? std::nullopt : std::optional((w + kPanel * 4).load(type)))};
    });
    return next;
  };
  Val paired = operands.steps & -2;
  auto registers = loop(i64(0), paired, 2, tile.arrange(sums),
                        [&](Val u, ArrayRef<Val> before) { return add(u, before, false); });
  registers = loop(paired, operands.steps, 1, registers,
                   [&](Val u, ArrayRef<Val> before) { return add(u, before, true); });
  return tile.separate(registers);
}

Ptr CpuKernel::onStack(int64_t bytes) {
  return ptr(LLVM::AllocaOp::create(*this, pointer(getContext()), getI8Type(), i64(bytes).value,
                                    /*alignment=*/64));
}

// Where pairs of bf16 have to be taken apart, that of activations would be as much work as the
// multiply-adds. So a part of the tokens' columns becomes float32 first, all rows of the panel use
// it, and the sums are in the first-level cache meanwhile. They are added up in the same order.
void CpuKernel::emitWideTile(const TileOperands &operands, bool add) {
  constexpr int64_t most = 128; // pairs at once
  ArrayRef<Ptr> xs = operands.rows, outs = operands.outs;
  int64_t count = xs.size(), lanes = target.lanes, vectors = target.tileRows / lanes;
  Type floats = vec(lanes, f32()), ints = vec(lanes, i32());
  Val upper = constant(ints, -65536);
  Ptr wide = onStack(count * 2 * most * 4), sums = onStack(count * kPanel * 4);
  auto wideOf = [&](int64_t t, int64_t second, Val pair) {
    return wide + (pair * 4 + (2 * t + second) * (most * 4));
  };
  if (add)
    fetchOuts(operands);
  for (int64_t at = 0; at < count * kPanel; at += lanes)
    (sums + at * 4).store(constant(floats, 0));
  loop(i64(0), operands.steps, most, [&](Val first) {
    Val pairs = min(operands.steps - first, i64(most));
    // Rows are padded to whole vectors.
    loop(i64(0), pairs, lanes, [&](Val k) {
      for (int64_t t = 0; t < count; ++t) {
        Val pair = (xs[t] + (first + k) * 4).load(ints);
        wideOf(t, 0, k).store(bitcast(pair << 16, floats));
        wideOf(t, 1, k).store(bitcast(pair & upper, floats));
      }
    });
    for (int64_t row = 0; row < kPanel; row += target.tileRows) {
      auto sumOf = [&](int64_t t, int64_t v) { return sums + (t * kPanel + row + v * lanes) * 4; };
      SmallVector<Val> init;
      for (int64_t t = 0; t < count; ++t)
        for (int64_t v = 0; v < vectors; ++v)
          init.push_back(sumOf(t, v).load(floats));
      auto next = loop(i64(0), pairs, 1, init, [&](Val k, ArrayRef<Val> before) {
        if (row == 0)
          fetch(operands, first + k);
        SmallVector<Val> sums(before);
        for (int64_t second : {0, 1}) {
          // Both columns at once would not fit beside the sums.
          if (second)
            loadAfter({&sums.front()});
          SmallVector<Val> column;
          for (int64_t v = 0; v < vectors; ++v) {
            Ptr w = operands.panel + (first + k) * (kPanel * 4) + (row + v * lanes) * 4;
            Val pair = w.load(ints);
            column.push_back(bitcast(second ? pair & upper : pair << 16, floats));
          }
          for (int64_t t = 0; t < count; ++t) {
            Val x = broadcast(wideOf(t, second, k).load(f32()), lanes);
            for (int64_t v = 0; v < vectors; ++v) {
              Val &sum = sums[t * vectors + v];
              sum = fma(column[v], x, sum);
            }
          }
        }
        return sums;
      });
      for (int64_t t = 0; t < count; ++t)
        for (int64_t v = 0; v < vectors; ++v)
          sumOf(t, v).store(next[t * vectors + v]);
    }
  });
  for (int64_t t = 0; t < count; ++t)
    for (int64_t row = 0; row < kPanel; row += lanes)
      put((sums + (t * kPanel + row) * 4).load(floats), outs[t] + row * 4, add);
}

Val CpuKernel::intrinsic(StringRef name, Type result, ArrayRef<Val> arguments) {
  SmallVector<Value> values;
  for (Val argument : arguments)
    values.push_back(argument.value);
  return val(
      LLVM::CallIntrinsicOp::create(*this, result, getStringAttr(name), values).getResults());
}

Val CpuKernel::bf16Dot(Val sum, Val w, Val x) {
  switch (target.bf16Dot) {
  case Bf16Dot::Widened:
    break;
  case Bf16Dot::Vdpbf16ps:
    return intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", sum.type(), {sum, w, x});
  case Bf16Dot::Bfdot:
    return intrinsic("llvm.aarch64.neon.bfdot.v4f32.v8bf16", sum.type(), {sum, w, x});
  }
  llvm_unreachable("a target without a dot product of bf16");
}

Val CpuKernel::codeDot(Val sum, Val w, Val x) {
  switch (target.codeDot) {
  case CodeDot::UnsignedBytes:
    return intrinsic(target.arm()         ? "llvm.aarch64.neon.usdot.v4i32.v16i8"
                     : target.lanes == 16 ? "llvm.x86.avx512.vpdpbusd.512"
                                          : "llvm.x86.avx512.vpdpbusd.256", // AVX-VNNI's
                     sum.type(), {sum, w, x});
  case CodeDot::SignedBytes:
    return intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8", sum.type(), {sum, w, x});
  case CodeDot::BytePairs:
    break;
  }
  llvm_unreachable("a target without an instruction that sums in fours");
}

Val CpuKernel::wordDot(Val sum, Val w, Val x) {
  return sum + intrinsic("llvm.x86.avx2.pmadd.wd", sum.type(), {w, x});
}

Val CpuKernel::rotatePairs(Val x, Val angles) {
  SmallVector<int64_t> swap, even, odd;
  SmallVector<float> signs;
  for (int64_t i = 0; i < x.lanes(); ++i) {
    swap.push_back(i ^ 1);
    even.push_back(i & ~1);
    odd.push_back(i | 1);
    signs.push_back(i & 1 ? 1.0f : -1.0f);
  }
  Val cosine = shuffle(angles, angles, even),
      sine = shuffle(angles, angles, odd) * constants(signs);
  return fma(x, cosine, shuffle(x, x, swap) * sine);
}

void CpuKernel::loadAfter(ArrayRef<Val *> sums) {
  SmallVector<Value> values;
  std::string results, operands;
  const bool x86 = StringRef(target.triple).starts_with("x86_64");
  for (Val *sum : sums) {
    operands += std::to_string(values.size()) + ",";
    results += x86 ? "=x," : "=w,"; // a vector register
    values.push_back(sum->value);
  }
  Type type = sums.front()->type();
  if (sums.size() > 1)
    type = LLVM::LLVMStructType::getLiteral(getContext(), SmallVector<Type>(sums.size(), type));
  Value all = LLVM::InlineAsmOp::create(
                  *this, type, values, "", results + operands + "~{memory}",
                  /*has_side_effects=*/true, /*is_align_stack=*/false, LLVM::TailCallKind::None,
                  LLVM::AsmDialectAttr::get(getContext(), LLVM::AsmDialect::AD_ATT), ArrayAttr())
                  .getResults()
                  .front();
  for (auto [i, sum] : llvm::enumerate(sums))
    *sum = val(sums.size() == 1
                   ? all
                   : LLVM::ExtractValueOp::create(*this, all, ArrayRef<int64_t>{int64_t(i)}));
}

Val CpuKernel::matrixDot(Val sum, Val w, Val x) {
  Type type = sum.isFloat() ? vec(2 * target.lanes, bf16()) : vec(4 * target.lanes, getI8Type());
  return intrinsic(sum.isFloat() ? "llvm.aarch64.neon.bfmmla"
                                 : "llvm.aarch64.neon.usmmla.v4i32.v16i8",
                   sum.type(), {sum, bitcast(w, type), bitcast(x, type)});
}

//===----------------------------------------------------------------------===//
// Channels of a row
//===----------------------------------------------------------------------===//

void CpuKernel::channels(int64_t n, function_ref<void(Val, int64_t)> body) {
  int64_t whole = n / target.lanes * target.lanes;
  if (whole)
    loop(0, whole, target.lanes, [&](Val c) { body(c, target.lanes); });
  for (int64_t width = target.lanes / 2; width; width /= 2)
    if ((n - whole) & width)
      body(i64(whole + ((n - whole) & ~(2 * width - 1))), width);
}

Val CpuKernel::sumOfSquares(Ptr x, int64_t n) { return dots(x, {x}, n)[0]; }

SmallVector<Val> CpuKernel::dots(Ptr x, ArrayRef<Ptr> rows, int64_t n) {
  Type floats = vec(target.lanes, f32());
  int64_t whole = n / target.lanes * target.lanes;
  SmallVector<Val> zeros(rows.size(), constant(floats, 0));
  auto sums = loop(i64(0), i64(whole), target.lanes, zeros, [&](Val c, ArrayRef<Val> before) {
    Val v = (x + c * 4).load(floats);
    SmallVector<Val> next;
    for (auto [row, sum] : llvm::zip_equal(rows, before))
      next.push_back(fma((row + c * 4).load(floats), v, sum));
    return next;
  });
  SmallVector<Val> totals;
  for (auto [row, lanes] : llvm::zip_equal(rows, sums)) {
    Val total = sum(lanes);
    for (int64_t c = whole; c < n; ++c)
      total = fma((row + c * 4).load(f32()), (x + c * 4).load(f32()), total);
    totals.push_back(total);
  }
  return totals;
}

Val CpuKernel::inverseRms(Val squares, int64_t n, float eps) {
  Val mean = squares * (1.0 / double(n));
  return f32(1) / val(math::SqrtOp::create(*this, (mean + eps).value));
}

Val CpuKernel::loadFloats(Ptr from, int64_t lanes, Storage storage) {
  auto like = [&](Type type) { return lanes ? vec(lanes, type) : type; };
  if (storage == Storage::F32)
    return from.load(like(f32()));
  if (storage == Storage::F16)
    return convert(from.load(like(getF16Type())), f32());
  // The upper half of a float. As integers, since LLVM may call a library to move a bf16 about.
  Val bits = convert(from.load(like(getI16Type())), i32());
  return bitcast(bits << 16, like(f32()));
}

Val CpuKernel::toStorage(Val x, Storage storage) {
  if (storage == Storage::F32 || target.takesBf16())
    return convert(x, typeOf(storage));
  // Instructions give the same but for a signalling NaN, which they make quiet, and denormals,
  // which those of x86 flush. Without one LLVM would call a library. To the nearest, ties to even;
  // a NaN is left as it is, so that the carry cannot make a number of it.
  auto like = [&](Type type) { return x.lanes() ? vec(x.lanes(), type) : type; };
  Val bits = bitcast(x, like(i32()));
  Val rounded = bits + 0x7fff + (shiftRight(bits, 16) & 1);
  Val kept = select(eq(x, x), rounded, bits);
  return bitcast(convert(shiftRight(kept, 16), like(getI16Type())), like(bf16()));
}

void CpuKernel::normRow(Ptr x, Ptr norm, int64_t n, float eps, Storage storage, Ptr to) {
  Val scale = inverseRms(sumOfSquares(x, n), n, eps);
  int64_t bytes = bytesOf(storage);
  channels(n, [&](Val c, int64_t lanes) {
    Type type = vec(lanes, f32());
    Val y = (x + c * 4).load(type) * scale * (norm + c * 4).load(type);
    (to + c * bytes).store(toStorage(y, storage));
  });
  for (int64_t c = n; c < padded(n); ++c)
    (to + c * bytes).store(constant(typeOf(storage), 0));
}

void CpuKernel::normRow(Ptr x, Ptr norm, float eps, const ActivationRow &row, Ptr to) {
  if (!row.quantized())
    return normRow(x, norm, row.columns, eps, row.storage(), to);
  Ptr whole = scratch(padded(row.columns) * 4);
  normRow(x, norm, row.columns, eps, Storage::F32, whole);
  quantize(whole, row, row.columns, to);
}

void CpuKernel::activationRow(Ptr from, const ActivationRow &row, Ptr to) {
  if (row.quantized())
    return quantize(from, row, row.columns, to);
  int64_t bytes = bytesOf(row.storage());
  channels(padded(row.columns), [&](Val c, int64_t lanes) {
    (to + c * bytes).store(toStorage((from + c * 4).load(vec(lanes, f32())), row.storage()));
  });
}

void CpuKernel::quantize(Ptr from, const ActivationRow &row, int64_t channels, Ptr to) {
  auto pieces = [&](Ptr from, int64_t columns, Ptr to) {
    int64_t whole = columns / row.piece();
    loop(0, whole, 1, [&](Val p) {
      quantizePiece(from + p * (row.piece() * 4), row, row.piece(), to + p * row.pieceBytes());
    });
    if (int64_t rest = columns % row.piece())
      quantizePiece(from + whole * row.piece() * 4, row, rest, to + whole * row.pieceBytes());
  };
  int64_t groups = channels / row.weight.group;
  loop(0, groups, 1, [&](Val g) {
    pieces(from + g * (row.weight.group * 4), row.weight.group, to + g * row.groupBytes());
  });
  if (int64_t rest = channels % row.weight.group)
    pieces(from + groups * row.weight.group * 4, rest, to + groups * row.groupBytes());
}

void CpuKernel::quantizePiece(Ptr from, const ActivationRow &row, int64_t columns, Ptr to) {
  int64_t lanes = target.lanes, whole = columns / lanes * lanes;
  // As integers magnitudes keep their order, and infinities and NaNs are the largest: the scale
  // becomes one, and so does the result.
  auto magnitude = [&](Val c, Type type) { return (from + c * 4).load(type) & 0x7fffffff; };
  auto largest = loop(i64(0), i64(whole), lanes, {constant(vec(lanes, i32()), 0)},
                      [&](Val c, ArrayRef<Val> most) {
                        return SmallVector<Val>{max(most[0], magnitude(c, vec(lanes, i32())))};
                      })[0];
  Val bits = maximum(largest);
  for (int64_t c = whole; c < columns; ++c)
    bits = max(bits, magnitude(i64(c), i32()));
  Val most = bitcast(bits, f32());
  // Channels so small that the inverse would overflow are codes of zero.
  Val inverse = select(gt(most, 1e-30), f32(127) / most, f32(0));
  auto code = [&](Val c, int64_t n) {
    Val x = (from + c * 4).load(n == 1 ? f32() : vec(n, f32()));
    Val q = convert(round(x * inverse), i32());
    (to + c + row.codesAt()).store(convert(q, getI8Type()));
    return q;
  };
  Val total = sum(loop(
      i64(0), i64(whole), lanes, {constant(vec(lanes, i32()), 0)},
      [&](Val c, ArrayRef<Val> sums) { return SmallVector<Val>{sums[0] + code(c, lanes)}; })[0]);
  for (int64_t c = whole; c < columns; ++c)
    total = total + code(i64(c), 1);
  for (int64_t c = columns; c % 4; ++c)
    (to + row.codesAt() + c).store(constant(getI8Type(), 0));
  (to + ActivationRow::scaleAt).store(most * (1.0 / 127));
  Val start = total * row.startFactor();
  (to + ActivationRow::startAt).store(start);
  if (row.weight.element == Storage::I4)
    (to + ActivationRow::upperStartAt).store(start * 17);
}

} // namespace moe::codegen
