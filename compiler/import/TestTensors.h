// Tensors for the importer's tests, in memory and in files.
#ifndef MOE_COMPILER_IMPORT_TESTTENSORS_H
#define MOE_COMPILER_IMPORT_TESTTENSORS_H

#include "runtime/weights/TensorSource.h"

#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/Path.h"

#include "gtest/gtest.h"
#include <cstring>
#include <fstream>

namespace moe::test {

// A new folder, removed at the end.
class TempFolder {
public:
  TempFolder() { EXPECT_FALSE(llvm::sys::fs::createUniqueDirectory("moe-import", path)); }
  ~TempFolder() { (void)llvm::sys::fs::remove_directories(path); }
  TempFolder(const TempFolder &) = delete;

  std::string str() const { return path.str().str(); }
  std::string operator/(llvm::StringRef name) const { return str() + "/" + name.str(); }
  std::string write(llvm::StringRef name, llvm::StringRef bytes) const {
    std::ofstream(*this / name, std::ios::binary).write(bytes.data(), bytes.size());
    return *this / name;
  }

private:
  llvm::SmallString<128> path;
};

// The message of a failure, or "success".
template <typename T> std::string messageOf(llvm::Expected<T> result) {
  return result ? "success" : llvm::toString(result.takeError());
}
inline std::string messageOf(llvm::Error error) {
  return error ? llvm::toString(std::move(error)) : "success";
}
inline std::string messageOf(const Status &status) {
  return status ? "success" : status.error().message;
}

inline ::testing::AssertionResult contains(const std::string &text, llvm::StringRef part) {
  if (llvm::StringRef(text).contains(part))
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << text << "\" lacks \"" << part.str() << "\"";
}

struct TestTensor {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::vector<float> values;

  // As stored: values of other types than these three are zeros of two bytes.
  std::string bytes() const {
    std::string result;
    for (float value : values) {
      uint16_t half = dtype == "BF16" ? bf16Of(value) : dtype == "F16" ? f16Of(value) : 0;
      if (dtype == "F32")
        result.append(reinterpret_cast<const char *>(&value), 4);
      else
        result.append(reinterpret_cast<const char *>(&half), 2);
    }
    return result;
  }
};

// The bytes of a file with this header.
inline std::string safetensors(llvm::StringRef header, llvm::StringRef data) {
  uint64_t length = header.size();
  return std::string(reinterpret_cast<const char *>(&length), 8) + header.str() + data.str();
}

inline std::string safetensors(llvm::ArrayRef<TestTensor> tensors) {
  llvm::json::Object header;
  std::string data;
  for (const TestTensor &tensor : tensors) {
    int64_t begin = data.size();
    data += tensor.bytes();
    header[tensor.name] =
        llvm::json::Object{{"dtype", tensor.dtype},
                           {"shape", llvm::json::Array(tensor.shape)},
                           {"data_offsets", llvm::json::Array{begin, int64_t(data.size())}}};
  }
  std::string text;
  llvm::raw_string_ostream(text) << llvm::json::Value(std::move(header));
  return safetensors(text, data);
}

class MemoryTensors final : public TensorSource {
public:
  explicit MemoryTensors(std::vector<TestTensor> given) {
    for (TestTensor &tensor : given) {
      TensorInfo info;
      info.name = tensor.name;
      info.dtypeName = tensor.dtype;
      info.dtype = llvm::StringSwitch<std::optional<Storage>>(tensor.dtype)
                       .Case("F32", Storage::F32)
                       .Case("F16", Storage::F16)
                       .Case("BF16", Storage::BF16)
                       .Default(std::nullopt);
      info.shape = tensor.shape;
      EXPECT_TRUE(add(std::move(info)));
      values.push_back(std::move(tensor.values));
    }
  }

private:
  Status readElements(const TensorInfo &tensor, uint64_t begin,
                      std::span<float> out) const override {
    const std::vector<float> &all = values[size_t(&tensor - infos.data())];
    std::copy_n(all.begin() + begin, out.size(), out.begin());
    return ok();
  }

  std::vector<std::vector<float>> values;
};

// All elements.
inline std::vector<float> readAll(const TensorSource &source, llvm::StringRef name) {
  const TensorInfo *tensor = source.find(name);
  std::vector<float> values(tensor ? tensor->elements : 0);
  EXPECT_EQ(messageOf(source.read(name, 0, values)), "success");
  return values;
}

} // namespace moe::test

#endif
