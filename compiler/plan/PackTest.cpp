// Packs weights of every layout, and looks up each element as a kernel would.
#include "compiler/plan/Pack.h"

#include "runtime/weights/TestTensors.h"

#include "mlir/AsmParser/AsmParser.h"
#include "mlir/IR/MLIRContext.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/Support/FormatVariadic.h"

#include <cmath>
#include <cstring>
#include <ctime>
#include <gtest/gtest.h>
#include <limits>
#include <map>
#include <random>

using namespace llvm;
using namespace moe;

namespace {

// Values that bf16 does not hold exactly.
struct Checkpoint {
  test::TestTensors tensors;

  void add(const std::string &name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (int64_t dim : shape)
      count *= dim;
    std::vector<float> &values = tensors.add(name, std::move(shape), std::vector<float>());
    auto state = uint32_t(1 + tensors.tensors().size());
    for (int64_t i = 0; i < count; ++i) {
      state = state * 1664525 + 1013904223;
      values.push_back(float(int32_t(state)) * 1e-9f);
    }
  }
};

Checkpoint smallCheckpoint() {
  Checkpoint c;
  c.add("q", {48, 33});
  c.add("k", {24, 33});
  c.add("v", {24, 33});
  c.add("wide", {150, 70});
  c.add("gate", {70, 34});
  c.add("up", {70, 34});
  c.add("experts", {3, 34, 140}); // fused: [experts, hidden, gate and up]
  c.add("down", {3, 70, 34});
  c.add("vector", {77});
  c.add("big", {2100, 2051});
  c.add("bigExperts", {2, 1100, 4200});
  return c;
}

class PackTest : public testing::Test {
protected:
  PackTest() { context.loadDialect<MoeDialect, plan::PlanDialect>(); }

  Expected<Packer> create(StringRef type, StringRef sources, StringRef packing,
                          Packer::Options options = {}) {
    auto tensor = cast<mlir::RankedTensorType>(mlir::parseType(type, &context));
    auto layout = cast<plan::PackingAttr>(mlir::parseAttribute(packing, &context));
    return Packer::create("w", tensor, parseSlices(sources), layout, checkpoint.tensors, options);
  }

  std::vector<TensorSlice> parseSlices(StringRef sources) {
    std::vector<TensorSlice> slices;
    auto list = cast<mlir::ArrayAttr>(mlir::parseAttribute(sources, &context));
    for (SourceAttr source : list.getAsRange<SourceAttr>())
      slices.push_back({source.getTensor().str(), source.getOffsets().vec(),
                        source.getSizes().vec(), source.getTransposed()});
    return slices;
  }

  std::string messageOf(StringRef type, StringRef sources, StringRef packing) {
    Expected<Packer> packer = create(type, sources, packing);
    if (!packer)
      return toString(packer.takeError());
    for (int64_t i = 0; i < packer->pieces(); ++i) {
      std::vector<char> bytes(packer->piece(i).bytes);
      if (llvm::Error error = packer->pack(i, bytes))
        return toString(std::move(error));
    }
    return "no error";
  }

  // All elements of the weight in row-major order, one at a time.
  std::vector<float> elements(ArrayRef<TensorSlice> slices) {
    std::vector<float> all;
    for (const TensorSlice &slice : slices) {
      const std::vector<int64_t> &shape = checkpoint.tensors.info(slice.tensor).shape;
      const size_t rank = shape.size();
      std::vector<int64_t> sizes = slice.sizes;
      if (slice.transposed)
        std::swap(sizes[rank - 1], sizes[rank - 2]);
      int64_t count = 1;
      for (int64_t size : sizes)
        count *= size;
      for (int64_t i = 0; i < count; ++i) {
        SmallVector<int64_t> at(rank);
        int64_t rest = i;
        for (size_t d = rank; d-- > 0; rest /= sizes[d])
          at[d] = rest % sizes[d];
        if (slice.transposed)
          std::swap(at[rank - 1], at[rank - 2]);
        int64_t place = 0;
        for (size_t d = 0; d < rank; ++d)
          place = place * shape[d] + at[d] + slice.offsets[d];
        all.push_back(checkpoint.tensors.values(slice.tensor)[place]);
      }
    }
    return all;
  }

  static uint32_t bf16(float value) {
    APFloat rounded(value);
    bool lost;
    rounded.convert(APFloat::BFloat(), APFloat::rmNearestTiesToEven, &lost);
    return rounded.bitcastToAPInt().getZExtValue();
  }

