// One function per table of Plan.fbs, in the order in which they need each other.
#include "compiler/plan/Index.h"

#include "dialects/moe/WeightSources.h"
#include "dialects/plan/PlanDialect.h"
#include "runtime/plan/Format.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

#include <limits>
#include <map>
#include <tuple>

using namespace llvm;
using namespace moe;

namespace {

using llvm::Error; // and not the runtime's

Error fail(const Twine &message) { return createStringError(inconvertibleErrorCode(), message); }

// Reads the fields of a table from a dictionary; remembers what it could not read.
class TableFields {
public:
  explicit TableFields(mlir::DictionaryAttr attrs) {
    for (mlir::NamedAttribute attr : attrs)
      rest[attr.getName()] = attr.getValue();
  }

  template <typename T> void operator()(StringRef key, T &field) {
    auto found = rest.find(key);
    if (found == rest.end())
      return;
    if (!set(found->second, field))
      wrong = wrong.empty() ? key.str() : wrong;
    rest.erase(found);
  }

  Error takeError(StringRef attribute, StringRef table) const {
    if (!wrong.empty())
      return fail("field '" + wrong + "' of attribute '" + attribute +
                  "' is of a wrong type or too large");
    if (!rest.empty())
      return fail("attribute '" + attribute + "' has the field '" + rest.begin()->first +
                  "', which the " + table + " table of a plan lacks");
    return Error::success();
  }

private:
  static bool set(mlir::Attribute attr, std::string &field) {
    auto text = dyn_cast<mlir::StringAttr>(attr);
    if (text)
      field = text.str();
    return bool(text);
  }
  template <typename T>
    requires std::is_integral_v<T>
  static bool set(mlir::Attribute attr, T &field) {
    auto value = dyn_cast<mlir::IntegerAttr>(attr);
    if (!value || value.getValue().getSignificantBits() > 64)
      return false;
    const int64_t number = value.getValue().getSExtValue();
    field = T(number);
    return int64_t(field) == number && (std::is_signed_v<T> || number >= 0);
  }
  static bool set(mlir::Attribute attr, std::vector<int32_t> &field) {
    if (auto dense = dyn_cast<mlir::DenseI32ArrayAttr>(attr)) {
      field = dense.asArrayRef().vec();
      return true;
    }
    auto array = dyn_cast<mlir::ArrayAttr>(attr);
    if (!array)
      return false;
    field.resize(array.size());
    for (auto [element, id] : zip(array, field))
      if (!set(element, id))
        return false;
    return true;
  }

  std::map<StringRef, mlir::Attribute> rest;
  std::string wrong;
};

class IndexMaker {
public:
  explicit IndexMaker(const PlanInputs &inputs) : inputs(inputs), module(inputs.module) {}

  Expected<std::unique_ptr<fb::PlanT>> make() {
    for (auto step : {&IndexMaker::addModel, &IndexMaker::addVision, &IndexMaker::addSections,
                      &IndexMaker::addTensors, &IndexMaker::addCaches, &IndexMaker::addKernels,
                      &IndexMaker::addImages, &IndexMaker::addPrograms})
      if (Error error = (this->*step)())
        return std::move(error);
    if (inputs.chat)
      plan->chat = std::make_unique<fb::ChatFormatT>(*inputs.chat);
    if (inputs.sampling)
      plan->sampling = std::make_unique<fb::SamplingT>(*inputs.sampling);
    plan->provenance = std::make_unique<fb::ProvenanceT>(inputs.provenance);
    if (plan->provenance->compiler.empty())
      plan->provenance->compiler = "moec " MOE_VERSION ", LLVM " LLVM_VERSION_STRING;
    return std::move(plan);
  }

private:
  Error addModel();
  Error addVision();
  Error addSections();
  Error addTensors();
  Error addCaches();
  Error addKernels();
  Error addImages();
  Error addPrograms();
  Error addSpecs(mlir::ArrayAttr from, std::vector<std::unique_ptr<fb::TensorSpecT>> &to);
  Expected<fb::KernelCallT> makeCall(plan::CallOp call, plan::ProgramOp program);
  Expected<fb::Operand> makeOperand(mlir::Value value, plan::ProgramOp program);
  Error checkOverlaps(MutableArrayRef<const fb::TensorT *> tensors) const;
  uint32_t addSection(fb::SectionKind kind, std::string name, uint64_t length);

