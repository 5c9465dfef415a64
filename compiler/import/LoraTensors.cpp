// Finds the tensors that an adapter's matrices belong to, and adds their products.
#include "compiler/import/LoraTensors.h"
#include "compiler/import/Json.h"
#include "compiler/import/Llama4Vision.h"
#include "compiler/import/Messages.h"
#include "compiler/import/Safetensors.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Regex.h"

#include <cmath>

using namespace moe;
using llvm::StringRef;
using llvm::Twine;
namespace json = llvm::json;

namespace moe {

// Reads one adapter into a LoraTensors.
class LoraReader {
public:
  LoraReader(LoraTensors &result, StringRef folder, std::vector<std::string> &notes)
      : result(result), base(*result.base), folder(folder), notes(notes) {}

  llvm::Error run();

private:
  // The two matrices of a module, and where they came from.
  struct Pair {
    const TensorInfo *a = nullptr, *b = nullptr;
    bool embedding = false;
  };

  llvm::Error readConfig();
  llvm::Error refuse(const Twine &what) {
    return llvm::createStringError(folder + "/adapter_config.json " + what);
  }
  void addModule(StringRef module, const Pair &pair);
  void addExpert(StringRef module, const Pair &pair);
  void addParameter(StringRef module, const Pair &pair);
  // Checks the rank, and gives the scaling of a module.
  std::optional<float> scalingOf(StringRef module, int64_t rank, const TensorInfo &a);
  // The number that a pattern of PEFT gives a module.
  double match(const json::Object *patterns, StringRef module, double otherwise);
  const float *valuesOf(const TensorInfo &tensor);
  void report(const Twine &problem) { problems.push_back(problem.str()); }

  LoraTensors &result;
  const TensorSource &base;
  StringRef folder;
  std::vector<std::string> &notes;
  std::optional<json::Value> config;
  const json::Object *fields = nullptr;
  std::unique_ptr<TensorSource> adapter;
  llvm::StringMap<const TensorInfo *> byPath; // tensors of the base, without the model's prefix
  std::vector<std::string> problems;
};

} // namespace moe

// Adapters of the text model alone, and of the multimodal one, fit either base.
static StringRef withoutPrefix(StringRef name) {
  for (StringRef prefix : {"model.language_model.model.", "language_model.model.",
                           "model.language_model.", "language_model.", "model."})
    if (name.consume_front(prefix))
      break;
  return name;
}

llvm::Error LoraReader::readConfig() {
  llvm::SmallString<128> path(folder);
  llvm::sys::path::append(path, "adapter_config.json");
  if (!llvm::sys::fs::exists(path))
    return llvm::createStringError("'" + folder +
                                   "' has no adapter_config.json: give the folder of an adapter "
                                   "that PEFT saved");
  auto read = readJson(path);
  if (!read)
    return read.takeError();
  config = std::move(*read);
  fields = config->getAsObject();
  if (!fields)
    return refuse("is not a JSON object");

  StringRef type = fields->getString("peft_type").value_or("");
  if (type != "LORA")
    return refuse("has the peft_type " + (type.empty() ? "absent" : type) + ", expected LORA");
  auto truth = [&](StringRef key) { return fields->getBoolean(key).value_or(false); };
  for (StringRef key : {"use_dora", "use_qalora", "fan_in_fan_out", "lora_bias"})
    if (truth(key))
      return refuse("has " + key + ", which is not supported: merge the adapter with PEFT first");
  if (StringRef bias = fields->getString("bias").value_or("none"); bias != "none")
    return refuse("has the bias " + bias +
                  ", expected none: the linears of Llama 4 have no biases; merge the adapter with "
                  "PEFT first");
  if (const json::Array *modules = fields->getArray("modules_to_save");
      modules && !modules->empty())
    return refuse("has modules_to_save, which is not supported: merge the adapter with PEFT first");
  if (const json::Array *layers = fields->getArray("layer_replication"); layers && !layers->empty())
    return refuse("has layer_replication, which is not supported");
  // These start from weights other than the checkpoint's.
  if (auto init = fields->getString("init_lora_weights"))
    for (StringRef method : {"pissa", "olora", "corda", "loftq"})
      if (init->starts_with(method))
        return refuse("has the init_lora_weights " + *init +
                      ", which changes the weights under the adapter: convert it to LoRA with PEFT "
                      "first (path_initial_model_for_weight_conversion)");
  auto rank = fields->getInteger("r");
  auto alpha = fields->getNumber("lora_alpha");
  if (!rank || *rank < 1 || !alpha || !std::isfinite(*alpha))
    return refuse("has no rank r of 1 or more and number lora_alpha");
  return llvm::Error::success();
}