  void check(StringRef type, StringRef sources, StringRef packing) {
    SCOPED_TRACE(formatv("{0} {1} {2}", type, sources, packing).str());
    Expected<Packer> packer = create(type, sources, packing);
    ASSERT_TRUE(bool(packer)) << toString(packer.takeError());
    // Fill what is not written with something else than zero.
    std::vector<char> bytes(packer->bytes(), 0x55);
    int64_t end = 0;
    for (int64_t i = 0; i < packer->pieces(); ++i) {
      const Packer::Piece piece = packer->piece(i);
      ASSERT_EQ(piece.offset, end);
      end += piece.bytes;
      llvm::Error error = packer->pack(i, MutableArrayRef(bytes).slice(piece.offset, piece.bytes));
      ASSERT_FALSE(bool(error)) << toString(std::move(error));
    }
    ASSERT_EQ(end, packer->bytes());

    auto tensor = cast<mlir::RankedTensorType>(mlir::parseType(type, &context));
    auto layout = cast<plan::PackingAttr>(mlir::parseAttribute(packing, &context));
    const std::vector<float> values = elements(parseSlices(sources));
    const bool wide = layout.getStorage().isF32();
    const int64_t rank = tensor.getRank(), width = wide ? 4 : 2;
    const int64_t cols = rank ? tensor.getDimSize(rank - 1) : 1;
    const int64_t rows = rank > 1 ? tensor.getDimSize(rank - 2) : 1;
    // The words of MoeDialect.td: panels of 64 rows, `[panels, k, 64]` or `[panels, k/2, 64, 2]`.
    const int64_t group = wide ? 1 : 2, columns = (cols + group - 1) / group;
    const int64_t head = layout.getHeadDim(), headPanels = head ? (head + 63) / 64 : 0;
    int64_t panels = (rows + 63) / 64;
    if (layout.getLayout() == Layout::PanelGateUp)
      panels = (rows / 2 + 31) / 32;
    if (layout.getLayout() == Layout::PanelHeads)
      panels = rows / head * headPanels;
    std::vector<bool> used(bytes.size() / width);
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t matrix = i / cols / rows, row = i / cols % rows, col = i % cols;
      int64_t panel = row / 64, lane = row % 64;
      if (layout.getLayout() == Layout::PanelGateUp) {
        const int64_t half = rows / 2, j = row % half;
        panel = j / 32;
        lane = j % 32 + (row >= half ? 32 : 0);
      } else if (layout.getLayout() == Layout::PanelHeads) {
        panel = row / head * headPanels + row % head / 64;
        lane = row % head % 64;
      }
      int64_t at = i;
      const bool split = layout.getLayout() == Layout::FragmentsGateUp;
      if (split || layout.getLayout() == Layout::Fragments) {
        // As the lanes of mma.sync.m16n8k16 hold a tile of its first operand: four registers of
        // two.
        const int64_t tiles = (cols + 63) / 64 * 4, half = rows / 2, j = row % half;
        const int64_t strips = split ? (half + 7) / 8 : (rows + 15) / 16;
        const int64_t strip = split ? j / 8 : row / 16;
        const int64_t tileRow = split ? j % 8 + (row >= half ? 8 : 0) : row % 16;
        const int64_t group = tileRow % 8, inGroup = col % 8 / 2;
        const int64_t reg = (tileRow >= 8 ? 1 : 0) + (col % 16 >= 8 ? 2 : 0);
        at = (((matrix * strips + strip) * tiles + col / 16) * 32 + 4 * group + inGroup) * 8 +
             2 * reg + col % 2;
      } else if (layout.getLayout() != Layout::Rows)
        at =
            (((matrix * panels + panel) * columns + col / group) * 64 + lane) * group + col % group;
      uint32_t found = 0, expected = wide ? APFloat(values[i]).bitcastToAPInt().getZExtValue()
                                          : bf16(values[i]);
      std::memcpy(&found, &bytes.at(at * width), width);
      ASSERT_EQ(found, expected) << "element " << i;
      ASSERT_FALSE(used[at]);
      used[at] = true;
    }
    for (size_t at = 0; at < used.size(); ++at) // padding
      for (int64_t b = 0; !used[at] && b < width; ++b)
        ASSERT_EQ(bytes[at * width + b], 0) << "place " << at;
  }

