// Writes small plans, opens them again, and makes the writing fail in every way.
#include "compiler/plan/PlanWriter.h"

#include "dialects/moe/WeightSources.h"
#include "dialects/plan/PlanDialect.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "runtime/plan/Plan.h"
#include "runtime/weights/TestTensors.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"

#include <chrono>
#include <cstring>
#include <filesystem>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>

using namespace llvm;
using namespace moe;

namespace {

namespace fs = std::filesystem;

constexpr const char *kModule = R"(
module attributes {moe.model = {
    architecture = "Llama4ForCausalLM", vocab_size = 96 : i64, hidden_size = 33 : i64,
    layers = 4 : i64, heads = 4 : i64, kv_heads = 2 : i64, head_dim = 12 : i64, experts = 3 : i64,
    experts_per_token = 1 : i64, moe_layers = 2 : i64, attention_chunk = 128 : i64,
    max_positions = 1024 : i64, bos_token = 90 : i64, eos_tokens = [91, 92],
    parameters = 100000 : i64, active_parameters = 50000 : i64}} {
  plan.tensor @qkv at 0 bytes 8704 : tensor<96x33xbf16>
      packed #plan.packing<panel_heads, bf16, 48> device "cpu"
  plan.tensor @norm at 8768 bytes 132 : tensor<33xf32> packed #plan.packing<rows, f32> device "cpu"
  plan.pool @chunked class chunk of 128 layers 3 page_tokens 64 page_bytes 8192 device "cpu"
  plan.pool @global class all_positions layers 1 page_tokens 64 page_bytes 4096 device "cpu"
  plan.kernel @embed device "cpu" operands 3
  plan.kernel @attend device "cpu" operands 4
  plan.kernel @head device "cpu" operands 2
  plan.program @cpu.8 step device "cpu" tokens 8 rows 8 scratch 128 arena 4096
      inputs ["tokens" : i32[T]] outputs ["logits" : f32[R, 96]] {
    %t = plan.input "tokens"
    %h = plan.alloc 1024 at 64
    %w = plan.weight @qkv
    plan.call @embed(%t, %w, %h)
  }
  plan.program @cpu.1 step device "cpu" tokens 1 rows 1 scratch 128 arena 1024
      inputs ["sampling" : ui8[R, 40], "table" : i32[S, P] of @chunked]
      outputs ["ids" : i32[R], "logits" : f32[R, 96]] {
    %p = plan.input "table"
    %h = plan.alloc 128 at 64
    %n = plan.weight @norm
    %c = plan.cache @chunked at 4096
    %l = plan.output "logits"
    plan.call @attend(%h, %p, %c, %n)
    plan.call @head(%h, %l)
  }
})";