double LoraReader::match(const json::Object *patterns, StringRef module, double otherwise) {
  if (!patterns)
    return otherwise;
  for (const auto &[key, value] : *patterns) {
    StringRef pattern = key;
    if (!llvm::Regex(("^(.*\\.)?(" + pattern + ")$").str()).match(module))
      continue;
    if (auto number = value.getAsNumber())
      return *number;
    report("adapter_config.json gives no number for the pattern " + pattern);
  }
  return otherwise;
}

std::optional<float> LoraReader::scalingOf(StringRef module, int64_t rank, const TensorInfo &a) {
  double expected =
      match(fields->getObject("rank_pattern"), module, double(*fields->getInteger("r")));
  if (double(rank) != expected) {
    report("tensor " + a.name + " " + shapeText(a.shape) + " has the rank " + Twine(rank) +
           ", expected " + llvm::formatv("{0}", int64_t(expected)).str() +
           " as adapter_config.json says");
    return std::nullopt;
  }
  double alpha =
      match(fields->getObject("alpha_pattern"), module, *fields->getNumber("lora_alpha"));
  bool root = fields->getBoolean("use_rslora").value_or(false);
  return float(alpha / (root ? std::sqrt(double(rank)) : double(rank)));
}

const float *LoraReader::valuesOf(const TensorInfo &tensor) {
  auto values = std::make_unique<std::vector<float>>(tensor.elements);
  if (Status status = adapter->read(tensor.name, 0, *values); !status) {
    report(status.error().message);
    return values->data(); // not read, as problems end the import
  }
  result.matrices.push_back(std::move(values));
  return result.matrices.back()->data();
}

// A linear or an embedding that is a tensor of its own.
void LoraReader::addModule(StringRef module, const Pair &pair) {
  const TensorInfo *tensor = byPath.lookup((withoutPrefix(module) + ".weight").str());
  if (!tensor || tensor->shape.size() != 2)
    return addExpert(module, pair);
  int64_t rows = tensor->shape[0], cols = tensor->shape[1];
  const TensorInfo &a = *pair.a, &b = *pair.b;
  int64_t rank = a.shape[0];
  // Of an embedding A and B are transposed.
  std::vector<int64_t> aShape = {rank, pair.embedding ? rows : cols};
  std::vector<int64_t> bShape = {pair.embedding ? cols : rows, rank};
  if (a.shape != aShape || b.shape != bShape)
    return report("tensors " + a.name + " " + shapeText(a.shape) + " and " + b.name + " " +
                  shapeText(b.shape) + " do not fit " + tensor->name + " " +
                  shapeText(tensor->shape) + ", expected [r, " + Twine(aShape[1]) + "] and [" +
                  Twine(bShape[0]) + ", r]");
  auto scaling = scalingOf(module, rank, a);
  if (!scaling)
    return;
  LoraTensors::Factor left{valuesOf(b), 0, rank, 1}, right{valuesOf(a), 0, cols, 1};
  if (pair.embedding) {
    left = {valuesOf(a), 0, 1, rows};
    right = {valuesOf(b), 0, 1, rank};
  }
  result.deltas[tensor->name].push_back({0, rows, 0, cols, rank, *scaling, left, right});
}

// experts.3.gate_proj or experts.gate_projs.3 where the checkpoint has all experts in one tensor,
// inputs first.
void LoraReader::addExpert(StringRef module, const Pair &pair) {
  auto unknown = [&] { report("module " + module + " has no weight in the checkpoint"); };
  auto [path, rest] = withoutPrefix(module).split(".experts.");
  auto [first, second] = rest.split('.');
  int64_t expert;
  if (first.ends_with("_projs"))
    std::swap(first, second);
  StringRef which = second.take_until([](char c) { return c == '_'; });
  if (first.getAsInteger(10, expert) || pair.embedding ||
      !llvm::is_contained({StringRef("gate"), StringRef("up"), StringRef("down")}, which))
    return unknown();
  bool down = which == "down";
  const TensorInfo *tensor =
      byPath.lookup((path + ".experts." + (down ? "down_proj" : "gate_up_proj")).str());
  if (!tensor || tensor->shape.size() != 3 || expert < 0 || expert >= tensor->shape[0])
    return unknown();
  int64_t inputs = tensor->shape[1], outputs = down ? tensor->shape[2] : tensor->shape[2] / 2;
  const TensorInfo &a = *pair.a, &b = *pair.b;
  int64_t rank = a.shape[0];
  if (a.shape != std::vector<int64_t>{rank, inputs} ||
      b.shape != std::vector<int64_t>{outputs, rank})
    return report("tensors " + a.name + " " + shapeText(a.shape) + " and " + b.name + " " +
                  shapeText(b.shape) + " do not fit expert " + Twine(expert) + " of " +
                  tensor->name + " " + shapeText(tensor->shape) + ", expected [r, " +
                  Twine(inputs) + "] and [" + Twine(outputs) + ", r]");
  auto scaling = scalingOf(module, rank, a);
  if (!scaling)
    return;
  result.deltas[tensor->name].push_back({expert * inputs,
                                         inputs,
                                         which == "up" ? outputs : 0,
                                         outputs,
                                         rank,
                                         *scaling,
                                         {valuesOf(a), 0, 1, inputs},
                                         {valuesOf(b), 0, 1, rank}});
}