  mlir::MLIRContext context;
  Checkpoint checkpoint = smallCheckpoint();
};

constexpr const char *kQkv = R"([#moe.source<"q", [0, 0], [48, 33]>,
    #moe.source<"k", [0, 0], [24, 33]>, #moe.source<"v", [0, 0], [24, 33]>])";

TEST_F(PackTest, rows) {
  for (const char *packing : {"#plan.packing<rows, f32>", "#plan.packing<rows, bf16>"}) {
    check("tensor<77xf32>", R"([#moe.source<"vector", [0], [77]>])", packing);
    check("tensor<50xf32>", R"([#moe.source<"vector", [20], [50]>])", packing);
    check("tensor<96x33xbf16>", kQkv, packing);
    check("tensor<20x11xf32>", R"([#moe.source<"wide", [7, 31], [20, 11]>])", packing);
    check("tensor<2x30x20xf32>", R"([#moe.source<"experts", [1, 3, 50], [2, 30, 20]>])", packing);
    check("tensor<2x20x30xf32>", R"([#moe.source<"experts", [1, 3, 50], [2, 30, 20], true>])",
          packing);
    check("tensor<2100x2051xf32>", R"([#moe.source<"big", [0, 0], [2100, 2051]>])", packing);
    check("tensor<2051x2100xf32>", R"([#moe.source<"big", [0, 0], [2100, 2051], true>])", packing);
  }
}

TEST_F(PackTest, panels) {
  for (const char *packing : {"#plan.packing<panel, f32>", "#plan.packing<panel, bf16>"}) {
    check("tensor<96x33xbf16>", kQkv, packing);
    check("tensor<64x64xf32>", R"([#moe.source<"wide", [5, 6], [64, 64]>])", packing);
    check("tensor<1x1xf32>", R"([#moe.source<"wide", [5, 6], [1, 1]>])", packing);
    check("tensor<150x70xf32>", R"([#moe.source<"wide", [0, 0], [150, 70]>])", packing);
    check("tensor<70x150xf32>", R"([#moe.source<"wide", [0, 0], [150, 70], true>])", packing);
    check("tensor<69x149xf32>", R"([#moe.source<"wide", [1, 1], [149, 69], true>])", packing);
    check("tensor<3x34x70xf32>", R"([#moe.source<"down", [0, 0, 0], [3, 70, 34], true>])", packing);
    check("tensor<2x20x33xf32>", R"([#moe.source<"down", [1, 5, 1], [2, 20, 33]>])", packing);
    check("tensor<2100x2051xf32>", R"([#moe.source<"big", [0, 0], [2100, 2051]>])", packing);
    check("tensor<2051x2100xf32>", R"([#moe.source<"big", [0, 0], [2100, 2051], true>])", packing);
  }
}

TEST_F(PackTest, gateAndUp) {
  constexpr const char *dense = R"([#moe.source<"gate", [0, 0], [70, 34]>,
      #moe.source<"up", [0, 0], [70, 34]>])";
  constexpr const char *block = R"([#moe.source<"gate", [0, 0], [70, 34]>,
      #moe.source<"up", [0, 0], [70, 34]>,
      #moe.source<"experts", [0, 0, 0], [3, 34, 140], true>])";
  constexpr const char *parts = R"([#moe.source<"gate", [0, 0], [70, 34]>,
      #moe.source<"up", [0, 0], [70, 34]>,
      #moe.source<"experts", [2, 0, 0], [1, 34, 70], true>,
      #moe.source<"experts", [2, 0, 70], [1, 34, 70], true>])";
  for (const char *packing :
       {"#plan.packing<panel_gate_up, f32>", "#plan.packing<panel_gate_up, bf16>"}) {
    check("tensor<140x34xf32>", dense, packing);
    check("tensor<4x140x34xf32>", block, packing);
    check("tensor<2x140x34xf32>", parts, packing);
    check("tensor<2x4200x1100xf32>",
          R"([#moe.source<"bigExperts", [0, 0, 0], [2, 1100, 4200], true>])", packing);
  }
}

