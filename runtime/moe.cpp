// The C interface: types and errors translated, nothing else.
#include "runtime/moe.h"

#include "runtime/session/Generate.h"
#include "runtime/session/PlanText.h"
#include "runtime/session/PromptImages.h"
#include "runtime/vision/MediaProcess.h"

#include <new>

using namespace moe;

struct moe_plan {
  Plan plan;
  std::optional<Tokenizer> tokenizer;
};

struct moe_session {
  const moe_plan *plan;
  Session session;
};

struct moe_image {
  std::shared_ptr<const EncodedImage> rows;
  std::vector<int32_t> tokens;
};

namespace {

thread_local std::string lastError;

moe_status fail(const Error &error) {
  lastError = error.message;
  return moe_status(int(error.code) + 1);
}

moe_status fail(const char *message) { return fail(Error{Code::InvalidArgument, message}); }

moe_status statusOf(const Status &status) { return status ? MOE_OK : fail(status.error()); }

static_assert(int(Code::InvalidArgument) + 1 == MOE_INVALID_ARGUMENT &&
              int(Code::InvalidPlan) + 1 == MOE_INVALID_PLAN &&
              int(Code::Unavailable) + 1 == MOE_UNAVAILABLE &&
              int(Code::ResourceExhausted) + 1 == MOE_RESOURCE_EXHAUSTED &&
              int(Code::IoError) + 1 == MOE_IO_ERROR && int(Code::Cancelled) + 1 == MOE_CANCELLED &&
              int(Code::Unimplemented) + 1 == MOE_UNIMPLEMENTED);
static_assert(int(FinishReason::StopToken) == MOE_FINISH_STOP_TOKEN &&
              int(FinishReason::StopString) == MOE_FINISH_STOP_STRING &&
              int(FinishReason::Length) == MOE_FINISH_LENGTH &&
              int(FinishReason::Cancelled) == MOE_FINISH_CANCELLED);

// Memory that runs out is the one exception that reaches this far.
template <typename F> moe_status guarded(F body) {
  try {
    return body();
  } catch (const std::bad_alloc &) {
    return fail(Error{Code::ResourceExhausted, "out of memory"});
  }
}

} // namespace

const char *moe_last_error(void) { return lastError.c_str(); }

moe_status moe_plan_open(const char *path, moe_plan **out) {
  if (!path || !out)
    return fail("moe_plan_open needs a path and a place for the plan");
  return guarded([&] {
    auto plan = Plan::open(path);
    if (!plan)
      return fail(plan.error());
    auto opened = std::make_unique<moe_plan>(moe_plan{std::move(*plan), std::nullopt});
    auto tokenizer = planTokenizer(opened->plan);
    if (!tokenizer)
      return fail(tokenizer.error());
    opened->tokenizer = std::move(*tokenizer);
    *out = opened.release();
    return MOE_OK;
  });
}

void moe_plan_free(moe_plan *plan) { delete plan; }

int64_t moe_plan_vocab(const moe_plan *plan) { return plan->plan.index().model()->vocab_size(); }

int64_t moe_plan_max_positions(const moe_plan *plan) {
  return int64_t(plan->plan.index().model()->max_positions());
}

int moe_plan_has_tokenizer(const moe_plan *plan) { return plan->tokenizer.has_value(); }

moe_status moe_tokenize(const moe_plan *plan, const char *text, size_t length, int32_t *ids,
                        size_t capacity, size_t *count) {
  if (!plan || (!text && length) || (!ids && capacity) || !count)
    return fail("moe_tokenize needs a plan, a text and places for the ids and their count");
  if (!plan->tokenizer)
    return fail("this plan has no tokenizer");
  return guarded([&] {
    std::vector<int32_t> all = encodePrompt(*plan->tokenizer, {text, length});
    std::copy_n(all.begin(), std::min(all.size(), capacity), ids);
    *count = all.size();
    return MOE_OK;
  });
}

