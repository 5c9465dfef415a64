#include "runtime/server/api/TestApi.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <thread>

using namespace moe;
using namespace moe::server;
using namespace moe::server::api;
using nlohmann::json;

namespace {

const char *kHi = R"({"messages":[{"role":"user","content":"Hi"}]})";

std::string chatWith(const std::string &members) {
  return R"({"messages":[{"role":"user","content":"Hi"}],)" + members + "}";
}

// The data of a stream's events; comments are left out.
std::vector<std::string> eventsOf(const std::string &stream) {
  std::vector<std::string> events;
  for (size_t at = 0; at < stream.size();) {
    const size_t end = stream.find("\n\n", at);
    if (end == stream.npos) {
      ADD_FAILURE() << "an event does not end: " << stream.substr(at);
      break;
    }
    const std::string event = stream.substr(at, end - at);
    if (event.starts_with("data: "))
      events.push_back(event.substr(6));
    else
      EXPECT_TRUE(event.starts_with(":")) << event;
    at = end + 2;
  }
  return events;
}

// Of a stream that ends as it should: its chunks.
std::vector<json> chunksOf(const LocalReply &reply) {
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.contentType, "text/event-stream");
  EXPECT_TRUE(reply.complete);
  auto events = eventsOf(reply.body);
  EXPECT_FALSE(events.empty());
  if (events.empty())
    return {};
  EXPECT_EQ(events.back(), "[DONE]");
  events.pop_back();
  std::vector<json> chunks;
  for (const std::string &event : events)
    chunks.push_back(json::parse(event));
  return chunks;
}

json errorOf(const LocalReply &reply, int status) {
  EXPECT_EQ(reply.status, status) << reply.body;
  EXPECT_EQ(reply.contentType, "application/json");
  const json body = json::parse(reply.body);
  EXPECT_TRUE(body.at("error").at("message").is_string());
  EXPECT_TRUE(body.at("error").at("type").is_string());
  return body.at("error");
}

std::string textOf(const Request &request) {
  return byteTokenizer().decode(request.prompt, /*skipSpecial=*/false);
}

TEST(Chat, AnswersInOnePiece) {
  TestApi test;
  test.generator->says = "A \"quoted\"\n\x01 réponse";
  test.generator->cached = 3;
  const auto reply = test.post("/v1/chat/completions", kHi);
  ASSERT_EQ(reply->status, 200) << reply->body;
  const json body = json::parse(reply->body);
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["model"], "cria");
  EXPECT_EQ(body["system_fingerprint"], "abc123");
  EXPECT_TRUE(body["id"].get<std::string>().starts_with("chatcmpl-"));
  ASSERT_EQ(body["choices"].size(), 1u);
  EXPECT_EQ(body["choices"][0]["message"],
            json::parse("{\"role\":\"assistant\",\"refusal\":null,"
                        "\"content\":\"A \\\"quoted\\\"\\n\\u0001 réponse\"}"));
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  const Request &asked = test.generator->seen.at(0);
  EXPECT_EQ(textOf(asked), "<|begin_of_text|><|header_start|>user<|header_end|>\n\nHi<|eot|>"
                           "<|header_start|>assistant<|header_end|>\n\n");
  EXPECT_EQ(body["usage"]["prompt_tokens"], asked.prompt.size());
  EXPECT_EQ(body["usage"]["completion_tokens"], test.generator->says.size() + 1); // and <|eot|>
  EXPECT_EQ(body["usage"]["total_tokens"], asked.prompt.size() + test.generator->says.size() + 1);
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 3);
  EXPECT_EQ(asked.sampling.temperature, 0.6);
  EXPECT_EQ(asked.sampling.topP, 0.9);
  EXPECT_EQ(asked.maxTokens, test.generator->context() - int64_t(asked.prompt.size()));
  EXPECT_EQ(asked.stopTokens, (std::vector<int32_t>{257, 261, 260}));
}

TEST(Chat, StreamsTheSameText) {
  for (int seed = 0; seed < 20; ++seed) {
    TestApi test;
    test.generator->random.seed(uint32_t(seed));
    test.generator->says = "Größe: 日本 🙂 \"\\ ok";
    const auto reply =
        test.post("/v1/chat/completions",
                  chatWith(R"("stream":true,"stream_options":{"include_usage":true})"));
    const auto chunks = chunksOf(*reply);
    ASSERT_GE(chunks.size(), 3u);
    std::string text;
    for (size_t i = 0; i + 1 < chunks.size(); ++i) {
      const json &choice = chunks[i].at("choices").at(0);
      EXPECT_EQ(chunks[i].at("object"), "chat.completion.chunk");
      EXPECT_EQ(chunks[i].at("id"), chunks[0].at("id"));
      EXPECT_TRUE(chunks[i].at("usage").is_null());
      EXPECT_EQ(choice.at("delta").contains("role"), i == 0);
      const bool last = i + 2 == chunks.size();
      EXPECT_EQ(choice.at("finish_reason"), last ? json("stop") : json(nullptr));
      if (!last) {
        const std::string more = choice.at("delta").at("content");
        EXPECT_TRUE(i == 0 || !more.empty());
        text += more;
      }
    }
    EXPECT_EQ(text, test.generator->says);
    EXPECT_EQ(chunks.back()["choices"], json::array());
    EXPECT_EQ(chunks.back()["usage"]["completion_tokens"], test.generator->says.size() + 1);
  }
}

