// Error and Result: how the runtime reports failure, without exceptions.
#ifndef MOE_RUNTIME_STATUS_H
#define MOE_RUNTIME_STATUS_H

#include <cassert>
#include <string>
#include <utility>
#include <variant>

namespace moe {

enum class Code {
  InvalidArgument,   // the caller's request makes no sense
  InvalidPlan,       // the plan file is damaged, truncated, or of another version
  Unavailable,       // this machine lacks the device or feature
  ResourceExhausted, // out of memory, pages, or room in the context
  IoError,           // the operating system refused a read or write
  Cancelled,         // the user interrupted
  Unimplemented,
};

// What went wrong, in one sentence that says what was found, what was expected and what to do.
struct Error {
  Code code;
  std::string message;
};

struct Done {};

template <typename T> class [[nodiscard]] Result {
public:
  Result(T value) : state(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state(std::in_place_index<1>, std::move(error)) {}

  explicit operator bool() const { return state.index() == 0; }
  T &operator*() {
    assert(*this);
    return *std::get_if<0>(&state);
  }
  const T &operator*() const {
    assert(*this);
    return *std::get_if<0>(&state);
  }
  T *operator->() { return &**this; }
  const T *operator->() const { return &**this; }
  const Error &error() const {
    assert(!*this);
    return *std::get_if<1>(&state);
  }

private:
  std::variant<T, Error> state;
};

using Status = Result<Done>;
inline Status ok() { return Done{}; }

} // namespace moe

#define MOE_CONCAT_(a, b) a##b
#define MOE_CONCAT(a, b) MOE_CONCAT_(a, b)

// Returns the error of EXPR from the enclosing function, if there is one.
#define MOE_TRY(expr)                                                                              \
  do {                                                                                             \
    if (auto &&moeStatus = (expr); !moeStatus)                                                     \
      return moeStatus.error();                                                                    \
  } while (false)

// Declares NAME with the value of EXPR, or returns its error.
#define MOE_ASSIGN(name, expr) MOE_ASSIGN_(name, expr, MOE_CONCAT(moeResult, __LINE__))
#define MOE_ASSIGN_(name, expr, result)                                                            \
  auto result = (expr);                                                                            \
  if (!result)                                                                                     \
    return result.error();                                                                         \
  auto &name = *result

#endif