const char *moe_token_bytes(const moe_plan *plan, int32_t id, size_t *length) {
  std::string_view bytes = plan->tokenizer ? plan->tokenizer->bytes(id) : std::string_view();
  if (length)
    *length = bytes.size();
  return plan->tokenizer ? bytes.data() : nullptr;
}

moe_status moe_session_create(const moe_plan *plan, const moe_session_options *options,
                              moe_session **out) {
  if (!plan || !out)
    return fail("moe_session_create needs a plan and a place for the session");
  return guarded([&] {
    SessionOptions with;
    if (options) {
      with.device = options->device ? options->device : "auto";
      with.threads = options->threads;
      with.maxSequences = options->max_sequences ? options->max_sequences : 1;
      with.context = options->context;
      const auto numa = cpu::numaNamed(options->numa ? options->numa : "auto");
      if (!numa)
        return fail(
            Error{Code::InvalidArgument, "numa is auto, off, interleave or replicate, not '" +
                                             std::string(options->numa) + "'"});
      with.numa = *numa;
    }
    auto session = Session::create(plan->plan, with);
    if (!session)
      return fail(session.error());
    *out = new moe_session{plan, std::move(*session)};
    return MOE_OK;
  });
}

void moe_session_free(moe_session *session) { delete session; }

int64_t moe_session_context(const moe_session *session) { return session->session.context(); }

moe_status moe_sequence_add(moe_session *session, int32_t *sequence) {
  if (!session || !sequence)
    return fail("moe_sequence_add needs a session and a place for the sequence");
  auto added = session->session.addSequence();
  if (!added)
    return fail(added.error());
  *sequence = *added;
  return MOE_OK;
}

moe_status moe_sequence_remove(moe_session *session, int32_t sequence) {
  if (!session || !session->session.has(sequence))
    return fail("there is no such sequence");
  session->session.removeSequence(sequence);
  return MOE_OK;
}

int64_t moe_sequence_length(const moe_session *session, int32_t sequence) {
  return session && session->session.has(sequence) ? session->session.length(sequence) : -1;
}

moe_status moe_sequence_truncate(moe_session *session, int32_t sequence, int64_t length) {
  if (!session || !session->session.has(sequence))
    return fail("there is no such sequence");
  return statusOf(session->session.truncate(sequence, length));
}

moe_status moe_run(moe_session *session, const moe_append *appends, size_t count,
                   moe_row_callback callback, void *context) {
  if (!session || (!appends && count))
    return fail("moe_run needs a session and what to append");
  return guarded([&] {
    std::vector<Append> parts;
    for (size_t i = 0; i < count; ++i) {
      if (!callback && appends[i].rows)
        return fail("rows are wanted, and there is no callback to give them to");
      parts.push_back(
          {appends[i].sequence, {appends[i].tokens, appends[i].count}, appends[i].rows});
    }
    return statusOf(session->session.run(
        parts, [&](size_t part, int64_t token, std::span<const float> logits) -> Status {
          if (callback(context, part, token, logits.data()))
            return Error{Code::Cancelled, "the callback ended the step"};
          return ok();
        }));
  });
}

int moe_plan_takes_images(const moe_plan *plan) { return plan->plan.index().vision() != nullptr; }

static Result<moe_image *> imageOf(moe_session &session, const PictureView &picture,
                                   int32_t maxTiles) {
  MOE_ASSIGN(format, planVision(session.plan->plan));
  MOE_ASSIGN(tiles, cutTiles(picture, format, maxTiles));
  MOE_ASSIGN(rows, session.session.encode(std::as_bytes(std::span(tiles.pixels)), tiles.count()));
  return new moe_image{std::move(rows), imageTokens(tiles.grid, format)};
}

static moe_status give(Result<moe_image *> made, moe_image **image) {
  if (!made)
    return fail(made.error());
  *image = *made;
  return MOE_OK;
}

