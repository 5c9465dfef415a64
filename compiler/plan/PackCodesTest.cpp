// Packs weights as codes in every layout and format, and compares each scale, zero and code with
// the quantization of its group, or with the codes that the checkpoint was made of.
#include "compiler/plan/Pack.h"
#include "compiler/plan/TestGroup.h"
#include "runtime/weights/TestTensors.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/Support/FormatVariadic.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <ctime>
#include <gtest/gtest.h>
#include <limits>
#include <numeric>
#include <random>

using namespace llvm;
using namespace moe;

namespace {

// As a type has it.
float rounded(Storage type, float value) {
  return infoOf(type).decode(infoOf(type).encode(value, 0), 0);
}

class PackCodesTest : public testing::Test {
protected:
  PackCodesTest() { context.loadDialect<MoeDialect, plan::PlanDialect>(); }

  static int64_t count(ArrayRef<int64_t> shape) {
    return std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>());
  }

  std::vector<float> &add(const std::string &name, ArrayRef<int64_t> shape) {
    std::vector<float> &values = tensors.add(name, shape.vec(), std::vector<float>(count(shape)));
    std::normal_distribution<float> normal(0, 0.05f);
    for (float &v : values)
      v = normal(random);
    return values;
  }

  // A tensor that is made of random codes, with its scales and zeros.
  void addCoded(const std::string &name, ArrayRef<int64_t> shape, const WeightFormat &format,
                bool inputsFirst) {
    std::vector<float> &elements = add(name, shape);
    SmallVector<int64_t> groups(shape);
    const size_t inputs = shape.size() - (inputsFirst ? 2 : 1);
    groups[inputs] /= format.group;
    std::vector<float> &scales = add(name + ":scale", groups);
    for (float &scale : scales)
      scale = random() % 20 ? rounded(format.scale, std::fabs(scale) + 1e-3f) : 0;
    std::vector<float> *zeros = format.zeros ? &add(name + ":zero", groups) : nullptr;
    const int64_t inner = inputsFirst ? shape.back() : 1, columns = shape[inputs];
    if (zeros)
      for (float &zero : *zeros)
        zero = random() % 17;
    for (size_t i = 0; i < elements.size(); ++i) {
      const int64_t col = i / inner % columns, outer = i / inner / columns;
      const int64_t g = (outer * (columns / format.group) + col / format.group) * inner + i % inner;
      uint8_t code = format.element == Storage::I4 ? random() % 16 : random() % 256;
      if (format.element == Storage::F8E4M3 && (code & 0x7f) == 0x7f)
        code = 0x35;
      elements[i] =
          dequantize(format, code, scales[g], zeros ? int64_t((*zeros)[g]) : format.zero());
    }
    tensors.info(name).encoding = {format, inputsFirst};
  }

  plan::PackingAttr packing(Layout layout, const WeightFormat &format, int64_t headDim = 0) {
    return plan::PackingAttr::get(&context, layout, FormatAttr::get(&context, format), headDim);
  }

  // All elements of slices, in the order of the weight's.
  std::vector<float> elements(ArrayRef<TensorSlice> slices, StringRef companion = "",
                              int64_t group = 1) {
    std::vector<float> all;
    for (const TensorSlice &s : slices) {
      const std::string name = s.tensor + companion.str();
      const std::vector<float> &values = tensors.values(name);
      std::vector<int64_t> shape = tensors.info(name).shape, sizes = s.sizes, offsets = s.offsets;
      const size_t inputs = sizes.size() - (s.transposed ? 2 : 1);
      sizes[inputs] /= group;
      offsets[inputs] /= group;
      while (shape.size() < 3) {
        shape.insert(shape.begin(), 1);
        sizes.insert(sizes.begin(), 1);
        offsets.insert(offsets.begin(), 0);
      }
      const int64_t rowStep = s.transposed ? 1 : shape[2], colStep = s.transposed ? shape[2] : 1;
      for (int64_t o = 0; o < sizes[0]; ++o)
        for (int64_t row = 0; row < sizes[s.transposed ? 2 : 1]; ++row)
          for (int64_t col = 0; col < sizes[s.transposed ? 1 : 2]; ++col)
            all.push_back(values[((o + offsets[0]) * shape[1] + offsets[1]) * shape[2] +
                                 offsets[2] + row * rowStep + col * colStep]);
    }
    return all;
  }

