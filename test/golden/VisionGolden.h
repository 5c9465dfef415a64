// What transformers computes with the tiny model that sees: test/golden/vision/golden.json.
#ifndef MOE_TEST_GOLDEN_VISIONGOLDEN_H
#define MOE_TEST_GOLDEN_VISIONGOLDEN_H

#include "runtime/vision/TestPictures.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include <gtest/gtest.h>

namespace moe::test {

struct Prompt {
  std::string name;
  std::vector<int32_t> ids;
  std::vector<std::pair<int32_t, int32_t>> pictures; // heights and widths
  std::vector<std::string> checksums;                // of tiles
  std::vector<double> firstRow, lastRow;             // [0:4]
  double rowsSum = 0, rowsSquares = 0;
  std::vector<double> lastLogits; // [0:4]
  std::vector<int32_t> argmax;    // [ids]
  double logitsSum = 0, logitsSquares = 0;
};

struct VisionGolden {
  std::string config, preprocessor;
  std::vector<Prompt> prompts;

  static VisionGolden read();
};

template <typename T> std::vector<T> listOf(const llvm::json::Object &object, llvm::StringRef key) {
  std::vector<T> result;
  if (const llvm::json::Array *list = object.getArray(key))
    for (const llvm::json::Value &value : *list)
      result.push_back(T(*value.getAsNumber()));
  return result;
}

inline VisionGolden VisionGolden::read() {
  namespace json = llvm::json;
  auto file = llvm::MemoryBuffer::getFile(MOE_SOURCE_DIR "/test/golden/vision/golden.json");
  EXPECT_TRUE(bool(file));
  json::Value value = llvm::cantFail(json::parse((*file)->getBuffer()));
  const json::Object &top = *value.getAsObject();
  auto textOf = [&](llvm::StringRef key) {
    std::string text;
    llvm::raw_string_ostream(text) << *top.get(key);
    return text;
  };
  VisionGolden golden{textOf("config"), textOf("preprocessor"), {}};
  for (const json::Value &entry : *top.getArray("prompts")) {
    const json::Object &fields = *entry.getAsObject();
    auto number = [&](llvm::StringRef key) { return fields.getNumber(key).value_or(0); };
    Prompt prompt{fields.getString("name")->str(),
                  listOf<int32_t>(fields, "ids"),
                  {},
                  {},
                  listOf<double>(fields, "row 0"),
                  listOf<double>(fields, "row -1"),
                  number("rows sum"),
                  number("rows sum of squares"),
                  listOf<double>(fields, "last logits[0:4]"),
                  listOf<int32_t>(fields, "all argmax"),
                  number("logits sum"),
                  number("logits sum of squares")};
    for (const json::Value &part : *fields.getArray("prompt"))
      if (const json::Array *size = part.getAsArray())
        prompt.pictures.emplace_back(int32_t(*(*size)[0].getAsInteger()),
                                     int32_t(*(*size)[1].getAsInteger()));
    if (const json::Array *tiles = fields.getArray("tiles"))
      for (const json::Value &tile : *tiles)
        prompt.checksums.push_back(tile.getAsObject()->getString("crc32")->str());
    golden.prompts.push_back(std::move(prompt));
  }
  return golden;
}

} // namespace moe::test

#endif
