// Reads the members of a JSON object into variables, each checked against its type and range.
#ifndef MOE_RUNTIME_SERVER_API_FIELDS_H
#define MOE_RUNTIME_SERVER_API_FIELDS_H

#include "runtime/server/api/Json.h"
#include "runtime/server/api/Problem.h"

#include <limits>
#include <span>

namespace moe::server::api {

// A member and where its value goes. `least` to `most` is the range of a number, and of a string's
// or an array's size. Members that are absent or null leave the variable as it is; unknown ones are
// nobody's concern. Pointers to JSON take what has a shape of its own.
struct Field {
  const char *name;
  std::variant<bool *, int32_t *, int64_t *, double *, std::string *, std::optional<bool> *,
               std::optional<int64_t> *, std::optional<double> *, std::optional<std::string> *,
               const JsonArray **, const Json **>
      target;
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
};

// `where` is the path of the object, empty for the body: a problem names the field by its path.
Check readFields(const Json &object, std::span<const Field> fields, const std::string &where = {});

// "tools[3]", "tools[3].function", and "function" where `where` is empty.
std::string pathOf(const std::string &where, std::string_view member);
std::string pathOf(const std::string &where, size_t index);

// One of `names`, as its index; for members that are strings of a few.
Check readName(const Json &object, const char *member, std::span<const char *const> names,
               size_t &index, const std::string &where = {});

// The array's elements as ids in [0, vocab).
Check readIds(const JsonArray &array, int64_t vocab, const std::string &where,
              std::vector<int32_t> &ids);

} // namespace moe::server::api

#endif