// What the tensors of all modules are packed from.
constexpr const char *kWeights = R"(
  moe.weight @qkv : tensor<96x33xbf16> from
      [#moe.source<"q", [0, 0], [48, 33]>, #moe.source<"kv", [0, 0], [48, 33]>]
      packed #moe.packing<heads, bf16, 48>
  moe.weight @norm : tensor<33xf32> from [#moe.source<"norm", [0], [33]>]
      packed #moe.packing<rows, f32>
  moe.weight @head : tensor<96x33xbf16> from
      [#moe.source<"q", [0, 0], [48, 33]>, #moe.source<"kv", [0, 0], [48, 33]>]
      packed #moe.packing<matrix, bf16>
  moe.weight @huge : tensor<33554432x1048576xf32> from
      [#moe.source<"huge", [0, 0], [33554432, 1048576]>] packed #moe.packing<rows, f32>
)";

class PlanWriterTest : public testing::Test {
protected:
  PlanWriterTest() : folder(fs::path(testing::TempDir()) / ("writer-" + std::to_string(getpid()))) {
    fs::create_directory(folder);
    context.loadDialect<MoeDialect, plan::PlanDialect>();
    CodeImage image;
    image.device = "cpu";
    image.target = "cpu:x86-64-v3";
    image.features = {"avx2"};
    image.code.assign(100, '\xcc');
    image.entries = {{"embed", 0}, {"attend", 16}, {"head", 99}};
    inputs.images.push_back(std::move(image));
    TokenizerInput tokenizer;
    tokenizer.tables.assign(5000, 't');
    tokenizer.info.vocab_size = 90;
    tokenizer.info.pattern = "llama4";
    inputs.tokenizer = std::move(tokenizer);
    inputs.chat.emplace().user = "user";
    inputs.sampling.emplace().top_p = 0.5;
    for (const char *name : {"q", "kv", "head", "norm"})
      add(name,
          std::string(name) == "norm" ? std::vector<int64_t>{33} : std::vector<int64_t>{48, 33},
          name == std::string("q") ? 1.0f : 0.0f);
    inputs.tensors = &tensors;
    useWeights(kWeights);
    use(kModule);
  }
  ~PlanWriterTest() override { fs::remove_all(folder); }

  // A tensor whose elements are their places and `first`.
  void add(const std::string &name, std::vector<int64_t> shape, float first = 0) {
    tensors.add(name, std::move(shape), [first](uint64_t begin, std::span<float> out) {
      for (float &value : out)
        value = float(begin++) + first;
      return ok();
    });
  }
  // As largeModule has it.
  void addLarge(const std::string &format = "f32") {
    add("large", {10, 1024, 1024});
    useWeights(kWeights + formatv(R"(
        moe.weight @large : tensor<10x1024x1024xf32> from
            [#moe.source<"large", [0, 0, 0], [10, 1024, 1024], true>] packed #moe.packing<matrix, {0}>
        )",
                                  format)
                              .str());
  }
  void useWeights(const std::string &text) {
    model = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
    ASSERT_TRUE(model);
    for (const char *device : {"cpu", "cuda"})
      inputs.models[device] = *model;
  }

  void use(const std::string &text) {
    module = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
    ASSERT_TRUE(module);
    inputs.module = *module;
  }
  // The module with one text in the place of another.
  void change(StringRef from, StringRef to) {
    std::string text = kModule;
    const size_t at = text.find(from.str());
    ASSERT_NE(at, std::string::npos);
    use(text.replace(at, from.size(), to.str()));
  }

  std::string path(StringRef name = "a.plan") const { return (folder / name.str()).string(); }
  std::string write(StringRef name = "a.plan") {
    return toString(writePlan(inputs, path(name))); // empty: no error
  }
  static std::string bytesOf(const std::string &path) {
    auto buffer = MemoryBuffer::getFile(path);
    return buffer ? (*buffer)->getBuffer().str() : "";
  }
  // The writing fails with this message, and leaves nothing.
  void expectFailure(StringRef part, StringRef name = "a.plan") {
    const std::string message = write(name);
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_TRUE(fs::is_empty(folder)) << *fs::directory_iterator(folder);
  }

  const fs::path folder;
  mlir::MLIRContext context;
  mlir::OwningOpRef<mlir::ModuleOp> model, module;
  moe::test::TestTensors tensors;
  PlanInputs inputs;
};

TEST_F(PlanWriterTest, roundTrip) {
  ASSERT_EQ(write(), "");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
  Result<Plan> plan = Plan::open(path(), {.verifyWeights = true});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->writer().substr(0, 5), "moec ");
  const fb::Plan &index = plan->index();
  EXPECT_EQ(index.model()->vocab_size(), 96u);
  EXPECT_EQ(index.model()->bos_token(), 90);
  EXPECT_EQ(index.model()->pad_token(), -1);
  EXPECT_EQ(index.model()->eos_tokens()->Get(1), 92);
  EXPECT_EQ(index.model()->weights()->str(), "bf16");
  EXPECT_EQ(index.provenance()->compiler()->str().substr(0, 5), "moec ");
  EXPECT_EQ(index.chat()->user()->str(), "user");
  EXPECT_EQ(index.sampling()->top_p(), 0.5);

  // Sections.
  const auto code = plan->section(index.images()->Get(0)->section());
  EXPECT_EQ(std::string(reinterpret_cast<const char *>(code.data()), code.size()),
            std::string(100, '\xcc'));
  EXPECT_EQ(index.images()->Get(0)->entries()->Get(1), 16u);
  EXPECT_EQ(plan->section(index.tokenizer()->section()).size(), 5000u);

  // Tensors, whose bytes are the packer's.
  ASSERT_EQ(index.tensors()->size(), 2u);
  const fb::Tensor &qkv = *index.tensors()->Get(0);
  EXPECT_EQ(qkv.layout()->str(), "panel_heads");
  EXPECT_EQ(qkv.head_dim(), 48u);
  EXPECT_EQ(qkv.sources()->Get(1)->str(), "kv");
  const auto weights = plan->section(qkv.section());
  auto op = *module->getOps<plan::TensorOp>().begin();
  Expected<Packer> packer = Packer::create("qkv", cast<mlir::RankedTensorType>(op.getType()),
                                           slicesOf(*model->getOps<WeightOp>().begin()),
                                           op.getPacking(), *inputs.tensors, {});
  ASSERT_TRUE(bool(packer)) << toString(packer.takeError());
  ASSERT_EQ(packer->pieces(), 1);
  std::vector<char> packed(packer->bytes());
  cantFail(packer->pack(0, packed));
  EXPECT_EQ(std::memcmp(packed.data(), weights.data(), packed.size()), 0);
  float third;
  std::memcpy(&third, weights.data() + 8768 + 3 * 4, 4);
  EXPECT_EQ(third, 3.0f);

  // Pools and programs are put in order.
  EXPECT_EQ(index.caches()->Get(0)->name()->str(), "global");
  EXPECT_EQ(index.caches()->Get(0)->pool_class(), fb::PoolClass::AllPositions);
  EXPECT_EQ(index.caches()->Get(1)->pool_class(), fb::PoolClass::Chunk);
  EXPECT_EQ(index.caches()->Get(1)->chunk(), 128u);
  const auto programs = plan->programs("cpu");
  ASSERT_EQ(programs.size(), 2u);
  EXPECT_EQ(programs[0]->tokens(), 1u);
  EXPECT_EQ(programs[1]->arena_bytes(), 4096u);
  const fb::TensorSpec &table = *programs[0]->inputs()->Get(1);
  EXPECT_EQ(table.name()->str(), "table");
  EXPECT_EQ(table.element(), fb::ElementType::I32);
  EXPECT_EQ(table.pool(), 1);
  EXPECT_EQ(table.dims()->Get(0)->extent(), fb::Extent::Sequences);
  EXPECT_EQ(table.dims()->Get(1)->extent(), fb::Extent::Pages);
  const fb::TensorSpec &sampling = *programs[0]->inputs()->Get(0);
  EXPECT_EQ(sampling.element(), fb::ElementType::U8);
  EXPECT_EQ(sampling.pool(), -1);
  EXPECT_EQ(sampling.dims()->Get(0)->extent(), fb::Extent::Rows);
  EXPECT_EQ(sampling.dims()->Get(1)->extent(), fb::Extent::Constant);
  EXPECT_EQ(sampling.dims()->Get(1)->count(), 40u);
  EXPECT_EQ(programs[1]->inputs()->Get(0)->dims()->Get(0)->extent(), fb::Extent::Tokens);
  EXPECT_EQ(programs[1]->kind(), fb::ProgramKind::Step);
  const fb::KernelCall &attend = *programs[0]->calls()->Get(0)->operation_as_KernelCall();
  EXPECT_EQ(attend.kernel(), 1u);
  EXPECT_EQ(attend.operands()->Get(0)->offset(), 64u);
  EXPECT_EQ(attend.operands()->Get(1)->kind(), fb::OperandKind::Input);
  EXPECT_EQ(attend.operands()->Get(1)->index(), 1u);
  const fb::KernelCall &head = *programs[0]->calls()->Get(1)->operation_as_KernelCall();
  EXPECT_EQ(head.operands()->Get(1)->kind(), fb::OperandKind::Output);
  EXPECT_EQ(head.operands()->Get(1)->index(), 1u);
  EXPECT_EQ(attend.operands()->Get(2)->kind(), fb::OperandKind::Cache);
  EXPECT_EQ(attend.operands()->Get(2)->index(), 1u);
  EXPECT_EQ(attend.operands()->Get(2)->offset(), 4096u);
  EXPECT_EQ(attend.operands()->Get(3)->offset(), 8768u);
  EXPECT_EQ(attend.operands()->Get(3)->bytes(), 132u);
}

// kModule with pictures: the facts, and a program whose place in the module is not its place in the
// file.
std::string visionModule() {
  std::string text = kModule;
  const auto insert = [&](const std::string &before, const std::string &what) {
    text.insert(text.find(before), what);
  };
  insert("plan.program @cpu.8", R"(plan.program @cpu.vision.4 vision device "cpu" tokens 4 rows 0
      scratch 64 arena 512 inputs ["tiles" : ui8[T, 8, 8, 3]]
      outputs ["image_rows" : f32[T, 4, 33]] {
    %t = plan.input "tiles"
    %h = plan.output "image_rows"
    plan.call @head(%t, %h)
  }
  )");
  insert("moe.model = {", R"(moe.vision = {tile_size = 8 : i64, patch_size = 2 : i64,
      rows_per_tile = 4 : i64, max_tiles = 16 : i64, image_start = 80 : i64, image_end = 81 : i64,
      tile_x_separator = 82 : i64, tile_y_separator = 83 : i64, image = 84 : i64,
      patch = 85 : i64}, )");
  return text;
}

TEST_F(PlanWriterTest, writesVisionPrograms) {
  use(visionModule());
  ASSERT_EQ(write(), "");
  Result<Plan> plan = Plan::open(path());
  ASSERT_TRUE(plan) << plan.error().message;
  const fb::Vision *vision = plan->index().vision();
  ASSERT_TRUE(vision);
  EXPECT_EQ(vision->tile_size(), 8u);
  EXPECT_EQ(vision->patch_size(), 2u);
  EXPECT_EQ(vision->rows_per_tile(), 4u);
  EXPECT_EQ(vision->max_tiles(), 16u);
  EXPECT_EQ(vision->image_start(), 80);
  EXPECT_EQ(vision->image_end(), 81);
  EXPECT_EQ(vision->tile_x_separator(), 82);
  EXPECT_EQ(vision->tile_y_separator(), 83);
  EXPECT_EQ(vision->image(), 84);
  EXPECT_EQ(vision->patch(), 85);
  ASSERT_EQ(plan->index().programs()->size(), 3u);
  const fb::Program &program = *plan->index().programs()->Get(2);
  EXPECT_EQ(program.kind(), fb::ProgramKind::Vision);
  EXPECT_EQ(program.tokens(), 4u);
  EXPECT_EQ(program.rows(), 0u);
  EXPECT_EQ(program.inputs()->Get(0)->element(), fb::ElementType::U8);
  EXPECT_EQ(program.outputs()->Get(0)->dims()->Get(2)->count(), 33u);
}

TEST_F(PlanWriterTest, refusesPicturesThatDoNotFit) {
  const auto refuses = [&](const std::string &from, const std::string &to, const char *message) {
    std::string text = visionModule();
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos);
    use(text.replace(at, from.size(), to));
    expectFailure(message);
  };
  refuses("patch = 85 : i64", "patch = \"85\"", "field 'patch' of attribute 'moe.vision' is of a");
  refuses("patch = 85 : i64", "patches = 85 : i64",
          "attribute 'moe.vision' has the field 'patches', which the vision table of a plan lacks");
  refuses("patch = 85 : i64", "patch = 84 : i64", "two tokens of pictures are called '84'");
  refuses("moe.vision = {", "moe.other = {", "and the plan has no table Vision");
  refuses("f32[T, 4, 33]", "f32[T, 4, 32]", "'image_rows' as F32 of Tokens by 4 by 33");
}

