// Reads the configurations of the libraries that quantize checkpoints.
#include "compiler/import/QuantizationConfig.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FormatVariadic.h"

using namespace moe;
using llvm::StringRef;
using llvm::Twine;
namespace json = llvm::json;

namespace {

constexpr const char *kSupported =
    "supported are compressed-tensors (float-quantized, int-quantized, naive-quantized and "
    "pack-quantized of 4 or 8 bits), fp8, fbgemm_fp8, ModelOpt FP8, AWQ (gemm) and GPTQ of 4 or 8 "
    "bits: use one of these or the bfloat16 checkpoint";

class Reader {
public:
  Reader(const json::Object &fields, StringRef where) : fields(fields), where(where) {}

  llvm::Expected<QuantizationConfig> read();

private:
  llvm::Error fail(const Twine &text) { return llvm::createStringError(where + " " + text); }
  // A scheme that cannot be decoded, by its name.
  llvm::Error refuse(const Twine &scheme) {
    return fail("says that the checkpoint is quantized as " + scheme +
                ", which is not supported; " + kSupported);
  }
  // "absent" or the value as JSON.
  static std::string textOf(const json::Value *value) {
    return value ? llvm::formatv("{0}", *value).str() : "absent";
  }

  llvm::Error readCompressedTensors();
  llvm::Error readGroup(StringRef name, const json::Object &group);
  llvm::Error readFp8();
  llvm::Error readModelOpt(const json::Object &object);
  llvm::Error readAwq();
  llvm::Error readGptq();
  llvm::Error readAutoRound();
  llvm::Error readBits(std::initializer_list<int64_t> allowed);
  llvm::Error readGroupSize();
  llvm::Error readBlock(const json::Value *value, StringRef key);

  const json::Object &fields;
  StringRef where;
  QuantizationConfig config;
};

} // namespace

llvm::Error Reader::readBlock(const json::Value *value, StringRef key) {
  std::vector<int64_t> block;
  if (const json::Array *array = value->getAsArray())
    for (const json::Value &size : *array)
      block.push_back(size.getAsInteger().value_or(0));
  if (block.size() != 2 || block[0] < 1 || block[1] < 1)
    return fail("has the " + key + " " + textOf(value) + ", expected [rows, columns]");
  if (config.block && *config.block != block)
    return fail("has blocks of two sizes, expected one for all weights");
  config.block = std::move(block);
  return llvm::Error::success();
}

llvm::Error Reader::readGroup(StringRef name, const json::Object &group) {
  if (auto format = group.getString("format"))
    if (!llvm::is_contained({StringRef("float-quantized"), StringRef("int-quantized"),
                             StringRef("naive-quantized"), StringRef("pack-quantized"),
                             StringRef("dense")},
                            *format))
      return refuse("compressed-tensors " + *format);
  const json::Object *weights = group.getObject("weights");
  if (!weights)
    return llvm::Error::success(); // its activations alone
  int64_t bits = weights->getInteger("num_bits").value_or(8);
  StringRef type = weights->getString("type").value_or("int");
  if (type == "float" && bits == 4)
    return refuse("compressed-tensors weights of FP4 (NVFP4 or MXFP4)");
  if (!(type == "float" && bits == 8) && !(type == "int" && (bits == 4 || bits == 8)))
    return refuse("compressed-tensors " + type + " weights of " + Twine(bits) + " bits");

  config.zeroPoints &= !weights->getBoolean("symmetric").value_or(true);
  StringRef strategy = weights->getString("strategy").value_or("");
  const json::Value *size = weights->get("group_size");
  std::optional<int64_t> columns = size ? size->getAsInteger() : std::nullopt;
  if (strategy == "block") {
    const json::Value *block = weights->get("block_structure");
    if (!block)
      return fail("has the strategy block in " + name + " and no block_structure");
    return readBlock(block, "block_structure");
  }
  if (strategy == "group" || (strategy.empty() && columns && *columns > 0)) {
    if (!columns || *columns < 1)
      return fail("has the group_size " + textOf(size) + " in " + name +
                  ", expected a number of columns, as the strategy is group");
    config.groups.push_back(*columns);
  } else if (strategy == "channel" || strategy == "tensor" || strategy.empty()) {
    config.groups.push_back(-1);
  } else {
    return refuse("compressed-tensors with the strategy " + strategy);
  }
  return llvm::Error::success();
}

llvm::Error Reader::readCompressedTensors() {
  if (auto format = fields.getString("format"))
    if (!llvm::is_contained({StringRef("float-quantized"), StringRef("int-quantized"),
                             StringRef("naive-quantized"), StringRef("pack-quantized"),
                             StringRef("mixed-precision"), StringRef("dense")},
                            *format))
      return refuse("compressed-tensors " + *format);
  if (const json::Object *sparsity = fields.getObject("sparsity_config"))
    if (StringRef format = sparsity->getString("format").value_or("dense"); format != "dense")
      return refuse("compressed-tensors with weights in the sparse format " + format);
  if (const json::Object *transform = fields.getObject("transform_config"))
    if (const json::Object *groups = transform->getObject("config_groups");
        groups && !groups->empty())
      return refuse("compressed-tensors with transforms (transform_config)");
  const json::Object *groups = fields.getObject("config_groups");
  if (!groups)
    return fail("has no config_groups, which compressed-tensors has");
  config.zeroPoints = !groups->empty(); // of all
  for (const auto &[name, value] : *groups) {
    const json::Object *group = value.getAsObject();
    if (!group)
      return fail("has config_groups that are not objects");
    if (llvm::Error error = readGroup(StringRef(name), *group))
      return error;
  }
  return llvm::Error::success();
}