TEST_F(PackTest, heads) {
  check("tensor<96x33xbf16>", kQkv, "#plan.packing<panel_heads, bf16, 12>");
  check("tensor<96x33xbf16>", kQkv, "#plan.packing<panel_heads, f32, 24>");
  check("tensor<150x70xf32>", R"([#moe.source<"wide", [0, 0], [150, 70]>])",
        "#plan.packing<panel_heads, bf16, 75>");
  check("tensor<70x150xf32>", R"([#moe.source<"wide", [0, 0], [150, 70], true>])",
        "#plan.packing<panel_heads, bf16, 70>");
  check("tensor<128x70xf32>", R"([#moe.source<"wide", [0, 0], [128, 70]>])",
        "#plan.packing<panel_heads, f32, 64>");
}

TEST_F(PackTest, fragments) {
  const char *packing = "#plan.packing<fragments, bf16>";
  check("tensor<96x33xbf16>", kQkv, packing);
  check("tensor<64x64xf32>", R"([#moe.source<"wide", [5, 6], [64, 64]>])", packing);
  check("tensor<2x1xf32>", R"([#moe.source<"wide", [5, 6], [2, 1]>])", packing);
  check("tensor<69x149xf32>", R"([#moe.source<"wide", [1, 1], [149, 69], true>])", packing);
  check("tensor<3x34x70xf32>", R"([#moe.source<"down", [0, 0, 0], [3, 70, 34], true>])", packing);
  check("tensor<2100x2051xf32>", R"([#moe.source<"big", [0, 0], [2100, 2051]>])", packing);
  check("tensor<2051x2100xf32>", R"([#moe.source<"big", [0, 0], [2100, 2051], true>])", packing);

  packing = "#plan.packing<fragments_gate_up, bf16>";
  constexpr const char *block = R"([#moe.source<"gate", [0, 0], [70, 34]>,
      #moe.source<"up", [0, 0], [70, 34]>,
      #moe.source<"experts", [0, 0, 0], [3, 34, 140], true>])";
  check("tensor<4x140x34xf32>", block, packing);
  check("tensor<2x4200x1100xf32>",
        R"([#moe.source<"bigExperts", [0, 0, 0], [2, 1100, 4200], true>])", packing);

  // Slices of random shapes.
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    const bool transposed = random() % 2, gateUp = random() % 2;
    const int64_t rows = 2 + random() % 200 / 2 * 2, cols = 1 + random() % 300;
    const int64_t matrices = 1 + random() % 2;
    const int64_t sizes[] = {matrices, transposed ? cols : rows, transposed ? rows : cols};
    check(formatv("tensor<{0}x{1}x{2}xf32>", matrices, rows, cols).str(),
          formatv("[#moe.source<\"bigExperts\", [{0}, {1}, {2}], [{3}, {4}, {5}]{6}>]",
                  2 - matrices, random() % 100, random() % 100, sizes[0], sizes[1], sizes[2],
                  transposed ? ", true" : "")
              .str(),
          gateUp ? packing : "#plan.packing<fragments, bf16>");
  }
}

// Rows that are made of several sources, which end where no row does.
TEST_F(PackTest, rowsOfSeveralSources) {
  constexpr const char *mixed = R"([#moe.source<"vector", [0], [7]>,
      #moe.source<"wide", [3, 2], [40, 30], true>, #moe.source<"vector", [60], [5]>])";
  for (const char *packing :
       {"#plan.packing<rows, bf16>", "#plan.packing<panel, bf16>", "#plan.packing<panel, f32>",
        "#plan.packing<panel_gate_up, bf16>", "#plan.packing<fragments, bf16>",
        "#plan.packing<fragments_gate_up, bf16>"})
    check("tensor<12x101xf32>", mixed, packing);
}

