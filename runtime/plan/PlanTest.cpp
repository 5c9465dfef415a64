// Opens good plans in every way, and many bad ones.
#include "runtime/plan/SamplePlan.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <sys/mman.h>

using namespace moe;

namespace {

std::string errorOf(const Result<Plan> &result) {
  return result ? std::string("no error") : result.error().message;
}

void reseal(std::span<std::byte> file, const std::function<void(Header &)> &change) {
  Header header;
  std::memcpy(&header, file.data(), sizeof(header));
  change(header);
  header.hash = headerHash(header);
  std::memcpy(file.data(), &header, sizeof(header));
}

class TemporaryFile {
public:
  explicit TemporaryFile(std::span<const std::byte> bytes)
      : path(testing::TempDir() + "plan-test-" + std::to_string(getpid()) + ".plan") {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char *>(bytes.data()), bytes.size());
  }
  ~TemporaryFile() { std::remove(path.c_str()); }
  const std::string path;
};

TEST(PlanTest, opensMemory) {
  FileBytes file = samplePlanFile(samplePlan());
  Result<Plan> plan = Plan::open(file.span(), {.verifyWeights = true});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->index().model()->vocab_size(), 100u);
  EXPECT_EQ(plan->section(kTokenizer).size(), 500u);
  EXPECT_EQ(plan->section(kTokenizer).data(), file.span().data() + 8192);
  EXPECT_EQ(plan->programs("cpu").size(), 2u);
  EXPECT_EQ(plan->programs("cpu")[1]->tokens(), 8u);
  EXPECT_TRUE(plan->programs("cuda").empty());
  EXPECT_EQ(plan->writer(), "moec test");
  EXPECT_EQ(plan->major(), kPlanMajor);
  EXPECT_EQ(plan->fileSize(), file.span().size());
  EXPECT_EQ(plan->indexSize(), file.span().size() - 16384);
  EXPECT_EQ(plan->file(), -1);
  EXPECT_EQ(plan->path(), "");
}

TEST(PlanTest, hashesTellPlansApart) {
  auto other = samplePlan();
  other.model->bos_token = 3;
  FileBytes file = samplePlanFile(samplePlan()), same = samplePlanFile(samplePlan()),
            changed = samplePlanFile(other);
  const uint64_t hash = Plan::open(file.span())->hash();
  EXPECT_EQ(Plan::open(same.span())->hash(), hash);
  EXPECT_NE(Plan::open(changed.span())->hash(), hash);
}

TEST(PlanTest, opensFiles) {
  FileBytes bytes = samplePlanFile(samplePlan());
  TemporaryFile file(bytes.span());
  using Load = OpenOptions::Load;
  for (OpenOptions options : {OpenOptions{}, OpenOptions{.prefault = true},
                              OpenOptions{.load = Load::Read, .verifyWeights = true}}) {
    Result<Plan> opened = Plan::open(file.path, options);
    ASSERT_TRUE(opened) << opened.error().message;
    const fb::Plan *index = &opened->index();
    Plan plan = std::move(*opened); // views stay valid
    EXPECT_EQ(&plan.index(), index);
    EXPECT_EQ(plan.path(), file.path);
    for (uint32_t i = 0; i < 3; ++i)
      for (size_t at = 0; at < plan.section(i).size(); ++at)
        ASSERT_EQ(plan.section(i)[at], sampleByte(i, at)) << i << " " << at;
  }
}

TEST(PlanTest, mapsCodeFromItsFile) {
  FileBytes bytes = samplePlanFile(samplePlan());
  TemporaryFile file(bytes.span());
  Result<Plan> plan = Plan::open(file.path);
  ASSERT_TRUE(plan) << plan.error().message;
  const fb::Section &code = *plan->index().sections()->Get(kCode);
  void *mapped =
      mmap(nullptr, code.length(), PROT_READ | PROT_EXEC, MAP_PRIVATE, plan->file(), code.offset());
  ASSERT_NE(mapped, MAP_FAILED);
  EXPECT_EQ(std::memcmp(mapped, plan->section(kCode).data(), code.length()), 0);
  munmap(mapped, code.length());
}

TEST(PlanTest, refusesWhatIsNoFile) {
  const std::string folder = testing::TempDir();
  EXPECT_NE(errorOf(Plan::open(folder + "/no-such.plan")).find("No such file"), std::string::npos);
  EXPECT_NE(errorOf(Plan::open(folder)).find("not a regular file"), std::string::npos);
  EXPECT_NE(errorOf(Plan::open("/dev/zero")).find("not a regular file"), std::string::npos);
  TemporaryFile empty({});
  EXPECT_NE(errorOf(Plan::open(empty.path)).find("empty"), std::string::npos);
  EXPECT_EQ(Plan::open(empty.path).error().code, Code::InvalidPlan);
  EXPECT_EQ(Plan::open(folder).error().code, Code::IoError);
  FileBytes file = samplePlanFile(samplePlan());
  EXPECT_EQ(Plan::open(file.span().subspan(1)).error().code, Code::InvalidArgument);
}

TEST(PlanTest, readsVersions) {
  FileBytes file = samplePlanFile(samplePlan());
  reseal(file.span(), [](Header &h) { h.minor = kPlanMinor + 5; });
  EXPECT_TRUE(Plan::open(file.span())); // what it adds may be ignored

  reseal(file.span(), [](Header &h) { h.features = 4; });
  const std::string features = errorOf(Plan::open(file.span()));
  EXPECT_NE(features.find("feature bits 4"), std::string::npos) << features;

  reseal(file.span(), [](Header &h) { h.major = kPlanMajor + 1, h.features = 0; });
  const std::string newer = errorOf(Plan::open(file.span()));
  const std::string written = "4." + std::to_string(kPlanMinor + 5);
  for (const std::string &part : {"moec test wrote it in format " + written,
                                  std::string("reads 3.3"), std::string("update the runtime")})
    EXPECT_NE(newer.find(part), std::string::npos) << newer;

  reseal(file.span(), [](Header &h) { h.major = 2, h.minor = 0; });
  EXPECT_EQ(errorOf(Plan::open(file.span())),
            "plan: moec test wrote it in format 2.0, and this runtime reads 3.3 only: compile it "
            "again with `moec compile`");

  reseal(file.span(), [](Header &h) { std::memset(h.writer, '\x1b', sizeof(h.writer)); });
  EXPECT_EQ(errorOf(Plan::open(file.span())).find('\x1b'), std::string::npos);
}

