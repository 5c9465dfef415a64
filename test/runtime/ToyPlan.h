// Writes a plan of a toy model: bytes as tokens, a chat format, kernels that run.
#ifndef MOE_TEST_RUNTIME_TOYPLAN_H
#define MOE_TEST_RUNTIME_TOYPLAN_H

#include "runtime/plan/SamplePlan.h"
#include "runtime/text/TokenizerTables.h"
#include "test/runtime/ToyKernels.h"

#include <cstdio>

namespace moe::toy {

struct PlanOptions {
  bool text = true;          // with tokenizer and chat format
  std::string feature = {};  // one more that the image needs
  uint64_t pageBytes = 4096; // of the second pool, which nothing uses
  bool gpu = false;          // for device "cuda" too
  bool vision = false;       // takes pictures, on CPUs; the ids from 261 on are theirs
};

inline std::vector<std::byte> tokenizerTables() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte)
    tokens.emplace_back(1, char(byte));
  return *buildTokenizerTables(tokens, {});
}

// Steps that take rows of pictures, and programs that make them of 1 and 3 tiles.
inline void addVision(fb::PlanT &plan) {
  const auto constant = [](uint32_t count) { return fb::Dimension(fb::Extent::Constant, count); };
  const auto addKernel = [&](const char *name, uint32_t operands, uint64_t entry) {
    plan.kernels.push_back(std::make_unique<fb::KernelT>());
    plan.kernels.back()->name = name;
    plan.kernels.back()->device = "cpu";
    plan.kernels.back()->operands = operands;
    plan.images[0]->entries.push_back(entry);
  };
  addKernel("store_images", 7, code().storeImages);
  addKernel("see", 2, code().see);
  plan.vision = std::make_unique<fb::VisionT>();
  plan.vision->tile_size = 8;
  plan.vision->patch_size = 2;
  plan.vision->rows_per_tile = rowsPerTile;
  plan.vision->max_tiles = 4;
  const std::pair<const char *, int32_t fb::VisionT::*> tokens[] = {
      {"<|image_start|>", &fb::VisionT::image_start},
      {"<|image_end|>", &fb::VisionT::image_end},
      {"<|tile_x_separator|>", &fb::VisionT::tile_x_separator},
      {"<|tile_y_separator|>", &fb::VisionT::tile_y_separator},
      {"<|image|>", &fb::VisionT::image},
      {"<|patch|>", &fb::VisionT::patch}};
  for (int32_t id = 261; const auto &[content, field] : tokens) {
    plan.vision.get()->*field = id;
    if (plan.tokenizer) {
      auto &specials = plan.tokenizer->special_tokens;
      specials.push_back(std::make_unique<fb::SpecialTokenT>());
      specials.back()->content = content;
      specials.back()->id = uint32_t(id);
    }
    ++id;
  }
  using Kind = fb::OperandKind;
  for (auto &step : plan.programs) {
    step->inputs.push_back(
        makeSpec("images", fb::ElementType::F32, {constant(32), constant(channels)}));
    step->inputs.push_back(makeIds("image_rows", fb::Extent::Tokens));
    fb::KernelCallT &store = *step->calls[0]->operation.AsKernelCall();
    store.kernel = 2;
    for (uint32_t input : {5, 6})
      store.operands.emplace_back(Kind::Input, input, 0, 0);
  }
  for (uint32_t tiles : {1, 3}) {
    auto program = std::make_unique<fb::ProgramT>();
    program->kind = fb::ProgramKind::Vision;
    program->device = "cpu";
    program->tokens = tiles;
    const fb::Dimension all = extentOf(fb::Extent::Tokens);
    program->inputs.push_back(
        makeSpec("tiles", fb::ElementType::U8, {all, constant(8), constant(8), constant(3)}));
    program->outputs.push_back(makeSpec("image_rows", fb::ElementType::F32,
                                        {all, constant(rowsPerTile), constant(channels)}));
    addCall(*program, 3, {fb::Operand(Kind::Input, 0, 0, 0), fb::Operand(Kind::Output, 0, 0, 0)});
    plan.programs.push_back(std::move(program));
  }
}