  std::string pack(ArrayRef<int64_t> shape, ArrayRef<TensorSlice> slices, plan::PackingAttr packing,
                   std::vector<char> &bytes, Packer::Options options = {}) {
    auto type = mlir::RankedTensorType::get(shape, mlir::Float32Type::get(&context));
    Expected<Packer> packer = Packer::create("w", type, slices.vec(), packing, tensors, options);
    if (!packer)
      return toString(packer.takeError());
    bytes.assign(packer->bytes(), 0x55);
    int64_t end = 0;
    for (int64_t i = 0; i < packer->pieces(); ++i) {
      const Packer::Piece piece = packer->piece(i);
      EXPECT_EQ(piece.offset, end);
      end += piece.bytes;
      if (llvm::Error error =
              packer->pack(i, MutableArrayRef(bytes).slice(piece.offset, piece.bytes)))
        return toString(std::move(error));
    }
    EXPECT_EQ(end, packer->bytes());
    return "";
  }

  // Compares with groups quantized one by one, or with what coded tensors were made of.
  void check(ArrayRef<int64_t> shape, ArrayRef<TensorSlice> slices, plan::PackingAttr packing,
             Packer::Options options = {}) {
    std::string text;
    raw_string_ostream(text) << packing;
    for (const TensorSlice &s : slices)
      text += " " + s.tensor + " " + shapeText(s.offsets) + shapeText(s.sizes) +
              (s.transposed ? " transposed" : "");
    SCOPED_TRACE(text);
    std::vector<char> bytes;
    ASSERT_EQ(pack(shape, slices, packing, bytes, options), "");
    auto type = mlir::RankedTensorType::get(shape, mlir::Float32Type::get(&context));
    const WeightLayout g = *layoutOf(type, packing);
    const WeightFormat &format = g.format;
    const std::vector<float> values = elements(slices);
    std::vector<float> scales, zeros;
    const std::optional<Encoding> &encoding = tensors.info(slices[0].tensor).encoding;
    const bool coded = encoding && encoding->format == format;
    if (coded) {
      scales = elements(slices, ":scale", format.group);
      if (format.zeros)
        zeros = elements(slices, ":zero", format.group);
    }
    std::vector<char> expected(bytes.size(), 0);
    std::vector<uint8_t> codes(format.group);
    for (int64_t row = 0; row < g.outer * g.rows; ++row)
      for (int64_t j = 0; j < g.groups(); ++j) {
        const int64_t at = row * g.groups() + j, o = row / g.rows, r = row % g.rows;
        const ArrayRef<float> x = ArrayRef(values).slice(at * format.group, format.group);
        float scale;
        if (coded) {
          scale = scales[at];
          const int64_t zero = zeros.empty() ? format.zero() : int64_t(zeros[at]);
          ASSERT_EQ(recoverCodes(format, scale, zero, x, codes), std::nullopt);
        } else {
          scale = test::quantizeGroup(format, options.scales, x, {}, codes);
        }
        const uint32_t bits = infoOf(format.scale).encode(scale, 0);
        std::memcpy(&expected.at(g.scale(o, r, j)), &bits, bytesOf(format.scale));
        if (format.zeros)
          expected.at(g.zero(o, r, j)) = char(zeros[at]);
        for (int64_t c = 0; c < format.group; ++c) {
          const auto [byte, shift] = g.code(o, r, j * format.group + c);
          expected.at(byte) |= char(codes[c] << shift);
        }
      }
    if (bytes == expected) // what no element has is zero
      return;
    const size_t first =
        std::mismatch(bytes.begin(), bytes.end(), expected.begin()).first - bytes.begin();
    FAIL() << "byte " << first << " of " << bytes.size() << " is " << int(bytes[first])
           << ", expected " << int(expected[first]);
  }