// A GPU's tensors, pools, kernels and programs beside those of the CPU, some with the same names.
class PlanOfTwoDevices : public PlanWriterTest {
protected:
  PlanOfTwoDevices() {
    change("plan.kernel @embed device", R"(
  plan.tensor @cuda.qkv at 0 bytes 12288 : tensor<96x33xbf16>
      packed #plan.packing<fragments, bf16> device "cuda"
  plan.tensor @cuda.head at 12288 bytes 12288 : tensor<96x33xbf16>
      packed #plan.packing<fragments_gate_up, bf16> device "cuda"
  plan.pool @cuda.global class all_positions layers 4 page_tokens 64 page_bytes 2048 device "cuda"
  plan.kernel @qkv_t8 device "cuda" operands 4 grid
  plan.kernel @head_t8 device "cuda" operands 3 grid
  plan.program @cuda.8 step device "cuda" tokens 8 rows 8 scratch 0 arena 1024
      outputs ["ids" : i32[R]] {
    %h = plan.alloc 1024 at 0
    %w = plan.weight @cuda.qkv
    %c = plan.counters 64
    %p = plan.cache @cuda.global at 512
    plan.call @qkv_t8(%h, %w, %c, %p) blocks 6
    %v = plan.weight @cuda.head
    %more = plan.counters 128
    plan.call @head_t8(%h, %v, %more) blocks 300
  }
  plan.kernel @embed device)");
    CodeImage gpu;
    gpu.device = "cuda";
    gpu.target = "cuda:sm_90a";
    gpu.kind = CodeImage::Ptx;
    gpu.features = {"cuda", "sm_90a"};
    gpu.code = {'.', 'v', '\0'};
    gpu.cubin = {'E', 'L', 'F', '!', '!'};
    gpu.entries = {{"qkv_t8", 0}, {"head_t8", 0}};
    GridLaunch launch;
    launch.threads = 288;
    launch.sharedBytes = 65536;
    launch.blocksPerSm = 2;
    launch.registers = 40;
    launch.dependent = true;
    gpu.launches["qkv_t8"] = launch;
    launch.dependent = false;
    gpu.launches["head_t8"] = launch;
    inputs.images.insert(inputs.images.begin(), std::move(gpu));
  }
};

