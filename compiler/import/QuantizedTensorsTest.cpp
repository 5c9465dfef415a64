// Quantized checkpoints decode to what the libraries that packed them say, and bad ones are
// refused.
#include "compiler/import/QuantizedTensors.h"
#include "compiler/import/Json.h"
#include "compiler/import/Safetensors.h"
#include "compiler/import/TestTensors.h"

#include <map>
#include <random>

using namespace moe;
using namespace moe::test;
namespace json = llvm::json;

namespace {

QuantizationConfig parse(llvm::StringRef text) {
  json::Value value = llvm::cantFail(json::parse(text));
  auto config = QuantizationConfig::parse(*value.getAsObject(), "quantization_config");
  if (!config) {
    ADD_FAILURE() << llvm::toString(config.takeError());
    return {};
  }
  return std::move(*config);
}

std::string refusal(llvm::StringRef text) {
  json::Value value = llvm::cantFail(json::parse(text));
  return messageOf(QuantizationConfig::parse(*value.getAsObject(), "quantization_config"));
}

// A file's tensors as they can be changed and written again.
struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using Tensors = std::map<std::string, Tensor>;

// A file of testdata/: the tensors as stored, their elements, and the quantization_config.
struct Case {
  explicit Case(const std::string &name) {
    std::string path =
        std::string(MOE_SOURCE_DIR "/compiler/import/testdata/") + name + ".safetensors";
    auto file = Checkpoint::open(path);
    if (!file) {
      ADD_FAILURE() << llvm::toString(file.takeError());
      return;
    }
    for (const TensorInfo &info : file->tensors()) {
      llvm::StringRef key = info.name;
      if (key.consume_front("expected:")) {
        expected[key.str()] = readAll(*file, info.name);
        continue;
      }
      uint64_t size = info.elements * (info.dtypeName == "I64"                              ? 8
                                       : info.dtypeName == "F32" || info.dtypeName == "I32" ? 4
                                       : !info.dtype                                        ? 1
                                                                                            : 2);
      auto *data = reinterpret_cast<const char *>(file->data(info));
      tensors[info.name] = {info.dtypeName, info.shape, std::string(data, size)};
    }
    std::ifstream in(path, std::ios::binary);
    uint64_t length = 0;
    in.read(reinterpret_cast<char *>(&length), 8);
    std::string header(length, 0);
    in.read(header.data(), int64_t(length));
    json::Value value = llvm::cantFail(json::parse(header));
    config =
        parse(*value.getAsObject()->getObject("__metadata__")->getString("quantization_config"));
  }

  // Of the tensors as they now are.
  llvm::Expected<std::unique_ptr<TensorSource>> open() {
    json::Object header;
    std::string data;
    for (const auto &[name, tensor] : tensors) {
      int64_t begin = int64_t(data.size());
      data += tensor.bytes;
      header[name] = json::Object{{"dtype", tensor.dtype},
                                  {"shape", json::Array(tensor.shape)},
                                  {"data_offsets", json::Array{begin, int64_t(data.size())}}};
    }
    std::string text;
    llvm::raw_string_ostream(text) << json::Value(std::move(header));
    auto file = Checkpoint::open(folder.write("model.safetensors", safetensors(text, data)));
    if (!file)
      return file.takeError();
    return QuantizedTensors::open(std::make_unique<Checkpoint>(std::move(*file)), config,
                                  Storage::BF16);
  }
  // What opening and reading everything says.
  std::string problem() {
    auto source = open();
    if (!source)
      return llvm::toString(source.takeError());
    for (const TensorInfo &tensor : (*source)->tensors()) {
      std::vector<float> values(tensor.elements);
      if (tensor.dtype)
        if (Status status = (*source)->read(tensor.name, 0, values); !status)
          return status.error().message;
    }
    return "success";
  }

  template <typename T> void set(const std::string &name, size_t index, T value) {
    std::string &bytes = tensors.at(name).bytes;
    ASSERT_LE((index + 1) * sizeof(T), bytes.size());
    std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
  }

  TempFolder folder;
  Tensors tensors;
  std::map<std::string, std::vector<float>> expected;
  QuantizationConfig config;
};

struct Decoded {
  const char *name;
  const char *format; // "": none that a plan can have
};

class QuantizedFiles : public testing::TestWithParam<Decoded> {};

} // namespace

