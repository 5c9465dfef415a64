#include "runtime/server/api/Sampling.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <random>

namespace moe::server::api {
namespace {

uint64_t randomSeed() {
  thread_local std::mt19937_64 random(uint64_t(std::random_device{}()) << 32 |
                                      std::random_device{}());
  return random();
}

// {"100": -5}: an id to what its logit is changed by.
Check readBias(const Json &bias, int64_t vocab, std::vector<LogitBias> &out) {
  const JsonObject *members = bias.object();
  if (!members)
    return Problem::invalid("logit_bias", std::string("logit_bias: found ") + bias.kind() +
                                              ", expected an object of ids and numbers");
  if (members->size() > kMaxLogitBias)
    return Problem::invalid("logit_bias", "logit_bias: found " + std::to_string(members->size()) +
                                              " tokens, expected at most " +
                                              std::to_string(kMaxLogitBias));
  for (const auto &[name, value] : *members) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
    if (error != std::errc() || end != name.data() + name.size() || id < 0 || id >= vocab ||
        std::to_string(id) != name)
      return Problem::invalid("logit_bias", "logit_bias: found '" + name.substr(0, 32) +
                                                "', expected the id of a token, from 0 to " +
                                                std::to_string(vocab - 1));
    double by = 0;
    const Field field{name.c_str(), &by, -100, 100};
    MOE_CHECK(readFields(bias, {&field, 1}, "logit_bias"));
    out.push_back({id, by});
  }
  return std::nullopt;
}

Check refuse(const Json &body, std::span<const std::array<const char *, 2>> fields) {
  for (const auto &[name, why] : fields)
    if (body.find(name))
      return Problem::invalid(name, std::string(name) + " is not supported: " + why);
  return std::nullopt;
}

// Puts what a field asks for in its place; two that ask are a problem.
Check constrain(AnswerOptions &options, const std::string &field, GrammarSource source) {
  if (options.grammar)
    return Problem::invalid(field, field + ": the answer is constrained by " +
                                       options.grammarField + " already");
  options.grammar = std::move(source);
  options.grammarField = field;
  return std::nullopt;
}

Check constrainText(AnswerOptions &options, const std::string &field, const Json &text,
                    GrammarSource::Kind kind) {
  if (!text.string())
    return Problem::invalid(field, field + ": found " + text.kind() + ", expected a string");
  return constrain(options, field, {kind, *text.string(), {}});
}

// A schema: an object or a boolean, or one of them as text.
Check constrainSchema(AnswerOptions &options, const std::string &field, const Json &schema,
                      bool strict) {
  const bool shape = schema.object() || schema.string() || schema.boolean();
  if (!shape)
    return Problem::invalid(field, field + ": found " + schema.kind() + ", expected a schema");
  const std::string text = schema.string() ? *schema.string() : jsonText(schema);
  return constrain(options, field, {GrammarSource::Kind::JsonSchema, text, {}, strict});
}

Check constrainChoice(AnswerOptions &options, const std::string &field, const Json &choice) {
  GrammarSource source{GrammarSource::Kind::Choice, {}, {}};
  const JsonArray *array = choice.array();
  if (!array || array->empty())
    return Problem::invalid(field, field + ": expected an array of strings, at least one");
  for (size_t i = 0; i < array->size(); ++i) {
    if (!(*array)[i].string())
      return Problem::invalid(pathOf(field, i),
                              field + ": found " + (*array)[i].kind() + ", expected a string");
    source.choices.push_back(*(*array)[i].string());
  }
  return constrain(options, field, std::move(source));
}

// vLLM's `structured_outputs`, and the names that it had before.
Check readStructured(const Json &body, AnswerOptions &options) {
  const auto read = [&](const Json &object, const std::string &where,
                        const std::string &start) -> Check {
    const auto path = [&](const char *name) { return pathOf(where, start + name); };
    const auto find = [&](const char *name) { return object.find(start + name); };
    if (const Json *json = find("json"))
      MOE_CHECK(constrainSchema(options, path("json"), *json, /*strict=*/false));
    if (const Json *regex = find("regex"))
      MOE_CHECK(constrainText(options, path("regex"), *regex, GrammarSource::Kind::Regex));
    if (const Json *choice = find("choice"))
      MOE_CHECK(constrainChoice(options, path("choice"), *choice));
    if (const Json *grammar = find("grammar"))
      MOE_CHECK(constrainText(options, path("grammar"), *grammar, GrammarSource::Kind::Ebnf));
    bool anyObject = false;
    const std::string name = start + "json_object";
    const Field field{name.c_str(), &anyObject};
    MOE_CHECK(readFields(object, {&field, 1}, where));
    if (anyObject)
      MOE_CHECK(constrain(options, path("json_object"), {GrammarSource::Kind::JsonObject, {}, {}}));
    if (find("structural_tag"))
      return Problem::invalid(path("structural_tag"), "structural_tag is not supported");
    return std::nullopt;
  };
  MOE_CHECK(read(body, "", "guided_"));
  if (const Json *structured = body.find("structured_outputs")) {
    if (!structured->object())
      return Problem::invalid("structured_outputs", std::string("structured_outputs: found ") +
                                                        structured->kind() +
                                                        ", expected an object");
    MOE_CHECK(read(*structured, "structured_outputs", ""));
  }
  return std::nullopt;
}

} // namespace

SamplerOptions defaultSampling(const ServedModel &model) {
  SamplerOptions sampling = model.sampling;
  sampling.seed = randomSeed();
  return sampling;
}