TEST(PlanTest, refusesEveryTruncation) {
  FileBytes file = samplePlanFile(samplePlan());
  for (size_t size = 0; size < file.span().size(); size += 64)
    EXPECT_FALSE(Plan::open(file.span().first(size))) << size;
  EXPECT_FALSE(Plan::open(file.span().first(file.span().size() - 1)));
  FileBytes longer(file.span().size() + 64);
  std::memcpy(longer.span().data(), file.span().data(), file.span().size());
  EXPECT_FALSE(Plan::open(longer.span()));
}

TEST(PlanTest, refusesEveryFlippedBit) {
  FileBytes file = samplePlanFile(samplePlan());
  const auto expectRefusal = [&](size_t first, size_t bytes, OpenOptions options) {
    for (size_t bit = first * 8; bit < (first + bytes) * 8; ++bit) {
      const std::byte mask = std::byte(1 << bit % 8);
      file.span()[bit / 8] ^= mask;
      ASSERT_FALSE(Plan::open(file.span(), options)) << "bit " << bit;
      file.span()[bit / 8] ^= mask;
    }
  };
  expectRefusal(0, sizeof(Header), {});
  expectRefusal(4096, 300, {});                         // code
  expectRefusal(8192, 500, {});                         // tokenizer
  expectRefusal(12288, 4096, {.verifyWeights = true});  // weights
  expectRefusal(16384, file.span().size() - 16384, {}); // index
  file.span()[12288] ^= std::byte(1);
  EXPECT_TRUE(Plan::open(file.span())); // weights are hashed on request alone
}

// The hash says nothing when the writer is hostile: nothing may crash, whatever the index holds.
struct AnyIndex {
  const char *name;
  fb::PlanT (*plan)();
  size_t start;
};

class AnyIndexTest : public testing::TestWithParam<AnyIndex> {};

TEST_P(AnyIndexTest, isSurvived) {
  const size_t start = GetParam().start;
  FileBytes file = samplePlanFile(GetParam().plan(), start);
  const std::span<std::byte> index = file.span().subspan(start);
  const std::vector<std::byte> original(index.begin(), index.end());
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    for (uint32_t n = 1 + random() % 4; n > 0; --n) {
      const size_t at = random() % index.size();
      // Offsets and counts are words: small and large values, and single bits.
      if (const uint32_t values[] = {0, 1, ~0u, 0x7fffffff, uint32_t(index.size()),
                                     uint32_t(random())};
          random() % 2 && at + 4 <= index.size())
        std::memcpy(&index[at & ~size_t(3)], &values[random() % 6], 4);
      else
        index[at] ^= std::byte(1 << random() % 8);
    }
    reseal(file.span(), [&](Header &h) { h.indexHash = hashBytes(index.data(), index.size()); });
    accepted += bool(Plan::open(file.span()));
    std::copy(original.begin(), original.end(), index.begin());
  }
  EXPECT_GT(accepted, 0); // names, for one, may change
  for (size_t size : {0, 1, 4, 8, 12, 16, 20}) {
    reseal(file.span(), [&](Header &h) {
      h.indexLength = size;
      h.indexHash = hashBytes(index.data(), size);
    });
    EXPECT_FALSE(Plan::open(file.span().first(start + size))) << size;
  }
}

INSTANTIATE_TEST_SUITE_P(All, AnyIndexTest,
                         testing::Values(AnyIndex{"cpu", samplePlan, 16384},
                                         AnyIndex{"gpu", sampleGpuPlan, 24576},
                                         AnyIndex{"vision", sampleVisionPlan, 16384}),
                         [](const auto &info) { return info.param.name; });

// What the semantic check refuses: a change to the sample, and a part of the message.
struct Refusal {
  const char *name;
  void (*change)(fb::PlanT &plan);
  const char *message;
};

fb::KernelCallT &kernelCall(fb::PlanT &plan, size_t program, size_t call) {
  return *plan.programs[program]->calls[call]->operation.AsKernelCall();
}

fb::Operand &operand(fb::PlanT &plan, size_t call, size_t index) {
  return kernelCall(plan, 0, call).operands[index];
}

fb::TensorSpecT &input(fb::PlanT &plan, size_t index) { return *plan.programs[0]->inputs[index]; }
fb::TensorSpecT &output(fb::PlanT &plan) { return *plan.programs[0]->outputs[0]; }

void setOperand(fb::PlanT &plan, fb::OperandKind kind, uint32_t index, uint64_t offset,
                uint64_t bytes) {
  operand(plan, 0, 2) = fb::Operand(kind, index, offset, bytes);
}

template <typename T> void repeat(std::vector<std::unique_ptr<T>> &list) {
  list.push_back(std::make_unique<T>(*list[0]));
}

