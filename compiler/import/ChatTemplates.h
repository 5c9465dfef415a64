// Recognises the chat templates of checkpoints, which are programs that no plan runs.
#ifndef MOE_COMPILER_IMPORT_CHATTEMPLATES_H
#define MOE_COMPILER_IMPORT_CHATTEMPLATES_H

#include "llvm/ADT/StringRef.h"

#include <string>

namespace moe {

// The SHA-256, in hexadecimal, of a template without its comments and white space.
std::string chatTemplateHash(llvm::StringRef text);

// How a template lays out tools (ChatFormat::tools). Null if it is none of those that were found to
// render as runtime/text/ChatTemplate.h does; check-chat-template.py finds that.
const char *toolsOfChatTemplate(llvm::StringRef text);

} // namespace moe

#endif