TEST_F(PlanOfTwoDevices, roundTrip) {
  ASSERT_EQ(write(), "");
  Result<Plan> plan = Plan::open(path(), {.verifyWeights = true});
  ASSERT_TRUE(plan) << plan.error().message;
  const fb::Plan &index = plan->index();
  const fb::Image &gpu = *index.images()->Get(0);
  EXPECT_EQ(gpu.target()->str(), "cuda:sm_90a");
  const auto text = plan->section(gpu.section()), cubin = plan->section(gpu.cubin());
  EXPECT_EQ(index.sections()->Get(gpu.section())->kind(), fb::SectionKind::Ptx);
  EXPECT_EQ(std::string(reinterpret_cast<const char *>(text.data()), text.size()),
            std::string(".v\0", 3));
  EXPECT_EQ(std::string(reinterpret_cast<const char *>(cubin.data()), cubin.size()), "ELF!!");
  EXPECT_EQ(index.images()->Get(1)->cubin(), -1);
  EXPECT_EQ(index.images()->Get(1)->launches(), nullptr);

  ASSERT_EQ(gpu.launches()->size(), index.kernels()->size());
  const fb::Launch &qkv = *gpu.launches()->Get(0);
  EXPECT_EQ(gpu.entries()->Get(0), 0u);
  EXPECT_EQ(gpu.entries()->Get(2), ~uint64_t(0)); // the CPU's
  EXPECT_EQ(qkv.threads(), 288u);
  EXPECT_EQ(qkv.shared_bytes(), 65536u);
  EXPECT_EQ(qkv.blocks_per_sm(), 2u);
  EXPECT_EQ(qkv.registers(), 40u);
  EXPECT_TRUE(qkv.dependent());
  EXPECT_FALSE(gpu.launches()->Get(1)->dependent());

  // Each device's weights are a section; a name is the weight's, unless that is taken.
  const auto *tensors = index.tensors();
  ASSERT_EQ(tensors->size(), 4u);
  EXPECT_EQ(tensors->Get(2)->name()->str(), "cuda.qkv");
  EXPECT_EQ(tensors->Get(3)->name()->str(), "head");
  const fb::Section &weights = *index.sections()->Get(tensors->Get(2)->section());
  EXPECT_EQ(weights.name()->str(), "weights.cuda");
  EXPECT_EQ(weights.length(), 24576u);
  EXPECT_EQ(index.sections()->Get(tensors->Get(0)->section())->name()->str(), "weights.cpu");
  for (plan::TensorOp op : module->getOps<plan::TensorOp>()) {
    if (op.getDevice() != "cuda")
      continue;
    Expected<Packer> packer = Packer::create("w", cast<mlir::RankedTensorType>(op.getType()),
                                             slicesOf(*model->getOps<WeightOp>().begin()),
                                             op.getPacking(), *inputs.tensors, {});
    ASSERT_TRUE(bool(packer)) << toString(packer.takeError());
    std::vector<char> packed(packer->bytes());
    cantFail(packer->pack(0, packed));
    const auto bytes = plan->section(tensors->Get(2)->section());
    EXPECT_EQ(std::memcmp(packed.data(), bytes.data() + op.getOffset(), packed.size()), 0);
  }

  ASSERT_EQ(index.caches()->size(), 3u);
  const auto programs = plan->programs("cuda");
  ASSERT_EQ(programs.size(), 1u);
  EXPECT_EQ(programs[0]->counter_bytes(), 128u);
  const fb::KernelCall &call = *programs[0]->calls()->Get(0)->operation_as_KernelCall();
  EXPECT_EQ(call.blocks(), 6u);
  EXPECT_EQ(call.operands()->Get(1)->index(), tensors->Get(2)->section());
  EXPECT_EQ(call.operands()->Get(2)->kind(), fb::OperandKind::Counters);
  EXPECT_EQ(call.operands()->Get(2)->bytes(), 64u);
  const fb::CachePool &pool = *index.caches()->Get(call.operands()->Get(3)->index());
  EXPECT_EQ(pool.name()->str(), "global");
  EXPECT_EQ(pool.device()->str(), "cuda");
  EXPECT_EQ(pool.page_bytes(), 2048u);
}