TEST(Chat, CountsInEveryChunkIfAsked) {
  TestApi test;
  const auto chunks = chunksOf(*test.post(
      "/v1/chat/completions", chatWith(R"("stream":true,"stream_options":{"include_usage":true,)"
                                       R"("continuous_usage_stats":true})")));
  int64_t before = 0;
  for (const json &chunk : chunks) {
    const int64_t now = chunk.at("usage").at("completion_tokens");
    EXPECT_GE(now, std::max<int64_t>(before, 1));
    before = now;
  }
  EXPECT_EQ(before, 6);
}

TEST(Chat, HasAsManyChoicesAsAsked) {
  TestApi test;
  const auto reply = test.post("/v1/chat/completions", chatWith(R"("n":3,"seed":7)"));
  const json body = json::parse(reply->body);
  ASSERT_EQ(body["choices"].size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["message"]["content"], "Hello");
  }
  EXPECT_EQ(test.generator->seen.size(), 1u);
  EXPECT_EQ(test.generator->seen[0].sampling.seed, 7u);
  EXPECT_EQ(body["usage"]["completion_tokens"], 18);

  std::map<int, std::string> texts;
  for (const json &chunk :
       chunksOf(*test.post("/v1/chat/completions", chatWith(R"("n":3,"stream":true)"))))
    texts[chunk["choices"][0]["index"]] +=
        chunk["choices"][0]["delta"].value("content", std::string());
  EXPECT_EQ(texts, (std::map<int, std::string>{{0, "Hello"}, {1, "Hello"}, {2, "Hello"}}));
}

