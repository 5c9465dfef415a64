// Feeds arbitrary bytes to the endpoints as bodies: the first byte chooses the endpoint, and how
// the answer is divided into events.
#include "runtime/server/api/Json.h"
#include "runtime/server/api/TestApi.h"

using namespace moe::server::api;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static TestApi test;
  constexpr const char *kPaths[] = {
      "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens",
      "/v1/responses",        "/v1/embeddings",  "/tokenize",    "/detokenize",
      "/apply-template"};
  if (size == 0)
    return 0;
  test.generator->hidden = true;
  test.generator->seen.clear();
  test.generator->cancelled.clear();
  test.grammars->seen.clear();
  test.timers.clear();
  test.generator->random.seed(*data);
  test.generator->longest = 1 + *data / 16;
  test.generator->says = "Well. [f(a=1)]{\"name\": \"f\", \"parameters\": {}}";
  const auto reply = test.post(kPaths[*data % std::size(kPaths)],
                               std::string(reinterpret_cast<const char *>(data) + 1, size - 1));
  if (!reply->complete || (reply->status != 200 && reply->status != 400 && reply->status != 404))
    __builtin_trap();
  if (reply->contentType == "application/json" && !parseJson(reply->body))
    __builtin_trap();
  return 0;
}