TEST_F(PlanOfTwoDevices, needsALaunchForEachKernel) {
  inputs.images[0].launches.erase("head_t8");
  expectFailure("nothing says how target 'cuda:sm_90a' launches kernel 'head_t8'");
}

TEST_F(PlanOfTwoDevices, sameBytesWithAnyNumberOfThreads) {
  inputs.jobs = 1;
  ASSERT_EQ(write("one.plan"), "");
  inputs.jobs = 5;
  ASSERT_EQ(write("five.plan"), "");
  EXPECT_EQ(bytesOf(path("one.plan")), bytesOf(path("five.plan")));
}

// Many pieces, so that threads come in any order.
std::string largeModule(StringRef format = "f32", int64_t bytes = 41943040) {
  std::string text = kModule;
  const std::string tensor = "plan.tensor @norm";
  return text.insert(text.find(tensor), formatv(R"(
    plan.tensor @large at 20480 bytes {0} : tensor<10x1024x1024xf32>
        packed #plan.packing<panel, {1}> device "cpu"
    )",
                                                bytes, format)
                                            .str());
}

// A scale for each element makes many bytes of few elements.
constexpr const char *kLargeCodes = "i4 group 1 scale f32";
std::string largeCodes() { return largeModule(kLargeCodes, 62914560); }