TEST(Chat, GivesLogprobs) {
  TestApi test;
  test.generator->says = "é!";
  const std::string members = R"("logprobs":true,"top_logprobs":2)";
  const json body = json::parse(test.post("/v1/chat/completions", chatWith(members))->body);
  const json content = body["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 3u); // two bytes of é, and no stop token
  EXPECT_EQ(content[0]["bytes"], json::array({0xC3}));
  EXPECT_EQ(content[0]["token"], "\xEF\xBF\xBD");
  EXPECT_EQ(content[2]["token"], "!");
  EXPECT_EQ(content[2]["logprob"], -0.5);
  EXPECT_EQ(content[2]["top_logprobs"].size(), 2u);
  EXPECT_EQ(content[2]["top_logprobs"][1]["token"], "\"");

  // Streamed, none is lost where a token has no text of its own.
  json streamed = json::array();
  for (const json &chunk :
       chunksOf(*test.post("/v1/chat/completions", chatWith(members + R"(,"stream":true)"))))
    if (const json &more = chunk["choices"][0]["logprobs"]; !more.is_null())
      for (const json &token : more["content"])
        streamed.push_back(token);
  EXPECT_EQ(streamed, content);
}

TEST(Chat, SaysWhyItStopped) {
  TestApi test;
  json body = json::parse(test.post("/v1/chat/completions", chatWith(R"("max_tokens":2)"))->body);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["choices"][0]["message"]["content"], "He");
  test.generator->finish = Finish::StopString;
  test.generator->stopString = "###";
  body = json::parse(test.post("/v1/chat/completions", chatWith(R"("stop":"###")"))->body);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["choices"][0]["stop_reason"], "###");
  EXPECT_EQ(test.generator->seen.back().stopStrings, std::vector<std::string>{"###"});
}

TEST(Chat, TakesEveryField) {
  TestApi test;
  const auto reply = test.post("/v1/chat/completions", chatWith(R"(
    "temperature":0.5,"top_p":0.8,"top_k":40,"min_p":0.1,"repetition_penalty":1.1,
    "frequency_penalty":0.5,"presence_penalty":-0.5,"seed":-1,"stop":["a","b"],
    "stop_token_ids":[65],"ignore_eos":true,"min_tokens":2,"include_stop_str_in_output":true,
    "skip_special_tokens":false,"logit_bias":{"65":-100,"66":1.5},"priority":-3,
    "max_completion_tokens":9,"max_tokens":5,"user":"u","store":true,"metadata":{"a":"b"},
    "service_tier":"auto","reasoning_effort":"low","verbosity":"low","prediction":null,
    "request_id":"r","some_future_field":[{}])"));
  ASSERT_EQ(reply->status, 200) << reply->body;
  const Request &asked = test.generator->seen.at(0);
  EXPECT_EQ(asked.sampling.temperature, 0.5);
  EXPECT_EQ(asked.sampling.topP, 0.8);
  EXPECT_EQ(asked.sampling.topK, 40);
  EXPECT_EQ(asked.sampling.minP, 0.1);
  EXPECT_EQ(asked.sampling.repetitionPenalty, 1.1);
  EXPECT_EQ(asked.sampling.frequencyPenalty, 0.5);
  EXPECT_EQ(asked.sampling.presencePenalty, -0.5);
  EXPECT_EQ(asked.sampling.seed, ~uint64_t(0));
  ASSERT_EQ(asked.sampling.logitBias.size(), 2u);
  EXPECT_EQ(asked.sampling.logitBias[1].token, 66);
  EXPECT_EQ(asked.sampling.logitBias[1].bias, 1.5);
  EXPECT_EQ(asked.stopStrings, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(asked.stopTokens, std::vector<int32_t>{65});
  EXPECT_EQ(asked.minTokens, 2);
  EXPECT_TRUE(asked.includeStop);
  EXPECT_FALSE(asked.skipSpecial);
  EXPECT_EQ(asked.priority, -3);
  EXPECT_EQ(asked.maxTokens, 9);
}

// Each a member of a chat request, and the field that its answer has to name.
TEST(Chat, RefusesWrongTypesAndRangesByName) {
  TestApi test;
  const std::pair<const char *, const char *> cases[] = {
      {R"("temperature":-0.1)", "temperature"},
      {R"("temperature":2.1)", "temperature"},
      {R"("temperature":true)", "temperature"},
      {R"("top_p":1.5)", "top_p"},
      {R"("top_k":-2)", "top_k"},
      {R"("top_k":1.5)", "top_k"},
      {R"("top_k":1e300)", "top_k"},
      {R"("min_p":1)", "min_p"},
      {R"("repetition_penalty":0)", "repetition_penalty"},
      {R"("frequency_penalty":3)", "frequency_penalty"},
      {R"("presence_penalty":"1")", "presence_penalty"},
      {R"("seed":1.5)", "seed"},
      {R"("seed":18446744073709551616)", "seed"},
      {R"("stop":7)", "stop"},
      {R"("stop":["a",7])", "stop[1]"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])", "stop"},
      {R"("stop_token_ids":[-1])", "stop_token_ids[0]"},
      {R"("stop_token_ids":[300])", "stop_token_ids[0]"},
      {R"("ignore_eos":1)", "ignore_eos"},
      {R"("min_tokens":-1)", "min_tokens"},
      {R"("min_tokens":5,"max_tokens":4)", "min_tokens"},
      {R"("logit_bias":[1])", "logit_bias"},
      {R"("logit_bias":{"300":1})", "logit_bias"},
      {R"("logit_bias":{"01":1})", "logit_bias"},
      {R"("logit_bias":{"1x":1})", "logit_bias"},
      {R"("logit_bias":{"1":101})", "logit_bias.1"},
      {R"("n":0)", "n"},
      {R"("n":17)", "n"},
      {R"("n":2,"best_of":3)", "best_of"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_completion_tokens":"9")", "max_completion_tokens"},
      {R"("logprobs":5)", "logprobs"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
      {R"("top_logprobs":2)", "top_logprobs"},
      {R"("stream":"yes")", "stream"},
      {R"("stream_options":[])", "stream_options"},
      {R"("stream_options":{"include_usage":1})", "stream_options.include_usage"},
      {R"("response_format":"json")", "response_format"},
      {R"("response_format":{})", "response_format.type"},
      {R"("response_format":{"type":"xml"})", "response_format.type"},
      {R"("response_format":{"type":"json_schema"})", "response_format.json_schema"},
      {R"("response_format":{"type":"json_schema","json_schema":{"schema":7}})",
       "response_format.json_schema.schema"},
      {R"("structured_outputs":{"regex":7})", "structured_outputs.regex"},
      {R"("structured_outputs":{"choice":[]})", "structured_outputs.choice"},
      {R"("structured_outputs":{"choice":[1]})", "structured_outputs.choice[0]"},
      {R"("structured_outputs":{"regex":"a","json":{}})", "structured_outputs.regex"},
      {R"("guided_regex":"a","response_format":{"type":"json_object"})", "guided_regex"},
      {R"("tools":{})", "tools"},
      {R"("tools":[{}])", "tools[0].function"},
      {R"("tools":[{"type":"retrieval"}])", "tools[0].type"},
      {R"("tools":[{"function":{"name":""}}])", "tools[0].function.name"},
      {R"("tools":[{"function":{"name":"a b"}}])", "tools[0].function.name"},
      {R"("tools":[{"function":{"name":"f","parameters":[]}}])", "tools[0].function.parameters"},
      {R"("tool_choice":"some")", "tool_choice"},
      {R"("tool_choice":"required")", "tool_choice"},
      {R"("tool_choice":{"type":"function","function":{"name":"f"}})", "tool_choice"},
      {R"("parallel_tool_calls":"no")", "parallel_tool_calls"},
      {R"("chat_template":"{{ x }}")", "chat_template"},
      {R"("chat_template_kwargs":{"x":1})", "chat_template_kwargs"},
      {R"("functions":[])", "functions"},
      {R"("continue_final_message":true)", "continue_final_message"},
      {R"("cache_salt":7)", "cache_salt"},
      {R"("priority":1e10)", "priority"},
      {R"("allowed_token_ids":[1])", "allowed_token_ids"},
      {R"("use_beam_search":true)", "use_beam_search"},
      {R"("model":7)", "model"},
  };
  for (const auto &[members, param] : cases) {
    const auto error = errorOf(*test.post("/v1/chat/completions", chatWith(members)), 400);
    const std::string named = error.at("param").is_string() ? error["param"] : json("none");
    EXPECT_EQ(named, param) << members;
    EXPECT_EQ(error["type"], "invalid_request_error");
  }
  EXPECT_TRUE(test.generator->seen.empty());
}

TEST(Chat, RefusesWrongMessages) {
  TestApi test;
  const std::pair<const char *, const char *> cases[] = {
      {R"([7])", "messages[0]"},
      {R"([{"content":"x"}])", "messages[0].role"},
      {R"([{"role":"user"}])", "messages[0].content"},
      {R"([{"role":"user","content":null}])", "messages[0].content"},
      {R"([{"role":"user","content":7}])", "messages[0].content"},
      {R"([{"role":"user","content":[{"type":"audio"}]}])", "messages[0].content[0].type"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
      {R"([{"role":"user","content":"x","tool_calls":[]}])", "messages[0].tool_calls"},
      {R"([{"role":"assistant","tool_calls":[{}]}])", "messages[0].tool_calls[0].function"},
  };
  for (const auto &[messages, param] : cases) {
    const std::string body = std::string(R"({"messages":)") + messages + "}";
    EXPECT_EQ(errorOf(*test.post("/v1/chat/completions", body), 400)["param"], param) << messages;
  }
}

TEST(Chat, NeverCutsAPromptThatIsTooLong) {
  TestApi test;
  for (const size_t bytes : {4100, 100'000}) {
    const std::string body =
        json{{"messages", {{{"role", "user"}, {"content", std::string(bytes, 'x')}}}}}.dump();
    EXPECT_EQ(errorOf(*test.post("/v1/chat/completions", body), 400)["code"],
              "context_length_exceeded");
  }
  EXPECT_EQ(
      errorOf(*test.post("/v1/chat/completions", chatWith(R"("max_tokens":4096)")), 400)["code"],
      "context_length_exceeded");
}

TEST(Chat, RefusesMoreTokensThanCanBeCounted) {
  TestApi test;
  const auto most = std::to_string(INT64_MAX);
  for (const auto &[path, members] :
       {std::pair("/v1/chat/completions", R"({"messages":[{"role":"user","content":"Hi"}],)"),
        {"/v1/completions", R"({"prompt":"Hi",)"},
        {"/v1/messages", R"({"messages":[{"role":"user","content":"Hi"}],)"}}) {
    const auto reply = test.post(path, members + ("\"max_tokens\":" + most + "}"));
    EXPECT_NE(errorOf(*reply, 400)["message"].get<std::string>().find(most), std::string::npos);
  }
  EXPECT_TRUE(test.generator->seen.empty());
}

// Wherever what came is cut for a message: clients read no JSON that is not UTF-8.
TEST(Chat, AnswersInUtf8) {
  TestApi test;
  for (int before = 0; before < 4; ++before) {
    std::string name(size_t(before), 'x');
    for (int i = 0; i < 50; ++i)
      name += "🙂";
    for (const std::string &members :
         {"\"model\":\"" + name + "\"", "\"logit_bias\":{\"" + name + "\":1}",
          "\"tools\":[{\"type\":\"" + name + "\"}]", "\"tool_choice\":\"" + name + "\""}) {
      const auto reply = test.post("/v1/chat/completions", chatWith(members));
      EXPECT_GE(reply->status, 400);
      errorOf(*reply, reply->status); // parses it
    }
  }
  errorOf(*test.get("/v1/models/\xff"), 404);
}

TEST(Chat, ContinuesTheLastMessage) {
  TestApi test;
  const char *messages = R"({"messages":[{"role":"user","content":"Hi"},
    {"role":"assistant","content":"Once"}],"add_generation_prompt":false,)";
  test.post("/v1/chat/completions", std::string(messages) + R"("continue_final_message":true})");
  EXPECT_TRUE(textOf(test.generator->seen.at(0)).ends_with("<|header_end|>\n\nOnce"));
}

TEST(Formats, BecomeGrammars) {
  TestApi test;
  using Kind = GrammarSource::Kind;
  const std::pair<const char *, GrammarSource> cases[] = {
      {R"("response_format":{"type":"json_object"})", {Kind::JsonObject, {}, {}}},
      {R"("response_format":{"type":"json_schema","json_schema":{"name":"r","strict":true,
          "schema":{"z":1,"a":[true,null,0.5]}}})",
       {Kind::JsonSchema, R"({"z":1,"a":[true,null,0.5]})", {}, true}},
      {R"("structured_outputs":{"regex":"a+"})", {Kind::Regex, "a+", {}}},
      {R"("structured_outputs":{"choice":["x","y"]})", {Kind::Choice, {}, {"x", "y"}}},
      {R"("structured_outputs":{"grammar":"root ::= \"a\""})", {Kind::Ebnf, "root ::= \"a\"", {}}},
      {R"("structured_outputs":{"json":"{\"type\":\"object\"}"})",
       {Kind::JsonSchema, R"({"type":"object"})", {}}},
      {R"("guided_json":{"type":"object"})", {Kind::JsonSchema, R"({"type":"object"})", {}}},
      {R"("guided_choice":["x"])", {Kind::Choice, {}, {"x"}}},
  };
  for (const auto &[members, source] : cases) {
    ASSERT_EQ(test.post("/v1/chat/completions", chatWith(members))->status, 200) << members;
    const GrammarSource &got = test.grammars->seen.back();
    EXPECT_EQ(got.kind, source.kind) << members;
    EXPECT_EQ(got.text, source.text) << members;
    EXPECT_EQ(got.choices, source.choices) << members;
    EXPECT_EQ(got.strict, source.strict) << members;
    EXPECT_TRUE(test.generator->seen.back().grammar);
  }
  test.post("/v1/chat/completions", chatWith(R"("response_format":{"type":"text"})"));
  EXPECT_FALSE(test.generator->seen.back().grammar);

  const auto error = errorOf(
      *test.post("/v1/chat/completions", chatWith(R"("structured_outputs":{"regex":"(("})")), 400);
  EXPECT_EQ(error["param"], "structured_outputs.regex");
  test.models->put([&] {
    auto model = test.model("cria");
    model->grammars = nullptr;
    return model;
  }());
  EXPECT_EQ(errorOf(*test.post("/v1/chat/completions",
                               chatWith(R"("response_format":{"type":"json_object"})")),
                    400)["param"],
            "response_format");
}

TEST(Completions, TakesPromptsOfAllKinds) {
  TestApi test;
  const std::pair<const char *, std::vector<std::string>> cases[] = {
      {R"("Hi")", {"Hi"}},           {R"(["A","B"])", {"A", "B"}},
      {R"([72,105])", {"Hi"}},       {R"([[72],[105]])", {"H", "i"}},
      {R"(["A",[66]])", {"A", "B"}},
  };
  for (const auto &[prompt, texts] : cases) {
    test.generator->seen.clear();
    const auto reply =
        test.post("/v1/completions", std::string(R"({"n":2,"prompt":)") + prompt + "}");
    ASSERT_EQ(reply->status, 200) << reply->body;
    ASSERT_EQ(test.generator->seen.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i)
      EXPECT_EQ(textOf(test.generator->seen[i]), texts[i]);
    const json body = json::parse(reply->body);
    ASSERT_EQ(body["choices"].size(), 2 * texts.size());
    for (size_t i = 0; i < body["choices"].size(); ++i) {
      EXPECT_EQ(body["choices"][i]["index"], i);
      EXPECT_EQ(body["choices"][i]["text"], "Hello");
    }
  }
}

TEST(Completions, RefusesWrongPrompts) {
  TestApi test;
  for (const char *prompt : {"7", "{}", "[]", "[[]]", "[1.5]", "[-1]", "[300]", "[true]",
                             R"(["a",7])", R"([7,"a"])", R"("")", "[[1],[300]]"})
    EXPECT_FALSE(errorOf(*test.post("/v1/completions", std::string(R"({"prompt":)") + prompt + "}"),
                         400)["param"]
                     .is_null())
        << prompt;
  EXPECT_EQ(errorOf(*test.post("/v1/completions", R"({"prompt":"x","suffix":"y"})"), 400)["param"],
            "suffix");
}

TEST(Completions, EchoesWithLogprobs) {
  TestApi test;
  test.generator->says = "é";
  const char *body = R"({"prompt":"Hi","echo":true,"logprobs":1,"n":2,"stream":false})";
  const json answer = json::parse(test.post("/v1/completions", body)->body);
  ASSERT_EQ(answer["choices"].size(), 2u);
  for (const json &choice : answer["choices"]) {
    EXPECT_EQ(choice["text"], "Hié");
    const json &lists = choice["logprobs"];
    EXPECT_EQ(lists["tokens"], json::array({"H", "i", "\xEF\xBF\xBD", "\xEF\xBF\xBD"}));
    EXPECT_EQ(lists["token_logprobs"], json::array({nullptr, -1.5, -0.5, -0.5}));
    EXPECT_EQ(lists["text_offset"], json::array({0, 1, 2, 2}));
    EXPECT_TRUE(lists["top_logprobs"][0].is_null());
    EXPECT_EQ(lists["top_logprobs"][1]["i"], -1.5);
  }
  // lm-eval: the prompt alone.
  const json scored = json::parse(
      test.post("/v1/completions", R"({"prompt":"Hi","echo":true,"logprobs":0,"max_tokens":0})")
          ->body);
  EXPECT_EQ(scored["choices"][0]["text"], "Hi");
  EXPECT_EQ(scored["choices"][0]["logprobs"]["tokens"], json::array({"H", "i"}));
}

TEST(Completions, Streams) {
  TestApi test;
  test.generator->says = "Grüße";
  const auto chunks =
      chunksOf(*test.post("/v1/completions", R"({"prompt":["a","b"],"stream":true,"echo":true,)"
                                             R"("stream_options":{"include_usage":true}})"));
  std::map<int, std::string> texts, reasons;
  for (const json &chunk : chunks)
    for (const json &choice : chunk["choices"]) {
      texts[choice["index"]] += choice["text"].get<std::string>();
      if (choice["finish_reason"].is_string())
        reasons[choice["index"]] += choice["finish_reason"].get<std::string>();
    }
  EXPECT_EQ(texts, (std::map<int, std::string>{{0, "aGrüße"}, {1, "bGrüße"}}));
  EXPECT_EQ(reasons, (std::map<int, std::string>{{0, "stop"}, {1, "stop"}}));
  EXPECT_EQ(chunks.back()["usage"]["prompt_tokens"], 2);
}

TEST(Embeddings, ArePooledAndNormalised) {
  TestApi test;
  EXPECT_EQ(errorOf(*test.post("/v1/embeddings", R"({"input":"x"})"), 404)["message"],
            "the plan has no hidden states");
  test.generator->hidden = true;
  json body = json::parse(test.post("/v1/embeddings", R"({"input":["x",[65,66]]})")->body);
  ASSERT_EQ(body["data"].size(), 2u);
  EXPECT_EQ(body["data"][1]["index"], 1);
  EXPECT_NEAR(body["data"][0]["embedding"][0].get<double>(), 0.6, 1e-6);
  EXPECT_NEAR(body["data"][0]["embedding"][1].get<double>(), 0.8, 1e-6);
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_TRUE(test.generator->seen[0].embed);
  body = json::parse(test.post("/v1/embeddings",
                               R"({"input":[65],"encoding_format":"base64","pooling":"last",)"
                               R"("normalize":false})")
                         ->body);
  EXPECT_EQ(body["data"][0]["embedding"], "AAAAAAAAAEA="); // 0 and 2, as float32
  EXPECT_EQ(errorOf(*test.post("/v1/embeddings", R"({"input":"x","dimensions":4})"), 400)["param"],
            "dimensions");
}

TEST(Text, GoesToIdsAndBack) {
  TestApi test;
  json body = json::parse(test.post("/tokenize", R"({"prompt":"Hi<|eot|>"})")->body);
  EXPECT_EQ(body["tokens"], json::array({72, 105, 261}));
  EXPECT_EQ(body["count"], 3);
  EXPECT_EQ(body["max_model_len"], 4096);
  body = json::parse(test.post("/tokenize", R"({"content":"H","with_pieces":true})")->body);
  EXPECT_EQ(body["tokens"][0], json::parse(R"({"id":72,"piece":"H"})"));
  body = json::parse(test.post("/detokenize", R"({"tokens":[72,105,261]})")->body);
  EXPECT_EQ(body["prompt"], "Hi<|eot|>");
  EXPECT_EQ(body["content"], "Hi<|eot|>");
  body = json::parse(test.post("/apply-template", kHi)->body);
  const std::string text = body["prompt"];
  EXPECT_TRUE(text.starts_with("<|begin_of_text|><|header_start|>user")) << text;
  body = json::parse(test.post("/tokenize", kHi)->body);
  EXPECT_EQ(json::parse(
                test.post("/detokenize", json{{"tokens", body["tokens"]}}.dump())->body)["prompt"],
            text);
  EXPECT_EQ(errorOf(*test.post("/tokenize", "{}"), 400)["param"], "prompt");
  EXPECT_EQ(errorOf(*test.post("/detokenize", R"({"tokens":[300]})"), 400)["param"], "tokens[0]");
}

TEST(Routes, AnswerWhatMonitorsAsk) {
  TestApi test;
  EXPECT_EQ(test.get("/health")->status, 200);
  EXPECT_EQ(test.get("/live")->status, 200);
  EXPECT_EQ(json::parse(test.get("/version")->body)["version"], "1.2.3");
  EXPECT_EQ(test.get("/metrics")->body, "moe_up 1\n");
  EXPECT_TRUE(test.get("/metrics")->contentType.starts_with("text/plain"));
  test.state = {ApiState::Is::Draining, {}};
  EXPECT_EQ(test.get("/health")->status, 503);
  EXPECT_EQ(test.get("/live")->status, 200);
  const auto reply = test.post("/v1/chat/completions", kHi);
  EXPECT_EQ(reply->status, 503);
  EXPECT_EQ(reply->headers.at(0), (std::pair<std::string, std::string>{"Retry-After", "1"}));
}

TEST(Routes, ListModels) {
  TestApi test;
  auto second = test.model("meta/other");
  second->aliases = {"gpt-4"};
  test.models->put(second);
  const json list = json::parse(test.get("/v1/models")->body);
  ASSERT_EQ(list["data"].size(), 3u);
  EXPECT_EQ(list["data"][0]["id"], "cria");
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(list["data"][2]["id"], "gpt-4");
  EXPECT_EQ(json::parse(test.get("/v1/models/meta/other")->body)["root"], "meta/other");
  EXPECT_EQ(errorOf(*test.get("/v1/models/none"), 404)["code"], "model_not_found");
  EXPECT_EQ(errorOf(*test.get("/v1/models/"), 404)["code"], "model_not_found");
  EXPECT_EQ(
      json::parse(test.post("/v1/chat/completions", chatWith(R"("model":"gpt-4")"))->body)["model"],
      "meta/other");
  const json error =
      errorOf(*test.post("/v1/chat/completions", chatWith(R"("model":"gpt-5")")), 404);
  EXPECT_EQ(error["code"], "model_not_found");
  EXPECT_EQ(error["param"], "model");
}

TEST(Routes, RefuseWhatIsNotThere) {
  TestApi test;
  EXPECT_EQ(test.get("/")->status, 404);
  EXPECT_EQ(test.get("/v1/models2")->status, 404);
  EXPECT_EQ(test.post("/v1/chat/completion", kHi)->status, 404); // and not that it takes GET
  EXPECT_EQ(test.post("/v1/models/cria", "{}")->status, 405);
  EXPECT_EQ(test.get("/v1/chat/completions")->status, 405);
  EXPECT_EQ(test.ask(TestApi::request("POST", "/health", "{}"))->status, 405);
  auto request = TestApi::request("POST", "/v1/chat/completions", kHi);
  request.headers = {{"content-type", "text/plain"}};
  EXPECT_EQ(test.ask(request)->status, 415);
  request.headers = {};
  EXPECT_EQ(test.ask(request)->status, 415);
  request.headers = {{"content-type", "Application/JSON; charset=utf-8"}};
  EXPECT_EQ(test.ask(request)->status, 200);
  request.headers.emplace_back("content-encoding", "gzip");
  EXPECT_EQ(test.ask(request)->status, 415);
}

TEST(Routes, WantAKey) {
  ApiOptions options;
  options.keys = *Keys::parse("alice:secret-of-alice\nbob:secret-of-bob\n");
  TestApi test(std::move(options));
  const auto ask = [&](const char *name, const char *value) {
    auto request = TestApi::request("POST", "/v1/chat/completions", kHi);
    request.headers.emplace_back(name, value);
    return test.ask(std::move(request));
  };
  EXPECT_EQ(errorOf(*test.post("/v1/chat/completions", kHi), 401)["code"], "invalid_api_key");
  EXPECT_EQ(ask("authorization", "Bearer wrong-secret")->status, 401);
  EXPECT_EQ(ask("authorization", "Basic secret-of-bob")->status, 401);
  EXPECT_EQ(test.get("/v1/models")->status, 401);
  EXPECT_EQ(test.get("/health")->status, 200);
  EXPECT_EQ(ask("authorization", "Bearer secret-of-bob")->status, 200);
  EXPECT_EQ(test.generator->seen.back().key, "bob");
  const uint64_t bobs = test.generator->seen.back().salt;
  EXPECT_EQ(ask("x-api-key", "secret-of-alice")->status, 200);
  EXPECT_EQ(test.generator->seen.back().key, "alice");
  EXPECT_NE(test.generator->seen.back().salt, bobs); // prefixes of keys are apart
}

TEST(Routes, SharePrefixesAsAsked) {
  ApiOptions options;
  options.sharePrefixes = true;
  TestApi test(std::move(options));
  const auto saltOf = [&](const char *members) {
    test.post("/v1/chat/completions", chatWith(members));
    return test.generator->seen.back().salt;
  };
  EXPECT_EQ(saltOf(R"("n":1)"), 0u);
  EXPECT_NE(saltOf(R"("cache_salt":"a")"), 0u);
  EXPECT_EQ(saltOf(R"("cache_salt":"a")"), saltOf(R"("cache_salt":"a")"));
  EXPECT_NE(saltOf(R"("cache_salt":"a")"), saltOf(R"("cache_salt":"b")"));
}

TEST(Trouble, OfTheGeneratorIsTold) {
  TestApi test;
  test.generator->refusal =
      Refusal{{Code::ResourceExhausted, "too many wait"}, std::chrono::seconds(7)};
  auto reply = test.post("/v1/chat/completions", kHi);
  EXPECT_EQ(errorOf(*reply, 429)["type"], "rate_limit_error");
  EXPECT_EQ(reply->headers.at(0), (std::pair<std::string, std::string>{"Retry-After", "7"}));
  test.generator->refusal = Refusal{{Code::Unavailable, "drains"}, {}};
  reply = test.post("/v1/chat/completions", chatWith(R"("stream":true)"));
  errorOf(*reply, 503);
  EXPECT_EQ(reply->headers.at(0).first, "Retry-After");
  test.generator->refusal = Refusal{{Code::InvalidArgument, "never"}, {}};
  EXPECT_EQ(errorOf(*test.post("/v1/chat/completions", kHi), 400)["message"], "never");
}

TEST(Trouble, EndsAStreamWithAnError) {
  TestApi test;
  test.generator->finish = Finish::Failed;
  test.generator->error = "a step failed";
  test.generator->longest = 1;
  const auto reply = test.post("/v1/chat/completions", chatWith(R"("stream":true)"));
  EXPECT_EQ(reply->status, 200);
  EXPECT_TRUE(reply->complete);
  const auto events = eventsOf(reply->body);
  EXPECT_EQ(json::parse(events.back())["error"]["message"], "a step failed");
  for (size_t i = 0; i + 1 < events.size(); ++i)
    EXPECT_TRUE(json::parse(events[i]).contains("choices"));
  // Before the first byte it has a status instead.
  test.generator->longest = 100;
  for (const auto &[finish, status] : {std::pair(Finish::Failed, 503),
                                       {Finish::Deadline, 408},
                                       {Finish::QueueDeadline, 503},
                                       {Finish::Cancelled, 503}}) {
    test.generator->finish = finish;
    test.generator->says = "";
    errorOf(*test.post("/v1/chat/completions", chatWith(R"("stream":true)")), status);
    errorOf(*test.post("/v1/chat/completions", kHi), status);
  }
}

TEST(Trouble, LeavesNothingBehindAClient) {
  for (const char *members : {R"("n":2)", R"("stream":true)"}) {
    TestApi test;
    const auto reply =
        test.begin(TestApi::request("POST", "/v1/chat/completions", chatWith(members)));
    test.generator->step();
    EXPECT_EQ(test.generator->open(), 1u);
    reply->leave();
    EXPECT_EQ(test.generator->cancelled.size(), 1u);
    EXPECT_EQ(test.generator->open(), 0u);
    EXPECT_EQ(reply.use_count(), 1);
  }
  // Who goes while the body is read is not submitted at all.
  TestApi test;
  auto reply = std::make_shared<LocalReply>();
  test.api->handle(TestApi::request("POST", "/v1/chat/completions", kHi), reply);
  reply->leave();
  EXPECT_TRUE(test.queue.runOne(std::chrono::seconds(20)));
  EXPECT_TRUE(test.generator->seen.empty());
}

TEST(Trouble, OfOnesGrammarsIsNotThatOfAll) {
  TestApi test;
  std::unique_lock slow(test.grammars->mutex);
  const auto ask = [&](int i) {
    auto reply = std::make_shared<LocalReply>();
    test.api->handle(TestApi::request("POST", "/v1/chat/completions",
                                      chatWith(R"("structured_outputs":{"regex":"a)" +
                                               std::to_string(i) + "\"}")),
                     reply);
    return reply;
  };
  const auto first = ask(0);
  while (test.grammars->begun == 0) // and stays so
    std::this_thread::yield();
  std::vector<std::shared_ptr<LocalReply>> others;
  for (int i = 1; i <= 100; ++i)
    others.push_back(ask(i));
  // Those for whom there is no room hear of it while the first one is compiled.
  const auto refused = [&] {
    return std::count_if(others.begin(), others.end(),
                         [](const auto &reply) { return reply->complete; });
  };
  while (refused() < 36)
    ASSERT_TRUE(test.queue.runOne(std::chrono::seconds(20)));
  EXPECT_EQ(errorOf(*others.back(), 429)["code"], "too_many_requests");
  // Nor is anything compiled for who does not wait for it.
  for (size_t i = 1; i < others.size(); ++i)
    others[i]->leave();
  slow.unlock();
  while (test.generator->seen.size() < 2)
    ASSERT_TRUE(test.queue.runOne(std::chrono::seconds(20)));
  while (test.queue.runOne(std::chrono::milliseconds(100)))
    ;
  EXPECT_EQ(test.grammars->begun, 2);
  EXPECT_EQ(refused(), 36);
}

