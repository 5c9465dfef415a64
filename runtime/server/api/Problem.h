// Why a request is not answered, and how the APIs say so.
#ifndef MOE_RUNTIME_SERVER_API_PROBLEM_H
#define MOE_RUNTIME_SERVER_API_PROBLEM_H

#include "runtime/server/Generator.h"
#include "runtime/server/http/Server.h"

#include <optional>
#include <string>

namespace moe::server::api {

struct Problem {
  int status = 400;
  std::string message;
  std::string param; // the field that is wrong, as a path: "messages[2].role"; empty: none
  std::string code;  // for programs: "model_not_found"; empty: none
  std::chrono::seconds retryAfter{0}; // 0: coming again does not help, or nobody knows when

  static Problem invalid(std::string param, std::string message) {
    return {400, std::move(message), std::move(param), {}, {}};
  }
};
// Nothing if all is well.
using Check = std::optional<Problem>;

// Whose form errors take.
enum class Dialect { OpenAi, Anthropic };

// {"error": {"message", "type", "param", "code"}}, or Anthropic's {"type": "error", "error": ...}.
std::string errorBody(const Problem &problem, Dialect dialect);
http::Headers errorHeaders(const Problem &problem);
void sendProblem(http::Reply &reply, const Problem &problem, Dialect dialect);

Problem problemOf(const Refusal &refusal);
// Of a choice that ended without an answer; nothing if `finish` is an answer's.
Check problemOf(Finish finish, const std::string &error);

} // namespace moe::server::api

// Returns what EXPR found wrong from the enclosing function, if anything.
#define MOE_CHECK(expr)                                                                            \
  do {                                                                                             \
    if (auto moeProblem = (expr))                                                                  \
      return *std::move(moeProblem);                                                               \
  } while (false)

#endif