TEST_F(PlanWriterTest, sameBytesWithAnyNumberOfThreads) {
  inputs.packing.scales = ScaleChoice::AbsMax;
  for (const auto &[text, format, storage] :
       {std::tuple(largeModule(), "f32", "f32"),
        std::tuple(largeCodes(), kLargeCodes, "int4-g1-f32")}) {
    addLarge(format);
    use(text);
    inputs.jobs = 1;
    ASSERT_EQ(write("one.plan"), "");
    inputs.jobs = 7;
    ASSERT_EQ(write("seven.plan"), "");
    ASSERT_EQ(write("seven.plan"), ""); // also over a file
    EXPECT_EQ(bytesOf(path("one.plan")), bytesOf(path("seven.plan")));
    Result<Plan> plan = Plan::open(path("seven.plan"), {.verifyWeights = true});
    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_EQ(plan->index().tensors()->Get(1)->storage()->str(), storage);
    EXPECT_EQ(plan->index().model()->weights()->str(), storage); // of most bytes
  }
}

TEST_F(PlanWriterTest, tellsProgress) {
  use(largeModule());
  addLarge();
  uint64_t last = 0, total = 0;
  int calls = 0;
  cantFail(writePlan(inputs, path(), [&](uint64_t done, uint64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
    ++calls;
  }));
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, fs::file_size(path()));
  EXPECT_GT(calls, 10);
}