TEST(Trouble, OfOneKeysGrammarsIsNotThatOfOthers) {
  ApiOptions options;
  options.keys = *Keys::parse("alice:secret-of-alice\nbob:secret-of-bob\n");
  TestApi test(std::move(options));
  std::unique_lock slow(test.grammars->mutex);
  std::vector<std::shared_ptr<LocalReply>> replies;
  const auto ask = [&](const char *secret, const std::string &regex) {
    auto request = TestApi::request("POST", "/v1/chat/completions",
                                    chatWith(R"("structured_outputs":{"regex":")" + regex + "\"}"));
    request.headers.emplace_back("x-api-key", secret);
    test.api->handle(std::move(request), replies.emplace_back(std::make_shared<LocalReply>()));
  };
  ask("secret-of-alice", "a0");
  while (test.grammars->begun == 0) // and stays so
    std::this_thread::yield();
  for (int i = 1; i <= 65; ++i)
    ask("secret-of-alice", "a" + std::to_string(i));
  // The last one is told that too many wait, and by then all of alice's do.
  ASSERT_TRUE(test.queue.runOne(std::chrono::seconds(20)));
  EXPECT_EQ(errorOf(*replies.back(), 429)["code"], "too_many_requests");
  ask("secret-of-bob", "b");
  ask("secret-of-alice", "(("); // refused as well, which says that bob's has been read
  ASSERT_TRUE(test.queue.runOne(std::chrono::seconds(20)));
  ASSERT_EQ(replies.back()->status, 429);
  std::this_thread::sleep_for(std::chrono::milliseconds(20)); // that alice's first one has taken
  slow.unlock();
  while (test.generator->seen.size() < 66)
    ASSERT_TRUE(test.queue.runOne(std::chrono::seconds(20)));
  ASSERT_EQ(test.grammars->seen.size(), 66u);
  EXPECT_EQ(test.grammars->seen[0].text, "a0");
  EXPECT_EQ(test.grammars->seen[1].text, "b"); // before what alice asked for earlier
  EXPECT_EQ(test.grammars->seen[2].text, "a1");
}