inline fb::PlanT makeIndex(const PlanOptions &options) {
  fb::PlanT plan;
  const auto add = [](auto &list) {
    using Table = std::decay_t<decltype(list)>::value_type::element_type;
    list.push_back(std::make_unique<Table>());
    return list.back().get();
  };
  plan.model = std::make_unique<fb::ModelT>();
  fb::ModelT &m = *plan.model;
  m.architecture = "Llama4ForCausalLM";
  m.vocab_size = vocab;
  m.hidden_size = m.head_dim = channels;
  m.layers = 2;
  m.heads = m.kv_heads = 1;
  m.max_positions = 1 << 24;
  m.attention_chunk = 128;
  m.bos_token = 256;
  m.eos_tokens = {eos};
  m.parameters = m.active_parameters = 1;
  m.weights = "f32";
  for (const char *name : {"global", "chunked"}) {
    fb::CachePoolT &pool = *add(plan.caches);
    const bool chunked = plan.caches.size() > 1;
    pool.name = name;
    pool.device = "cpu";
    pool.pool_class = chunked ? fb::PoolClass::Chunk : fb::PoolClass::AllPositions;
    pool.chunk = chunked ? 128 : 0;
    pool.layers = 1;
    pool.page_tokens = 64;
    pool.page_bytes = chunked ? options.pageBytes : pageInts * sizeof(int32_t);
  }
  for (const char *name : {"store", "head"}) {
    fb::KernelT &kernel = *add(plan.kernels);
    kernel.name = name;
    kernel.device = "cpu";
    kernel.operands = plan.kernels.size() == 1 ? 5 : 6;
  }
  fb::ImageT &image = *add(plan.images);
  image.target = "cpu:toy";
#if defined(__aarch64__)
  image.features = {"aarch64"};
#else
  image.features = {"x86_64"};
#endif
  if (!options.feature.empty())
    image.features.push_back(options.feature);
  image.entries = {code().store, code().head};
  using Kind = fb::OperandKind;
  const fb::Operand tokenIds(Kind::Input, 0, 0, 0), positions(Kind::Input, 1, 0, 0),
      sequences(Kind::Input, 2, 0, 0), table(Kind::Input, 3, 0, 0), rows(Kind::Input, 4, 0, 0),
      cache(Kind::Cache, 0, 0, 0), logits(Kind::Output, 0, 0, 0);
  for (uint32_t tokens : {1, 4, 32}) {
    fb::ProgramT &program = *add(plan.programs);
    program.device = "cpu";
    program.tokens = program.rows = tokens;
    for (const char *name : {"tokens", "positions", "sequences"})
      program.inputs.push_back(makeIds(name, fb::Extent::Tokens));
    program.inputs.push_back(makeTable("global_table", 0));
    program.inputs.push_back(makeIds("rows", fb::Extent::Rows));
    program.outputs.push_back(makeLogits(vocab));
    addCall(program, 0, {tokenIds, positions, sequences, table, cache});
    addCall(program, 1, {positions, sequences, table, cache, rows, logits});
  }
  if (options.text) {
    plan.tokenizer = std::make_unique<fb::TokenizerT>();
    plan.tokenizer->section = 1;
    plan.tokenizer->vocab_size = 256;
    plan.tokenizer->add_bos = true;
    plan.tokenizer->pattern = "llama4";
    for (const char *content : {"<|bos|>", "<|eos|>", "<|header|>", "<|/header|>", "<|eot|>"}) {
      fb::SpecialTokenT &token = *add(plan.tokenizer->special_tokens);
      token.content = content;
      token.id = 255 + uint32_t(plan.tokenizer->special_tokens.size());
    }
    plan.chat = std::make_unique<fb::ChatFormatT>();
    plan.chat->bos = "<|bos|>";
    plan.chat->header_start = "<|header|>";
    plan.chat->header_end = "<|/header|>\n";
    plan.chat->turn_end = "<|eot|>";
    plan.chat->user = "user";
    plan.chat->assistant = "assistant";
    plan.chat->system = "system";
    plan.chat->stop_tokens = {260};
  }
  plan.provenance = std::make_unique<fb::ProvenanceT>();
  plan.provenance->compiler = "toy";
  if (options.vision)
    addVision(plan);
  return plan;
}

