#include "test/runtime/CApiUser.h"

#include "runtime/moe.h"

#include <string.h>

struct Answer {
  char *text;
  size_t used, capacity;
};

static int collect(void *context, int32_t token, const char *text, size_t length) {
  struct Answer *answer = context;
  (void)token;
  if (length >= answer->capacity - answer->used)
    return 1;
  memcpy(answer->text + answer->used, text, length);
  answer->used += length;
  answer->text[answer->used] = 0;
  return 0;
}

const char *completeInC(const char *path, const char *prompt, int tokens, const char *stop,
                        char *answer, size_t capacity) {
  moe_plan *plan = NULL;
  moe_session *session = NULL;
  moe_session_options with = {0};
  moe_generate_options options = moe_generate_options_default();
  struct Answer out = {answer, 0, capacity};
  int32_t ids[256], sequence;
  size_t count;
  int ended;
  answer[0] = 0;
  options.max_tokens = tokens;
  options.stop_strings = &stop;
  options.stop_string_count = stop != NULL;
  with.threads = 1;
  with.context = 256;
  ended = moe_plan_open(path, &plan) == MOE_OK &&
          moe_tokenize(plan, prompt, strlen(prompt), ids, 256, &count) == MOE_OK &&
          moe_session_create(plan, &with, &session) == MOE_OK &&
          moe_sequence_add(session, &sequence) == MOE_OK &&
          moe_generate(session, sequence, ids, count, &options, collect, &out, NULL) == MOE_OK;
  moe_session_free(session);
  moe_plan_free(plan);
  return ended ? NULL : moe_last_error();
}
