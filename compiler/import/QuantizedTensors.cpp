// Finds the codes, scales and zeros of a checkpoint, and checks that they fit each other.
#include "compiler/import/QuantizedTensors.h"
#include "compiler/import/Messages.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/MathExtras.h"

using namespace moe;
using llvm::ArrayRef;
using llvm::StringRef;
using llvm::Twine;

namespace moe {

// Makes the tensors of a QuantizedTensors.
class Decoding {
public:
  Decoding(QuantizedTensors &result, const QuantizationConfig &config, Storage dtype)
      : result(result), stored(*result.stored), config(config), dtype(dtype) {}

  llvm::Error run();

private:
  // Each adds one decoded tensor, or notes what is wrong with it.
  void addScaled(const TensorInfo &codes);
  void addPacked(const TensorInfo &codes, StringRef linear);
  void addAwq(const TensorInfo &codes, StringRef linear);
  void addGptq(const TensorInfo &codes, StringRef linear);
  void add(StringRef name, std::vector<int64_t> shape, CodedTensor tensor);

  // A tensor that belongs to another; it is not one of the result's own. Null if there is none.
  const TensorInfo *optional(const Twine &name) {
    const TensorInfo *tensor = stored.find(name.str());
    if (tensor)
      used.insert(tensor->name);
    return tensor;
  }
  const TensorInfo *need(const Twine &name, const TensorInfo &of, StringRef shape) {
    const TensorInfo *tensor = optional(name);
    if (!tensor)
      report("tensor " + of.name + " " + shapeText(of.shape) + " of " + of.dtypeName + " has no " +
             name + " " + shape);
    return tensor;
  }
  // Of one of these types and shapes.
  bool check(const TensorInfo &tensor, ArrayRef<StringRef> dtypes,
             ArrayRef<std::vector<int64_t>> shapes);
  bool checkScale(const TensorInfo &scale, ArrayRef<std::vector<int64_t>> shapes) {
    return check(scale, {"F32", "BF16", "F16"}, shapes);
  }
  bool checkGroup(const TensorInfo &scale, int64_t group, int64_t inputs);
  // The group size that config.json gives all tensors, of one with so many inputs; nothing, and a
  // problem noted, if it does not divide them.
  std::optional<int64_t> groupOf(const TensorInfo &codes, int64_t inputs);
  // A group for each column is what acts reorder to make; such tensors cannot be stored in groups.
  bool checkOrder(const TensorInfo &order, int64_t inputs, int64_t group);
  // The grid of the scales of rows [outer..., rows, groups] and of whole tensors; nothing, and a
  // problem noted, if their shape is no such.
  std::optional<BlockGrid> rowGrid(const TensorInfo &scale, ArrayRef<int64_t> shape);
  std::optional<BlockGrid> blockGrid(const TensorInfo &scale, ArrayRef<int64_t> shape);
  std::optional<BlockGrid> inputsFirstGrid(const TensorInfo &scale, ArrayRef<int64_t> shape);

  void report(const Twine &problem) { problems.push_back(problem.str()); }

  QuantizedTensors &result;
  const TensorSource &stored;
  const QuantizationConfig &config;
  Storage dtype;
  llvm::StringSet<> used; // tensors that belong to others
  std::vector<std::string> problems;
};

} // namespace moe

//===----------------------------------------------------------------------===//
// Checks
//===----------------------------------------------------------------------===//

bool Decoding::check(const TensorInfo &tensor, ArrayRef<StringRef> dtypes,
                     ArrayRef<std::vector<int64_t>> shapes) {
  if (llvm::is_contained(dtypes, tensor.dtypeName) && llvm::is_contained(shapes, tensor.shape))
    return true;
  std::vector<std::string> shapeTexts;
  for (const std::vector<int64_t> &shape : shapes)
    if (std::string text = shapeText(shape); !llvm::is_contained(shapeTexts, text))
      shapeTexts.push_back(text);
  report("tensor " + tensor.name + " is " + tensor.dtypeName + " " + shapeText(tensor.shape) +
         ", expected " + llvm::join(dtypes, " or ") + " " + llvm::join(shapeTexts, " or "));
  return false;
}

