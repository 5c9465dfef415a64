// Fields of a JSON object that says what a model is, in any order: the first error is kept, so that
// the rules of a reader are a list.
#ifndef MOE_COMPILER_IMPORT_CONFIGFIELDS_H
#define MOE_COMPILER_IMPORT_CONFIGFIELDS_H

#include "llvm/Support/Error.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/JSON.h"

#include <cmath>
#include <optional>
#include <string>

namespace moe {

class ConfigFields {
public:
  // `file` starts the messages.
  explicit ConfigFields(llvm::StringRef file) : file(file) {}

  llvm::Error takeError() {
    return error.empty() ? llvm::Error::success() : llvm::createStringError(file + ": " + error);
  }

protected:
  void fail(const llvm::Twine &message) {
    if (error.empty())
      error = message.str();
  }
  void failType(llvm::StringRef key, const llvm::json::Value &value, const llvm::Twine &expected) {
    fail(key + " is " + shown(value) + ", expected " + expected);
  }

  // A value for a message, cut short if it is long.
  static std::string shown(const llvm::json::Value &value) {
    std::string text = llvm::formatv("{0}", value).str();
    return text.size() <= 60 ? text : text.substr(0, 57) + "...";
  }

  // The field; null if it is missing or null, as most fields allow.
  const llvm::json::Value *find(llvm::StringRef key) const {
    const llvm::json::Value *value = fields->get(key);
    return value && value->kind() != llvm::json::Value::Null ? value : nullptr;
  }
  int64_t integer(llvm::StringRef key, const llvm::json::Value &value, int64_t low, int64_t high) {
    // A whole number may be written as 8192.0, a truth value not as 1.
    if (std::optional<int64_t> number = value.getAsInteger())
      if (low <= *number && *number <= high)
        return *number;
    failType(key, value, "an integer from " + llvm::Twine(low) + " to " + llvm::Twine(high));
    return low;
  }
  int64_t integer(llvm::StringRef key, int64_t missing, int64_t low, int64_t high) {
    const llvm::json::Value *value = fields->get(key);
    return value ? integer(key, *value, low, high) : missing;
  }
  double positive(llvm::StringRef key, const llvm::json::Value &value) {
    if (std::optional<double> number = value.getAsNumber())
      if (*number > 0 && float(*number) > 0 && std::isfinite(float(*number)))
        return *number;
    failType(key, value, "a positive number");
    return 1;
  }
  double positive(llvm::StringRef key, double missing) {
    const llvm::json::Value *value = fields->get(key);
    return value ? positive(key, *value) : missing;
  }
  bool boolean(llvm::StringRef key, bool missing) {
    const llvm::json::Value *value = fields->get(key);
    if (!value)
      return missing;
    if (std::optional<bool> truth = value->getAsBoolean())
      return *truth;
    failType(key, *value, "true or false");
    return missing;
  }
  const llvm::json::Array *array(llvm::StringRef key, const llvm::Twine &of) {
    const llvm::json::Value *value = find(key);
    if (value && !value->getAsArray())
      failType(key, *value, "a list of " + of);
    return value ? value->getAsArray() : nullptr;
  }

  std::string file, error;
  const llvm::json::Object *fields = nullptr; // that are read
};

} // namespace moe

#endif