using Kind = fb::OperandKind;
using P = fb::PlanT;
const Refusal kRefusals[] = {
    {"vocabulary", [](P &p) { p.model->vocab_size = 0; }, "vocab_size is 0, expected 1"},
    {"vocabularySize", [](P &p) { p.model->vocab_size = ~0u; }, "vocab_size is 4294967295"},
    {"hidden", [](P &p) { p.model->hidden_size = 0; }, "hidden_size is 0"},
    {"layers", [](P &p) { p.model->layers = 0; }, "layers is 0"},
    {"heads", [](P &p) { p.model->heads = 0; }, "heads is 0"},
    {"kvHeads", [](P &p) { p.model->kv_heads = 5; }, "kv_heads is 5, expected 1 to 4"},
    {"headGroups", [](P &p) { p.model->kv_heads = 3; }, "heads is 4, expected a multiple of"},
    {"headDim", [](P &p) { p.model->head_dim = 0; }, "head_dim is 0"},
    {"experts", [](P &p) { p.model->experts = 0; }, "experts is 0"},
    {"expertsPerToken", [](P &p) { p.model->experts_per_token = 9; }, "experts_per_token is 9"},
    {"noExpertPerToken", [](P &p) { p.model->experts_per_token = 0; }, "experts_per_token is 0"},
    {"moeLayers", [](P &p) { p.model->moe_layers = 5; }, "moe_layers is 5, expected 0 to 4"},
    {"positions", [](P &p) { p.model->max_positions = uint64_t(1) << 31; }, "max_positions is"},
    {"noPositions", [](P &p) { p.model->max_positions = 0; }, "max_positions is 0"},
    {"activeParameters", [](P &p) { p.model->active_parameters = 1001; }, "active_parameters is"},
    {"bos", [](P &p) { p.model->bos_token = 100; }, "bos_token is 100, and the vocabulary has 100"},
    {"negativeBos", [](P &p) { p.model->bos_token = -2; }, "bos_token is -2"},
    {"pad", [](P &p) { p.model->pad_token = 1000; }, "pad_token is 1000"},
    {"eos", [](P &p) { p.model->eos_tokens[1] = -1; }, "one of eos_tokens is -1"},
    {"architecture", [](P &p) { p.model->architecture = ""; }, "architecture has an empty name"},
    {"weightsName", [](P &p) { p.model->weights = "\x1b[2J"; }, "no name, '?[2J'"},

    {"sectionName", [](P &p) { p.sections[0]->name = ""; }, "a section has an empty name"},
    {"sectionNames", [](P &p) { p.sections[0]->name = "weights"; }, "two sections are called"},
    {"sectionKind", [](P &p) { p.sections[0]->kind = fb::SectionKind(9); }, "unknown kind 9"},
    {"sectionAlignment", [](P &p) { p.sections[0]->offset += 64; }, "multiple of 4096"},
    {"sectionAtHeader", [](P &p) { p.sections[0]->offset = 0; }, "inside of what ends at byte 64"},
    {"sectionOverlap", [](P &p) { p.sections[0]->length = 4097; }, "inside of what ends at"},
    {"sectionEnd", [](P &p) { p.sections[2]->length = 4097; }, "the index starts at byte 16384"},
    {"sectionOverflow", [](P &p) { p.sections[2]->length = ~uint64_t(0); }, "the index starts"},
    {"sectionFar", [](P &p) { p.sections[2]->offset = ~uint64_t(4095); }, "the index starts"},

    {"tensorName", [](P &p) { p.tensors[0]->name = ""; }, "a tensor has an empty name"},
    {"tensorNames", [](P &p) { p.tensors[1]->name = "embed"; }, "two tensors are called 'embed'"},
    {"tensorSection", [](P &p) { p.tensors[0]->section = 3; }, "is in section 3 of 3"},
    {"tensorSectionKind", [](P &p) { p.tensors[0]->section = kCode; }, "expected Weights"},
    {"tensorAlignment", [](P &p) { p.tensors[0]->offset = 32; }, "multiple of 64"},
    {"tensorEnd", [](P &p) { p.tensors[0]->offset = 4096; }, "of section 'weights', which has"},
    {"tensorOverflow", [](P &p) { p.tensors[0]->bytes = ~uint64_t(0); }, "which has 4096"},
    {"tensorRank", [](P &p) { p.tensors[0]->shape = {}; }, "the rank of tensor 'embed' is 0"},
    {"tensorRanks", [](P &p) { p.tensors[0]->shape.assign(9, 1); }, "is 9, expected 1 to 8"},
    {"tensorShape", [](P &p) { p.tensors[0]->shape = {100, 0}; }, "a dimension of tensor 'embed'"},
    {"tensorTooSmall", [](P &p) { p.tensors[0]->shape = {101, 16}; },
     "tensor 'embed' has 3200 bytes, and its shape in 'bf16' and layout 'rows' takes 3232"},
    {"tensorTooLarge", [](P &p) { p.tensors[0]->shape = {99, 16}; }, "takes 3168"},
    {"tensorProduct", [](P &p) { p.tensors[0]->shape.assign(8, uint64_t(1) << 40); },
     "has more elements than any machine holds"},
    {"tensorPadding",
     [](P &p) {
       p.tensors[0]->shape = {uint64_t(1) << 47, 1};
       p.tensors[0]->layout = "panel_heads";
       p.tensors[0]->head_dim = 1;
     },
     "has more bytes than any machine holds"},
    {"tensorPanel", [](P &p) { p.tensors[0]->layout = "panel"; }, "layout 'panel' takes 4096"},
    {"tensorCodes",
     [](P &p) {
       p.tensors[0]->storage = "int4-g16-f16-z";
       p.tensors[0]->layout = "panel";
     },
     "takes 1408"}, // 2 panels of a group: 64 scales, 64 zeros, 512 bytes of codes
    {"tensorCodeRows", [](P &p) { p.tensors[0]->storage = "int8-g8-f16"; }, "takes 2000"},
    {"tensorGroup", [](P &p) { p.tensors[0]->storage = "int8-g5-f16"; },
     "is packed in groups of 5, which do not divide its 16 columns"},
    {"tensorGateUp",
     [](P &p) {
       p.tensors[0]->shape = {25, 64};
       p.tensors[0]->layout = "panel_gate_up";
     },
     "is packed as gate and up, but has an odd number of rows"},
    {"tensorHeads", [](P &p) { p.tensors[0]->layout = "panel_heads"; },
     "is packed by heads, but its rows are not a multiple of the head dimension"},
    {"tensorVector", [](P &p) { p.tensors[1]->layout = "panel"; },
     "is packed in panels, but is no matrix"},
    {"tensorFragments", [](P &p) { p.tensors[1]->layout = "fragments"; },
     "is packed in panels, but is no matrix"},
    {"tensorF16", [](P &p) { p.tensors[0]->storage = "f16"; },
     "this runtime knows no such storage"},
    {"tensorNoGroup", [](P &p) { p.tensors[0]->storage = "int4-g0-f16"; }, "no such storage"},
    {"tensorHugeGroup", [](P &p) { p.tensors[0]->storage = "int4-g99999999999999999999-f16"; },
     "no such storage"},
    {"tensorZeros", [](P &p) { p.tensors[0]->storage = "int8-g16-f16-z"; }, "no such storage"},
    {"tensorRest", [](P &p) { p.tensors[0]->storage = "int4-g16-f16-zz"; }, "no such storage"},
    {"tensorOtherLayout", [](P &p) { p.tensors[0]->layout = "columns"; },
     "this runtime knows no such layout"},
    {"tensorStorage", [](P &p) { p.tensors[0]->storage = ""; }, "the storage of tensor 'embed'"},
    {"tensorLayout", [](P &p) { p.tensors[0]->layout = ""; }, "the layout of tensor 'embed'"},
    {"tensorSource", [](P &p) { p.tensors[0]->sources = {""}; }, "a source of tensor 'embed'"},

    {"pools",
     [](P &p) {
       while (p.caches.size() <= 128)
         repeat(p.caches);
     },
     "the number of cache pools is 129"},
    {"poolName", [](P &p) { p.caches[0]->name = ""; }, "a cache pool has an empty name"},
    {"poolNames", [](P &p) { p.caches[1]->name = "global"; },
     "two cache pools are called 'cpu:global'"},
    {"poolDevice", [](P &p) { p.caches[0]->device = ""; }, "the device of cache pool 'global'"},
    {"poolClass", [](P &p) { p.caches[0]->pool_class = fb::PoolClass(2); },
     "is of unknown class 2"},
    {"poolOfAll", [](P &p) { p.caches[1]->pool_class = fb::PoolClass::AllPositions; },
     "has chunk 128, and its class is AllPositions, which has none"},
    {"poolNoChunk", [](P &p) { p.caches[1]->chunk = 0; }, "has chunk 0, expected the model's"},
    {"poolChunk", [](P &p) { p.caches[1]->chunk = 64; }, "the model's attention_chunk, 128"},
    {"poolLayers", [](P &p) { p.caches[1]->layers = 2; }, "have 3 layers together, and the model"},
    {"poolNoLayers", [](P &p) { p.caches[1]->layers = 0; }, "layers of cache pool 'chunked' is 0"},
    {"poolTokens", [](P &p) { p.caches[0]->page_tokens = 0; }, "page_tokens of cache pool"},
    {"poolBytes", [](P &p) { p.caches[0]->page_bytes = 100; }, "expected a multiple of 64"},
    {"poolNoBytes", [](P &p) { p.caches[0]->page_bytes = 0; }, "page_bytes of cache pool"},

    {"kernelName", [](P &p) { p.kernels[0]->name = ""; }, "a kernel has an empty name"},
    {"kernelNames", [](P &p) { p.kernels[0]->name = "head"; }, "two kernels are called 'cpu:head'"},
    {"kernelDevice", [](P &p) { p.kernels[0]->device = ""; }, "the device of kernel 'embed'"},
    {"kernelOperands", [](P &p) { p.kernels[0]->operands = 257; }, "operands of kernel 'embed'"},

    {"imageSection", [](P &p) { p.images[0]->section = kWeights; }, "expected Code"},
    {"imageNoSection", [](P &p) { p.images[0]->section = 9; }, "is in section 9 of 3"},
    {"imageTarget", [](P &p) { p.images[0]->target = ""; }, "the target of an image"},
    {"imageTargets", [](P &p) { repeat(p.images); }, "two images are called 'cpu:x86-64-v3'"},
    {"imageFeature", [](P &p) { p.images[0]->features[0] = ""; }, "a feature of image"},
    {"imageEntries", [](P &p) { p.images[0]->entries.pop_back(); }, "has 3 entries, expected 4"},
    {"imageEntry", [](P &p) { p.images[0]->entries[1] = 300; }, "at 300 of 300 bytes of code"},
    {"imageNoEntry", [](P &p) { p.images[0]->entries[1] = ~uint64_t(0); }, "of 300 bytes of code"},
    {"imageOtherEntry", [](P &p) { p.images[0]->entries[3] = 0; }, "expected none"},
    {"imageMissing", [](P &p) { p.images.clear(); }, "no image of their kernels"},

    {"noProgram", [](P &p) { p.programs.clear(); }, "it has no program"},
    {"programDevice", [](P &p) { p.programs[0]->device = ""; }, "the device of a program"},
    {"programTokens", [](P &p) { p.programs[0]->tokens = 0; }, "tokens of program 'cpu'"},
    {"programRows", [](P &p) { p.programs[0]->rows = 0; }, "rows of program 'cpu'"},
    {"programOrder", [](P &p) { p.programs[0]->tokens = 8; }, "expected ascending order"},
    {"programArena", [](P &p) { p.programs[0]->arena_bytes = ~uint64_t(0); }, "arena_bytes of"},
    {"programScratch", [](P &p) { p.programs[0]->scratch_bytes = ~uint64_t(0); }, "scratch_bytes"},
    {"programKind", [](P &p) { p.programs[1]->kind = fb::ProgramKind(2); },
     "program 'cpu' of 8 tokens is of unknown kind 2, and this runtime knows Step and Vision "
     "alone"},
    {"programVision",
     [](P &p) {
       p.programs[1]->kind = fb::ProgramKind::Vision;
       p.programs[1]->rows = 0;
     },
     "program 'cpu' of 8 tokens is of kind Vision, and the plan has no table Vision"},
    {"visionWithoutProgram", [](P &p) { p.vision = std::move(sampleVisionPlan().vision); },
     "it takes pictures, by its table Vision, and has no program of kind Vision"},
    {"programTokensSize", [](P &p) { p.programs[1]->tokens = ~0u; }, "is 4294967295, expected 1"},
    {"noOutput", [](P &p) { p.programs[0]->outputs.clear(); },
     "a step, has neither of the outputs 'logits' and 'ids'"},
    {"otherOutput", [](P &p) { output(p).name = "hidden"; }, "has neither of the outputs"},
    {"callKernel", [](P &p) { kernelCall(p, 0, 0).kernel = 4; }, "is of kernel 4"},
    {"callDevice", [](P &p) { kernelCall(p, 0, 2).kernel = 3; }, "for device 'other'"},
    {"callOperands", [](P &p) { kernelCall(p, 0, 0).operands.pop_back(); }, "passes 2"},

    {"inputs",
     [](P &p) {
       while (p.programs[0]->inputs.size() <= 64)
         repeat(p.programs[0]->inputs);
     },
     "the number of inputs of program 'cpu' of 1 tokens is 65, expected 0 to 64"},
    {"outputs",
     [](P &p) {
       while (p.programs[0]->outputs.size() <= 64)
         repeat(p.programs[0]->outputs);
     },
     "the number of outputs of program 'cpu' of 1 tokens is 65, expected 0 to 64"},
    {"specName", [](P &p) { input(p, 0).name = "a\nb"; }, "an input of program 'cpu' of 1 tokens"},
    {"specNames", [](P &p) { repeat(p.programs[0]->inputs); },
     "two inputs of a program are called 'tokens'"},
    {"outputNames", [](P &p) { repeat(p.programs[0]->outputs); },
     "two outputs of a program are called 'logits'"},
    {"specElement", [](P &p) { input(p, 0).element = fb::ElementType(6); },
     "input 'tokens' of program 'cpu' of 1 tokens has elements of unknown type 6"},
    {"specRank", [](P &p) { input(p, 0).dims.resize(9, {fb::Extent::Constant, 1}); },
     "the rank of input 'tokens'"},
    {"specNoCount", [](P &p) { input(p, 0).dims.push_back({fb::Extent::Constant, 0}); },
     "a dimension of input 'tokens' of program 'cpu' of 1 tokens is 0, expected 1"},
    {"specCounts", [](P &p) { input(p, 0).dims.push_back({fb::Extent::Constant, ~0u}); },
     "is 4294967295, expected 1"},
    {"specCountOfExtent", [](P &p) { input(p, 0).dims[0] = {fb::Extent::Tokens, 8}; },
     "has a dimension of Tokens with a count, 8, expected 0"},
    {"specExtent", [](P &p) { input(p, 0).dims[0] = {fb::Extent(5), 0}; }, "unknown extent 5"},
    {"specTokensInside", [](P &p) { input(p, 0).dims.push_back({fb::Extent::Tokens, 0}); },
     "has Tokens in a place that is not its first"},
    {"specRowsInside",
     [](P &p) { input(p, 0).dims = {{fb::Extent::Constant, 2}, {fb::Extent::Rows, 0}}; },
     "has Rows in a place that is not its first"},
    {"specBytes", [](P &p) { output(p).dims.resize(4, {fb::Extent::Constant, 1 << 24}); },
     "output 'logits' of program 'cpu' of 1 tokens has more than 281474976710656 bytes"},
    {"specBytesOfTokens",
     [](P &p) {
       p.programs[0]->tokens = 1 << 24;
       input(p, 0).dims.push_back({fb::Extent::Constant, 1 << 23});
     },
     "input 'tokens' of program 'cpu' of 16777216 tokens has more than"},
    {"outputOfSequences", [](P &p) { output(p).dims[1] = {fb::Extent::Sequences, 0}; },
     "output 'logits' of program 'cpu' of 1 tokens has a dimension of Sequences, which only"},
    {"specDiffers", [](P &p) { p.programs[1]->inputs[0]->element = fb::ElementType::U32; },
     "input 'tokens' of program 'cpu' of 8 tokens is declared otherwise than by a program before"},
    {"specDiffersInDims",
     [](P &p) { p.programs[1]->outputs[0]->dims[1] = {fb::Extent::Constant, 99}; },
     "output 'logits' of program 'cpu' of 8 tokens is declared otherwise"},
    {"specDiffersInRank", [](P &p) { p.programs[1]->outputs[0]->dims.pop_back(); },
     "declared otherwise"},
    {"specDiffersInPool", [](P &p) { p.programs[1]->inputs[1]->pool = 1; }, "declared otherwise"},
    {"tablePool", [](P &p) { input(p, 1).pool = 2; },
     "input 'global_table' of program 'cpu' of 1 tokens is the block table of cache pool 2 of 2"},
    {"tableNegativePool", [](P &p) { input(p, 1).pool = -2; }, "block table of cache pool -2 of 2"},
    {"tableElement", [](P &p) { input(p, 1).element = fb::ElementType::F32; },
     "is a block table, expected I32 of Sequences by Pages"},
    {"tableDims", [](P &p) { input(p, 1).dims.pop_back(); }, "is a block table, expected I32"},
    {"tableOrder", [](P &p) { std::swap(input(p, 1).dims[0], input(p, 1).dims[1]); },
     "is a block table, expected I32"},
    {"tableOut", [](P &p) { output(p).pool = 0; }, "and only inputs are block tables"},

    {"operandKind", [](P &p) { setOperand(p, Kind(9), 0, 0, 0); }, "operand of unknown kind 9"},
    {"input", [](P &p) { setOperand(p, Kind::Input, 3, 0, 0); }, "uses input 3 of 3"},
    {"inputIndex", [](P &p) { setOperand(p, Kind::Input, ~0u, 0, 0); }, "input 4294967295 of 3"},
    {"inputOffset", [](P &p) { setOperand(p, Kind::Input, 0, 4, 0); }, "'tokens' from byte 4"},
    {"noInput", [](P &p) { p.programs[0]->inputs.pop_back(); }, "uses input 2 of 2"},
    {"output", [](P &p) { setOperand(p, Kind::Output, 1, 0, 0); }, "uses output 1 of 1"},
    {"outputOffset", [](P &p) { setOperand(p, Kind::Output, 0, 4, 0); }, "'logits' from byte 4"},
    {"arenaEnd", [](P &p) { setOperand(p, Kind::Arena, 0, 960, 65); }, "of the arena, which has"},
    {"arenaOffset", [](P &p) { setOperand(p, Kind::Arena, 0, 2048, 64); },
     "byte 2048 of the arena"},
    {"arenaOverflow", [](P &p) { setOperand(p, Kind::Arena, 0, 64, ~uint64_t(0)); }, "the arena"},
    {"arenaAlignment", [](P &p) { setOperand(p, Kind::Arena, 0, 32, 64); }, "multiple of 64"},
    {"arenaEmpty", [](P &p) { setOperand(p, Kind::Arena, 0, 0, 0); }, "touches 0 bytes"},
    {"weightSection", [](P &p) { setOperand(p, Kind::Weight, kCode, 0, 64); }, "expected Weights"},
    {"weightNone", [](P &p) { setOperand(p, Kind::Weight, 7, 0, 64); }, "is in section 7 of 3"},
    {"weightEnd", [](P &p) { setOperand(p, Kind::Weight, kWeights, 4032, 65); }, "which has 4096"},
    {"cachePool", [](P &p) { setOperand(p, Kind::Cache, 2, 0, 0); }, "uses cache pool 2 of 2"},
    {"cacheOffset", [](P &p) { setOperand(p, Kind::Cache, 0, 4096, 0); }, "of a page of pool"},

    {"tokenizerSection", [](P &p) { p.tokenizer->section = kCode; }, "expected Tokenizer"},
    {"tokenizerVocabulary", [](P &p) { p.tokenizer->vocab_size = 101; }, "expected 1 to 100"},
    {"tokenizerPattern", [](P &p) { p.tokenizer->pattern = "gpt2"; }, "knows 'llama4' alone"},
    {"tokenizerBos", [](P &p) { p.model->bos_token = -1; }, "starts prompts with bos_token"},
    {"specialId", [](P &p) { p.tokenizer->special_tokens[0]->id = 100; }, "special token '<|90|>'"},
    {"specialHugeId", [](P &p) { p.tokenizer->special_tokens[0]->id = ~0u; }, "is 4294967295"},
    {"specialIds", [](P &p) { p.tokenizer->special_tokens[0]->id = 91; }, "tokens have id 91"},
    {"specialEmpty", [](P &p) { p.tokenizer->special_tokens[0]->content = ""; }, "90 is empty"},
    {"specialTwice", [](P &p) { p.tokenizer->special_tokens[0]->content = "<|91|>"; }, "two spec"},
    {"stopToken", [](P &p) { p.chat->stop_tokens[0] = 100; }, "a stop token of the chat format"},
    {"temperature", [](P &p) { p.sampling->temperature = -0.1; }, "temperature is -0.1"},
    {"temperatureHot", [](P &p) { p.sampling->temperature = 1e9; }, "expected 0 to 100"},
    {"temperatureNan", [](P &p) { p.sampling->temperature = std::nan(""); }, "temperature is nan"},
    {"topK", [](P &p) { p.sampling->top_k = ~0u; }, "top_k is 4294967295"},
    {"topP", [](P &p) { p.sampling->top_p = 0; }, "top_p is 0"},
    {"topPLarge", [](P &p) { p.sampling->top_p = 1.5; }, "more than 0 and at most 1"},
    {"topPNan", [](P &p) { p.sampling->top_p = std::nan(""); }, "top_p is nan"},
    {"repetition", [](P &p) { p.sampling->repetition_penalty = 0; }, "repetition_penalty is 0"},
    {"repetitionLarge", [](P &p) { p.sampling->repetition_penalty = 101; }, "at most 100"},
    {"chatTools", [](P &p) { p.chat->tools = "xml"; }, "tools as 'xml'"},
};

class PlanRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(PlanRefusalTest, isRefused) {
  fb::PlanT plan = samplePlan();
  GetParam().change(plan);
  FileBytes file = samplePlanFile(std::move(plan));
  const Result<Plan> opened = Plan::open(file.span());
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Code::InvalidPlan);
  const std::string &message = opened.error().message;
  EXPECT_NE(message.find(GetParam().message), std::string::npos) << message;
  EXPECT_NE(message.find("moec compile"), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(All, PlanRefusalTest, testing::ValuesIn(kRefusals),
                         [](const auto &info) { return info.param.name; });

TEST(PlanTest, readsPlansThatTakePictures) {
  FileBytes file = samplePlanFile(sampleVisionPlan());
  const Result<Plan> opened = Plan::open(file.span());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->index().vision()->patch(), 98);
  EXPECT_EQ(opened->programs("cpu").size(), 2u);
  const auto vision = opened->programs("cpu", fb::ProgramKind::Vision);
  ASSERT_EQ(vision.size(), 2u);
  EXPECT_EQ(vision[1]->tokens(), 4u);
  EXPECT_TRUE(opened->programs("cuda", fb::ProgramKind::Vision).empty());
}

// A device may lack the programs: on it, the plan takes no pictures.
TEST(PlanTest, readsPlansThatTakePicturesOnSomeDevices) {
  fb::PlanT plan = sampleVisionPlan();
  for (size_t i : {0, 1}) {
    auto program = std::make_unique<fb::ProgramT>(*samplePlan().programs[i]);
    program->device = "other";
    program->calls.clear();
    program->inputs.clear();
    plan.programs.push_back(std::move(program));
  }
  auto image = std::make_unique<fb::ImageT>(*plan.images[0]);
  image->target = "other:first";
  image->entries = {~uint64_t(0), ~uint64_t(0), ~uint64_t(0), 0};
  plan.images.push_back(std::move(image));
  FileBytes file = samplePlanFile(std::move(plan));
  const Result<Plan> opened = Plan::open(file.span());
  EXPECT_TRUE(opened) << errorOf(opened);
}