TEST(Trouble, CancelsAllPromptsIfOneIsRefused) {
  TestApi test;
  struct Second : ScriptedGenerator {
    std::variant<RequestId, Refusal> submit(Request request,
                                            std::shared_ptr<EventSink> sink) override {
      if (!seen.empty())
        return Refusal{{Code::ResourceExhausted, "full"}, std::chrono::seconds(1)};
      return ScriptedGenerator::submit(std::move(request), std::move(sink));
    }
  };
  test.generator = std::make_shared<Second>();
  test.models->put(test.model("cria"));
  const auto reply = test.post("/v1/completions", R"({"prompt":["a","b"]})");
  EXPECT_EQ(reply->status, 429);
  EXPECT_EQ(test.generator->cancelled.size(), 1u);
}

TEST(Streams, PingWhileTheyWait) {
  TestApi test;
  const auto reply =
      test.begin(TestApi::request("POST", "/v1/chat/completions", chatWith(R"("stream":true)")));
  EXPECT_EQ(reply->status, 0); // an answer may still be refused
  ASSERT_EQ(test.timers.size(), 1u);
  EXPECT_EQ(test.timers[0].first, std::chrono::seconds(15));
  const auto fire = [&] { std::exchange(test.timers[0].second, nullptr)(); };
  fire();
  EXPECT_EQ(reply->body, ": ping\n\n");
  test.timers.erase(test.timers.begin());
  test.generator->step();
  const std::string before = reply->body;
  fire(); // something was sent since
  EXPECT_EQ(reply->body, before);
  test.timers.erase(test.timers.begin());
  while (test.generator->step())
    ;
  fire();
  EXPECT_EQ(test.timers.size(), 1u); // the stream is over
  EXPECT_EQ(chunksOf(*reply).back()["choices"][0]["finish_reason"], "stop");
}

