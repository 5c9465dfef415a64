/* The runtime for other languages: open a plan, make a session, generate.
 *
 * Calls that can fail return MOE_OK or a code; moe_last_error() then says what happened, in one
 * sentence. Objects are freed in the reverse order of their creation: a session before its plan.
 * A plan may be used from any number of threads, a session from one at a time. Text is UTF-8; where
 * a length is given, no terminating zero is needed. */
#ifndef MOE_RUNTIME_MOE_H
#define MOE_RUNTIME_MOE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum moe_status {
  MOE_OK = 0,
  MOE_INVALID_ARGUMENT = 1,
  MOE_INVALID_PLAN = 2,
  MOE_UNAVAILABLE = 3,        /* this machine lacks the device or a feature */
  MOE_RESOURCE_EXHAUSTED = 4, /* memory, or room in the context */
  MOE_IO_ERROR = 5,
  MOE_CANCELLED = 6,
  MOE_UNIMPLEMENTED = 7,
} moe_status;

/* Of this thread's last call that failed; valid until its next. */
const char *moe_last_error(void);

/* ---- Plans ---- */

typedef struct moe_plan moe_plan;

moe_status moe_plan_open(const char *path, moe_plan **plan);
void moe_plan_free(moe_plan *plan); /* may be null */

int64_t moe_plan_vocab(const moe_plan *plan);
int64_t moe_plan_max_positions(const moe_plan *plan);
int moe_plan_has_tokenizer(const moe_plan *plan);

/* The ids of a prompt, with the BOS that the plan asks for. Writes at most `capacity` of them and
 * always says in *count how many there are: call again with more room if that is larger. */
moe_status moe_tokenize(const moe_plan *plan, const char *text, size_t length, int32_t *ids,
                        size_t capacity, size_t *count);

/* The bytes of an id, which may be a part of a character. Not terminated; valid as long as the
 * plan. Null without a tokenizer. */
const char *moe_token_bytes(const moe_plan *plan, int32_t id, size_t *length);

/* ---- Sessions ---- */

typedef struct moe_session moe_session;

/* Zero, or null for a text, is the default of each. */
typedef struct moe_session_options {
  const char *device;    /* "auto", "cuda", "cuda:1", "cpu", "ptxsim" */
  int32_t threads;       /* of a CPU; default: one for each core that this process may use */
  int32_t max_sequences; /* default 1 */
  int64_t context;       /* tokens of each sequence; default: what the plan allows, up to 4096 */
  const char *numa;      /* of a CPU: "auto", "off", "interleave", "replicate" */
} moe_session_options;

moe_status moe_session_create(const moe_plan *plan, const moe_session_options *options,
                              moe_session **session); /* options may be null */
void moe_session_free(moe_session *session);          /* may be null */

int64_t moe_session_context(const moe_session *session);

moe_status moe_sequence_add(moe_session *session, int32_t *sequence);
moe_status moe_sequence_remove(moe_session *session, int32_t sequence);
/* Tokens that the sequence has; -1 if there is no such sequence. */
int64_t moe_sequence_length(const moe_session *session, int32_t sequence);
/* Forgets the tokens from `length` on. */
moe_status moe_sequence_truncate(moe_session *session, int32_t sequence, int64_t length);

/* A sequence's part of a step. */
typedef struct moe_append {
  int32_t sequence;
  const int32_t *tokens;
  size_t count;
  int64_t rows; /* logits of that many of the last tokens are wanted */
} moe_append;

/* Receives logits, float32 [vocab], of token `token` of append `append`; valid during the call. A
 * result other than 0 ends the step with MOE_CANCELLED. */
typedef int (*moe_row_callback)(void *context, size_t append, int64_t token, const float *logits);

/* Appends tokens to several sequences at once. `callback` may be null if no rows are wanted. */
moe_status moe_run(moe_session *session, const moe_append *appends, size_t count,
                   moe_row_callback callback, void *context);

/* ---- Pictures ---- */

/* Whether the plan takes pictures. */
int moe_plan_takes_images(const moe_plan *plan);

/* A picture as its model sees it: made by a session, for its sequences. Any number of them may have
 * it, and it may be freed at once when they do. */
typedef struct moe_image moe_image;

/* Of pixels: `height` rows of `width` pixels of three bytes, red, green and blue, without gaps, the
 * top row first. `max_tiles`: the most tiles that it is cut into, for less detail and fewer tokens;
 * 0: the model's own. */
moe_status moe_image_from_pixels(moe_session *session, const uint8_t *rgb, int32_t width,
                                 int32_t height, int32_t max_tiles, moe_image **image);
/* Of a file's bytes: PPM, and what moe-media decodes where that is installed. */
moe_status moe_image_from_file(moe_session *session, const void *bytes, size_t length,
                               int32_t max_tiles, moe_image **image);
void moe_image_free(moe_image *image); /* may be null */

/* The ids that stand for the picture in a prompt; as moe_tokenize writes and counts them. */
moe_status moe_image_tokens(const moe_image *image, int32_t *ids, size_t capacity, size_t *count);

/* Where the first of these ids is, in the sequence. */
typedef struct moe_image_place {
  int64_t position;
  const moe_image *image;
} moe_image_place;

/* The pictures of what the sequence is to be appended, in ascending order: before moe_run or
 * moe_generate. They replace those that were set for there. Ids that stand for rows of a picture
 * where none is set are tokens as others are. */
moe_status moe_sequence_set_images(moe_session *session, int32_t sequence,
                                   const moe_image_place *places, size_t count);

/* ---- Generation ---- */

/* Made by moe_generate_options_default, then changed. */
typedef struct moe_generate_options {
  int64_t max_tokens;        /* -1: until the context is full */
  double temperature;        /* 0: greedy */
  int32_t top_k;             /* 0: all */
  double top_p;              /* 1: all */
  double min_p;              /* 0: all */
  double repetition_penalty; /* 1: none */
  uint64_t seed;
  int ignore_eos; /* do not stop at the plan's end tokens */
  const char *const *stop_strings;
  size_t stop_string_count;
} moe_generate_options;

moe_generate_options moe_generate_options_default(void);

typedef enum moe_finish_reason {
  MOE_FINISH_STOP_TOKEN = 0,
  MOE_FINISH_STOP_STRING = 1,
  MOE_FINISH_LENGTH = 2,
  MOE_FINISH_CANCELLED = 3,
} moe_finish_reason;

/* Receives each token and the text that is certain with it (whole characters, often none; none at
 * all without a tokenizer). The rest of the text comes last, with token -1. A result other than 0
 * ends the generation with MOE_FINISH_CANCELLED. */
typedef int (*moe_token_callback)(void *context, int32_t token, const char *text, size_t length);

/* Appends the prompt to the sequence and samples what follows. `options` null: the defaults. */
moe_status moe_generate(moe_session *session, int32_t sequence, const int32_t *prompt, size_t count,
                        const moe_generate_options *options, moe_token_callback callback,
                        void *context, moe_finish_reason *reason); /* reason may be null */

#ifdef __cplusplus
}
#endif

#endif