llvm::Error Reader::readFp8() {
  if (StringRef format = fields.getString("fmt").value_or("e4m3"); format != "e4m3")
    return refuse("fp8 " + format);
  const json::Value *block = fields.get("weight_block_size");
  if (block && block->kind() != json::Value::Null)
    return readBlock(block, "weight_block_size");
  return llvm::Error::success();
}

llvm::Error Reader::readModelOpt(const json::Object &object) {
  StringRef algorithm = object.getString("quant_algo").value_or("");
  if (algorithm.empty())
    return fail("names no quant_algo, which ModelOpt does");
  if (algorithm != "FP8")
    return refuse("ModelOpt " + algorithm);
  return llvm::Error::success();
}

llvm::Error Reader::readBits(std::initializer_list<int64_t> allowed) {
  std::optional<int64_t> bits = fields.getInteger("bits");
  if (!bits)
    return fail("has the bits " + textOf(fields.get("bits")) + ", expected a number");
  if (!llvm::is_contained(allowed, *bits))
    return refuse(config.name + " of " + Twine(*bits) + " bits");
  config.bits = *bits;
  return llvm::Error::success();
}

llvm::Error Reader::readGroupSize() {
  const json::Value *value = fields.get("group_size");
  std::optional<int64_t> size = value ? value->getAsInteger() : std::nullopt;
  if (!size || (*size < 1 && *size != -1))
    return fail("has the group_size " + textOf(value) +
                ", expected a number of columns, or -1 for whole rows");
  config.groups.push_back(*size);
  return llvm::Error::success();
}

llvm::Error Reader::readAwq() {
  config.method = QuantizationConfig::Method::Awq;
  std::string version = fields.getString("version").value_or("gemm").lower();
  if (version != "gemm")
    return refuse("AWQ in the version " + version);
  if (!fields.getBoolean("zero_point").value_or(true))
    return refuse("AWQ without zero points");
  if (llvm::Error error = readBits({4}))
    return error;
  return readGroupSize();
}

llvm::Error Reader::readGptq() {
  config.method = QuantizationConfig::Method::Gptq;
  StringRef format = fields.getString("checkpoint_format").value_or("gptq");
  if (format != "gptq" && format != "gptq_v2")
    return refuse("GPTQ in the format " + format);
  config.zerosLessOne = format == "gptq";
  config.symmetric = fields.getBoolean("sym").value_or(false);
  if (llvm::Error error = readBits({4, 8}))
    return error;
  if (const json::Object *dynamic = fields.getObject("dynamic"))
    for (const auto &[pattern, value] : *dynamic)
      if (!StringRef(pattern).starts_with("-:")) // which only leaves modules alone
        return refuse("GPTQ with formats that depend on the module (dynamic " + StringRef(pattern) +
                      ")");
  return readGroupSize();
}

llvm::Error Reader::readAutoRound() {
  StringRef packing = fields.getString("packing_format").value_or("");
  if (packing == "auto_round:auto_gptq")
    return readGptq();
  if (packing == "auto_round:auto_awq")
    return readAwq();
  return refuse("AutoRound with the packing " + packing);
}

llvm::Expected<QuantizationConfig> Reader::read() {
  StringRef method = fields.getString("quant_method").value_or("");
  config.name = method.str();
  // hf_quant_config.json of ModelOpt has no quant_method.
  const json::Object *modelOpt = fields.getObject("quantization");
  llvm::Error error = llvm::Error::success();
  if (method == "compressed-tensors")
    error = readCompressedTensors();
  else if (method == "fp8")
    error = readFp8();
  else if (method == "fbgemm_fp8")
    ; // everything is said by the tensors
  else if (method == "modelopt" || modelOpt)
    error = readModelOpt(modelOpt ? *modelOpt : fields);
  else if (method == "awq")
    error = readAwq();
  else if (method == "gptq")
    error = readGptq();
  else if (method == "auto-round" || method == "intel/auto-round")
    error = readAutoRound();
  else if (method == "bitsandbytes")
    error =
        refuse("bitsandbytes " + (fields.getBoolean("load_in_8bit").value_or(false)
                                      ? "int8"
                                      : fields.getString("bnb_4bit_quant_type").value_or("nf4")));
  else if (method.empty())
    error = fail("names no quant_method; " + Twine(kSupported));
  else
    error = refuse(llvm::StringSwitch<std::string>(method)
                       .Case("mxfp4", "MXFP4")
                       .Case("hqq", "HQQ")
                       .Case("aqlm", "AQLM")
                       .Default(method.str()));
  if (error)
    return std::move(error);
  return std::move(config);
}

llvm::Expected<QuantizationConfig> QuantizationConfig::parse(const json::Object &fields,
                                                             StringRef where) {
  return Reader(fields, where).read();
}
