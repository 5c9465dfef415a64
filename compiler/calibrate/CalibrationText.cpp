// Tokenizes with the tokenizer that the plan will have.
#include "compiler/calibrate/CalibrationText.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/MemoryBuffer.h"

using namespace moe;

llvm::Expected<std::vector<std::vector<int32_t>>>
moe::readCalibrationText(llvm::StringRef path, const TokenizerModel &model, int64_t tokens,
                         int64_t length) {
  auto file = llvm::MemoryBuffer::getFile(path);
  if (!file)
    return llvm::createStringError("cannot read the calibration text '" + path +
                                   "': " + file.getError().message());
  auto tables = buildTokenizerTables(model.tokens, model.merges);
  if (!tables)
    return llvm::createStringError(tables.error().message);
  auto tokenizer = Tokenizer::create(*tables, model.settings());
  if (!tokenizer)
    return llvm::createStringError(tokenizer.error().message);
  std::vector<int32_t> ids;
  tokenizer->encode((*file)->getBuffer(), ids);
  if (ids.empty())
    return llvm::createStringError("the calibration text '" + path +
                                   "' is empty: give a text of the kind that the model will see");

  const bool leads = model.addBos && model.bos >= 0;
  const int64_t own = std::max<int64_t>(1, length - leads);
  const int64_t available = llvm::divideCeil(int64_t(ids.size()), own);
  const int64_t wanted = std::min(available, std::max<int64_t>(1, tokens / length));
  std::vector<std::vector<int32_t>> windows;
  for (int64_t w = 0; w < wanted; ++w) {
    const int64_t begin = w * available / wanted * own;
    std::vector<int32_t> &window = windows.emplace_back();
    if (leads)
      window.push_back(model.bos);
    window.insert(window.end(), ids.begin() + begin,
                  ids.begin() + std::min<int64_t>(begin + own, int64_t(ids.size())));
  }
  return windows;
}
