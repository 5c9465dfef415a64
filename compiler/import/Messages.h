// Lists in messages, which may be long.
#ifndef MOE_COMPILER_IMPORT_MESSAGES_H
#define MOE_COMPILER_IMPORT_MESSAGES_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

#include <string>

namespace moe {

// The first ten, joined by `separator`, and how many more there are.
std::string firstTen(llvm::ArrayRef<std::string> items, llvm::StringRef separator = ", ");

} // namespace moe

#endif