fb::ProgramT &vision(P &plan) { return *plan.programs[2]; }

const Refusal kVisionRefusals[] = {
    {"noTable", [](P &p) { p.vision.reset(); },
     "program 'cpu' of 1 tokens is of kind Vision, and the plan has no table Vision"},
    {"noPrograms", [](P &p) { p.programs.resize(2); }, "has no program of kind Vision"},
    {"noSteps", [](P &p) { p.programs.erase(p.programs.begin(), p.programs.begin() + 2); },
     "it has programs for device 'cpu' and none of kind Step"},
    {"tile", [](P &p) { p.vision->tile_size = 0; }, "tile_size of pictures is 0, expected 1 to"},
    {"hugeTile", [](P &p) { p.vision->tile_size = 4098; }, "tile_size of pictures is 4098"},
    {"patchSize", [](P &p) { p.vision->patch_size = 0; }, "patch_size of pictures is 0"},
    {"patchSizes", [](P &p) { p.vision->patch_size = 9; }, "is 9, expected 1 to 8"},
    {"patches", [](P &p) { p.vision->patch_size = 3; }, "expected a multiple of patch_size, 3"},
    {"rowsPerTile", [](P &p) { p.vision->rows_per_tile = 0; }, "rows_per_tile of pictures is 0"},
    {"rowsOfTile", [](P &p) { p.vision->rows_per_tile = 17; }, "is 17, expected 1 to 16"},
    {"noTiles", [](P &p) { p.vision->max_tiles = 0; }, "max_tiles of pictures is 0"},
    {"manyTiles", [](P &p) { p.vision->max_tiles = 1025; }, "is 1025, expected 1 to 1024"},
    {"start", [](P &p) { p.vision->image_start = 100; }, "image_start of pictures is 100"},
    {"end", [](P &p) { p.vision->image_end = -1; }, "image_end of pictures is -1"},
    {"unknownTileX", [](P &p) { p.vision->tile_x_separator = -1; },
     "tile_x_separator of pictures is -1"},
    {"unknownImage", [](P &p) { p.vision->image = -1; }, "image of pictures is -1"},
    {"tileX", [](P &p) { p.vision->tile_x_separator = -2; }, "tile_x_separator of pictures is -2"},
    {"tileY", [](P &p) { p.vision->tile_y_separator = 1 << 30; }, "tile_y_separator of pictures"},
    {"image", [](P &p) { p.vision->image = 100; }, "image of pictures is 100"},
    {"patch", [](P &p) { p.vision->patch = 101; }, "patch of pictures is 101, and the vocabulary"},
    {"sameTokens", [](P &p) { p.vision->image = p.vision->patch; },
     "two tokens of pictures are called '98'"},
    {"rows", [](P &p) { vision(p).rows = 1; },
     "rows of program 'cpu' of 1 tokens is 1, expected 0"},
    {"order", [](P &p) { vision(p).tokens = 4; }, "expected ascending order"},
    {"inputName", [](P &p) { vision(p).inputs[0]->name = "pixels"; },
     "is of kind Vision, expected the one input 'tiles', and it has 1, called 'pixels'"},
    {"noInput",
     [](P &p) {
       vision(p).inputs.clear();
       vision(p).calls.clear();
     },
     "expected the one input 'tiles', and it has 0"},
    {"moreInputs", [](P &p) { vision(p).inputs.push_back(makeIds("sizes", fb::Extent::Tokens)); },
     "expected the one input 'tiles', and it has 2"},
    {"inputElement", [](P &p) { vision(p).inputs[0]->element = fb::ElementType::F32; },
     "'tiles' as U8 of Tokens by 8 by 8 by 3"},
    {"inputSize", [](P &p) { vision(p).inputs[0]->dims[1] = {fb::Extent::Constant, 7}; },
     "'tiles' as U8 of Tokens by 8 by 8 by 3"},
    {"inputRank", [](P &p) { vision(p).inputs[0]->dims.pop_back(); }, "'tiles' as U8 of Tokens"},
    {"inputStays", [](P &p) { vision(p).inputs[0]->dims[0] = {fb::Extent::Constant, 1}; },
     "'tiles' as U8 of Tokens"},
    {"outputName", [](P &p) { vision(p).outputs[0]->name = "rows"; },
     "expected the one output 'image_rows', and it has 1, called 'rows'"},
    {"outputColumns", [](P &p) { p.model->hidden_size = 17; },
     "'image_rows' as F32 of Tokens by 4 by 17"},
    {"outputRows", [](P &p) { p.vision->rows_per_tile = 5; },
     "'image_rows' as F32 of Tokens by 5 by 16"},
    {"outputOfRows", [](P &p) { vision(p).outputs[0]->dims[0] = {fb::Extent::Rows, 0}; },
     "'image_rows' as F32 of Tokens"},
    {"inputOfPool", [](P &p) { vision(p).inputs[0] = makeTable("tiles", 0); },
     "'tiles' as U8 of Tokens"},
    {"cache", [](P &p) { kernelCall(p, 2, 0).operands[2] = fb::Operand(Kind::Cache, 0, 0, 0); },
     "call 0 of program 'cpu' of 1 tokens uses a cache pool, and only steps have caches"},
    {"arena", [](P &p) { kernelCall(p, 2, 0).operands[2] = fb::Operand(Kind::Arena, 0, 1024, 64); },
     "of the arena, which has 1024"},
    {"differs", [](P &p) { p.programs[3]->inputs[0]->name = "other"; }, "called 'other'"},
};