moe_status moe_image_from_pixels(moe_session *session, const uint8_t *rgb, int32_t width,
                                 int32_t height, int32_t max_tiles, moe_image **image) {
  if (!session || !rgb || !image)
    return fail("moe_image_from_pixels needs a session, pixels and a place for the image");
  return guarded([&] {
    if (Status status = checkPictureSize(width, height); !status)
      return fail(status.error());
    const PictureView picture{width, height, {rgb, size_t(width) * size_t(height) * 3}};
    return give(imageOf(*session, picture, max_tiles), image);
  });
}

moe_status moe_image_from_file(moe_session *session, const void *bytes, size_t length,
                               int32_t max_tiles, moe_image **image) {
  if (!session || (!bytes && length) || !image)
    return fail("moe_image_from_file needs a session, a file's bytes and a place for the image");
  return guarded([&] {
    if (Status takes = session->session.checkPictures(); !takes)
      return fail(takes.error());
    auto picture = readPicture({static_cast<const std::byte *>(bytes), length});
    if (!picture)
      return fail(picture.error());
    return give(imageOf(*session, *picture, max_tiles), image);
  });
}

void moe_image_free(moe_image *image) { delete image; }

moe_status moe_image_tokens(const moe_image *image, int32_t *ids, size_t capacity, size_t *count) {
  if (!image || (!ids && capacity) || !count)
    return fail("moe_image_tokens needs an image and places for the ids and their count");
  std::copy_n(image->tokens.begin(), std::min(image->tokens.size(), capacity), ids);
  *count = image->tokens.size();
  return MOE_OK;
}

moe_status moe_sequence_set_images(moe_session *session, int32_t sequence,
                                   const moe_image_place *places, size_t count) {
  if (!session || (!places && count))
    return fail("moe_sequence_set_images needs a session and where the images are");
  return guarded([&] {
    std::vector<ImageSpan> spans;
    for (size_t i = 0; i < count; ++i) {
      if (!places[i].image)
        return fail("moe_sequence_set_images needs an image at each place");
      spans.push_back({places[i].position, places[i].image->rows});
    }
    return statusOf(session->session.setImages(sequence, spans));
  });
}

moe_generate_options moe_generate_options_default(void) {
  const SamplerOptions sampling;
  return {-1,
          sampling.temperature,
          sampling.topK,
          sampling.topP,
          sampling.minP,
          sampling.repetitionPenalty,
          sampling.seed,
          0,
          nullptr,
          0};
}

moe_status moe_generate(moe_session *session, int32_t sequence, const int32_t *prompt, size_t count,
                        const moe_generate_options *asked, moe_token_callback callback,
                        void *context, moe_finish_reason *reason) {
  if (!session || (!prompt && count))
    return fail("moe_generate needs a session and a prompt");
  if (!session->session.has(sequence))
    return fail("there is no such sequence");
  return guarded([&] {
    const moe_generate_options from = asked ? *asked : moe_generate_options_default();
    const moe_plan &plan = *session->plan;
    GenerateOptions options;
    options.sampling = {.repetitionPenalty = from.repetition_penalty,
                        .temperature = from.temperature,
                        .topK = from.top_k,
                        .topP = from.top_p,
                        .minP = from.min_p,
                        .seed = from.seed};
    options.maxTokens = from.max_tokens;
    if (!from.ignore_eos)
      options.stopTokens = stopTokensOf(plan.plan);
    for (size_t i = 0; i < from.stop_string_count; ++i)
      options.stopStrings.emplace_back(from.stop_strings[i]);
    if (!options.stopStrings.empty() && !plan.tokenizer)
      return fail("stop strings need text, and this plan has no tokenizer");
    bool stopped = false;
    auto result =
        generate(session->session, sequence, {prompt, count}, options,
                 plan.tokenizer ? &*plan.tokenizer : nullptr, [&](const Piece &piece) -> Status {
                   stopped = callback &&
                             callback(context, piece.token, piece.text.data(), piece.text.size());
                   if (stopped)
                     return Error{Code::Cancelled, "the callback ended the generation"};
                   return ok();
                 });
    if (!result && !stopped)
      return fail(result.error());
    if (reason)
      *reason = stopped ? MOE_FINISH_CANCELLED : moe_finish_reason(result->reason);
    return MOE_OK;
  });
}