  const PlanInputs &inputs;
  mlir::ModuleOp module;
  std::unique_ptr<fb::PlanT> plan = std::make_unique<fb::PlanT>();
  StringMap<uint32_t> tensors, caches, kernels; // by symbol
  StringMap<uint32_t> weightSections;           // by device
  StringSet<> grids;                            // devices that launch kernels as grids
  SmallVector<int32_t> cubins;                  // of the images, -1 for none
  uint64_t end = sizeof(Header);
};

Error IndexMaker::addModel() {
  auto attrs = module->getAttrOfType<mlir::DictionaryAttr>("moe.model");
  if (!attrs)
    return fail("the module has no attribute 'moe.model', so the plan would not know its model");
  plan->model = std::make_unique<fb::ModelT>();
  fb::ModelT &m = *plan->model;
  TableFields field(attrs);
  field("architecture", m.architecture);
  field("vocab_size", m.vocab_size);
  field("hidden_size", m.hidden_size);
  field("layers", m.layers);
  field("heads", m.heads);
  field("kv_heads", m.kv_heads);
  field("head_dim", m.head_dim);
  field("experts", m.experts);
  field("experts_per_token", m.experts_per_token);
  field("moe_layers", m.moe_layers);
  field("attention_chunk", m.attention_chunk);
  field("max_positions", m.max_positions);
  field("bos_token", m.bos_token);
  field("eos_tokens", m.eos_tokens);
  field("pad_token", m.pad_token);
  field("parameters", m.parameters);
  field("active_parameters", m.active_parameters);
  field("weights", m.weights);
  if (Error error = field.takeError("moe.model", "model"))
    return error;
  if (m.weights.empty()) {
    MapVector<FormatAttr, int64_t> bytes;
    for (plan::TensorOp tensor : module.getOps<plan::TensorOp>())
      bytes[tensor.getPacking().getFormat()] += tensor.getBytes();
    if (!bytes.empty())
      m.weights = nameOf(max_element(bytes, less_second())->first.getFormat());
  }
  return Error::success();
}

// A model without a vision program, left out or never there, has no such table.
Error IndexMaker::addVision() {
  auto attrs = module->getAttrOfType<mlir::DictionaryAttr>("moe.vision");
  if (!attrs)
    return Error::success();
  plan->vision = std::make_unique<fb::VisionT>();
  fb::VisionT &v = *plan->vision;
  TableFields field(attrs);
  field("tile_size", v.tile_size);
  field("patch_size", v.patch_size);
  field("rows_per_tile", v.rows_per_tile);
  field("max_tiles", v.max_tiles);
  field("image_start", v.image_start);
  field("image_end", v.image_end);
  field("tile_x_separator", v.tile_x_separator);
  field("tile_y_separator", v.tile_y_separator);
  field("image", v.image);
  field("patch", v.patch);
  return field.takeError("moe.vision", "vision");
}

uint32_t IndexMaker::addSection(fb::SectionKind kind, std::string name, uint64_t length) {
  auto section = std::make_unique<fb::SectionT>();
  section->kind = kind;
  section->name = std::move(name);
  section->offset = alignTo(end, kSectionAlignment);
  section->length = length;
  section->hash = 1; // as large in the file as any other; a 0 would be left out
  end = section->offset + length;
  plan->sections.push_back(std::move(section));
  return plan->sections.size() - 1;
}

// The weights come last: what is small and always read is at the front, in one place.
Error IndexMaker::addSections() {
  for (const CodeImage &image : inputs.images) {
    const bool ptx = image.kind == CodeImage::Ptx;
    addSection(ptx ? fb::SectionKind::Ptx : fb::SectionKind::Code,
               (ptx ? "ptx." : "code.") + image.target, image.code.size());
  }
  for (const CodeImage &image : inputs.images)
    cubins.push_back(image.cubin.empty()
                         ? -1
                         : int32_t(addSection(fb::SectionKind::Cubin, "cubin." + image.target,
                                              image.cubin.size())));
  if (inputs.tokenizer) {
    plan->tokenizer = std::make_unique<fb::TokenizerT>(inputs.tokenizer->info);
    plan->tokenizer->section =
        addSection(fb::SectionKind::Tokenizer, "tokenizer", inputs.tokenizer->tables.size());
  }
  const std::vector<std::string> devices = weightDevices(module);
  for (const std::string &device : devices) {
    uint64_t length = 0;
    for (plan::TensorOp tensor : module.getOps<plan::TensorOp>())
      if (tensor.getDevice() == device)
        length = std::max<uint64_t>(length, tensor.getOffset() + tensor.getBytes());
    weightSections[device] = addSection(
        fb::SectionKind::Weights, devices.size() > 1 ? "weights." + device : "weights", length);
  }
  return Error::success();
}

Error IndexMaker::addTensors() {
  StringMap<int> devices; // that have a tensor of that name
  for (plan::TensorOp op : module.getOps<plan::TensorOp>())
    ++devices[op.getTensorName()];
  StringMap<SmallVector<const fb::TensorT *>> byDevice;
  for (plan::TensorOp op : module.getOps<plan::TensorOp>()) {
    auto tensor = std::make_unique<fb::TensorT>();
    const StringRef name = op.getTensorName();
    tensor->name = (devices[name] > 1 ? op.getSymName() : name).str();
    for (int64_t dim : cast<mlir::RankedTensorType>(op.getType()).getShape())
      tensor->shape.push_back(dim);
    if (tensor->shape.empty())
      tensor->shape.push_back(1);
    tensor->storage = nameOf(op.getPacking().getFormat().getFormat());
    tensor->layout = nameOf(op.getPacking().getLayout());
    tensor->head_dim = op.getPacking().getHeadDim();
    tensor->section = weightSections[op.getDevice()];
    tensor->offset = op.getOffset();
    tensor->bytes = op.getBytes();
    Expected<WeightOp> weight = weightOf(inputs, op);
    if (!weight)
      return weight.takeError();
    tensor->sources = tensorsOf(slicesOf(*weight));
    tensors[op.getSymName()] = plan->tensors.size();
    byDevice[op.getDevice()].push_back(tensor.get());
    plan->tensors.push_back(std::move(tensor));
  }
  for (auto &entry : byDevice)
    if (Error error = checkOverlaps(entry.second))
      return error;
  return Error::success();
}

// The bytes of a section are written in the order of their tensors, each once.
Error IndexMaker::checkOverlaps(MutableArrayRef<const fb::TensorT *> byOffset) const {
  sort(byOffset, [](auto *a, auto *b) { return a->offset < b->offset; });
  for (size_t i = 1; i < byOffset.size(); ++i)
    if (byOffset[i]->offset - byOffset[i - 1]->offset < byOffset[i - 1]->bytes)
      return fail("tensors '" + byOffset[i - 1]->name + "' and '" + byOffset[i]->name +
                  "' overlap at byte " + Twine(byOffset[i]->offset) + " of the weights");
  return Error::success();
}

fb::PoolClass poolClassOf(plan::PoolClass poolClass) {
  switch (poolClass) {
  case plan::PoolClass::AllPositions:
    return fb::PoolClass::AllPositions;
  case plan::PoolClass::Chunk:
    return fb::PoolClass::Chunk;
  }
  llvm_unreachable("no such class");
}

// Pools of all positions come first, wherever they are in the module.
Error IndexMaker::addCaches() {
  for (plan::PoolClass poolClass : {plan::PoolClass::AllPositions, plan::PoolClass::Chunk})
    for (plan::PoolOp op : module.getOps<plan::PoolOp>()) {
      if (op.getPoolClass() != poolClass)
        continue;
      auto pool = std::make_unique<fb::CachePoolT>();
      pool->name = op.getPoolName().str();
      pool->device = op.getDevice().str();
      pool->pool_class = poolClassOf(poolClass);
      pool->chunk = op.getChunk().value_or(0);
      pool->layers = op.getLayers();
      pool->page_tokens = op.getPageTokens();
      pool->page_bytes = op.getPageBytes();
      caches[op.getSymName()] = plan->caches.size();
      plan->caches.push_back(std::move(pool));
    }
  return Error::success();
}

Error IndexMaker::addKernels() {
  for (plan::KernelOp op : module.getOps<plan::KernelOp>()) {
    if (op.getGrid())
      grids.insert(op.getDevice());
    auto kernel = std::make_unique<fb::KernelT>();
    kernel->name = op.getKernelName().str();
    kernel->device = op.getDevice().str();
    kernel->operands = op.getOperands();
    kernels[op.getSymName()] = plan->kernels.size();
    plan->kernels.push_back(std::move(kernel));
  }
  return Error::success();
}

std::unique_ptr<fb::LaunchT> launchOf(const GridLaunch &from) {
  auto launch = std::make_unique<fb::LaunchT>();
  launch->threads = from.threads;
  launch->shared_bytes = from.sharedBytes;
  launch->blocks_per_sm = from.blocksPerSm;
  launch->registers = from.registers;
  launch->dependent = from.dependent;
  return launch;
}

Error IndexMaker::addImages() {
  for (auto [section, input] : enumerate(inputs.images)) {
    auto image = std::make_unique<fb::ImageT>();
    image->target = input.target;
    image->features = input.features;
    image->section = section;
    image->cubin = cubins[section];
    const StringRef device = input.device;
    for (const auto &kernel : plan->kernels) {
      auto entry = input.entries.find(kernel->name);
      if (kernel->device != device)
        image->entries.push_back(std::numeric_limits<uint64_t>::max());
      else if (entry != input.entries.end())
        image->entries.push_back(entry->second);
      else
        return fail("the code for target '" + input.target + "' lacks kernel '" + kernel->name +
                    "'");
      if (!grids.contains(device))
        continue;
      auto launch = input.launches.find(kernel->name);
      if (launch == input.launches.end() && kernel->device == device)
        return fail("nothing says how target '" + input.target + "' launches kernel '" +
                    kernel->name + "'");
      image->launches.push_back(launch == input.launches.end() ? std::make_unique<fb::LaunchT>()
                                                               : launchOf(launch->second));
    }
    plan->images.push_back(std::move(image));
  }
  return Error::success();
}

fb::ElementType elementOf(mlir::Type type) {
  if (type.isBF16())
    return fb::ElementType::BF16;
  if (type.isF16())
    return fb::ElementType::F16;
  if (type.isF32())
    return fb::ElementType::F32;
  if (type.isUnsignedInteger(32))
    return fb::ElementType::U32;
  return type.isUnsignedInteger() ? fb::ElementType::U8 : fb::ElementType::I32;
}

fb::Dimension dimensionOf(int64_t dim) {
  switch (dim) {
  case plan::TensorSpecAttr::Tokens:
    return {fb::Extent::Tokens, 0};
  case plan::TensorSpecAttr::Rows:
    return {fb::Extent::Rows, 0};
  case plan::TensorSpecAttr::Sequences:
    return {fb::Extent::Sequences, 0};
  case plan::TensorSpecAttr::Pages:
    return {fb::Extent::Pages, 0};
  default:
    return {fb::Extent::Constant, uint32_t(dim)};
  }
}

fb::ProgramKind kindOf(plan::ProgramKind kind) {
  switch (kind) {
  case plan::ProgramKind::Step:
    return fb::ProgramKind::Step;
  case plan::ProgramKind::Vision:
    return fb::ProgramKind::Vision;
  }
  llvm_unreachable("no such kind");
}

Error IndexMaker::addSpecs(mlir::ArrayAttr from,
                           std::vector<std::unique_ptr<fb::TensorSpecT>> &to) {
  for (auto spec : from.getAsRange<plan::TensorSpecAttr>()) {
    auto made = std::make_unique<fb::TensorSpecT>();
    made->name = spec.getName().str();
    made->element = elementOf(spec.getElement());
    for (int64_t dim : spec.getDims()) {
      if (dim > std::numeric_limits<uint32_t>::max())
        return fail("'" + spec.getName().getValue() + "' has a dimension of " + Twine(dim));
      made->dims.push_back(dimensionOf(dim));
    }
    if (spec.getPool()) {
      auto pool = caches.find(spec.getPool().getValue());
      if (pool == caches.end())
        return fail("there is no pool '" + spec.getPool().getValue() + "'");
      made->pool = int32_t(pool->second);
    }
    to.push_back(std::move(made));
  }
  return Error::success();
}

Error IndexMaker::addPrograms() {
  for (plan::ProgramOp op : module.getOps<plan::ProgramOp>()) {
    if (!op.getArena())
      return fail("program '" + op.getSymName() + "' has no arena: its memory is not planned");
    auto program = std::make_unique<fb::ProgramT>();
    program->kind = kindOf(op.getKind());
    program->device = op.getDevice().str();
    if (Error error = addSpecs(op.getInputs(), program->inputs))
      return error;
    if (Error error = addSpecs(op.getOutputs(), program->outputs))
      return error;
    program->tokens = op.getTokens();
    program->rows = op.getRows();
    program->arena_bytes = *op.getArena();
    program->scratch_bytes = op.getScratch();
    for (plan::CountersOp counters : op.getBody().getOps<plan::CountersOp>())
      program->counter_bytes = std::max<uint64_t>(program->counter_bytes, counters.getBytes());
    for (plan::CallOp call : op.getBody().getOps<plan::CallOp>()) {
      Expected<fb::KernelCallT> made = makeCall(call, op);
      if (!made)
        return fail("program '" + op.getSymName() + "': " + toString(made.takeError()));
      program->calls.push_back(std::make_unique<fb::CallT>());
      program->calls.back()->operation.Set(std::move(*made));
    }
    plan->programs.push_back(std::move(program));
  }
  sort(plan->programs, [](const auto &a, const auto &b) {
    return std::tie(a->device, a->kind, a->tokens) < std::tie(b->device, b->kind, b->tokens);
  });
  return Error::success();
}

Expected<fb::KernelCallT> IndexMaker::makeCall(plan::CallOp call, plan::ProgramOp program) {
  fb::KernelCallT made;
  auto kernel = kernels.find(call.getKernel());
  if (kernel == kernels.end())
    return fail("there is no kernel '" + call.getKernel() + "'");
  made.kernel = kernel->second;
  made.blocks = call.getBlocks().value_or(0);
  for (mlir::Value value : call.getOperands()) {
    Expected<fb::Operand> operand = makeOperand(value, program);
    if (!operand)
      return fail("call of '" + call.getKernel() + "': " + toString(operand.takeError()));
    made.operands.push_back(*operand);
  }
  return made;
}

Expected<fb::Operand> IndexMaker::makeOperand(mlir::Value value, plan::ProgramOp program) {
  using Made = Expected<fb::Operand>;
  return TypeSwitch<mlir::Operation *, Made>(value.getDefiningOp())
      .Case([&](plan::InputOp op) -> Made {
        return fb::Operand(fb::OperandKind::Input,
                           *plan::ProgramOp::find(program.getInputs(), op.getName()), 0, 0);
      })
      .Case([&](plan::OutputOp op) -> Made {
        return fb::Operand(fb::OperandKind::Output,
                           *plan::ProgramOp::find(program.getOutputs(), op.getName()), 0, 0);
      })
      .Case([&](plan::AllocOp op) -> Made {
        if (!op.getOffset())
          return fail("a buffer has no offset: the program's memory is not planned");
        return fb::Operand(fb::OperandKind::Arena, 0, *op.getOffset(), op.getBytes());
      })
      .Case([&](plan::WeightOp op) -> Made {
        auto found = tensors.find(op.getTensor());
        if (found == tensors.end())
          return fail("there is no tensor '" + op.getTensor() + "'");
        const fb::TensorT &tensor = *plan->tensors[found->second];
        return fb::Operand(fb::OperandKind::Weight, tensor.section, tensor.offset, tensor.bytes);
      })
      .Case([&](plan::CountersOp op) -> Made {
        return fb::Operand(fb::OperandKind::Counters, 0, 0, op.getBytes());
      })
      .Case([&](plan::CacheOp op) -> Made {
        auto pool = caches.find(op.getPool());
        if (pool == caches.end())
          return fail("there is no pool '" + op.getPool() + "'");
        return fb::Operand(fb::OperandKind::Cache, pool->second, op.getOffset(), 0);
      })
      .Default([&](mlir::Operation *) -> Made {
        return fail("an operand is no buffer of the plan dialect");
      });
}

} // namespace