// Of two threads that do little but wait for what they read.
TEST_F(PlanWriterTest, tellsWhatPackingTook) {
  use(largeModule());
  addLarge();
  inputs.jobs = 2;
  std::atomic<int> calls = 0;
  const moe::test::WatchedTensors slow(tensors, [&](std::string_view, uint64_t, size_t) {
    if (calls++ < 20)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return ok();
  });
  inputs.tensors = &slow;
  PackingFigures figures;
  cantFail(writePlan(inputs, path(), {}, nullptr, &figures));
  EXPECT_EQ(figures.threads, 2u);
  EXPECT_GT(figures.seconds, 0.2);
  EXPECT_GT(figures.busySeconds, 0);
  EXPECT_EQ(figures.bytesRead, 4u * (10 * 1024 * 1024 + 96 * 33 + 33));
  EXPECT_LT(figures.busySeconds, 2 * figures.seconds - 0.39);
}

TEST_F(PlanWriterTest, canBeCancelled) {
  inputs.packing.scales = ScaleChoice::AbsMax;
  for (const auto &[codes, when] :
       {std::pair(false, 0), std::pair(false, 20'000'000), std::pair(false, 41'980'000),
        std::pair(true, 20'000'000), std::pair(true, 62'940'000)}) {
    addLarge(codes ? kLargeCodes : "f32");
    use(codes ? largeCodes() : largeModule());
    std::atomic<bool> cancel = false;
    llvm::Error error = writePlan(
        inputs, path(), [&](uint64_t done, uint64_t) { cancel = cancel || done >= uint64_t(when); },
        &cancel);
    EXPECT_EQ(errorToErrorCode(std::move(error)), std::errc::operation_canceled) << when;
    EXPECT_TRUE(fs::is_empty(folder));
  }
}

TEST_F(PlanWriterTest, leavesNothingWhenReadingFails) {
  use(largeModule());
  addLarge();
  inputs.jobs = 4;
  tensors.add("large", {10, 1024, 1024}, [](uint64_t begin, std::span<float> out) -> Status {
    std::fill(out.begin(), out.end(), 0.5f);
    if (begin > (6 << 20))
      return moe::Error{Code::IoError, "the checkpoint is on fire"};
    return ok();
  });
  expectFailure("on fire");
  moe::test::TestTensors none;
  inputs.tensors = &none;
  expectFailure("weight 'qkv' takes a slice of tensor 'q', which the checkpoint does not have");
}