  int64_t pick(std::initializer_list<int64_t> list) { return list.begin()[random() % list.size()]; }

  WeightFormat anyFormat(bool zeros = false) {
    WeightFormat format;
    format.element =
        zeros ? Storage::I4 : std::array{Storage::I4, Storage::I8, Storage::F8E4M3}[random() % 3];
    format.group = pick({1, 2, 3, 6, 7, 8, 16, 32, 40, 64, 128});
    format.scale = std::array{Storage::F32, Storage::F16, Storage::BF16}[random() % 3];
    format.zeros = zeros;
    return format;
  }

  mlir::MLIRContext context;
  std::mt19937 random{7};
  test::TestTensors tensors;
};

// Slices of random shapes, straight and transposed, of one or several sources.
TEST_F(PackCodesTest, everyLayoutAndFormat) {
  for (int round = 0; round < 80; ++round) {
    const bool coded = round % 3 == 0, transposed = random() % 2;
    WeightFormat format = anyFormat(coded && random() % 2);
    const int64_t groups = 1 + random() % (300 / format.group), cols = groups * format.group;
    if (random() % 6 == 0)
      format.group = cols; // whole rows
    Layout layout = std::array{Layout::Rows, Layout::Panel, Layout::PanelGateUp,
                               Layout::PanelHeads}[random() % 4];
    if (random() % 2 && (format.group % 64 == 0 || 64 % format.group == 0 || format.group == cols))
      layout = random() % 2 ? Layout::Fragments : Layout::FragmentsGateUp;
    const int64_t headDim = layout == Layout::PanelHeads ? pick({3, 12, 64, 70}) : 0;
    const int64_t parts = 1 + random() % 3,
                  matrices = layout == Layout::PanelHeads ? 1 : pick({1, 2});
    tensors = {};
    // One matrix after the other, or the parts of one.
    std::vector<TensorSlice> slices;
    int64_t rows = 0;
    for (int64_t p = 0; p < (matrices > 1 ? 1 : parts); ++p) {
      const int64_t n = headDim ? headDim * (1 + random() % 4) : 2 * (1 + random() % 90);
      const int64_t before = random() % 3 * format.group, after = random() % 2 * format.group;
      const int64_t rowsBefore = random() % 5;
      std::vector<int64_t> shape{matrices + 1, n + rowsBefore, before + cols + after};
      TensorSlice slice{
          "t" + std::to_string(p), {1, rowsBefore, before}, {matrices, n, cols}, transposed};
      if (transposed) {
        std::swap(shape[1], shape[2]);
        std::swap(slice.offsets[1], slice.offsets[2]);
        std::swap(slice.sizes[1], slice.sizes[2]);
      }
      if (coded)
        addCoded(slice.tensor, shape, format, transposed);
      else
        add(slice.tensor, shape);
      slices.push_back(slice);
      rows += n;
    }
    SmallVector<int64_t> shape{rows, cols};
    if (matrices > 1)
      shape.insert(shape.begin(), matrices);
    check(shape, slices, packing(layout, format, headDim),
          {.scales = random() % 2 ? ScaleChoice::AbsMax : ScaleChoice::LeastSquares});
  }
}

