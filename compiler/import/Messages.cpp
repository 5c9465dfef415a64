// Cuts lists short.
#include "compiler/import/Messages.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/Twine.h"

std::string moe::firstTen(llvm::ArrayRef<std::string> items, llvm::StringRef separator) {
  std::string text = llvm::join(items.take_front(10), separator);
  if (items.size() > 10)
    text += (separator + "and " + llvm::Twine(items.size() - 10) + " more").str();
  return text;
}