TEST_F(PackTest, refusesWhatDoesNotFit) {
  const char *packing = "#plan.packing<rows, f32>";
  const auto expectMessage = [&](const std::string &message, StringRef part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expectMessage(messageOf("tensor<2xf32>", R"([#moe.source<"none", [0], [2]>])", packing),
                "weight 'w' takes a slice of tensor 'none', which the checkpoint does not have");
  expectMessage(messageOf("tensor<20xf32>", R"([#moe.source<"vector", [60], [20]>])", packing),
                "weight 'w' takes the slice at [60] of size [20] from tensor 'vector' of the "
                "checkpoint, which has the shape [77]");
  expectMessage(messageOf("tensor<20xf32>", R"([#moe.source<"wide", [0], [20]>])", packing),
                "has the shape [150, 70]");
  expectMessage(messageOf("tensor<20xf32>", R"([#moe.source<"vector", [0], [19]>])", packing),
                "has 20 elements, and its sources 19");
}

TEST_F(PackTest, refusesValuesThatAreNotFinite) {
  const float values[] = {std::nanf(""), -INFINITY, std::numeric_limits<float>::max()};
  for (bool transposed : {false, true})
    for (float value : values) {
      checkpoint.tensors.values("wide")[33 * 70 + 44] = value;
      const char *type = transposed ? "tensor<70x150xf32>" : "tensor<150x70xf32>";
      const char *source = transposed ? R"([#moe.source<"wide", [0, 0], [150, 70], true>])"
                                      : R"([#moe.source<"wide", [0, 0], [150, 70]>])";
      const std::string message = messageOf(type, source, "#plan.packing<panel, bf16>");
      EXPECT_NE(message.find("tensor 'wide' of the checkpoint has the value"), std::string::npos);
      EXPECT_NE(message.find("at [33, 44]"), std::string::npos) << message;
      // The largest float is finite in f32 alone.
      EXPECT_EQ(messageOf(type, source, "#plan.packing<rows, f32>") == "no error",
                std::isfinite(value));
    }
  Expected<Packer> packer =
      create("tensor<150x70xf32>", R"([#moe.source<"wide", [0, 0], [150, 70]>])",
             "#plan.packing<rows, bf16>", {.allowNonFinite = true});
  ASSERT_TRUE(bool(packer));
  checkpoint.tensors.values("wide")[0] = std::nanf("");
  std::vector<char> bytes(packer->bytes());
  llvm::Error error = packer->pack(0, bytes);
  ASSERT_FALSE(bool(error)) << toString(std::move(error));
  uint16_t first;
  std::memcpy(&first, bytes.data(), 2);
  EXPECT_GT(first & 0x7fff, 0x7f80); // still not a number
}

// Of this thread, in seconds: other work on the machine does not count.
double processorTime() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

// Run with --gtest_also_run_disabled_tests --gtest_filter='*throughput': GB/s of bf16 out of bf16,
// on one core, from memory.
TEST_F(PackTest, DISABLED_throughput) {
  std::vector<uint16_t> values(64 << 20);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = 0x3c00 + i % 512;
  const auto read = [&](uint64_t begin, std::span<float> out) {
    for (size_t i = 0; i < out.size(); ++i) {
      const uint32_t bits = uint32_t(values[begin + i]) << 16;
      std::memcpy(&out[i], &bits, 4);
    }
    return ok();
  };
  checkpoint.tensors.add("w", {16384, 4096}, read);
  checkpoint.tensors.add("experts", {1, 4096, 16384}, read);
  const char *straight = R"([#moe.source<"w", [0, 0], [16384, 4096]>])";
  const char *across = R"([#moe.source<"experts", [0, 0, 0], [1, 4096, 16384], true>])";
  for (const auto &[name, sources, packing] :
       {std::tuple("rows", straight, "#plan.packing<rows, bf16>"),
        std::tuple("panel", straight, "#plan.packing<panel, bf16>"),
        std::tuple("panel_gate_up", straight, "#plan.packing<panel_gate_up, bf16>"),
        std::tuple("fragments", straight, "#plan.packing<fragments, bf16>"),
        std::tuple("fragments_gate_up", straight, "#plan.packing<fragments_gate_up, bf16>"),
        std::tuple("rows, transposed", across, "#plan.packing<rows, bf16>"),
        std::tuple("panel_gate_up, transposed", across, "#plan.packing<panel_gate_up, bf16>"),
        std::tuple("fragments, transposed", across, "#plan.packing<fragments, bf16>")}) {
    Expected<Packer> packer = create("tensor<16384x4096xbf16>", sources, packing);
    ASSERT_TRUE(bool(packer)) << toString(packer.takeError());
    std::vector<char> bytes(packer->piece(0).bytes);
    double best = 1e9;
    for (int round = 0; round < 5; ++round) {
      const double start = processorTime();
      for (int64_t i = 0; i < packer->pieces(); ++i)
        cantFail(packer->pack(i, MutableArrayRef(bytes).take_front(packer->piece(i).bytes)));
      best = std::min(best, processorTime() - start);
    }
    std::printf("%-26s %5.2f GB/s\n", name, packer->bytes() / best * 1e-9);
  }
}

} // namespace