// Several pieces, blocks and strips, with ends in the midst of each.
TEST_F(PackCodesTest, manyPieces) {
  add("big", {2, 1100, 1040});
  const TensorSlice all{"big", {0, 0, 0}, {2, 1100, 1040}}, one{"big", {1, 0, 0}, {1, 1100, 1040}};
  const TensorSlice across{"big", {0, 0, 0}, {2, 1100, 1040}, true};
  // Small groups with large scales make many bytes of few elements.
  const WeightFormat bytes{Storage::I8, 1, Storage::F32}, nibbles{Storage::I4, 2, Storage::F32};
  check({2, 1100, 1040}, all, packing(Layout::Panel, bytes), {.scales = ScaleChoice::AbsMax});
  check({2, 1100, 1040}, all, packing(Layout::Rows, bytes), {.scales = ScaleChoice::AbsMax});
  check({2, 1040, 1100}, across, packing(Layout::PanelGateUp, bytes),
        {.scales = ScaleChoice::AbsMax});
  check({2, 1040, 1100}, across, packing(Layout::Panel, nibbles), {.scales = ScaleChoice::AbsMax});
  // Groups longer than blocks, and blocks that a row ends in.
  for (int64_t group : {520, 1040, 260})
    check({1100, 1040}, one, packing(Layout::Panel, {Storage::I4, group, Storage::F16}));
  check({2, 1040, 1100}, across, packing(Layout::FragmentsGateUp, {Storage::I4, 4, Storage::F32}),
        {.scales = ScaleChoice::AbsMax});
  check({2, 1040, 1100}, across, packing(Layout::Panel, {Storage::F8E4M3, 1100, Storage::F32}));
}

// Rows that are made of several sources, which end where no row does.
TEST_F(PackCodesTest, rowsOfSeveralSources) {
  add("a", {7});
  add("b", {40, 30});
  add("c", {77});
  for (Layout layout : {Layout::Rows, Layout::Panel, Layout::PanelGateUp})
    check({12, 102}, {{"a", {0}, {7}}, {"b", {0, 0}, {40, 30}, true}, {"c", {60}, {17}}},
          packing(layout, {Storage::I4, 34, Storage::F16}));
}

// Another format than the checkpoint's, or groups along the other dimension, are quantized anew.
TEST_F(PackCodesTest, otherFormatsAreQuantized) {
  const WeightFormat format{Storage::I4, 16, Storage::BF16};
  addCoded("w", {70, 64}, format, false);
  check({70, 64}, {{"w", {0, 0}, {70, 64}}}, packing(Layout::Panel, format));
  check({70, 64}, {{"w", {0, 0}, {70, 64}}},
        packing(Layout::Panel, {Storage::I8, 64, Storage::F32}));
  tensors.info("w").encoding->inputsFirst = true;
  std::ranges::fill(tensors.values("w:scale"), -1.0f); // is not read
  std::vector<char> codes, again;
  EXPECT_EQ(pack({70, 64}, {{"w", {0, 0}, {70, 64}}}, packing(Layout::Panel, format), codes), "");
  tensors.info("w").encoding.reset();
  EXPECT_EQ(pack({70, 64}, {{"w", {0, 0}, {70, 64}}}, packing(Layout::Panel, format), again), "");
  EXPECT_EQ(codes, again);
}