TEST(VisionPlan, MayNotKnowWhatOnlyATokenizerKnows) {
  P plan = sampleVisionPlan();
  plan.vision->tile_x_separator = plan.vision->tile_y_separator = plan.vision->image = -1;
  plan.tokenizer.reset();
  plan.chat.reset();
  FileBytes file = samplePlanFile(std::move(plan));
  const Result<Plan> opened = Plan::open(file.span());
  EXPECT_TRUE(opened) << errorOf(opened);
}

class VisionPlanRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(VisionPlanRefusalTest, isRefused) {
  fb::PlanT plan = sampleVisionPlan();
  GetParam().change(plan);
  FileBytes file = samplePlanFile(std::move(plan));
  const Result<Plan> opened = Plan::open(file.span());
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Code::InvalidPlan);
  EXPECT_NE(opened.error().message.find(GetParam().message), std::string::npos)
      << opened.error().message;
}

INSTANTIATE_TEST_SUITE_P(All, VisionPlanRefusalTest, testing::ValuesIn(kVisionRefusals),
                         [](const auto &info) { return info.param.name; });

TEST(PlanTest, acceptsTheLeast) {
  fb::PlanT plan = samplePlan();
  plan.tokenizer.reset();
  plan.chat.reset();
  plan.sampling.reset();
  plan.model->bos_token = -1;
  plan.model->eos_tokens.clear();
  plan.programs[0]->calls.clear();
  plan.programs[0]->inputs.clear();
  plan.programs[0]->outputs[0]->name = "ids";
  FileBytes file = samplePlanFile(std::move(plan));
  const Result<Plan> opened = Plan::open(file.span());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->index().tokenizer(), nullptr);
  EXPECT_EQ(opened->index().model()->eos_tokens()->size(), 0u);
}