TEST_P(QuantizedFiles, DecodeToTheSameBits) {
  Case files(GetParam().name);
  auto opened = files.open();
  ASSERT_TRUE(bool(opened)) << llvm::toString(opened.takeError());
  TensorSource &source = **opened;
  ASSERT_EQ(source.tensors().size(), files.expected.size()); // nothing is left over
  std::mt19937 random(1);
  for (const auto &[name, expected] : files.expected) {
    const TensorInfo *tensor = source.find(name);
    ASSERT_TRUE(tensor) << name;
    ASSERT_EQ(tensor->elements, expected.size());
    EXPECT_EQ(readAll(source, name), expected) << name;

    // Any range, over the ends of rows and groups.
    for (int round = 0; round < 50; ++round) {
      size_t begin = random() % expected.size(), count = 1 + random() % (expected.size() - begin);
      std::vector<float> part(count);
      ASSERT_EQ(messageOf(source.read(name, begin, part)), "success");
      ASSERT_TRUE(std::equal(part.begin(), part.end(), expected.begin() + int64_t(begin)))
          << name << " " << begin << " " << count;
    }

    // The format, and elements that are whole multiples of their group's scale.
    ASSERT_EQ(tensor->encoding ? nameOf(tensor->encoding->format) : "", GetParam().format);
    ASSERT_TRUE(tensor->codes);
    if (!tensor->encoding)
      continue;
    auto [format, inputsFirst] = *tensor->encoding;
    EXPECT_EQ(*tensor->codes, format.element);
    std::vector<int64_t> shape = tensor->shape;
    shape[shape.size() - (inputsFirst ? 2 : 1)] /= format.group;
    const TensorInfo *scale = source.find(name + ":scale"), *zero = source.find(name + ":zero");
    ASSERT_TRUE(scale);
    EXPECT_EQ(scale->shape, shape);
    EXPECT_EQ(zero != nullptr, format.zeros);
    std::vector<float> scales = readAll(source, name + ":scale");
    std::vector<float> zeros(scales.size(), float(format.zero()));
    if (zero)
      zeros = readAll(source, name + ":zero");
    int64_t rows = tensor->shape[tensor->shape.size() - 2], cols = tensor->shape.back();
    for (int64_t i = 0; i < int64_t(expected.size()); ++i) {
      int64_t matrix = i / (rows * cols), row = i / cols % rows, col = i % cols;
      int64_t at = inputsFirst ? (matrix * (rows / format.group) + row / format.group) * cols + col
                               : (matrix * rows + row) * (cols / format.group) + col / format.group;
      float code = std::round(expected[i] / scales[at] + zeros[at]);
      if (format.element == Storage::F8E4M3) // up to a multiple of 2^-9
        code = std::round(expected[i] / scales[at] * 512) / 512;
      ASSERT_EQ((code - zeros[at]) * scales[at], expected[i]) << name << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, QuantizedFiles,
    testing::Values(
        Decoded{"fp8-channel", "fp8-g64-bf16"}, Decoded{"fp8-channel-f32", "fp8-g64-f32"},
        Decoded{"fp8-tensor", "fp8-g64-bf16"}, Decoded{"fp8-block", "fp8-g16-bf16"},
        Decoded{"fp8-inverse", "fp8-g16-f32"}, Decoded{"int8-channel", "int8-g64-bf16"},
        Decoded{"int8-asymmetric", ""}, Decoded{"w4a16", "int4-g16-bf16"},
        Decoded{"w4a16-f16", "int4-g16-f16"}, Decoded{"w4a16-asymmetric", "int4-g16-bf16-z"},
        Decoded{"w4a16-channel", "int4-g64-bf16"}, Decoded{"w8a16", "int8-g16-bf16"},
        Decoded{"w8a16-asymmetric", ""}, Decoded{"awq", "int4-g16-f16-z"},
        Decoded{"awq-rows", "int4-g64-f16-z"}, Decoded{"gptq-symmetric", "int4-g16-f16"},
        Decoded{"gptq-asymmetric", "int4-g32-f16-z"}, Decoded{"gptq-v2", "int4-g16-f16-z"},
        Decoded{"gptq-8-bits", "int8-g32-f16"}),
    [](const auto &info) {
      std::string name = info.param.name;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

// Fused experts have tensors of different inputs, so that their groups differ.
TEST(QuantizedTensors, DecodesFusedExperts) {
  for (const char *name : {"fbgemm", "modelopt"}) {
    Case files(name);
    auto source = files.open();
    ASSERT_TRUE(bool(source)) << llvm::toString(source.takeError());
    for (const auto &[tensor, expected] : files.expected) {
      EXPECT_EQ(readAll(**source, tensor), expected) << name << " " << tensor;
      const TensorInfo *info = (*source)->find(tensor);
      ASSERT_TRUE(info && info->encoding);
      EXPECT_TRUE(info->encoding->inputsFirst);
      EXPECT_EQ(info->encoding->format.group, info->shape[1]);
      std::vector<int64_t> shape = {info->shape[0], 1, info->shape[2]};
      EXPECT_EQ((*source)->find(tensor + ":scale")->shape, shape);
      std::vector<float> scales = readAll(**source, tensor + ":scale");
      for (size_t i = 0; i < expected.size(); ++i) {
        size_t columns = size_t(shape[2]), matrix = i / (columns * size_t(info->shape[1]));
        float scale = scales[matrix * columns + i % columns];
        ASSERT_EQ(std::round(expected[i] / scale * 512) / 512 * scale, expected[i]);
      }
    }
  }
}

TEST(QuantizedTensors, LeavesPlainTensorsAlone) {
  Case files("w4a16");
  files.tensors["y.weight"] = {"BF16", {1, 2}, std::string("\x80\x3f\x00\xc0", 4)};
  auto source = files.open();
  ASSERT_TRUE(bool(source)) << llvm::toString(source.takeError());
  const TensorInfo *plain = (*source)->find("y.weight");
  ASSERT_TRUE(plain);
  EXPECT_FALSE(plain->encoding);
  EXPECT_EQ(readAll(**source, "y.weight"), (std::vector<float>{1, -2}));
  EXPECT_TRUE((*source)->data(*plain));
  EXPECT_FALSE((*source)->data(*(*source)->find("x.weight")));
}

TEST(QuantizedTensors, RefusesBadScales) {
  struct {
    uint16_t bits;
    const char *shown;
  } bad[] = {{0, "0"},        {0x8000, "-0"},       {0xbf80, "-1"},
             {0x7fc0, "NaN"}, {0x7f80, "infinite"}, {0xff80, "-infinite"}};
  for (auto [bits, shown] : bad) {
    Case files("w4a16"); // [16, 4] scales
    files.set("x.weight_scale", 6, bits);
    EXPECT_TRUE(contains(files.problem(),
                         "the scale at [1, 2] of tensor x.weight_scale is " + std::string(shown)));
    EXPECT_TRUE(contains(files.problem(), "expected a positive number"));
  }
  Case fused("fbgemm"); // a scale for each column
  fused.set("experts.down_proj_scale", 17, -1.0f);
  EXPECT_TRUE(
      contains(fused.problem(), "the scale at [1, 1, 0] of tensor experts.down_proj_scale"));
  Case awq("awq");
  awq.set("x.scales", 0, uint16_t(0x7e00));
  EXPECT_TRUE(contains(awq.problem(), "the scale at [0, 0] of tensor x.scales is NaN"));
}

TEST(QuantizedTensors, RefusesMissingTensors) {
  struct {
    const char *name, *gone, *problem;
  } bad[] = {
      {"fp8-channel", "x.weight_scale",
       "tensor x.weight [16, 64] of F8_E4M3 has no x.weight_scale"},
      {"fp8-inverse", "x.weight_scale_inv", "of F8_E4M3 has no x.weight_scale"},
      {"int8-channel", "x.weight_scale", "tensor x.weight [16, 64] of I8 has no x.weight_scale"},
      {"fbgemm", "experts.down_proj_scale",
       "tensor experts.down_proj [2, 12, 16] of F8_E4M3 has no"},
      {"w4a16", "x.weight_scale", "tensor x.weight_packed [16, 8] of I32 has no x.weight_scale"},
      {"w4a16", "x.weight_shape", "tensor x.weight_packed [16, 8] of I32 has no x.weight_shape"},
      {"w4a16-asymmetric", "x.weight_zero_point", "has no x.weight_zero_point, which config.json"},
      {"awq", "x.scales", "tensor x.qweight [64, 4] of I32 has no x.scales"},
      {"awq", "x.qzeros", "tensor x.qweight [64, 4] of I32 has no x.qzeros"},
      {"gptq-v2", "x.qzeros", "tensor x.qweight [8, 32] of I32 has no x.qzeros"},
  };
  for (auto [name, gone, problem] : bad) {
    Case files(name);
    ASSERT_EQ(files.tensors.erase(gone), 1u) << name << " " << gone;
    EXPECT_TRUE(contains(files.problem(), problem));
    EXPECT_TRUE(contains(files.problem(), "the quantized tensors do not fit each other"));
  }
}

TEST(QuantizedTensors, RefusesShapesThatDoNotFit) {
  struct {
    const char *name, *tensor;
    std::vector<int64_t> shape;
    const char *problem;
  } bad[] = {
      {"fp8-channel",
       "x.weight_scale",
       {8, 2},
       "x.weight_scale is BF16 [8, 2], expected F32 or BF16 or F16 [16, 1]"},
      {"fp8-block",
       "x.weight_scale",
       {4, 2},
       "x.weight_scale is BF16 [4, 2], expected F32 or BF16 or F16 [2, 4]"},
      {"w4a16",
       "x.weight_scale",
       {32, 2},
       "x.weight_scale is BF16 [32, 2], expected F32 or BF16 or F16 [16, 4]"},
      {"w4a16",
       "x.weight_packed",
       {32, 4},
       "x.weight_packed is I32 [32, 4], expected I32 of 8 codes"},
      {"w4a16-asymmetric",
       "x.weight_zero_point",
       {4, 2},
       "x.weight_zero_point is I32 [4, 2], expected I32 [2, 4]"},
      {"awq", "x.scales", {32, 4}, "x.scales is F16 [32, 4], expected F32 or BF16 or F16 [4, 32]"},
      {"awq", "x.qzeros", {2, 8}, "x.qzeros is I32 [2, 8], expected I32 [4, 4]"},
      {"gptq-v2",
       "x.scales",
       {8, 16},
       "x.scales is F16 [8, 16], expected F32 or BF16 or F16 [4, 32]"},
      {"gptq-v2", "x.g_idx", {8, 8}, "x.g_idx is I32 [8, 8], expected I32 [64]"},
      {"fbgemm",
       "experts.gate_up_proj_scale",
       {2, 2, 12},
       "[2, 2, 12], expected F32 or BF16 or F16 [2, 1, 24]"},
  };
  for (const auto &[name, tensor, shape, problem] : bad) {
    Case files(name);
    files.tensors.at(tensor).shape = shape;
    EXPECT_TRUE(contains(files.problem(), problem));
  }
  // Scales of groups of another size than config.json's, and of a type that is none.
  Case groups("w4a16");
  groups.config.groups = {32};
  EXPECT_TRUE(contains(groups.problem(), "has scales of groups of 16, expected groups of 32"));
  for (const char *name : {"awq", "gptq-v2"}) {
    Case uneven(name);
    uneven.config.groups = {48};
    EXPECT_TRUE(contains(uneven.problem(), "tensor x.qweight has 64 inputs, expected a multiple of "
                                           "the group_size 48"));
  }
  Case mx("fp8-channel");
  mx.tensors.at("x.weight_scale") = {"F8_E8M0", {16, 1}, std::string(16, 1)};
  EXPECT_TRUE(contains(mx.problem(), "x.weight_scale is F8_E8M0 [16, 1], expected F32 or BF16"));
  // A type of codes that is not that of the method, and a tensor that is there twice.
  Case nf4("w4a16");
  nf4.tensors["y.weight"] = {"U8", {4, 1}, "abcd"};
  EXPECT_TRUE(contains(nf4.problem(), "tensor y.weight is U8 [4, 1], expected BF16, F16, F32, "
                                      "F8_E4M3 or I8 of a checkpoint of compressed-tensors"));
  Case twice("w4a16");
  twice.tensors["x.weight"] = {"BF16", {1, 1}, "ab"};
  EXPECT_TRUE(contains(twice.problem(), "tensor x.weight is there both plain and quantized"));
}

TEST(QuantizedTensors, RefusesOrdersAndZerosThatDiffer) {
  Case order("gptq-symmetric");
  order.set("x.g_idx", 5, int32_t(2));
  EXPECT_TRUE(
      contains(order.problem(), "tensor x.g_idx puts input 5 into group 2, expected group 0"));
  EXPECT_TRUE(contains(order.problem(), "desc_act"));
  Case zeros("gptq-symmetric");
  zeros.set("x.qzeros", 1, uint32_t(0x77777767)); // rows 8 to 15 of group 0
  EXPECT_TRUE(contains(zeros.problem(),
                       "the zero of row 9 and group 0 of tensor x.qzeros is 7, expected 8"));
  Case packed("w4a16");
  std::string indices(64 * 4, 0);
  packed.tensors["x.weight_g_idx"] = {"I32", {64}, indices};
  EXPECT_TRUE(contains(packed.problem(), "tensor x.weight_g_idx puts input 16 into group 0"));
}

TEST(QuantizationConfig, RefusesByName) {
  auto compressed = [](const char *format, const char *weights) {
    return refusal(std::string(R"({"quant_method":"compressed-tensors","format":")") + format +
                   R"(","config_groups":{"group_0":{"weights":)" + weights + "}}}");
  };
  const char *int4 = R"({"num_bits":4,"type":"int","strategy":"group","group_size":128})";
  EXPECT_EQ(compressed("pack-quantized", int4), "success");
  EXPECT_TRUE(contains(compressed("nvfp4-pack-quantized", int4), "nvfp4-pack-quantized"));
  EXPECT_TRUE(contains(compressed("mxfp4-pack-quantized", int4), "mxfp4-pack-quantized"));
  EXPECT_TRUE(contains(compressed("pack-quantized", R"({"num_bits":4,"type":"float"})"), "NVFP4"));
  EXPECT_TRUE(contains(compressed("pack-quantized", R"({"num_bits":3,"type":"int"})"),
                       "int weights of 3 bits"));
  EXPECT_TRUE(
      contains(compressed("pack-quantized", R"({"num_bits":4,"type":"int","strategy":"group"})"),
               "group_size absent in group_0, expected a number of columns"));
  struct {
    const char *config, *problem;
  } bad[] = {
      {R"({"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4"})",
       "bitsandbytes nf4"},
      {R"({"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"fp4"})",
       "bitsandbytes fp4"},
      {R"({"quant_method":"bitsandbytes","load_in_8bit":true})", "bitsandbytes int8"},
      {R"({"quant_method":"mxfp4"})", "MXFP4"},
      {R"({"quant_method":"hqq"})", "HQQ"},
      {R"({"quant_method":"aqlm"})", "AQLM"},
      {R"({"quant_method":"modelopt","quant_algo":"NVFP4"})", "ModelOpt NVFP4"},
      {R"({"producer":{"name":"modelopt"},"quantization":{"quant_algo":"NVFP4"}})",
       "ModelOpt NVFP4"},
      {R"({"quant_method":"somewhat"})", "as somewhat"},
      {R"({"quant_method":"awq","bits":4,"group_size":128,"version":"gemv"})",
       "AWQ in the version gemv"},
      {R"({"quant_method":"awq","bits":3,"group_size":128})", "awq of 3 bits"},
      {R"({"quant_method":"gptq","bits":2,"group_size":128})", "gptq of 2 bits"},
      {R"({"quant_method":"gptq","bits":4,"group_size":128,"checkpoint_format":"marlin"})",
       "GPTQ in the format marlin"},
      {R"({"quant_method":"fp8","fmt":"e5m2"})", "fp8 e5m2"},
  };
  for (auto [config, problem] : bad) {
    EXPECT_TRUE(contains(refusal(config), problem));
    EXPECT_TRUE(
        contains(refusal(config), "which is not supported; supported are compressed-tensors"));
  }
  EXPECT_TRUE(contains(refusal("{}"), "names no quant_method; supported are"));
  EXPECT_TRUE(contains(refusal(R"({"quant_method":"gptq","bits":4,"group_size":0})"),
                       "group_size 0, expected a number of columns, or -1"));
  EXPECT_TRUE(contains(refusal(R"({"quant_method":"gptq","group_size":128})"),
                       "bits absent, expected a number"));
  EXPECT_TRUE(contains(refusal(R"({"quant_method":"fp8","weight_block_size":[128]})"),
                       "weight_block_size [128], expected [rows, columns]"));
}