// Fused experts are bare parameters: which of the two is seen from the shapes.
void LoraReader::addParameter(StringRef module, const Pair &pair) {
  const TensorInfo &a = *pair.a, &b = *pair.b;
  const TensorInfo *found = nullptr;
  bool several = false;
  StringRef path = withoutPrefix(module);
  while (path.consume_back(".base_layer"))
    ;
  for (const json::Value &value : *fields->getArray("target_parameters")) {
    auto [owner, name] = StringRef(value.getAsString().value_or("")).rsplit('.');
    if (name.empty() || !path.ends_with(owner))
      continue;
    const TensorInfo *tensor = byPath.lookup((path + "." + name).str());
    if (!tensor || tensor->shape.size() != 3)
      continue;
    int64_t in = tensor->shape[1], out = tensor->shape[2];
    if ((a.shape[1] == in && b.shape[0] == out) || (a.shape[1] == out && b.shape[0] == in)) {
      several |= found || in == out;
      found = tensor;
    }
  }
  if (!found || several)
    return report("tensors " + a.name + " " + shapeText(a.shape) + " and " + b.name + " " +
                  shapeText(b.shape) +
                  (found ? " fit several ways" : " fit no tensor [experts, in, out]") +
                  " of target_parameters in the checkpoint");
  int64_t experts = found->shape[0], in = found->shape[1], out = found->shape[2];
  int64_t ranks = a.shape[0], rank = ranks / experts;
  if (ranks % experts != 0 || b.shape[1] != ranks)
    return report("tensors " + a.name + " " + shapeText(a.shape) + " and " + b.name + " " +
                  shapeText(b.shape) + " do not have a rank for each of " + Twine(experts) +
                  " experts");
  auto scaling = scalingOf(module, rank, a);
  if (!scaling)
    return;
  const float *aValues = valuesOf(a), *bValues = valuesOf(b);
  for (int64_t e = 0; e < experts; ++e) {
    // Rows are inputs, which are A's columns or B's rows.
    LoraTensors::Delta delta{e * in, in, 0, out, rank, *scaling, {}, {}};
    if (a.shape[1] == in) {
      delta.left = {aValues, e * rank * in, 1, in};
      delta.right = {bValues, e, experts, ranks};
    } else {
      delta.left = {bValues, e, ranks, experts};
      delta.right = {aValues, e * rank * out, out, 1};
    }
    result.deltas[found->name].push_back(delta);
  }
}