TEST_F(PackCodesTest, refusesWhatItCannotStore) {
  const WeightFormat format{Storage::I4, 16, Storage::F16};
  std::vector<char> bytes;
  const auto expect = [&](const std::string &part, const WeightFormat &f, bool transposed = false,
                          int64_t from = 0, int64_t cols = 64) {
    const std::string message =
        pack(transposed ? ArrayRef<int64_t>{cols, 70} : ArrayRef<int64_t>{70, cols},
             {{"w", {0, from}, {70, cols}, transposed}}, packing(Layout::Panel, f), bytes,
             {.allowNonFinite = true});
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  for (bool transposed : {false, true})
    for (float value : {std::nanf(""), -INFINITY}) {
      add("w", {70, 64})[33 * 64 + 44] = value;
      expect("tensor 'w' of the checkpoint has the value", {Storage::I8, 2, Storage::F16},
             transposed);
      expect("at [33, 44], expected finite ones in int8-g2-f16: is the checkpoint damaged?",
             {Storage::I8, 2, Storage::F16}, transposed);
    }
  add("w", {70, 64})[33 * 64 + 44] = 3e6f;
  expect("weight 'w' at [33, 32], of tensor 'w' of the checkpoint, starts a group with elements of "
         "up to 3e+06, too large for the scales of int4-g16-f16",
         format);

  WeightFormat zeros = format;
  zeros.zeros = true;
  expect("weight 'w' is packed as int4-g16-f16-z, whose zeros only a checkpoint can give, and "
         "tensor 'w' has other elements",
         zeros);

  addCoded("w", {70, 64}, format, false);
  tensors.values("w:scale")[33 * 4 + 2] = 0.5f;
  std::fill_n(&tensors.values("w")[33 * 64 + 32], 16, 0.0f);
  tensors.values("w")[33 * 64 + 44] = 0.3f;
  expect("weight 'w' at [33, 44], of tensor 'w' of the checkpoint, is 0.3, which no code of "
         "int4-g16-f16 stands for with scale 0.5 and zero 8",
         format);
  tensors.values("w:scale")[2] = 0.1f; // no float16
  expect("has scale 0.1, expected one that f16 can hold", format);
  tensors.values("w:scale")[2] = std::nanf("");
  expect("tensor 'w:scale' of the checkpoint has the value nan at [0, 2]", format);
  expect("weight 'w' takes the slice at [0, 8] of size [70, 32] from tensor 'w' of the checkpoint, "
         "which cuts its groups of 16 codes",
         format, false, 8, 32);
  addCoded("w", {70, 64}, zeros, false);
  tensors.values("w:zero")[2] = 17;
  expect("has zero 17, expected an integer of 0 to 16", zeros);
  tensors.values("w:zero")[2] = 2.5f;
  expect("has zero 2.5, expected", zeros);
}

// Run with --gtest_also_run_disabled_tests --gtest_filter='*codesThroughput': GB/s of bf16 that are
// read, on one core, from memory.
TEST_F(PackCodesTest, DISABLED_codesThroughput) {
  std::vector<uint16_t> values(32 << 20);
  std::normal_distribution<float> normal(0, 0.05f);
  for (uint16_t &v : values) {
    const float x = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    v = bits >> 16;
  }
  const auto read = [&](uint64_t begin, std::span<float> out) {
    const uint16_t *from = values.data() + begin;
    float *to = out.data();
    for (size_t i = 0, count = out.size(); i < count; ++i)
      to[i] = std::bit_cast<float>(uint32_t(from[i]) << 16);
    return ok();
  };
  tensors.add("w", {8192, 4096}, read);
  tensors.add("t", {4096, 8192}, read);
  auto type = mlir::RankedTensorType::get({8192, 4096}, mlir::Float32Type::get(&context));
  for (const WeightFormat &format :
       {WeightFormat{Storage::I4, 128, Storage::F16}, WeightFormat{Storage::I4, 32, Storage::F16},
        WeightFormat{Storage::I8, 128, Storage::F16}, WeightFormat{Storage::F8E4M3, 4096}})
    for (ScaleChoice choice : {ScaleChoice::AbsMax, ScaleChoice::LeastSquares})
      for (bool transposed : {false, true}) {
        const TensorSlice slice = transposed ? TensorSlice{"t", {0, 0}, {4096, 8192}, true}
                                             : TensorSlice{"w", {0, 0}, {8192, 4096}};
        Expected<Packer> packer = Packer::create("w", type, {slice}, packing(Layout::Panel, format),
                                                 tensors, {.scales = choice});
        ASSERT_TRUE(bool(packer)) << toString(packer.takeError());
        std::vector<char> bytes(packer->piece(0).bytes);
        double best = 1e9;
        const auto now = [] {
          timespec time;
          clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
          return time.tv_sec + time.tv_nsec * 1e-9;
        };
        for (int round = 0; round < 3; ++round) {
          const double start = now();
          for (int64_t i = 0; i < packer->pieces(); ++i)
            cantFail(packer->pack(i, MutableArrayRef(bytes).take_front(packer->piece(i).bytes)));
          best = std::min(best, now() - start);
        }
        std::printf("%-14s %-14s %-10s %5.2f GB/s\n", nameOf(format).c_str(),
                    choice == ScaleChoice::AbsMax ? "absmax" : "least squares",
                    transposed ? "transposed" : "", values.size() * 2 / best * 1e-9);
      }
}

} // namespace
