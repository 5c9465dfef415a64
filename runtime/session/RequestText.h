// The text of one request: tokens in, text that is certain to be printed out.
#ifndef MOE_RUNTIME_SESSION_REQUESTTEXT_H
#define MOE_RUNTIME_SESSION_REQUESTTEXT_H

#include "runtime/text/Detokenizer.h"
#include "runtime/text/StopStrings.h"

#include <optional>

namespace moe {

struct RequestTextOptions {
  std::vector<std::string> stopStrings{}; // the text ends with the first that is found,
  bool includeStop = false;               // which is left out of it unless this is set
  int64_t minTokens = 0;        // in text of that many tokens no stop string is looked for
  bool skipSpecial = true;      // special tokens are left out of the text,
  std::vector<int32_t> shown{}; // but for these
};

// Text comes in whole characters; what may be the start of a stop string is held back. Pushing and
// finishing, in any division, give the text that the tokens have as a whole.
class RequestText {
public:
  // The tokenizer must outlive this object; null: there is no text.
  RequestText(const Tokenizer *tokenizer, RequestTextOptions options);

  // The text that is certain with this token, often empty; always after a stop string.
  std::string push(int32_t token);

  // The end of the text: the rest, in which a stop string may be found at last.
  std::string finish();

  // The stop string that was found, or null.
  const std::string *match() const { return stops.match(); }

private:
  std::string stopped(std::string text);

  std::optional<Detokenizer> detokenizer;
  StopStrings stops;
  bool includeStop;
  int64_t unchecked; // tokens in which no stop string is looked for, still to come
};

} // namespace moe

#endif