bool Decoding::checkGroup(const TensorInfo &scale, int64_t group, int64_t inputs) {
  if (config.groups.empty() || llvm::is_contained(config.groups, group) ||
      (group == inputs && llvm::is_contained(config.groups, -1)))
    return true;
  std::vector<std::string> expected;
  for (int64_t size : config.groups)
    if (std::string text = size < 0 ? "whole rows" : std::to_string(size);
        !llvm::is_contained(expected, text))
      expected.push_back(text);
  report("tensor " + scale.name + " " + shapeText(scale.shape) + " has scales of groups of " +
         Twine(group) + ", expected groups of " + llvm::join(expected, " or ") +
         " as config.json says");
  return false;
}

std::optional<int64_t> Decoding::groupOf(const TensorInfo &codes, int64_t inputs) {
  int64_t group = config.groups[0] < 0 ? inputs : config.groups[0];
  if (inputs != 0 && inputs % group == 0)
    return group;
  report("tensor " + codes.name + " has " + Twine(inputs) +
         " inputs, expected a multiple of the group_size " + Twine(group));
  return std::nullopt;
}

bool Decoding::checkOrder(const TensorInfo &order, int64_t inputs, int64_t group) {
  if (!check(order, {"I32"}, {{inputs}}))
    return false;
  const std::byte *data = stored.data(order);
  for (int64_t i = 0; i < inputs; ++i) {
    auto found = int32_t(llvm::support::endian::read32le(data + 4 * i));
    if (found == i / group || found == -1) // -1: the libraries' word for none
      continue;
    report("tensor " + order.name + " puts input " + Twine(i) + " into group " + Twine(found) +
           ", expected group " + Twine(i / group) +
           ": weights whose groups are ordered by activations (desc_act, actorder) are not "
           "supported, quantize without, or use actorder \"weight\"");
    return false;
  }
  return true;
}

// The tensor's matrices, and the shape with its last two dimensions replaced.
static int64_t matricesOf(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t dim : shape.drop_back(2))
    count *= dim;
  return count;
}
static std::vector<int64_t> with(ArrayRef<int64_t> shape, std::initializer_list<int64_t> last) {
  std::vector<int64_t> result(shape.begin(), shape.end() - 2);
  result.insert(result.end(), last);
  return result;
}

//===----------------------------------------------------------------------===//
// Scales
//===----------------------------------------------------------------------===//

std::optional<BlockGrid> Decoding::rowGrid(const TensorInfo &scale, ArrayRef<int64_t> shape) {
  int64_t rows = shape[shape.size() - 2], cols = shape.back();
  ArrayRef<int64_t> found = scale.shape;
  BlockGrid grid{1, cols};
  std::vector<int64_t> vector = with(shape, {rows});
  if (scale.elements == 1 && (config.groups.empty() || llvm::is_contained(config.groups, -1))) {
    grid = {rows, cols, 0, 0, 0};
  } else if (found == ArrayRef(vector) && shape.size() == found.size() + 1) {
    grid.rowStride = 1;
    grid.matrixStride = rows;
  } else if (found.size() == shape.size() && found.drop_back() == shape.drop_back() &&
             found.back() > 0 && cols % found.back() == 0) {
    grid.blockCols = cols / found.back();
    grid.rowStride = found.back();
    grid.colStride = 1;
    grid.matrixStride = rows * found.back();
  } else {
    std::vector<std::vector<int64_t>> expected;
    for (int64_t group : config.groups)
      expected.push_back(with(shape, {rows, group < 0 ? 1 : (cols + group - 1) / group}));
    if (expected.empty())
      expected = {with(shape, {rows, 1}), {1}};
    checkScale(scale, expected);
    return std::nullopt;
  }
  if (!check(scale, {"F32", "BF16", "F16"}, {scale.shape}) ||
      !checkGroup(scale, grid.blockCols, cols))
    return std::nullopt;
  return grid;
}

std::optional<BlockGrid> Decoding::blockGrid(const TensorInfo &scale, ArrayRef<int64_t> shape) {
  int64_t blockRows = (*config.block)[0], blockCols = (*config.block)[1];
  int64_t gridRows = llvm::divideCeil(shape[shape.size() - 2], blockRows);
  int64_t gridCols = llvm::divideCeil(shape.back(), blockCols);
  if (!checkScale(scale, with(shape, {gridRows, gridCols})))
    return std::nullopt;
  return BlockGrid{blockRows, blockCols, gridRows * gridCols, gridCols, 1};
}

