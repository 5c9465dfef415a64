// The semantic check of a plan's index: one function per table of Plan.fbs, in its order. Those of
// programs are in CheckPrograms.cpp.
#include "runtime/plan/Check.h"

#include "runtime/plan/CheckPrograms.h"
#include "runtime/plan/CheckValues.h"
#include "runtime/weights/Layout.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace moe {

using namespace check;

namespace {

constexpr uint64_t kNoEntry = ~uint64_t(0);
// Of pictures: pixels of a tile's side, and tiles of one picture.
constexpr uint64_t kMaxTile = 4096, kMaxTiles = 1024;
constexpr uint64_t kMaxKernels = 1 << 16;
constexpr uint64_t kMaxImages = 256;
// Of any GPU so far: shared memory of a block, threads of a multiprocessor, registers of a thread.
constexpr uint64_t kMaxShared = 232448, kMaxThreads = 2048, kMaxRegisters = 255;

class Checker {
public:
  Checker(const fb::Plan &plan, uint64_t indexOffset) : plan(plan), indexOffset(indexOffset) {}

  Status check() {
    MOE_TRY(checkModel());
    MOE_TRY(checkSections());
    MOE_TRY(checkTensors());
    MOE_TRY(checkCaches());
    MOE_TRY(checkKernels());
    MOE_TRY(checkImages());
    MOE_TRY(checkVision());
    MOE_TRY(checkPrograms(plan, grids));
    MOE_TRY(checkTokenizer());
    MOE_TRY(checkChat());
    return checkSampling();
  }

private:
  Status checkModel();
  Status checkToken(int64_t id, const std::string &what, bool optional = false);
  Status checkSections();
  Status checkTensors();
  Status checkPoolClass(const fb::CachePool &pool, const std::string &what);
  Status checkCaches();
  Status checkKernels();
  Status checkImages();
  Status checkLaunches(const fb::Image &image, const std::string &what);
  Status checkVision();
  Status checkTokenizer();
  Status checkChat();
  Status checkSampling();