// Adds the pools (in another order), kernels, image and programs of device "cuda". The PTX will be
// the last section.
inline void addGpu(fb::PlanT &plan, uint32_t ptxSection) {
  const auto copy = [](auto &list, size_t i) {
    using Table = std::decay_t<decltype(list)>::value_type::element_type;
    list.push_back(std::make_unique<Table>(*list[i]));
    return list.back().get();
  };
  for (size_t pool : {1, 0})
    copy(plan.caches, pool)->device = "cuda";
  for (size_t kernel : {0, 1})
    copy(plan.kernels, kernel)->device = "cuda";
  const uint64_t none = ~uint64_t(0);
  plan.images[0]->entries.resize(4, none);
  fb::ImageT &image = *copy(plan.images, 0);
  image.target = "cuda:sm_80";
  image.features = {"cuda", "sm_80"};
  image.section = ptxSection;
  image.entries = {none, none, 0, 0};
  for (int i = 0; i < 4; ++i) {
    image.launches.push_back(std::make_unique<fb::LaunchT>());
    image.launches.back()->threads = 64;
    image.launches.back()->blocks_per_sm = 1;
  }
  for (size_t i : {0, 1, 2}) {
    fb::ProgramT &program = *copy(plan.programs, i);
    program.device = "cuda";
    program.inputs[3]->pool = 3;
    for (auto &call : program.calls) {
      fb::KernelCallT &to = *call->operation.AsKernelCall();
      to.kernel += 2;
      to.blocks = 2;
      for (fb::Operand &operand : to.operands)
        if (operand.kind() == fb::OperandKind::Cache)
          operand = fb::Operand(fb::OperandKind::Cache, 3, 0, 0);
    }
  }
}

inline void writePlan(const std::string &path, const PlanOptions &options = {}) {
  fb::PlanT plan = makeIndex(options);
  std::vector<std::byte> file(kSectionAlignment);
  const auto addSection = [&](fb::SectionKind kind, const char *name,
                              std::span<const std::byte> bytes) {
    plan.sections.push_back(std::make_unique<fb::SectionT>());
    fb::SectionT &section = *plan.sections.back();
    section.kind = kind;
    section.name = name;
    section.offset = file.size();
    section.length = bytes.size();
    section.hash = hashBytes(bytes.data(), bytes.size());
    file.insert(file.end(), bytes.begin(), bytes.end());
    file.resize((file.size() + kSectionAlignment - 1) / kSectionAlignment * kSectionAlignment);
  };
  addSection(fb::SectionKind::Code, "code", code().bytes);
  if (options.text)
    addSection(fb::SectionKind::Tokenizer, "tokenizer", tokenizerTables());
  if (options.gpu) {
    addGpu(plan, uint32_t(plan.sections.size()));
    addSection(fb::SectionKind::Ptx, "ptx", ptx());
  }
  flatbuffers::FlatBufferBuilder builder;
  fb::FinishPlanBuffer(builder, fb::Plan::Pack(builder, &plan));
  const Header header = makeHeader(file.size(), builder.GetSize(),
                                   hashBytes(builder.GetBufferPointer(), builder.GetSize()), "toy");
  std::memcpy(file.data(), &header, sizeof header);
  std::FILE *out = std::fopen(path.c_str(), "wb");
  std::fwrite(file.data(), 1, file.size(), out);
  std::fwrite(builder.GetBufferPointer(), 1, builder.GetSize(), out);
  std::fclose(out);
}

} // namespace moe::toy

#endif
