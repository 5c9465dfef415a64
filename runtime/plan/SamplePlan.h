// A small, valid plan for tests, to be changed before it is turned into the bytes of a file.
#ifndef MOE_RUNTIME_PLAN_SAMPLEPLAN_H
#define MOE_RUNTIME_PLAN_SAMPLEPLAN_H

#include "runtime/plan/Format.h"
#include "runtime/plan/Plan.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

namespace moe {

// Bytes at a multiple of 4096, as a mapped file is.
class FileBytes {
public:
  explicit FileBytes(size_t size)
      : memory(static_cast<std::byte *>(std::aligned_alloc(
            kSectionAlignment, (size / kSectionAlignment + 1) * kSectionAlignment))),
        size(size) {
    std::memset(memory.get(), 0, size);
  }
  std::span<std::byte> span() { return {memory.get(), size}; }

private:
  struct Free {
    void operator()(std::byte *data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> memory;
  size_t size;
};

// A declaration of an input or output. `pool`: as its field is.
inline std::unique_ptr<fb::TensorSpecT> makeSpec(const char *name, fb::ElementType element,
                                                 std::vector<fb::Dimension> dims, int pool = -1) {
  auto spec = std::make_unique<fb::TensorSpecT>();
  spec->name = name;
  spec->element = element;
  spec->dims = std::move(dims);
  spec->pool = pool;
  return spec;
}

inline fb::Dimension extentOf(fb::Extent extent) { return {extent, 0}; }

// int32 [extent].
inline std::unique_ptr<fb::TensorSpecT> makeIds(const char *name, fb::Extent extent) {
  return makeSpec(name, fb::ElementType::I32, {extentOf(extent)});
}

inline std::unique_ptr<fb::TensorSpecT> makeTable(const char *name, int pool) {
  return makeSpec(name, fb::ElementType::I32,
                  {extentOf(fb::Extent::Sequences), extentOf(fb::Extent::Pages)}, pool);
}

// float32 [rows, vocabulary].
inline std::unique_ptr<fb::TensorSpecT> makeLogits(uint32_t vocabulary) {
  return makeSpec("logits", fb::ElementType::F32,
                  {extentOf(fb::Extent::Rows), {fb::Extent::Constant, vocabulary}});
}

inline fb::KernelCallT &addCall(fb::ProgramT &program, uint32_t kernel,
                                std::vector<fb::Operand> operands, uint32_t blocks = 0) {
  fb::KernelCallT call;
  call.kernel = kernel;
  call.operands = std::move(operands);
  call.blocks = blocks;
  program.calls.push_back(std::make_unique<fb::CallT>());
  program.calls.back()->operation.Set(std::move(call));
  return *program.calls.back()->operation.AsKernelCall();
}

enum SampleSection { kCode, kTokenizer, kWeights };

inline fb::PlanT samplePlan() {
  fb::PlanT plan;
  const auto add = [](auto &list, auto table) {
    list.push_back(std::make_unique<decltype(table)>(std::move(table)));
    return list.back().get();
  };
  plan.model = std::make_unique<fb::ModelT>();
  fb::ModelT &m = *plan.model;
  m.architecture = "Llama4ForCausalLM";
  m.vocab_size = 100;
  m.hidden_size = 16;
  m.layers = 4;
  m.heads = 4;
  m.kv_heads = 2;
  m.head_dim = 4;
  m.experts = 8;
  m.experts_per_token = 1;
  m.moe_layers = 2;
  m.attention_chunk = 128;
  m.max_positions = 1024;
  m.bos_token = 90;
  m.eos_tokens = {91, 92};
  m.parameters = 1000;
  m.active_parameters = 500;
  m.weights = "bf16";

  const auto section = [&](fb::SectionKind kind, const char *name, uint64_t offset,
                           uint64_t length) {
    fb::SectionT table;
    table.kind = kind;
    table.name = name;
    table.offset = offset;
    table.length = length;
    add(plan.sections, table);
  };
  section(fb::SectionKind::Code, "code", 4096, 300);
  section(fb::SectionKind::Tokenizer, "tokenizer", 8192, 500);
  section(fb::SectionKind::Weights, "weights", 12288, 4096);

  const auto tensor = [&](const char *name, std::vector<uint64_t> shape, const char *storage,
                          uint64_t offset, uint64_t bytes) {
    fb::TensorT table;
    table.name = name;
    table.shape = std::move(shape);
    table.storage = storage;
    table.layout = "rows";
    table.section = kWeights;
    table.offset = offset;
    table.bytes = bytes;
    table.sources = {std::string(name) + ".weight"};
    add(plan.tensors, table);
  };
  tensor("embed", {100, 16}, "bf16", 0, 3200);
  tensor("norm", {16}, "f32", 3200, 64);

  const auto pool = [&](const char *name, uint32_t chunk, uint32_t layers) {
    fb::CachePoolT table;
    table.name = name;
    table.device = "cpu";
    table.pool_class = chunk ? fb::PoolClass::Chunk : fb::PoolClass::AllPositions;
    table.chunk = chunk;
    table.layers = layers;
    table.page_tokens = 64;
    table.page_bytes = 4096;
    add(plan.caches, table);
  };
  pool("global", 0, 1);
  pool("chunked", 128, 3);

  const auto kernel = [&](const char *name, const char *device, uint32_t operands) {
    fb::KernelT table;
    table.name = name;
    table.device = device;
    table.operands = operands;
    add(plan.kernels, table);
  };
  kernel("embed", "cpu", 3);
  kernel("attend", "cpu", 4);
  kernel("head", "cpu", 2);
  kernel("head", "other", 2);

  fb::ImageT image;
  image.target = "cpu:x86-64-v3";
  image.features = {"avx2", "fma"};
  image.section = kCode;
  image.entries = {0, 64, 299, ~uint64_t(0)};
  add(plan.images, image);

  using Kind = fb::OperandKind;
  const fb::Operand tokenIds(Kind::Input, 0, 0, 0), global(Kind::Input, 1, 0, 0),
      chunked(Kind::Input, 2, 0, 0), logits(Kind::Output, 0, 0, 0);
  for (uint32_t tokens : {1, 8}) {
    fb::ProgramT program;
    program.device = "cpu";
    program.tokens = program.rows = tokens;
    program.inputs.push_back(makeIds("tokens", fb::Extent::Tokens));
    program.inputs.push_back(makeTable("global_table", 0));
    program.inputs.push_back(makeTable("chunked_table", 1));
    program.outputs.push_back(makeLogits(100));
    program.arena_bytes = 1024 * tokens;
    program.scratch_bytes = 256;
    const fb::Operand hidden(Kind::Arena, 0, 64, 64 * tokens);
    addCall(program, 0, {tokenIds, fb::Operand(Kind::Weight, kWeights, 0, 3200), hidden});
    addCall(program, 1, {hidden, chunked, global, fb::Operand(Kind::Cache, 1, 1024, 0)});
    addCall(program, 2, {hidden, logits});
    add(plan.programs, program);
  }

  plan.tokenizer = std::make_unique<fb::TokenizerT>();
  plan.tokenizer->section = kTokenizer;
  plan.tokenizer->vocab_size = 90;
  plan.tokenizer->add_bos = true;
  plan.tokenizer->pattern = "llama4";
  for (uint32_t id : {90, 91, 92}) {
    fb::SpecialTokenT token;
    token.content = "<|" + std::to_string(id) + "|>";
    token.id = id;
    add(plan.tokenizer->special_tokens, token);
  }
  plan.chat = std::make_unique<fb::ChatFormatT>();
  plan.chat->bos = "<|90|>";
  plan.chat->stop_tokens = {92};
  plan.chat->tools = "hf-json";
  plan.sampling = std::make_unique<fb::SamplingT>();
  plan.sampling->temperature = 0.6;
  plan.provenance = std::make_unique<fb::ProvenanceT>();
  plan.provenance->compiler = "none";
  return plan;
}

// samplePlan() for a GPU too: sections 3 (PTX) and 4 (cubin), kernels 4 and 5, pools 2 and 3, image
// 1 and programs 2 and 3 are those of device "cuda". Its index starts at byte 24576.
inline fb::PlanT sampleGpuPlan() {
  fb::PlanT plan = samplePlan();
  const auto add = [](auto &list, auto table) {
    list.push_back(std::make_unique<decltype(table)>(std::move(table)));
    return list.back().get();
  };
  const auto section = [&](fb::SectionKind kind, const char *name, uint64_t offset) {
    fb::SectionT table;
    table.kind = kind;
    table.name = name;
    table.offset = offset;
    table.length = 100;
    add(plan.sections, table);
  };
  section(fb::SectionKind::Ptx, "ptx", 16384);
  section(fb::SectionKind::Cubin, "cubin", 20480);
  for (size_t i : {0, 1}) {
    fb::CachePoolT pool = *plan.caches[i];
    pool.device = "cuda";
    pool.page_bytes = 2048;
    add(plan.caches, pool);
  }
  for (const char *name : {"attend", "head"}) {
    fb::KernelT kernel;
    kernel.name = name;
    kernel.device = "cuda";
    kernel.operands = 3;
    add(plan.kernels, kernel);
  }
  const uint64_t none = ~uint64_t(0);
  plan.images[0]->entries = {0, 64, 299, none, none, none};
  fb::ImageT image;
  image.target = "cuda:sm_90a";
  image.features = {"cuda", "sm_90a"};
  image.section = 3;
  image.cubin = 4;
  image.entries = {none, none, none, none, 0, 0};
  for (uint32_t threads : {0, 0, 0, 0, 256, 1024}) {
    fb::LaunchT launch;
    launch.threads = threads;
    launch.shared_bytes = 65536;
    launch.blocks_per_sm = 2;
    launch.registers = 64;
    launch.dependent = threads == 1024;
    add(image.launches, launch);
  }
  add(plan.images, image);
  using Kind = fb::OperandKind;
  for (uint32_t tokens : {1, 8}) {
    fb::ProgramT program;
    program.device = "cuda";
    program.tokens = program.rows = tokens;
    program.inputs.push_back(makeTable("chunked_table", 3));
    program.outputs.push_back(makeLogits(100));
    program.arena_bytes = 1024;
    program.counter_bytes = 256;
    addCall(program, 4,
            {fb::Operand(Kind::Input, 0, 0, 0), fb::Operand(Kind::Cache, 3, 1024, 0),
             fb::Operand(Kind::Cache, 2, 0, 0)},
            8 * tokens);
    addCall(program, 5,
            {fb::Operand(Kind::Arena, 0, 256, 64), fb::Operand(Kind::Output, 0, 0, 0),
             fb::Operand(Kind::Counters, 0, 64, 64)},
            1);
    add(plan.programs, program);
  }
  return plan;
}

// samplePlan() that takes pictures: tiles of 8 by 8 pixels, each 4 rows. Programs 2 and 3 are those
// of kind Vision, for 1 and 4 tiles; steps have the inputs 3 and 4, "images" and "image_rows".
inline fb::PlanT sampleVisionPlan() {
  fb::PlanT plan = samplePlan();
  plan.vision = std::make_unique<fb::VisionT>();
  fb::VisionT &vision = *plan.vision;
  vision.tile_size = 8;
  vision.patch_size = 2;
  vision.rows_per_tile = 4;
  vision.max_tiles = 16;
  vision.image_start = 93;
  vision.image_end = 94;
  vision.tile_x_separator = 95;
  vision.tile_y_separator = 96;
  vision.image = 97;
  vision.patch = 98;
  const auto constant = [](uint32_t count) { return fb::Dimension(fb::Extent::Constant, count); };
  for (auto &step : plan.programs) {
    step->inputs.push_back(makeSpec("images", fb::ElementType::F32, {constant(8), constant(16)}));
    step->inputs.push_back(makeIds("image_rows", fb::Extent::Tokens));
  }
  using Kind = fb::OperandKind;
  for (uint32_t tiles : {1, 4}) {
    auto program = std::make_unique<fb::ProgramT>();
    program->kind = fb::ProgramKind::Vision;
    program->device = "cpu";
    program->tokens = tiles;
    program->inputs.push_back(
        makeSpec("tiles", fb::ElementType::U8,
                 {extentOf(fb::Extent::Tokens), constant(8), constant(8), constant(3)}));
    program->outputs.push_back(makeSpec("image_rows", fb::ElementType::F32,
                                        {extentOf(fb::Extent::Tokens), constant(4), constant(16)}));
    program->arena_bytes = 1024 * tiles;
    const fb::Operand hidden(Kind::Arena, 0, 64, 64 * tiles);
    addCall(
        *program, 0,
        {fb::Operand(Kind::Input, 0, 0, 0), fb::Operand(Kind::Weight, kWeights, 0, 3200), hidden});
    addCall(*program, 2, {hidden, fb::Operand(Kind::Output, 0, 0, 0)});
    plan.programs.push_back(std::move(program));
  }
  return plan;
}

// The bytes of a section, byte by byte.
inline std::byte sampleByte(uint32_t section, uint64_t at) {
  return std::byte(section * 89 + at * 7 + at / 256);
}

// The file of `plan` with hashes that match; its index starts at `indexOffset`.
inline FileBytes samplePlanFile(fb::PlanT plan, uint64_t indexOffset = 16384) {
  std::vector<std::byte> sections(indexOffset);
  for (uint32_t i = 0; i < plan.sections.size(); ++i) {
    fb::SectionT &section = *plan.sections[i];
    if (section.offset > sections.size() || section.length > sections.size() - section.offset)
      continue; // a test of just that
    for (uint64_t at = 0; at < section.length; ++at)
      sections[section.offset + at] = sampleByte(i, at);
    if (section.kind == fb::SectionKind::Ptx && section.length)
      sections[section.offset + section.length - 1] = std::byte(0);
    section.hash = hashBytes(&sections[section.offset], section.length);
  }
  flatbuffers::FlatBufferBuilder builder;
  fb::FinishPlanBuffer(builder, fb::Plan::Pack(builder, &plan));
  const size_t length = builder.GetSize();
  FileBytes file(indexOffset + length);
  std::memcpy(file.span().data(), sections.data(), sections.size());
  std::memcpy(file.span().data() + indexOffset, builder.GetBufferPointer(), length);
  const Header header =
      makeHeader(indexOffset, length, hashBytes(builder.GetBufferPointer(), length), "moec test");
  std::memcpy(file.span().data(), &header, sizeof(header));
  return file;
}

} // namespace moe

#endif