// What no program has today: extents and types that inputs and outputs may come to have.
TEST(PlanTest, acceptsAnyDeclaration) {
  fb::PlanT plan = samplePlan();
  const auto constant = [](uint32_t count) { return fb::Dimension(fb::Extent::Constant, count); };
  const fb::Dimension tokens = extentOf(fb::Extent::Tokens), rows = extentOf(fb::Extent::Rows);
  for (auto &program : plan.programs) {
    const auto add = [](auto &list, auto spec) { list.push_back(std::move(spec)); };
    add(program->inputs, makeSpec("masks", fb::ElementType::U32, {rows, constant(4)}));
    add(program->inputs, makeSpec("embeddings", fb::ElementType::BF16, {tokens, constant(16)}));
    add(program->inputs,
        makeSpec("adapters", fb::ElementType::I32, {extentOf(fb::Extent::Sequences)}));
    add(program->inputs, makeSpec("scale", fb::ElementType::F32, {}));
    add(program->outputs, makeSpec("hidden", fb::ElementType::F16, {tokens, constant(16)}));
  }
  plan.programs[0]->inputs.pop_back(); // not every program takes all
  FileBytes file = samplePlanFile(std::move(plan));
  const Result<Plan> opened = Plan::open(file.span());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->index().programs()->Get(1)->inputs()->size(), 7u);
}

// Pools are told apart by names of any kind, each device's by its own.
TEST(PlanTest, acceptsAnyPools) {
  fb::PlanT plan = samplePlan();
  plan.caches[0]->name = "early";
  plan.caches[1]->name = "late";
  plan.caches[1]->pool_class = fb::PoolClass::AllPositions;
  plan.caches[1]->chunk = 0;
  FileBytes file = samplePlanFile(std::move(plan));
  EXPECT_TRUE(Plan::open(file.span()));
}

// A call that a newer compiler may write, or none.
TEST(PlanTest, refusesOtherCallsThanOfKernels) {
  FileBytes file = samplePlanFile(samplePlan());
  const std::span<std::byte> index = file.span().subspan(16384);
  const auto &call = reinterpret_cast<const flatbuffers::Table &>(
      *fb::GetPlan(index.data())->programs()->Get(0)->calls()->Get(1));
  const auto *type = call.GetAddressOf(fb::Call::VT_OPERATION_TYPE);
  ASSERT_NE(type, nullptr);
  std::byte &changed = index[size_t(type - reinterpret_cast<const uint8_t *>(index.data()))];
  for (uint8_t kind : {0, 2, 255}) {
    changed = std::byte(kind);
    reseal(file.span(), [&](Header &h) { h.indexHash = hashBytes(index.data(), index.size()); });
    const std::string message = errorOf(Plan::open(file.span()));
    EXPECT_NE(message.find("call 1 of program 'cpu' of 1 tokens is of unknown kind " +
                           std::to_string(kind) + ", and this runtime knows KernelCall alone"),
              std::string::npos)
        << message;
  }
}

// A device name with a colon could never match an image, and so never have its entries checked.
TEST(PlanTest, refusesDevicesWithoutImages) {
  fb::PlanT plan = samplePlan();
  for (auto &kernel : plan.kernels)
    kernel->device = kernel->device == "cpu" ? "cpu:x86-64-v3" : kernel->device;
  for (auto &program : plan.programs)
    program->device = "cpu:x86-64-v3";
  for (auto &pool : plan.caches)
    pool->device = "cpu:x86-64-v3";
  plan.images[0]->target = "cpu:x86-64-v3:a";
  plan.images[0]->entries.assign(4, ~uint64_t(0));
  FileBytes file = samplePlanFile(std::move(plan));
  EXPECT_NE(errorOf(Plan::open(file.span())).find("no image"), std::string::npos);
}

