// Cuts a text into the windows of tokens that a model is calibrated on.
#ifndef MOE_COMPILER_CALIBRATE_CALIBRATIONTEXT_H
#define MOE_COMPILER_CALIBRATE_CALIBRATIONTEXT_H

#include "compiler/import/TokenizerFile.h"

namespace moe {

// The text of the file as windows of `length` tokens, the last one shorter, each of which starts
// with the token that a prompt starts with. Where that is more than `tokens` in all, windows that
// are spread evenly over the text. Errors: the file cannot be read, or is empty.
llvm::Expected<std::vector<std::vector<int32_t>>> readCalibrationText(llvm::StringRef path,
                                                                      const TokenizerModel &model,
                                                                      int64_t tokens,
                                                                      int64_t length);

} // namespace moe

#endif