llvm::Error LoraReader::run() {
  if (llvm::Error error = readConfig())
    return error;
  llvm::SmallString<128> path(folder);
  llvm::sys::path::append(path, "adapter_model.safetensors");
  if (!llvm::sys::fs::exists(path))
    return llvm::createStringError("'" + folder +
                                   "' has no adapter_model.safetensors: save the adapter with "
                                   "safe_serialization");
  auto file = Checkpoint::open(path);
  if (!file)
    return file.takeError();
  adapter = std::make_unique<Checkpoint>(std::move(*file));
  for (const TensorInfo &tensor : base.tensors())
    byPath[withoutPrefix(tensor.name)] = &tensor;

  // A base without a tower is one for text alone, for which the rest of an adapter is as good.
  const bool tower = hasVisionTower(base);
  llvm::MapVector<StringRef, Pair> modules;
  std::vector<std::string> vision, left;
  for (const TensorInfo &tensor : adapter->tensors()) {
    StringRef name = tensor.name;
    name.consume_front("base_model.model.");
    StringRef inner = name;
    inner.consume_front("model.");
    if (!tower &&
        (inner.starts_with("vision_model.") || inner.starts_with("multi_modal_projector."))) {
      vision.push_back(tensor.name);
      continue;
    }
    bool isA = name.consume_back(".lora_A.weight"),
         isB = !isA && name.consume_back(".lora_B.weight");
    bool embedding = false;
    if (!isA && !isB) {
      isA = name.consume_back(".lora_embedding_A");
      isB = !isA && name.consume_back(".lora_embedding_B");
      embedding = true;
    }
    if ((!isA && !isB) || tensor.shape.size() != 2 || !tensor.elements) {
      left.push_back(tensor.name + " " + shapeText(tensor.shape));
      continue;
    }
    Pair &pair = modules[name];
    (isA ? pair.a : pair.b) = &tensor;
    pair.embedding |= embedding;
  }
  if (!left.empty())
    report("the adapter has tensors that are no matrices of LoRA: " + firstTen(left));
  if (!vision.empty())
    notes.push_back("ignored " + std::to_string(vision.size()) + " tensors of the adapter " +
                    folder.str() + " that belong to the vision tower: " + firstTen(vision));
  const json::Array *parameters = fields->getArray("target_parameters");
  for (const auto &[module, pair] : modules) {
    if (!pair.a || !pair.b)
      report("module " + module + " has " +
             (pair.a ? "lora_A and no lora_B" : "lora_B and no lora_A"));
    else if (parameters && !parameters->empty() && !pair.embedding &&
             (module.ends_with(".experts") || module.ends_with(".base_layer")))
      addParameter(module, pair);
    else
      addModule(module, pair);
  }
  if (modules.empty() && left.empty())
    report("it has no matrices for the text model");
  if (!problems.empty())
    return llvm::createStringError(
        "the adapter '" + folder + "' does not fit the checkpoint, " + Twine(problems.size()) +
        (problems.size() == 1 ? " problem: " : " problems: ") + firstTen(problems, "; "));

  for (TensorInfo tensor : base.tensors()) {
    if (result.deltas.count(tensor.name))
      tensor.encoding = std::nullopt;
    if (tensor.encoding)
      for (StringRef suffix : {":scale", ":zero"})
        if (const TensorInfo *companion = base.find(tensor.name + suffix.str()))
          result.addCompanion(*companion);
    result.add(std::move(tensor));
  }
  return llvm::Error::success();
}

llvm::Expected<std::unique_ptr<TensorSource>> LoraTensors::open(std::unique_ptr<TensorSource> base,
                                                                StringRef folder,
                                                                std::vector<std::string> &notes) {
  auto result = std::make_unique<LoraTensors>();
  result->base = std::move(base);
  if (llvm::Error error = LoraReader(*result, folder, notes).run())
    return std::move(error);
  return std::move(result);
}

const std::byte *LoraTensors::data(const TensorInfo &tensor) const {
  return deltas.count(tensor.name) ? nullptr : base->data(*base->find(tensor.name));
}

Status LoraTensors::readElements(const TensorInfo &tensor, uint64_t begin,
                                 std::span<float> out) const {
  MOE_TRY(base->read(tensor.name, begin, out));
  auto found = deltas.find(tensor.name);
  if (found == deltas.end())
    return ok();
  int64_t width = tensor.shape.back();
  std::vector<float> sums(static_cast<size_t>(width));
  float *elements = out.data();
  for (uint64_t at = begin, end = begin + out.size(); at < end;) {
    int64_t row = int64_t(at) / width, first = int64_t(at) % width;
    int64_t last = std::min(width, first + int64_t(end - at));
    for (const Delta &delta : found->second) {
      int64_t from = std::max(first, delta.col), to = std::min(last, delta.col + delta.cols);
      int64_t own = row - delta.row; // the row of the box
      if (own < 0 || own >= delta.rows || from >= to)
        continue;
      std::fill_n(sums.begin(), to - from, 0.0f);
      for (int64_t k = 0; k < delta.rank; ++k) {
        const Factor &l = delta.left, &r = delta.right;
        float weight = l.values[l.begin + own * l.rowStride + k * l.colStride];
        const float *values =
            r.values + r.begin + k * r.rowStride + (from - delta.col) * r.colStride;
        for (int64_t c = 0; c < to - from; ++c)
          sums[size_t(c)] += weight * values[c * r.colStride];
      }
      float *target = elements + (from - first);
      for (int64_t c = 0; c < to - from; ++c)
        target[c] += delta.scaling * sums[size_t(c)];
    }
    elements += last - first;
    at += uint64_t(last - first);
  }
  return ok();
}