TEST(PlanTest, readsPlansForGpus) {
  FileBytes file = samplePlanFile(sampleGpuPlan(), 24576);
  const Result<Plan> opened = Plan::open(file.span());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->programs("cuda").size(), 2u);
  EXPECT_EQ(opened->index().images()->Get(1)->launches()->Get(5)->threads(), 1024u);
  // PTX ends with a NUL, whatever its hash says.
  const fb::Section &ptx = *opened->index().sections()->Get(3);
  fb::PlanT plan = sampleGpuPlan();
  plan.sections[3]->length = 0;
  FileBytes empty = samplePlanFile(std::move(plan), 24576);
  EXPECT_NE(errorOf(Plan::open(empty.span())).find("PTX without a NUL"), std::string::npos);
  EXPECT_EQ(ptx.kind(), fb::SectionKind::Ptx);
}

fb::LaunchT &launch(P &plan) { return *plan.images[1]->launches[4]; }

fb::Operand &gpuOperand(P &plan, size_t call, size_t index) {
  return kernelCall(plan, 2, call).operands[index];
}

const Refusal kGpuRefusals[] = {
    {"poolDevice", [](P &p) { p.caches[2]->device = "c\na"; }, "the device of cache pool"},
    {"poolOfNobody", [](P &p) { p.caches[2]->device = "other"; },
     "pools of a device have 3 layers"},
    {"poolTwice", [](P &p) { p.caches[2]->device = "cpu"; }, "have 5 layers together"},
    {"tableOfAnother", [](P &p) { p.caches[2]->device = p.caches[3]->device = "gpu"; },
     "is the block table of cache pool 3, which is another device's"},
    {"poolLayers", [](P &p) { p.caches[3]->layers = 2; }, "have 3 layers together"},
    {"cacheOfAnother", [](P &p) { gpuOperand(p, 0, 1) = fb::Operand(Kind::Cache, 1, 0, 0); },
     "uses cache pool 1, which is another device's"},
    {"cacheEnd", [](P &p) { gpuOperand(p, 0, 1) = fb::Operand(Kind::Cache, 3, 2048, 0); },
     "of a page of pool 'chunked', which has 2048"},
    {"cpuUsesGpuPool", [](P &p) { operand(p, 1, 3) = fb::Operand(Kind::Cache, 3, 1024, 0); },
     "uses cache pool 3, which is another device's"},
    {"imageKind", [](P &p) { p.images[1]->section = 0; }, "has launches, which machine code"},
    {"cpuImageKind", [](P &p) { p.images[0]->section = 3; }, "at 64 of 1 bytes of code"},
    {"imageNeither", [](P &p) { p.images[1]->section = 1; }, "expected Code"},
    {"kindsOfADevice",
     [](P &p) {
       auto other = std::make_unique<fb::ImageT>(*p.images[1]);
       other->target = "cuda:sm_80";
       other->section = 0;
       other->launches.clear();
       p.images.push_back(std::move(other));
     },
     "and another image of device 'cuda' has not"},
    {"cubinKind", [](P &p) { p.images[1]->cubin = 3; }, "of kind Ptx, expected Cubin"},
    {"cubinSection", [](P &p) { p.images[1]->cubin = 5; }, "is in section 5 of 5"},
    {"cubinNegative", [](P &p) { p.images[1]->cubin = -2; }, "is in section -2"},
    {"entry", [](P &p) { p.images[1]->entries[4] = 64; }, "at 64 of 1 bytes of code"},
    {"entryMissing", [](P &p) { p.images[1]->entries[4] = ~uint64_t(0); }, "kernel 'attend' of"},
    {"entryOfAnother", [](P &p) { p.images[1]->entries[0] = 0; }, "expected none"},
    {"noLaunches", [](P &p) { p.images[1]->launches.clear(); }, "has 0 launches, expected 6"},
    {"fewLaunches", [](P &p) { p.images[1]->launches.pop_back(); }, "has 5 launches, expected 6"},
    {"noThreads", [](P &p) { launch(p).threads = 0; }, "threads of kernel 'attend' of image"},
    {"threads", [](P &p) { launch(p).threads = 1056; }, "is 1056, expected 1 to 1024"},
    {"threadsOfWarps", [](P &p) { launch(p).threads = 100; }, "is 100, expected a multiple of 32"},
    {"shared", [](P &p) { launch(p).shared_bytes = 232449; }, "is 232449, expected 0 to 232448"},
    {"noBlocks", [](P &p) { launch(p).blocks_per_sm = 0; }, "blocks_per_sm of kernel 'attend'"},
    {"blocksOfSm", [](P &p) { launch(p).blocks_per_sm = 9; }, "is 9, expected 1 to 8"},
    {"manyBlocks", [](P &p) { launch(p).threads = 32, launch(p).blocks_per_sm = 33; },
     "is 33, expected 1 to 32"},
    {"registers", [](P &p) { launch(p).registers = 256; }, "registers of kernel 'attend'"},
    {"noCallBlocks", [](P &p) { kernelCall(p, 2, 0).blocks = 0; }, "blocks of call 0 of"},
    {"callBlocks", [](P &p) { kernelCall(p, 2, 0).blocks = ~0u; }, "is 4294967295, expected"},
    {"counters", [](P &p) { p.programs[2]->counter_bytes = ~uint64_t(0); }, "counter_bytes of"},
    {"noCounters", [](P &p) { p.programs[2]->counter_bytes = 0; }, "the counters, which has 0"},
    {"countersEnd", [](P &p) { gpuOperand(p, 1, 2) = fb::Operand(Kind::Counters, 0, 192, 65); },
     "the counters, which has 256"},
    {"countersAlignment", [](P &p) { gpuOperand(p, 1, 2) = fb::Operand(Kind::Counters, 0, 4, 4); },
     "multiple of 64"},
};

class GpuPlanRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(GpuPlanRefusalTest, isRefused) {
  fb::PlanT plan = sampleGpuPlan();
  GetParam().change(plan);
  FileBytes file = samplePlanFile(std::move(plan), 24576);
  const Result<Plan> opened = Plan::open(file.span());
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Code::InvalidPlan);
  EXPECT_NE(opened.error().message.find(GetParam().message), std::string::npos)
      << opened.error().message;
}

INSTANTIATE_TEST_SUITE_P(All, GpuPlanRefusalTest, testing::ValuesIn(kGpuRefusals),
                         [](const auto &info) { return info.param.name; });

} // namespace