TEST(Times, BecomeADeadline) {
  ApiOptions options;
  options.maxTime = std::chrono::seconds(10);
  TestApi test(std::move(options));
  auto request = TestApi::request("POST", "/v1/chat/completions", kHi);
  test.ask(request);
  const auto left = *test.generator->seen.back().deadline - Clock::now();
  EXPECT_GT(left, std::chrono::seconds(5));
  EXPECT_LE(left, std::chrono::seconds(10));
  request.headers.emplace_back("x-request-timeout-ms", "500");
  test.ask(request);
  EXPECT_LE(*test.generator->seen.back().deadline - Clock::now(), std::chrono::milliseconds(500));
  for (const char *wrong : {"0", "-1", "soon", "1.5", "99999999999999999999"}) {
    request.headers.back().second = wrong;
    EXPECT_EQ(errorOf(*test.ask(request), 400)["param"], "x-request-timeout-ms") << wrong;
  }
}

TEST(ServedModels, MayBeReplacedWhileRequestsRun) {
  TestApi test;
  std::weak_ptr<ServedModel> old;
  {
    auto model = test.model("cria");
    old = model;
    test.models->put(std::move(model));
  }
  const auto reply = test.begin(TestApi::request("POST", "/v1/chat/completions", kHi));
  test.models->put(test.model("cria"));
  EXPECT_FALSE(old.expired()); // a request uses it
  while (test.generator->step())
    ;
  EXPECT_EQ(reply->status, 200);
  EXPECT_TRUE(old.expired());
  test.models->remove("cria");
  EXPECT_EQ(test.post("/v1/chat/completions", kHi)->status, 503);
}

} // namespace