  const fb::Plan &plan;
  const uint64_t indexOffset;
  ImageKinds grids;
};

Status Checker::checkModel() {
  const fb::Model &m = *plan.model();
  MOE_TRY(checkName(m.architecture(), "the model's architecture"));
  MOE_TRY(checkName(m.weights(), "the model's storage of weights"));
  MOE_TRY(checkRange(m.vocab_size(), 1, kMaxCount, "vocab_size"));
  MOE_TRY(checkRange(m.hidden_size(), 1, kMaxCount, "hidden_size"));
  MOE_TRY(checkRange(m.layers(), 1, kMaxCount, "layers"));
  MOE_TRY(checkRange(m.heads(), 1, kMaxCount, "heads"));
  MOE_TRY(checkRange(m.kv_heads(), 1, m.heads(), "kv_heads"));
  MOE_TRY(checkRange(m.head_dim(), 1, kMaxCount, "head_dim"));
  if (m.heads() % m.kv_heads())
    return invalid("heads is " + number(m.heads()) + ", expected a multiple of kv_heads, " +
                   number(m.kv_heads()));
  MOE_TRY(checkRange(m.experts(), 0, kMaxCount, "experts"));
  MOE_TRY(checkRange(m.moe_layers(), 0, m.layers(), "moe_layers"));
  if (m.moe_layers())
    MOE_TRY(checkRange(m.experts(), 1, kMaxCount, "experts"));
  MOE_TRY(
      checkRange(m.experts_per_token(), m.moe_layers() ? 1 : 0, m.experts(), "experts_per_token"));
  // Positions are int32 in a step.
  MOE_TRY(checkRange(m.max_positions(), 1, (uint64_t(1) << 31) - 1, "max_positions"));
  MOE_TRY(checkRange(m.attention_chunk(), 0, (uint64_t(1) << 31) - 1, "attention_chunk"));
  MOE_TRY(checkRange(m.active_parameters(), 0, m.parameters(), "active_parameters"));
  MOE_TRY(checkToken(m.bos_token(), "bos_token", true));
  MOE_TRY(checkToken(m.pad_token(), "pad_token", true));
  for (int32_t id : *m.eos_tokens())
    MOE_TRY(checkToken(id, "one of eos_tokens"));
  return ok();
}

Status Checker::checkToken(int64_t id, const std::string &what, bool optional) {
  if (optional && id == -1)
    return ok();
  if (id < 0 || id >= int64_t(plan.model()->vocab_size()))
    return invalid(what + " is " + std::to_string(id) + ", and the vocabulary has " +
                   number(plan.model()->vocab_size()) + " tokens");
  return ok();
}

Status Checker::checkSections() {
  uint64_t end = sizeof(Header);
  std::vector<std::string> names;
  for (const fb::Section *section : *plan.sections()) {
    MOE_TRY(checkName(section->name(), "a section"));
    names.push_back(section->name()->str());
    const std::string what = "section " + quote(section->name());
    if (section->kind() > fb::SectionKind::MAX)
      return invalid(what + " is of unknown kind " + number(uint64_t(section->kind())));
    if (section->offset() % kSectionAlignment)
      return invalid(what + " starts at byte " + number(section->offset()) +
                     ", expected a multiple of " + number(kSectionAlignment));
    if (section->offset() < end)
      return invalid(what + " starts at byte " + number(section->offset()) +
                     ", inside of what ends at byte " + number(end));
    if (!inRange(section->offset(), section->length(), indexOffset))
      return invalid(what + " has " + number(section->length()) + " bytes at byte " +
                     number(section->offset()) + ", and the index starts at byte " +
                     number(indexOffset));
    end = section->offset() + section->length();
  }
  return checkUnique(names, "sections");
}

// The bytes that a tensor takes by its shape, storage and layout. Its dimensions are at most
// kMaxBytes.
static Result<uint64_t> tensorBytes(const fb::Tensor &tensor, const std::string &what) {
  const std::string stored =
      what + ", " + quote(tensor.storage()) + " in layout " + quote(tensor.layout()) + ", ";
  Result<WeightFormat> format = weightFormatNamed(tensor.storage()->string_view());
  if (!format)
    return invalid(stored + "cannot be read: this runtime knows no such storage");
  const auto kind = layoutNamed(tensor.layout()->string_view());
  if (!kind)
    return invalid(stored + "cannot be read: this runtime knows no such layout");
  const std::vector<int64_t> shape(tensor.shape()->begin(), tensor.shape()->end());
  Result<WeightLayout> layout =
      WeightLayout::create(shape, *format, *kind, int64_t(tensor.head_dim()));
  if (!layout)
    return invalid(stored + layout.error().message);
  return uint64_t(layout->bytes());
}

Status Checker::checkTensors() {
  std::vector<std::string> names;
  for (const fb::Tensor *tensor : *plan.tensors()) {
    MOE_TRY(checkName(tensor->name(), "a tensor"));
    names.push_back(tensor->name()->str());
    const std::string what = "tensor " + quote(tensor->name());
    MOE_TRY(checkName(tensor->layout(), "the layout of " + what));
    MOE_TRY(checkName(tensor->storage(), "the storage of " + what));
    MOE_ASSIGN(section, sectionOf(plan, tensor->section(), fb::SectionKind::Weights, what));
    if (tensor->offset() % kTensorAlignment)
      return invalid(what + " starts at byte " + number(tensor->offset()) +
                     " of its section, expected a multiple of " + number(kTensorAlignment));
    if (!inRange(tensor->offset(), tensor->bytes(), section->length()))
      return invalid(what + " has " + number(tensor->bytes()) + " bytes at byte " +
                     number(tensor->offset()) + " of section " + quote(section->name()) +
                     ", which has " + number(section->length()));
    MOE_TRY(checkRange(tensor->shape()->size(), 1, 8, "the rank of " + what));
    MOE_TRY(checkAligned(*tensor->shape(), "the dimensions of " + what));
    for (uint64_t dim : *tensor->shape())
      MOE_TRY(checkRange(dim, 1, kMaxBytes, "a dimension of " + what));
    MOE_ASSIGN(needed, tensorBytes(*tensor, what));
    if (needed != tensor->bytes())
      return invalid(what + " has " + number(tensor->bytes()) + " bytes, and its shape in " +
                     quote(tensor->storage()) + " and layout " + quote(tensor->layout()) +
                     " takes " + number(needed));
    for (const Name *source : *tensor->sources())
      MOE_TRY(checkName(source, "a source of " + what));
  }
  return checkUnique(names, "tensors");
}

// That a pool's chunk fits its class.
Status Checker::checkPoolClass(const fb::CachePool &pool, const std::string &what) {
  switch (pool.pool_class()) {
  case fb::PoolClass::AllPositions:
    if (pool.chunk())
      return invalid(what + " has chunk " + number(pool.chunk()) +
                     ", and its class is AllPositions, which has none");
    return ok();
  case fb::PoolClass::Chunk:
    if (pool.chunk() == 0 || pool.chunk() != plan.model()->attention_chunk())
      return invalid(what + " has chunk " + number(pool.chunk()) +
                     ", expected the model's attention_chunk, " +
                     number(plan.model()->attention_chunk()));
    return ok();
  }
  return invalid(what + " is of unknown class " + number(uint64_t(pool.pool_class())));
}

Status Checker::checkCaches() {
  MOE_TRY(checkRange(plan.caches()->size(), 0, 2 * kMaxDevices, "the number of cache pools"));
  std::map<std::string_view, uint64_t> layers; // by device
  std::vector<std::string> names;
  for (const fb::CachePool *pool : *plan.caches()) {
    MOE_TRY(checkName(pool->name(), "a cache pool"));
    const std::string what = "cache pool " + quote(pool->name());
    MOE_TRY(checkName(pool->device(), "the device of " + what));
    names.push_back(pool->device()->str() + ":" + pool->name()->str());
    MOE_TRY(checkPoolClass(*pool, what));
    MOE_TRY(checkRange(pool->layers(), 1, plan.model()->layers(), "layers of " + what));
    MOE_TRY(checkRange(pool->page_tokens(), 1, kMaxCount, "page_tokens of " + what));
    MOE_TRY(checkRange(pool->page_bytes(), 1, kMaxBytes, "page_bytes of " + what));
    if (pool->page_bytes() % kTensorAlignment)
      return invalid("page_bytes of " + what + " is " + number(pool->page_bytes()) +
                     ", expected a multiple of " + number(kTensorAlignment));
    layers[pool->device()->string_view()] += pool->layers();
  }
  for (const auto &[device, count] : layers)
    if (count != plan.model()->layers())
      return invalid("the cache pools of a device have " + number(count) +
                     " layers together, and the model " + number(plan.model()->layers()));
  return checkUnique(names, "cache pools");
}

Status Checker::checkKernels() {
  MOE_TRY(checkRange(plan.kernels()->size(), 0, kMaxKernels, "the number of kernels"));
  std::vector<std::string> names;
  for (const fb::Kernel *kernel : *plan.kernels()) {
    MOE_TRY(checkName(kernel->name(), "a kernel"));
    MOE_TRY(checkName(kernel->device(), "the device of kernel " + quote(kernel->name())));
    MOE_TRY(checkRange(kernel->operands(), 0, 256, "operands of kernel " + quote(kernel->name())));
    names.push_back(kernel->device()->str() + ":" + kernel->name()->str());
  }
  return checkUnique(names, "kernels");
}

Status Checker::checkImages() {
  MOE_TRY(checkRange(plan.images()->size(), 0, kMaxImages, "the number of images"));
  std::vector<std::string> names;
  for (const fb::Image *image : *plan.images()) {
    MOE_TRY(checkName(image->target(), "the target of an image"));
    names.push_back(image->target()->str());
    const std::string what = "image " + quote(image->target());
    const std::string_view device = deviceOf(*image);
    const bool ptx = image->section() < plan.sections()->size() &&
                     plan.sections()->Get(image->section())->kind() == fb::SectionKind::Ptx;
    MOE_ASSIGN(section, sectionOf(plan, image->section(),
                                  ptx ? fb::SectionKind::Ptx : fb::SectionKind::Code, what));
    if (grids.emplace(device, ptx).first->second != ptx)
      return invalid(what + " has " + (ptx ? "PTX" : "machine code") +
                     ", and another image of device '" + std::string(device) + "' has not");
    for (const Name *feature : *image->features())
      MOE_TRY(checkName(feature, "a feature of " + what));
    if (image->entries()->size() != plan.kernels()->size())
      return invalid(what + " has " + number(image->entries()->size()) + " entries, expected " +
                     number(plan.kernels()->size()) + ", one per kernel");
    MOE_TRY(checkAligned(*image->entries(), "the entries of " + what));
    for (uint32_t i = 0; i < image->entries()->size(); ++i) {
      const fb::Kernel *kernel = plan.kernels()->Get(i);
      const uint64_t entry = image->entries()->Get(i);
      const bool mine = kernel->device()->string_view() == device;
      // Entries of PTX are found by name.
      const uint64_t end = ptx ? 1 : section->length();
      if (mine ? entry >= end : entry != kNoEntry)
        return invalid(what + " has the entry of kernel " + quote(kernel->name()) + " of device " +
                       quote(kernel->device()) + " at " + number(entry) +
                       (mine ? " of " + number(end) + " bytes of code" : ", expected none"));
    }
    if (ptx)
      MOE_TRY(checkLaunches(*image, what));
    else if (image->launches() && image->launches()->size())
      return invalid(what + " has launches, which machine code has not");
  }
  return checkUnique(names, "images");
}

Status Checker::checkLaunches(const fb::Image &image, const std::string &what) {
  if (image.cubin() != -1) {
    if (image.cubin() < 0)
      return invalid("the cubin of " + what + " is in section " + std::to_string(image.cubin()));
    MOE_TRY(
        sectionOf(plan, uint32_t(image.cubin()), fb::SectionKind::Cubin, "the cubin of " + what));
  }
  const uint32_t count = image.launches() ? image.launches()->size() : 0;
  if (count != plan.kernels()->size())
    return invalid(what + " has " + number(count) + " launches, expected " +
                   number(plan.kernels()->size()) + ", one per kernel");
  for (uint32_t i = 0; i < count; ++i) {
    if (image.entries()->Get(i) == kNoEntry)
      continue; // of another device
    const fb::Launch &launch = *image.launches()->Get(i);
    const std::string of = " of kernel " + quote(plan.kernels()->Get(i)->name()) + " of " + what;
    MOE_TRY(checkRange(launch.threads(), 1, 1024, "threads" + of));
    if (launch.threads() % 32)
      return invalid("threads" + of + " is " + number(launch.threads()) +
                     ", expected a multiple of 32");
    MOE_TRY(checkRange(launch.shared_bytes(), 0, kMaxShared, "shared_bytes" + of));
    MOE_TRY(checkRange(launch.blocks_per_sm(), 1,
                       std::min<uint64_t>(32, kMaxThreads / launch.threads()),
                       "blocks_per_sm" + of));
    MOE_TRY(checkRange(launch.registers(), 0, kMaxRegisters, "registers" + of));
  }
  return ok();
}

Status Checker::checkVision() {
  const fb::Vision *vision = plan.vision();
  if (!vision)
    return ok();
  MOE_TRY(checkRange(vision->tile_size(), 1, kMaxTile, "tile_size of pictures"));
  MOE_TRY(checkRange(vision->patch_size(), 1, vision->tile_size(), "patch_size of pictures"));
  if (vision->tile_size() % vision->patch_size())
    return invalid("tile_size of pictures is " + number(vision->tile_size()) +
                   ", expected a multiple of patch_size, " + number(vision->patch_size()));
  const uint64_t patches = vision->tile_size() / vision->patch_size();
  MOE_TRY(checkRange(vision->rows_per_tile(), 1, patches * patches, "rows_per_tile of pictures"));
  MOE_TRY(checkRange(vision->max_tiles(), 1, kMaxTiles, "max_tiles of pictures"));
  // config.json does not have those of them that only a tokenizer knows.
  const bool optional = !plan.tokenizer();
  std::vector<std::string> ids;
  for (const auto &[name, id, mayLack] :
       {std::tuple("image_start", vision->image_start(), false),
        {"image_end", vision->image_end(), false},
        {"tile_x_separator", vision->tile_x_separator(), optional},
        {"tile_y_separator", vision->tile_y_separator(), optional},
        {"image", vision->image(), optional},
        {"patch", vision->patch(), false}}) {
    MOE_TRY(checkToken(id, std::string(name) + " of pictures", mayLack));
    if (id >= 0)
      ids.push_back(std::to_string(id));
  }
  return checkUnique(ids, "tokens of pictures");
}

Status Checker::checkTokenizer() {
  const fb::Tokenizer *tokenizer = plan.tokenizer();
  if (!tokenizer)
    return ok();
  MOE_TRY(sectionOf(plan, tokenizer->section(), fb::SectionKind::Tokenizer, "the tokenizer"));
  MOE_TRY(checkRange(tokenizer->vocab_size(), 1, plan.model()->vocab_size(),
                     "vocab_size of the tokenizer"));
  // Another one would cut text differently, and nobody would notice.
  if (tokenizer->pattern()->string_view() != "llama4")
    return invalid("the tokenizer cuts text by " + quote(tokenizer->pattern()) +
                   ", and this runtime knows 'llama4' alone");
  if (tokenizer->add_bos() && plan.model()->bos_token() < 0)
    return invalid("the tokenizer starts prompts with bos_token, and the model has none");
  std::vector<std::string> contents;
  std::vector<uint32_t> ids;
  for (const fb::SpecialToken *token : *tokenizer->special_tokens()) {
    if (token->content()->size() == 0)
      return invalid("special token " + number(token->id()) + " is empty");
    MOE_TRY(checkRange(token->content()->size(), 1, kMaxName,
                       "the length of special token " + quote(token->content())));
    MOE_TRY(checkToken(token->id(), "special token " + quote(token->content())));
    contents.push_back(token->content()->str());
    ids.push_back(token->id());
  }
  std::sort(ids.begin(), ids.end());
  auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice != ids.end())
    return invalid("two special tokens have id " + number(*twice));
  return checkUnique(contents, "special tokens");
}