TEST_F(PlanWriterTest, refusesTensorsOfOtherWeights) {
  const std::string weights = kWeights;
  useWeights(weights.substr(0, weights.find("  moe.weight @norm")));
  expectFailure("tensor 'norm' holds the weight 'norm', which the model of device 'cpu' does not "
                "have");
  useWeights(kWeights);
  change("tensor<33xf32> packed", "tensor<33xbf16> packed");
  expectFailure("has another type or format than the weight 'norm' that it holds");
  use(kModule);
  inputs.models.clear();
  expectFailure("which the model of device 'cpu' does not have");
}

TEST_F(PlanWriterTest, keepsTheOldFile) {
  ASSERT_EQ(write(), "");
  const std::string before = bytesOf(path());
  tensors.add("q", {48, 33}, std::vector<float>(48 * 33, std::numeric_limits<float>::quiet_NaN()));
  EXPECT_NE(write().find("expected finite ones"), std::string::npos);
  EXPECT_EQ(bytesOf(path()), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
}

TEST_F(PlanWriterTest, refusesPathsThatAreNoFile) {
  expectFailure("No such file or directory", "none/a.plan");
  EXPECT_NE(toString(writePlan(inputs, folder.string())).find("it is a folder"), std::string::npos);
  EXPECT_NE(toString(writePlan(inputs, "/dev/null")).find("it is no regular file"),
            std::string::npos);
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_NE(toString(writePlan(inputs, "/proc/a.plan")).find("cannot write '/proc/a.plan'"),
            std::string::npos);
}

TEST_F(PlanWriterTest, reportsALimitOnFileSizes) {
  rlimit old;
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit low = {16384, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &low);
  const std::string message = write();
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_NE(message.find("File too large"), std::string::npos) << message;
  EXPECT_TRUE(fs::is_empty(folder));
}

TEST_F(PlanWriterTest, knowsThatTheDiskIsTooSmall) {
  change("plan.tensor @norm", R"(
    plan.tensor @huge at 20480 bytes 140737488355328 : tensor<33554432x1048576xf32>
        packed #plan.packing<rows, f32>
        device "cpu"
    plan.tensor @norm)");
  expectFailure("it takes 134217729 MB, and");
}

TEST_F(PlanWriterTest, refusesWhatIsNotReady) {
  change("arena 4096", "");
  expectFailure("program 'cpu.8' has no arena");
  change("vocab_size = 96", "vocabulary = 96");
  expectFailure("has the field 'vocabulary', which");
  change("vocab_size = 96", "vocab_size = -1");
  expectFailure("field 'vocab_size' of attribute 'moe.model'");
  change("eos_tokens = [91, 92]", "eos_tokens = [91, \"x\"]");
  expectFailure("field 'eos_tokens' of attribute 'moe.model'");
  change("attributes {moe.model", "attributes {moe.other");
  expectFailure("has no attribute 'moe.model'");
  change("at 8768 bytes", "at 8640 bytes");
  expectFailure("tensors 'qkv' and 'norm' overlap at byte 8640");
  // What a reader would refuse is known before the weights are packed.
  change("bos_token = 90", "bos_token = 96");
  expectFailure("bos_token is 96, and the vocabulary has 96");
  change("\"tokens\" : i32[T]", "\"tokens\" : i32[T, 5000000000]");
  expectFailure("'tokens' has a dimension of 5000000000");
  change("\"ids\" : i32[R], \"logits\" : f32[R, 96]", "\"logits\" : f32[R, 95]");
  expectFailure("output 'logits' of program 'cpu' of 8 tokens is declared otherwise");
  use(kModule);
  inputs.images[0].entries.erase("head");
  expectFailure("the code for target 'cpu:x86-64-v3' lacks kernel 'head'");
  inputs.images[0].entries["head"] = 100;
  expectFailure("at 100 of 100 bytes of code");
}

} // namespace