std::optional<BlockGrid> Decoding::inputsFirstGrid(const TensorInfo &scale,
                                                   ArrayRef<int64_t> shape) {
  int64_t rows = shape[shape.size() - 2], cols = shape.back();
  int64_t matrices = matricesOf(shape);
  std::vector<int64_t> one = {1}, each = with(shape, {1, 1}), columns = with(shape, {1, cols}),
                       turned = with(shape, {cols, 1});
  if (!checkScale(scale, {columns, turned, each, one, {}}))
    return std::nullopt;
  if (scale.shape == columns || scale.shape == turned)
    return BlockGrid{rows, 1, cols, 0, 1};
  return BlockGrid{rows, cols, int64_t(scale.elements) == matrices ? 1 : 0, 0, 0};
}

//===----------------------------------------------------------------------===//
// Formats
//===----------------------------------------------------------------------===//

void Decoding::add(StringRef name, std::vector<int64_t> shape, CodedTensor tensor) {
  tensor.matrices = matricesOf(shape);
  tensor.rows = shape[shape.size() - 2];
  tensor.cols = shape.back();
  tensor.scaleBytes = stored.data(*tensor.scales);
  if (tensor.zeroTensor)
    tensor.zeroBytes = stored.data(*tensor.zeroTensor);

  TensorInfo info;
  info.name = name.str();
  info.dtype = dtype;
  info.dtypeName = StringRef(nameOf(dtype)).upper();
  info.shape = shape;
  info.file = tensor.scales->file;
  info.encoding = tensor.encoding();
  info.codes = tensor.element;
  std::optional<Encoding> encoding = info.encoding;
  if (!result.add(info))
    return report("tensor " + name + " is there both plain and quantized");
  size_t index = result.coded.size();
  result.places[name] = {index, QuantizedTensors::Part::Elements};
  result.coded.push_back(tensor);
  if (!encoding)
    return;
  int64_t &inputs = shape[shape.size() - (encoding->inputsFirst ? 2 : 1)];
  inputs /= encoding->format.group;
  auto addCompanion = [&](StringRef suffix, QuantizedTensors::Part part) {
    TensorInfo companion;
    companion.name = (name + suffix).str();
    companion.dtype = Storage::F32;
    companion.dtypeName = "F32";
    companion.shape = shape;
    companion.file = info.file;
    result.places[companion.name] = {index, part};
    result.addCompanion(std::move(companion));
  };
  addCompanion(":scale", QuantizedTensors::Part::Scales);
  if (encoding->format.zeros)
    addCompanion(":zero", QuantizedTensors::Part::Zeros);
}

void Decoding::addScaled(const TensorInfo &codes) {
  bool inputsFirst = !StringRef(codes.name).ends_with(".weight");
  const TensorInfo *scale = nullptr;
  for (StringRef suffix : {"_scale", "_scale_inv", "_weight_scale"})
    if (!scale)
      scale = optional(codes.name + suffix);
  if (!scale) // says so
    scale = need(codes.name + (inputsFirst ? "_weight_scale" : "_scale"), codes,
                 "or other scale, without which its codes mean nothing");
  if (!scale)
    return;
  if (codes.shape.size() < 2)
    return report("tensor " + codes.name + " is " + codes.dtypeName + " " + shapeText(codes.shape) +
                  ", expected a matrix where there is a scale");

  CodedTensor tensor;
  tensor.element = codes.dtypeName == "I8" ? Storage::I8 : Storage::F8E4M3;
  tensor.inputsFirst = inputsFirst;
  tensor.codeBytes = stored.data(codes);
  tensor.scales = scale;
  bool blocks = config.block &&
                (config.groups.empty() || (!scale->shape.empty() && scale->shape.back() != 1));
  std::optional<BlockGrid> grid = blocks        ? blockGrid(*scale, codes.shape)
                                  : inputsFirst ? inputsFirstGrid(*scale, codes.shape)
                                                : rowGrid(*scale, codes.shape);
  if (!grid)
    return;
  tensor.grid = *grid;
  if (tensor.element == Storage::I8)
    if (const TensorInfo *zeros = optional(codes.name + "_zero_point")) {
      if (grid->blockCols == 1 || !check(*zeros, {"I8"}, {scale->shape}))
        return report("tensor " + zeros->name + " cannot be decoded, as each column has its own");
      tensor.zeros = CodedTensor::Zeros::Bytes;
      tensor.zeroTensor = zeros;
    }
  add(codes.name, codes.shape, tensor);
}

