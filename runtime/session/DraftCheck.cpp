#include "runtime/session/DraftCheck.h"

namespace moe {

void DraftCheck::start(Sampler &with, std::span<const int32_t> guesses) {
  sampler = &with;
  drafts = guesses;
  tokens.clear();
  open = true;
}

Status DraftCheck::row(std::span<const float> logits) {
  if (!open)
    return ok();
  open = false; // after an error too
  MOE_ASSIGN(token, sampler->sample(logits));
  sampler->observe(token);
  open = tokens.size() < drafts.size() && drafts[tokens.size()] == token;
  tokens.push_back(token);
  return ok();
}

} // namespace moe
