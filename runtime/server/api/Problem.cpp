#include "runtime/server/api/Problem.h"

#include "runtime/server/api/JsonText.h"
#include "runtime/text/Utf8.h"

namespace moe::server::api {
namespace {

const char *typeOf(int status, Dialect dialect) {
  const bool openAi = dialect == Dialect::OpenAi;
  switch (status) {
  case 401:
    return openAi ? "invalid_request_error" : "authentication_error";
  case 404:
    return openAi ? "invalid_request_error" : "not_found_error";
  case 408:
    return "timeout_error";
  case 413:
    return openAi ? "invalid_request_error" : "request_too_large";
  case 429:
    return "rate_limit_error";
  case 503:
    return openAi ? "service_unavailable_error" : "overloaded_error";
  default:
    return status < 500 ? "invalid_request_error" : openAi ? "server_error" : "api_error";
  }
}

} // namespace

std::string errorBody(const Problem &problem, Dialect dialect) {
  std::string out;
  JsonWriter json(out);
  json.beginObject();
  if (dialect == Dialect::Anthropic)
    json.member("type", "error");
  json.key("error").beginObject();
  json.member("type", typeOf(problem.status, dialect));
  // Messages quote what came, cut to a length, and paths have any bytes.
  json.member("message", replaceInvalidUtf8(problem.message));
  if (dialect == Dialect::OpenAi)
    for (const auto &[name, text] : {std::pair("param", &problem.param), {"code", &problem.code}}) {
      json.key(name);
      text->empty() ? json.value(nullptr) : json.value(*text);
    }
  json.endObject().endObject();
  return out;
}

http::Headers errorHeaders(const Problem &problem) {
  http::Headers headers;
  if (problem.retryAfter.count() > 0)
    headers.emplace_back("Retry-After", std::to_string(problem.retryAfter.count()));
  if (problem.status == 401)
    headers.emplace_back("WWW-Authenticate", "Bearer");
  return headers;
}

void sendProblem(http::Reply &reply, const Problem &problem, Dialect dialect) {
  reply.send(problem.status, "application/json", errorBody(problem, dialect),
             errorHeaders(problem));
}

Problem problemOf(const Refusal &refusal) {
  const auto retry = std::max(refusal.retryAfter, std::chrono::seconds(1));
  switch (refusal.error.code) {
  case Code::InvalidArgument:
    return {400, refusal.error.message, {}, {}, {}};
  case Code::Unimplemented:
    return {404, refusal.error.message, {}, {}, {}};
  case Code::ResourceExhausted:
    return {429, refusal.error.message, {}, "too_many_requests", retry};
  case Code::Unavailable:
    return {503, refusal.error.message, {}, {}, retry};
  default:
    return {500, refusal.error.message, {}, {}, {}};
  }
}

Check problemOf(Finish finish, const std::string &error) {
  const auto message = [&](const char *otherwise) { return error.empty() ? otherwise : error; };
  switch (finish) {
  case Finish::StopToken:
  case Finish::StopString:
  case Finish::Length:
  case Finish::Grammar:
    break;
  case Finish::Cancelled:
    return Problem{503, message("the server is stopping"), {}, {}, std::chrono::seconds(1)};
  case Finish::Deadline:
    return Problem{408, message("the request's time is over"), {}, "timeout", {}};
  case Finish::QueueDeadline:
    return Problem{
        503, message("the server had no time for the request"), {}, {}, std::chrono::seconds(5)};
  case Finish::Failed:
    return Problem{
        503, message("the model failed on this request"), {}, {}, std::chrono::seconds(1)};
  }
  return std::nullopt;
}

} // namespace moe::server::api