void Decoding::addPacked(const TensorInfo &codes, StringRef linear) {
  const TensorInfo *scale = need(linear + ".weight_scale", codes, "that its codes belong to");
  const TensorInfo *size = need(linear + ".weight_shape", codes, "that says how wide it is");
  const TensorInfo *zeros = optional(linear + ".weight_zero_point");
  const TensorInfo *order = optional(linear + ".weight_g_idx");
  if (!scale || !size || codes.shape.size() < 2 ||
      !check(*size, {"I64"}, {{int64_t(codes.shape.size())}}))
    return;
  std::vector<int64_t> shape;
  for (size_t d = 0; d < codes.shape.size(); ++d)
    shape.push_back(int64_t(llvm::support::endian::read64le(stored.data(*size) + 8 * d)));
  int64_t rows = shape[shape.size() - 2], cols = shape.back();
  bool valid = llvm::all_of(shape, [](int64_t dim) { return 0 < dim && dim <= INT32_MAX; });
  bool four = valid && codes.shape == with(shape, {rows, (cols + 7) / 8});
  bool eight = valid && codes.shape == with(shape, {rows, (cols + 3) / 4});
  if (codes.dtypeName != "I32" || (!four && !eight))
    return report("tensor " + codes.name + " is " + codes.dtypeName + " " + shapeText(codes.shape) +
                  ", expected I32 of 8 codes of 4 bits, or 4 of 8, for " + shapeText(shape) +
                  " as " + size->name + " says");
  CodedTensor tensor;
  tensor.codes = CodedTensor::Codes::PackedRows;
  tensor.bits = four ? 4 : 8;
  tensor.element = four ? Storage::I4 : Storage::I8;
  tensor.codeBytes = stored.data(codes);
  tensor.scales = scale;
  std::optional<BlockGrid> grid = rowGrid(*scale, shape);
  if (!grid)
    return;
  tensor.grid = *grid;
  if (order && order->elements && !checkOrder(*order, cols, grid->blockCols))
    return;
  if (!zeros && config.zeroPoints)
    return report("tensor " + codes.name + " has no " + linear +
                  ".weight_zero_point, which config.json asks for (symmetric is false)");
  if (zeros) {
    int64_t perWord = 32 / tensor.bits, groups = cols / grid->blockCols;
    bool packed = zeros->dtypeName != "I8";
    if (scale->shape.size() != shape.size())
      return report("tensor " + zeros->name + " has no group of its own, expected no zeros where " +
                    scale->name + " is " + shapeText(scale->shape));
    if (packed ? !check(*zeros, {"I32"}, {with(shape, {(rows + perWord - 1) / perWord, groups})})
               : !check(*zeros, {"I8"}, {scale->shape}))
      return;
    tensor.zeros = packed ? CodedTensor::Zeros::PackedRows : CodedTensor::Zeros::Bytes;
    tensor.zeroTensor = zeros;
  }
  add((linear + ".weight").str(), std::move(shape), tensor);
}

void Decoding::addAwq(const TensorInfo &codes, StringRef linear) {
  const TensorInfo *scale = need(linear + ".scales", codes, "that its codes belong to");
  const TensorInfo *zeros = need(linear + ".qzeros", codes, "that its codes belong to");
  if (!scale || !zeros)
    return;
  if (codes.shape.size() < 2 || codes.dtypeName != "I32")
    return report("tensor " + codes.name + " is " + codes.dtypeName + " " + shapeText(codes.shape) +
                  ", expected I32 [in, out / 8]");
  int64_t cols = codes.shape[codes.shape.size() - 2], rows = codes.shape.back() * 8;
  std::optional<int64_t> group = groupOf(codes, cols);
  if (!group)
    return;
  int64_t groups = cols / *group;
  if (!checkScale(*scale, with(codes.shape, {groups, rows})) ||
      !check(*zeros, {"I32"}, {with(codes.shape, {groups, rows / 8})}))
    return;
  CodedTensor tensor;
  tensor.codes = CodedTensor::Codes::Awq;
  tensor.bits = 4;
  tensor.codeBytes = stored.data(codes);
  tensor.scales = scale;
  tensor.zeros = CodedTensor::Zeros::Awq;
  tensor.zeroTensor = zeros;
  tensor.grid = {1, *group, groups * rows, 1, rows};
  add((linear + ".weight").str(), with(codes.shape, {rows, cols}), tensor);
}

