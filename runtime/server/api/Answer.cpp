#include "runtime/server/api/Answer.h"

#include <algorithm>

namespace moe::server::api {
namespace {

constexpr std::chrono::milliseconds kPing{15000};

class Answer : public std::enable_shared_from_this<Answer> {
public:
  Answer(Task task, std::shared_ptr<http::Reply> reply)
      : task(std::move(task)), reply(std::move(reply)) {}

  void begin(const After &after);
  void onEvent(size_t request, Event event);

private:
  struct Choice {
    Update gathered; // not of a stream
    std::optional<ToolCallScanner> scanner;
    bool begun = false, ended = false;
  };

  void apply(Choice &choice, Update update);
  void endChoice(Choice &choice);
  void fail(const Problem &problem);
  void complete();
  void cancel();
  void ping(const After &after);
  void startStream();

  Task task;
  std::shared_ptr<http::Reply> reply; // null once all is said
  std::vector<RequestId> ids;         // of the requests that were submitted
  std::vector<Choice> choices;
  size_t open = 0; // choices that have not ended
  Totals totals;
  bool started = false,
       quiet = true; // a stream: is begun, and nothing was sent since the last ping
};

// Where the events of one of an answer's requests go.
class Sink : public EventSink {
public:
  Sink(std::shared_ptr<Answer> answer, size_t request)
      : answer(std::move(answer)), request(request) {}
  void onEvent(Event event) override { answer->onEvent(request, std::move(event)); }

private:
  std::shared_ptr<Answer> answer;
  size_t request;
};

void Answer::begin(const After &after) {
  const auto perRequest = size_t(task.requests.front().choices);
  choices.resize(task.requests.size() * perRequest);
  open = choices.size();
  if (!task.functions.empty())
    for (Choice &choice : choices)
      choice.scanner.emplace(task.functions, task.several);
  for (const Request &request : task.requests)
    totals.prompt += int64_t(request.prompt.size());
  // A reply that keeps the answer alive, which keeps the reply, would stay for ever.
  reply->onGone([weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->cancel();
      self->complete();
    }
  });
  for (size_t i = 0; i < task.requests.size(); ++i) {
    auto submitted = task.model->generator->submit(std::move(task.requests[i]),
                                                   std::make_shared<Sink>(shared_from_this(), i));
    if (const auto *refusal = std::get_if<Refusal>(&submitted))
      return fail(problemOf(*refusal));
    ids.push_back(std::get<RequestId>(submitted));
    if (!reply) // events that came from inside of submit were the whole answer
      return;
  }
  if (task.stream && after)
    ping(after);
}

void Answer::onEvent(size_t request, Event event) {
  const size_t index = request * (choices.size() / task.requests.size()) + size_t(event.choice);
  if (!reply || index >= choices.size() || choices[index].ended)
    return;
  Choice &choice = choices[index];
  if (event.finish)
    if (const Check problem = problemOf(*event.finish, event.error))
      return fail(*problem);
  totals.completion += int64_t(event.tokens.size());
  totals.cached += std::max<int64_t>(event.cachedTokens, 0);

  Update update;
  update.choice = int32_t(index);
  update.first = !choice.begun;
  choice.begun = true;
  update.tokens = std::move(event.tokens);
  update.prompt = std::move(event.prompt);
  update.embedding = std::move(event.embedding);
  update.finish = event.finish;
  update.stopString = std::move(event.stopString);
  if (event.finish == Finish::StopToken && !update.tokens.empty()) {
    update.stopToken = update.tokens.back().token;
    update.tokens.pop_back();
  }
  if (choice.scanner) {
    choice.scanner->push(event.text, update.parts);
    if (!task.several && choices.size() == 1 && !update.finish && choice.scanner->calls() > 0) {
      cancel();
      update.finish = Finish::StopToken;
    }
    if (update.finish)
      choice.scanner->finish(update.parts);
    update.calls = choice.scanner->calls() > 0;
  } else if (!event.text.empty()) {
    update.parts.push_back({ToolCallEvent::Kind::Content, std::move(event.text), -1, {}});
  }
  apply(choice, std::move(update));
}

void Answer::apply(Choice &choice, Update update) {
  const bool ends = update.finish.has_value();
  if (task.stream) {
    std::string out;
    if (!started) {
      startStream();
      task.form->begin(out, totals);
    }
    task.form->update(out, update, totals);
    if (!out.empty())
      reply->write(out);
    quiet = quiet && out.empty();
  } else {
    Update &all = choice.gathered;
    all.choice = update.choice;
    all.first = true;
    for (ToolCallEvent &part : update.parts)
      if (part.kind == ToolCallEvent::Kind::Content && !all.parts.empty() &&
          all.parts.back().kind == ToolCallEvent::Kind::Content)
        all.parts.back().text += part.text;
      else
        all.parts.push_back(std::move(part));
    std::move(update.tokens.begin(), update.tokens.end(), std::back_inserter(all.tokens));
    if (!update.prompt.empty())
      all.prompt = std::move(update.prompt);
    if (!update.embedding.empty())
      all.embedding = std::move(update.embedding);
    all.finish = update.finish;
    all.calls = update.calls;
    all.stopString = std::move(update.stopString);
    all.stopToken = update.stopToken;
  }
  if (!ends)
    return;
  choice.ended = true;
  if (--open > 0)
    return;
  std::string out;
  if (task.stream) {
    task.form->end(out, totals);
    reply->write(out);
    reply->finish();
  } else {
    std::vector<Update> all;
    for (Choice &each : choices)
      all.push_back(std::move(each.gathered));
    const size_t perRequest = choices.size() / task.requests.size();
    for (size_t i = 0; i < all.size(); ++i) // the prompt's tokens come with the first choice
      if (i % perRequest > 0)
        all[i].prompt = all[i - i % perRequest].prompt;
    task.form->whole(out, all, totals);
    reply->send(200, "application/json", std::move(out));
  }
  complete();
}

void Answer::startStream() {
  started = true;
  reply->start(200, "text/event-stream",
               {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}});
}

void Answer::fail(const Problem &problem) {
  cancel();
  if (started) {
    std::string out;
    task.form->fail(out, problem);
    reply->write(out);
    reply->finish();
  } else {
    sendProblem(*reply, problem, task.form->dialect());
  }
  complete();
}

void Answer::cancel() {
  if (task.model)
    for (const RequestId id : ids)
      task.model->generator->cancel(id);
}

// The generator may hold this for a while. It must not hold the model, which holds the generator.
void Answer::complete() {
  reply = nullptr;
  task.form = nullptr;
  task.model = nullptr;
  choices.clear();
}

void Answer::ping(const After &after) {
  after(kPing, [weak = weak_from_this(), after] {
    const auto self = weak.lock();
    if (!self || !self->reply)
      return;
    if (self->quiet) {
      // Headers before the first token: they say that the request waits, and keep proxies patient.
      std::string out;
      if (!self->started) {
        self->startStream();
        self->task.form->begin(out, self->totals);
      }
      self->task.form->ping(out);
      self->reply->write(out);
    }
    self->quiet = true;
    self->ping(after);
  });
}

} // namespace

void Form::fail(std::string &out, const Problem &problem) {
  out += "data: " + errorBody(problem, Dialect::OpenAi) + "\n\n";
}

void answer(Task task, std::shared_ptr<http::Reply> reply, const After &after) {
  std::make_shared<Answer>(std::move(task), std::move(reply))->begin(after);
}

} // namespace moe::server::api