Expected<std::unique_ptr<fb::PlanT>> moe::makeIndex(const PlanInputs &inputs) {
  return IndexMaker(inputs).make();
}

Expected<WeightOp> moe::weightOf(const PlanInputs &inputs, plan::TensorOp tensor) {
  const StringRef name = tensor.getTensorName();
  mlir::ModuleOp model = inputs.models.lookup(tensor.getDevice());
  auto weight = model ? model.lookupSymbol<WeightOp>(name) : WeightOp();
  if (!weight)
    return fail("tensor '" + tensor.getSymName() + "' holds the weight '" + name +
                "', which the model of device '" + tensor.getDevice() + "' does not have");
  if (weight.getType() != tensor.getType() || !weight.getPacking() ||
      weight.getPacking()->getFormat() != tensor.getPacking().getFormat())
    return fail("tensor '" + tensor.getSymName() +
                "' has another type or format than the weight '" + name + "' that it holds");
  return weight;
}

std::vector<std::string> moe::weightDevices(mlir::ModuleOp module) {
  std::vector<std::string> devices;
  for (plan::TensorOp tensor : module.getOps<plan::TensorOp>())
    if (!is_contained(devices, tensor.getDevice()))
      devices.push_back(tensor.getDevice().str());
  if (devices.empty()) // a plan has weights, be they none
    devices.emplace_back();
  return devices;
}

uint64_t moe::indexOffset(const fb::PlanT &plan) {
  const fb::SectionT &last = *plan.sections.back();
  return alignTo(last.offset + last.length, kSectionAlignment);
}