Status Checker::checkChat() {
  const fb::ChatFormat *chat = plan.chat();
  if (!chat)
    return ok();
  for (int32_t id : *chat->stop_tokens())
    MOE_TRY(checkToken(id, "a stop token of the chat format"));
  const std::string_view tools = chat->tools() ? chat->tools()->string_view() : "";
  if (!tools.empty() && tools != "hf-json" && tools != "pythonic")
    return invalid("the chat format lays out tools as " + quote(chat->tools()) +
                   ", and this runtime knows 'hf-json' and 'pythonic' alone");
  return ok();
}

Status Checker::checkSampling() {
  const fb::Sampling *sampling = plan.sampling();
  if (!sampling)
    return ok();
  MOE_TRY(checkRange(sampling->top_k(), 0, (uint64_t(1) << 31) - 1, "top_k"));
  // Written so that what is no number is refused.
  for (const auto &[name, value, most] :
       {std::tuple("top_p", sampling->top_p(), 1.0),
        {"repetition_penalty", sampling->repetition_penalty(), 100.0}})
    if (!(value > 0 && value <= most))
      return invalid(name + (" is " + std::to_string(value)) +
                     ", expected more than 0 and at most " + number(uint64_t(most)));
  if (!(sampling->temperature() >= 0 && sampling->temperature() <= 100))
    return invalid("temperature is " + std::to_string(sampling->temperature()) +
                   ", expected 0 to 100");
  return ok();
}

} // namespace

Status checkIndex(const fb::Plan &index, uint64_t indexOffset) {
  return Checker(index, indexOffset).check();
}

} // namespace moe
