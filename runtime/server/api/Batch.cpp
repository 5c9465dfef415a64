#include "runtime/server/api/Batch.h"

#include "runtime/server/api/Endpoints.h"
#include "runtime/server/api/JsonText.h"
#include "runtime/server/api/LocalReply.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <unordered_set>

#include <fcntl.h>
#include <unistd.h>

namespace moe::server::api {
namespace {

struct Line {
  std::string id, url, body;
};

Result<Line> readLine(const std::string &text, bool isInput) {
  MOE_ASSIGN(json, parseJson(text));
  Line line;
  std::string method = "POST";
  const Json *body = nullptr;
  const Field fields[] = {
      {"custom_id", &line.id, 1, 512}, {"method", &method}, {"url", &line.url}, {"body", &body}};
  if (const Check problem = readFields(json, fields))
    return Error{Code::InvalidArgument, problem->message};
  if (line.id.empty())
    return Error{Code::InvalidArgument, "there is no custom_id"};
  if (!isInput)
    return line;
  if (method != "POST")
    return Error{Code::InvalidArgument, "method: found '" + method + "', expected POST"};
  if (!line.url.starts_with("/v1/"))
    return Error{Code::InvalidArgument, "url: expected a path such as /v1/chat/completions"};
  if (!body || !body->object())
    return Error{Code::InvalidArgument, "there is no body"};
  line.body = jsonText(*body);
  return line;
}

Error systemError(const std::string &path) {
  return {Code::IoError, "'" + path + "': " + std::strerror(errno)};
}

// Calls `take` with each line of the file that is not empty, read.
template <typename Take> Status eachLine(const std::string &path, bool isInput, const Take &take) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return systemError(path);
  int64_t number = 0;
  for (std::string text; std::getline(file, text);) {
    ++number;
    if (text.find_first_not_of(" \t\r") == text.npos)
      continue;
    auto line = readLine(text, isInput);
    const std::string where = "'" + path + "', line " + std::to_string(number) + ": ";
    if (!line)
      return Error{line.error().code, where + line.error().message};
    if (const Status status = take(std::move(*line)); !status)
      return Error{status.error().code, where + status.error().message};
  }
  return file.bad() ? Status(systemError(path)) : ok();
}

// The answers' file, at whose end a line begins.
class Output {
public:
  static Result<Output> open(const std::string &path) {
    Output output(path, ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (output.descriptor < 0)
      return systemError(path);
    off_t end = ::lseek(output.descriptor, 0, SEEK_END);
    char last = '\n';
    while (end > 0 && ::pread(output.descriptor, &last, 1, end - 1) == 1 && last != '\n')
      --end;
    if (end < 0 || ::ftruncate(output.descriptor, end) != 0 ||
        ::lseek(output.descriptor, end, SEEK_SET) < 0)
      return systemError(path);
    return output;
  }
  Output(Output &&other) noexcept
      : path(std::move(other.path)), descriptor(std::exchange(other.descriptor, -1)) {}
  Output &operator=(Output &&) = delete;
  ~Output() {
    if (descriptor >= 0)
      ::close(descriptor);
  }

  Status write(std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = ::write(descriptor, text.data(), text.size());
      if (written < 0 && errno != EINTR)
        return systemError(path);
      text.remove_prefix(size_t(std::max<ssize_t>(written, 0)));
    }
    return ok();
  }
  Status sync() { return ::fsync(descriptor) == 0 || errno == EINVAL ? ok() : systemError(path); }

private:
  Output(std::string path, int descriptor) : path(std::move(path)), descriptor(descriptor) {}
  std::string path;
  int descriptor;
};

std::string answerLine(const Line &line, const LocalReply &reply) {
  std::string out;
  JsonWriter json(out);
  json.beginObject().member("id", randomId("batch_req_")).member("custom_id", line.id);
  if (reply.contentType == "application/json" && !reply.aborted) {
    json.key("response").beginObject().member("status_code", reply.status);
    json.member("request_id", randomId("req_")).key("body").raw(reply.body).endObject();
    json.member("error", nullptr);
  } else {
    json.member("response", nullptr).key("error").beginObject();
    json.member("code", "no_json").member("message", "the answer is a stream: leave 'stream' out");
    json.endObject();
  }
  json.endObject();
  return out + "\n";
}

} // namespace

Result<BatchResult> runBatch(Api &api, CallQueue &queue, const BatchOptions &options) {
  BatchResult result;
  std::unordered_set<std::string> answered, ids;
  MOE_TRY(eachLine(options.input, /*isInput=*/true, [&](Line line) -> Status {
    ++result.lines;
    if (!ids.insert(line.id).second)
      return Error{Code::InvalidArgument, "the custom_id '" + line.id + "' is there twice"};
    return ok();
  }));
  std::error_code missing; // there is no output yet
  if (std::filesystem::equivalent(options.input, options.output, missing))
    return Error{Code::InvalidArgument,
                 "'" + options.output + "': the output is the same file as the input"};
  MOE_ASSIGN(output, Output::open(options.output));
  MOE_TRY(eachLine(options.output, /*isInput=*/false, [&](Line line) {
    answered.insert(std::move(line.id));
    return ok();
  }));

  struct Pending {
    Line line;
    std::shared_ptr<LocalReply> reply;
  };
  std::vector<std::shared_ptr<Pending>> running, done;
  std::vector<Line> again; // that were refused because too many wait
  Status status = ok();
  const auto start = [&](Line line) {
    auto pending =
        std::make_shared<Pending>(Pending{std::move(line), std::make_shared<LocalReply>()});
    running.push_back(pending);
    http::HttpRequest request;
    request.method = "POST";
    request.path = pending->line.url;
    request.headers = {{"content-type", "application/json"}};
    request.body = pending->line.body;
    pending->reply->onDone([&done, weak = std::weak_ptr(pending)] {
      if (auto self = weak.lock())
        done.push_back(std::move(self));
    });
    api.handle(std::move(request), pending->reply);
  };
  const auto stopped = [&] { return options.interrupted && options.interrupted(); };
  // Runs calls until there is room for another request.
  const auto work = [&](size_t room) -> Status {
    while (running.size() > room && !stopped()) {
      queue.runOne(std::chrono::milliseconds(100));
      for (const auto &pending : std::exchange(done, {})) {
        std::erase(running, pending);
        if (pending->reply->status == 429) {
          again.push_back(std::move(pending->line));
          continue;
        }
        if (stopped() && pending->reply->status >= 500) // which may say no more than that
          continue;
        MOE_TRY(output.write(answerLine(pending->line, *pending->reply)));
        ++(pending->reply->status == 200 ? result.answered : result.failed);
        if (options.progress)
          options.progress(result.skipped + result.answered + result.failed, result.lines);
      }
    }
    return ok();
  };
  MOE_TRY(eachLine(options.input, /*isInput=*/true, [&](Line line) -> Status {
    if (answered.contains(line.id)) {
      ++result.skipped;
      return ok();
    }
    if (stopped())
      return ok();
    start(std::move(line));
    return work(options.parallel - 1);
  }));
  status = work(0);
  while (status && !again.empty() && !stopped()) { // one by one, so that none is refused
    start(std::move(again.back()));
    again.pop_back();
    status = work(0);
  }
  MOE_TRY(status);
  result.interrupted = stopped() && result.skipped + result.answered + result.failed < result.lines;
  for (const auto &pending : running)
    pending->reply->leave();
  MOE_TRY(output.sync());
  return result;
}

} // namespace moe::server::api
