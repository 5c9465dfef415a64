// JSON from files that nobody vouches for.
#ifndef MOE_COMPILER_IMPORT_JSON_H
#define MOE_COMPILER_IMPORT_JSON_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

namespace moe {

// llvm::json::parse, but refuses what that accepts or dies of: an object with the same key twice,
// of which it keeps one, and nesting that overflows its stack. `what` starts the messages: the
// file.
llvm::Expected<llvm::json::Value> parseJson(llvm::StringRef text, const llvm::Twine &what);
// The same of a whole file.
llvm::Expected<llvm::json::Value> readJson(llvm::StringRef path);

} // namespace moe

#endif
