// One answer to a request while it is written: what its next token may be, the text so far, and
// whether it has ended. Knows no session.
#ifndef MOE_RUNTIME_SERVER_CHOICE_H
#define MOE_RUNTIME_SERVER_CHOICE_H

#include "runtime/server/Request.h"
#include "runtime/session/RequestText.h"

namespace moe::server {

// What all choices of an engine share.
struct ChoiceContext {
  const Tokenizer *tokenizer = nullptr; // null: no text
  int64_t vocab = 0;
  int64_t context = 0; // tokens of a prompt and its answer
  std::shared_ptr<Sampler::Workspace> workspace;
};

class Choice {
public:
  // The request must outlive the choice. Error: InvalidArgument of its sampling options.
  static Result<Choice> create(const Request &request, int32_t index, const ChoiceContext &context);

  // The prompt's and those chosen.
  const std::vector<int32_t> &tokens() const { return ids; }
  int64_t generated() const { return int64_t(ids.size() - request->prompt.size()); }

  // Comes before a token is chosen: brings what may be chosen to the sampler. It may end the
  // choice, where nothing is left to be chosen.
  void prepare();
  // Whether the sampler may choose without this choice seeing the logits.
  bool needsLogits() const { return request->logprobs.has_value(); }
  Sampler &sampler() { return *sampling; }
  // The next token, from its logits.
  Result<TokenEvent> choose(std::span<const float> logits);

  // The answer goes on with this token, which may end it.
  void append(TokenEvent token);
  // It ends, for a reason that lies outside. `error`: for the client.
  void end(Finish finish, std::string error = {});
  std::optional<Finish> finish() const { return finished; }

  // What came since the last call.
  Event takeEvent();

private:
  Choice(const Request &request, int32_t index, const ChoiceContext &context, Sampler sampler);

  const Request *request;
  int32_t index;
  int64_t vocab, longest; // tokens that it may have in all
  std::vector<int32_t> ids;
  std::optional<Sampler> sampling;
  RequestText text;
  std::unique_ptr<GrammarMatcher> grammar;
  std::vector<uint32_t> mask; // of the grammar; the sampler reads it
  std::optional<Finish> finished;
  Event event;
};

} // namespace moe::server

#endif