void Decoding::addGptq(const TensorInfo &codes, StringRef linear) {
  const TensorInfo *scale = need(linear + ".scales", codes, "that its codes belong to");
  const TensorInfo *zeros = need(linear + ".qzeros", codes, "that its codes belong to");
  const TensorInfo *order = optional(linear + ".g_idx");
  if (!scale || !zeros)
    return;
  int64_t perWord = 32 / config.bits;
  if (codes.shape.size() < 2 || codes.dtypeName != "I32")
    return report("tensor " + codes.name + " is " + codes.dtypeName + " " + shapeText(codes.shape) +
                  ", expected I32 [in / " + Twine(perWord) + ", out]");
  int64_t cols = codes.shape[codes.shape.size() - 2] * perWord, rows = codes.shape.back();
  std::optional<int64_t> group = groupOf(codes, cols);
  if (!group)
    return;
  int64_t groups = cols / *group;
  if (!checkScale(*scale, with(codes.shape, {groups, rows})) ||
      !check(*zeros, {"I32"}, {with(codes.shape, {groups, (rows + perWord - 1) / perWord})}))
    return;
  if (order && order->elements && !checkOrder(*order, cols, *group))
    return;
  CodedTensor tensor;
  tensor.codes = CodedTensor::Codes::Gptq;
  tensor.bits = config.bits;
  tensor.element = config.bits == 8 ? Storage::I8 : Storage::I4;
  tensor.codeBytes = stored.data(codes);
  tensor.scales = scale;
  tensor.zeros = CodedTensor::Zeros::Gptq;
  tensor.zeroTensor = zeros;
  tensor.zeroOffset = config.zerosLessOne;
  tensor.checkZeros = config.symmetric;
  tensor.grid = {1, *group, groups * rows, 1, rows};
  add((linear + ".weight").str(), with(codes.shape, {rows, cols}), tensor);
}

llvm::Error Decoding::run() {
  using Method = QuantizationConfig::Method;
  std::vector<const TensorInfo *> plain;
  for (const TensorInfo &tensor : stored.tensors()) {
    StringRef name = tensor.name, dtype = tensor.dtypeName, linear = name;
    bool weight = name.ends_with(".weight") || name.ends_with("_proj");
    if (linear.consume_back(".weight_packed") && config.method == Method::Scaled)
      addPacked(tensor, linear);
    else if (linear.consume_back(".qweight") && config.method != Method::Scaled)
      config.method == Method::Awq ? addAwq(tensor, linear) : addGptq(tensor, linear);
    else if (weight && (dtype == "F8_E4M3" || dtype == "I8") && config.method == Method::Scaled)
      addScaled(tensor);
    else if (weight && !tensor.dtype)
      report("tensor " + name + " is " + dtype + " " + shapeText(tensor.shape) +
             ", expected BF16, F16, F32" +
             (config.method == Method::Scaled ? ", F8_E4M3 or I8" : "") + " of a checkpoint of " +
             config.name);
    else
      plain.push_back(&tensor);
  }
  for (const TensorInfo *tensor : plain)
    if (!used.contains(tensor->name) && !result.add(*tensor))
      report("tensor " + tensor->name + " is there both plain and quantized");
  if (problems.empty())
    return llvm::Error::success();
  return llvm::createStringError(
      "the quantized tensors do not fit each other or config.json, " + Twine(problems.size()) +
      (problems.size() == 1 ? " problem: " : " problems: ") + firstTen(problems, "; "));
}

//===----------------------------------------------------------------------===//
// The source
//===----------------------------------------------------------------------===//

llvm::Expected<std::unique_ptr<TensorSource>>
QuantizedTensors::open(std::unique_ptr<TensorSource> stored, const QuantizationConfig &config,
                       Storage dtype) {
  auto result = std::make_unique<QuantizedTensors>();
  result->stored = std::move(stored);
  if (llvm::Error error = Decoding(*result, config, dtype).run())
    return std::move(error);
  return std::move(result);
}

const std::byte *QuantizedTensors::data(const TensorInfo &tensor) const {
  return places.count(tensor.name) ? nullptr : stored->data(*stored->find(tensor.name));
}

Status QuantizedTensors::readElements(const TensorInfo &tensor, uint64_t begin,
                                      std::span<float> out) const {
  auto place = places.find(tensor.name);
  if (place == places.end())
    return stored->read(tensor.name, begin, out);
  const CodedTensor &from = coded[place->second.tensor];
  switch (place->second.part) {
  case Part::Elements:
    return from.read(begin, out);
  case Part::Scales:
    return from.readScales(begin, out);
  case Part::Zeros:
    return from.readZeros(begin, out);
  }
  llvm_unreachable("a part of a decoded tensor");
}