Check readStop(const Json &body, const char *member, std::vector<std::string> &stop) {
  const Json *json = body.find(member);
  if (!json)
    return std::nullopt;
  const std::string name = member;
  const std::string wanted = ", expected a string or at most " + std::to_string(kMaxStopStrings) +
                             " of them, none longer than 1024 bytes";
  const JsonArray one = json->array() ? JsonArray() : JsonArray{*json};
  const JsonArray *array = json->array() ? json->array() : &one;
  if (array->size() > size_t(kMaxStopStrings))
    return Problem::invalid(name, name + ": found " + std::to_string(array->size()) + wanted);
  for (size_t i = 0; i < array->size(); ++i) {
    const std::string *text = (*array)[i].string();
    if (!text || text->size() > 1024)
      return Problem::invalid(json->array() ? pathOf(name, i) : name,
                              name + ": found " + (text ? "a longer one" : (*array)[i].kind()) +
                                  wanted);
    if (!text->empty()) // which some clients send for none
      stop.push_back(*text);
  }
  return std::nullopt;
}

Check readFormat(const Json &format, const std::string &where, const char *inner,
                 AnswerOptions &options) {
  constexpr const char *kTypes[] = {"text", "json_object", "json_schema"};
  size_t type = 0;
  if (!format.object())
    return Problem::invalid(where, where + ": found " + format.kind() + ", expected an object");
  if (!format.find("type"))
    return Problem::invalid(pathOf(where, "type"), where + " has no type");
  MOE_CHECK(readName(format, "type", kTypes, type, where));
  if (type == 0)
    return std::nullopt;
  if (type == 1)
    return constrain(options, where, {GrammarSource::Kind::JsonObject, {}, {}});
  const Json *schema = &format;
  std::string path = where;
  if (inner) {
    path = pathOf(where, inner);
    schema = format.find(inner);
    if (!schema || !schema->object())
      return Problem::invalid(path, path + ": expected an object with the schema");
  }
  bool strict = false;
  const Json *text = nullptr;
  const Field fields[] = {{"strict", &strict}, {"schema", &text}};
  MOE_CHECK(readFields(*schema, fields, path));
  if (!text)
    return constrain(options, where, {GrammarSource::Kind::JsonObject, {}, {}});
  return constrainSchema(options, pathOf(path, "schema"), *text, strict);
}

Check readSampling(const Json &body, const ServedModel &model, Request &request,
                   AnswerOptions &options) {
  constexpr std::array<const char *, 2> kRefused[] = {
      {"allowed_token_ids", "use logit_bias or structured_outputs"},
      {"bad_words", "use logit_bias"},
      {"logits_processors", "no code of a client runs here"},
  };
  MOE_CHECK(refuse(body, kRefused));

  request.sampling = defaultSampling(model);
  SamplerOptions &sampling = request.sampling;
  const Json *bias = nullptr, *streamOptions = nullptr, *format = nullptr;
  const JsonArray *stopTokens = nullptr;
  std::optional<int64_t> seed, bestOf, promptLogprobs;
  bool beams = false;
  int64_t topK = sampling.topK;
  const auto context = double(model.generator->context());
  const Field fields[] = {
      {"temperature", &sampling.temperature, 0, 2},
      {"top_p", &sampling.topP, 0, 1},
      {"top_k", &topK, -1, INT32_MAX},
      {"min_p", &sampling.minP, 0, 0.999999},
      {"repetition_penalty", &sampling.repetitionPenalty, 0.01, 100},
      {"frequency_penalty", &sampling.frequencyPenalty, -2, 2},
      {"presence_penalty", &sampling.presencePenalty, -2, 2},
      {"seed", &seed},
      {"stop_token_ids", &stopTokens, 0, 1024},
      {"ignore_eos", &options.ignoreEos},
      {"min_tokens", &request.minTokens, 0, context},
      {"include_stop_str_in_output", &request.includeStop},
      {"skip_special_tokens", &request.skipSpecial},
      {"logit_bias", &bias},
      {"prompt_logprobs", &promptLogprobs, 0, kMaxLikely},
      {"n", &request.choices, 1, kMaxChoices},
      {"best_of", &bestOf, 1, kMaxChoices},
      {"use_beam_search", &beams},
      {"priority", &request.priority, INT32_MIN, INT32_MAX},
      {"cache_salt", &options.cacheSalt, 0, 1024},
      {"stream", &options.stream},
      {"stream_options", &streamOptions},
      {"response_format", &format},
  };
  MOE_CHECK(readFields(body, fields));
  sampling.topK = int32_t(std::max<int64_t>(topK, 0)); // -1 means all of them too
  sampling.topP = std::max(sampling.topP, 1e-9);       // 0 means the most likely one
  if (seed)
    sampling.seed = uint64_t(*seed);
  if (bestOf && *bestOf != request.choices)
    return Problem::invalid("best_of", "best_of: found " + std::to_string(*bestOf) +
                                           ", expected the same as n: all answers are returned");
  if (beams)
    return Problem::invalid("use_beam_search", "use_beam_search is not supported");
  if (promptLogprobs && options.stream)
    return Problem::invalid("prompt_logprobs", "prompt_logprobs is not available with stream");
  if (promptLogprobs)
    request.promptLogprobs = int32_t(*promptLogprobs);
  if (bias)
    MOE_CHECK(readBias(*bias, model.generator->vocab(), sampling.logitBias));
  MOE_CHECK(readStop(body, "stop", request.stopStrings));
  if (stopTokens)
    MOE_CHECK(readIds(*stopTokens, model.generator->vocab(), "stop_token_ids", request.stopTokens));
  if (streamOptions) {
    const Field inner[] = {{"include_usage", &options.includeUsage},
                           {"continuous_usage_stats", &options.continuousUsage}};
    MOE_CHECK(readFields(*streamOptions, inner, "stream_options"));
  }
  if (format)
    MOE_CHECK(readFormat(*format, "response_format", "json_schema", options));
  return readStructured(body, options);
}

} // namespace moe::server::api
