// Requests as clients send them, hostile ones, damaged ones, and calls of tools in all forms.
#include "runtime/server/api/TestApi.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <fstream>

using namespace moe;
using namespace moe::server;
using namespace moe::server::api;
using nlohmann::json;

namespace {

json readFile(const std::string &path) {
  std::ifstream file(MOE_SOURCE_DIR "/test/" + path);
  return json::parse(file);
}

class Requests : public testing::Test {
protected:
  const json vectors = readFile("server/requests.json");
  TestApi test;
};

TEST_F(Requests, OfClientsAreAnswered) {
  ASSERT_FALSE(vectors["good"].empty());
  for (const json &vector : vectors["good"]) {
    const std::string client = vector["client"], path = vector["path"];
    SCOPED_TRACE(client);
    const auto reply = test.post(path, vector["body"].dump());
    if (client == "image") {
      EXPECT_EQ(reply->status, 400);
      EXPECT_NE(reply->body.find("no images"), std::string::npos) << reply->body;
      continue;
    }
    EXPECT_EQ(reply->status, 200) << reply->body;
    EXPECT_TRUE(reply->complete);
    if (vector["body"].value("stream", false))
      EXPECT_EQ(reply->contentType, "text/event-stream");
    else
      EXPECT_EQ(json::parse(reply->body).value("choices", json::array()).size(),
                client == "completions with ids" ? 2u : vector["body"].value("n", 1u));
  }
}

TEST_F(Requests, OfEnemiesAreRefused) {
  ASSERT_EQ(vectors["bad"].size(), 21u);
  for (const json &vector : vectors["bad"]) {
    const std::string name = vector["name"];
    SCOPED_TRACE(name);
    std::string body = vector["body"];
    if (name == "deep nesting")
      body = std::string(100'000, '[') + std::string(100'000, ']');
    if (name == "invalid utf-8")
      body = "{\"prompt\":\"\xff\"}";
    // The three of grammars are GrammarTest's: what this one's compiler takes, only "((" is not.
    const bool forCompiler = name == "recursive $ref" || name == "huge repetition";
    for (const char *path : {"/v1/chat/completions", "/v1/completions"}) {
      const bool otherPath =
          body.find("\"prompt\"") != body.npos
              ? std::string(path) == "/v1/chat/completions"
              : body.find("\"messages\"") != body.npos && std::string(path) == "/v1/completions";
      const auto reply = test.post(path, body);
      EXPECT_TRUE(reply->complete);
      if (forCompiler && !otherPath) {
        EXPECT_EQ(reply->status, 200);
        EXPECT_FALSE(test.grammars->seen.empty());
        continue;
      }
      EXPECT_EQ(reply->status, 400) << reply->body;
      const json error = json::parse(reply->body).at("error");
      EXPECT_EQ(error["type"], "invalid_request_error");
      EXPECT_LT(reply->body.size(), 1000u);
    }
  }
  EXPECT_EQ(
      test.post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}]})")->status,
      200); // as it was
}

// A value somewhere in `root` becomes another one, goes, or comes twice.
void mutate(json &root, std::mt19937 &random) {
  json *at = &root;
  while ((at->is_object() || at->is_array()) && !at->empty() && random() % 4 != 0) {
    auto inner = at->begin();
    std::advance(inner, random() % at->size());
    at = &*inner;
  }
  const json others[] = {nullptr,
                         true,
                         0,
                         -1,
                         1e300,
                         0.5,
                         INT64_MAX,
                         INT64_MIN,
                         "",
                         "x",
                         std::string(300, 'y'),
                         json::array(),
                         json::object(),
                         json::array({nullptr}),
                         json::array({json::array()}),
                         json::object({{"type", "text"}})};
  *at = others[random() % std::size(others)];
}

TEST_F(Requests, ThatAreDamagedGetAnAnswer) {
  std::mt19937 random(1);
  std::vector<std::pair<std::string, json>> seeds;
  for (const json &vector : vectors["good"])
    seeds.emplace_back(vector["path"], vector["body"]);
  seeds.emplace_back("/tokenize", json::parse(R"({"prompt":"x","add_special_tokens":true})"));
  seeds.emplace_back("/detokenize", json::parse(R"({"tokens":[1,2]})"));
  seeds.emplace_back("/v1/embeddings", json::parse(R"({"input":["x"],"encoding_format":"float"})"));
  test.generator->hidden = true;
  for (int i = 0; i < 3000; ++i) {
    auto [path, body] = seeds[random() % seeds.size()];
    for (uint32_t times = random() % 3;; --times) {
      mutate(body, random);
      if (times == 0)
        break;
    }
    std::string text = body.dump();
    if (random() % 10 == 0)
      text[random() % text.size()] = char(random());
    const auto reply = test.post(path, text);
    ASSERT_TRUE(reply->complete) << path << " " << text;
    ASSERT_TRUE(reply->status == 200 || reply->status == 400 || reply->status == 404)
        << path << " " << text << " " << reply->body;
    if (reply->status != 200)
      EXPECT_TRUE(json::accept(reply->body)) << reply->body;
    ASSERT_EQ(test.generator->open(), 0u);
  }
}

class ToolCalls : public testing::Test {
protected:
  const json vectors = readFile("chat/tool-calls.json");
  TestApi test;

  // The vectors' tools, in a request with further members.
  static std::string request(const std::string &members) {
    json body = json::parse(R"({"messages":[{"role":"user","content":"Hi"}],)" + members + "}");
    for (const char *name : {"get_weather", "get_user_info", "now", "f", "say", "a", "b"})
      body["tools"].push_back({{"type", "function"}, {"function", {{"name", name}}}});
    return body.dump();
  }

  // `calls` with their arguments read, as the vectors have them.
  static json parsed(const json &calls) {
    json out = json::array();
    for (const json &call : calls)
      out.push_back({{"name", call["function"]["name"]},
                     {"arguments", json::parse(call["function"]["arguments"].get<std::string>())}});
    return out;
  }
};

TEST_F(ToolCalls, AreFoundInAllForms) {
  ASSERT_GE(vectors.size(), 31u);
  for (const json &vector : vectors) {
    SCOPED_TRACE(vector["name"].get<std::string>());
    test.generator->says = vector["output"];
    const json body = json::parse(test.post("/v1/chat/completions", request(R"("n":1)"))->body);
    const json &message = body["choices"][0]["message"];
    EXPECT_EQ(message["content"], vector["content"]);
    EXPECT_EQ(parsed(message.value("tool_calls", json::array())), vector["tool_calls"]);
    EXPECT_EQ(body["choices"][0]["finish_reason"],
              vector["tool_calls"].empty() ? "stop" : "tool_calls");
    const Request &asked = test.generator->seen.back();
    EXPECT_EQ(asked.shown, (std::vector<int32_t>{262, 263}));
    EXPECT_FALSE(asked.grammar);
  }
}

TEST_F(ToolCalls, AreStreamedInAnyDivision) {
  for (const json &vector : vectors)
    for (uint32_t seed = 0; seed < 100; ++seed) {
      SCOPED_TRACE(vector["name"].get<std::string>() + " " + std::to_string(seed));
      test.generator->says = vector["output"];
      test.generator->random.seed(seed);
      test.generator->longest = 1 + seed % 10 * 3;
      const auto reply = test.post("/v1/chat/completions", request(R"("stream":true)"));
      json calls = json::array(), content;
      std::string reason;
      std::vector<std::string> ids;
      for (size_t at = 0, end; (end = reply->body.find("\n\n", at)) != std::string::npos;
           at = end + 2) {
        const std::string data = reply->body.substr(at + 6, end - at - 6);
        if (data == "[DONE]")
          continue;
        const json choice = json::parse(data)["choices"][0];
        if (choice["finish_reason"].is_string())
          reason = choice["finish_reason"];
        const json &delta = choice["delta"];
        if (const json more = delta.value("content", json()); more.is_string())
          content =
              (content.is_string() ? content.get<std::string>() : "") + more.get<std::string>();
        for (const json &call : delta.value("tool_calls", json::array())) {
          const size_t index = call["index"];
          if (call.contains("id")) {
            ASSERT_EQ(index, calls.size());
            EXPECT_EQ(call["type"], "function");
            EXPECT_EQ(call["function"]["arguments"], "");
            ids.push_back(call["id"]);
            calls.push_back(call);
          } else {
            ASSERT_LT(index, calls.size());
            json &text = calls[index]["function"]["arguments"];
            text = text.get<std::string>() + call["function"]["arguments"].get<std::string>();
          }
        }
      }
      EXPECT_EQ(parsed(calls), vector["tool_calls"]);
      // Text that never came is null or empty, as the vectors have it for calls and for nothing.
      if (vector["content"].is_string() && !vector["content"].get<std::string>().empty())
        EXPECT_EQ(content, vector["content"]);
      else
        EXPECT_TRUE(content.is_null() || content == "");
      EXPECT_EQ(reason, calls.empty() ? "stop" : "tool_calls");
      std::sort(ids.begin(), ids.end());
      EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
      for (const std::string &id : ids)
        EXPECT_TRUE(id.starts_with("call_") && id.size() == 29) << id;
    }
}

TEST_F(ToolCalls, AreMadeAsTheRequestChooses) {
  const std::string two = "[a(), b(x=1)]";
  test.generator->says = two;
  const auto ask = [&](const std::string &members) {
    return json::parse(test.post("/v1/chat/completions", request(members))->body)["choices"][0];
  };
  // None: text, and the model is not told of them.
  json choice = ask(R"("tool_choice":"none")");
  EXPECT_EQ(choice["message"]["content"], two);
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(test.generator->seen.back().shown.empty());
  const size_t bare = test.generator->seen.back().prompt.size();
  EXPECT_EQ(ask(R"("tool_choice":"auto")")["message"]["tool_calls"].size(), 2u);
  EXPECT_GT(test.generator->seen.back().prompt.size(), bare);
  // One call ends the answer.
  test.generator->longest = 1;
  const size_t before = test.generator->cancelled.size();
  choice = ask(R"("parallel_tool_calls":false)");
  EXPECT_EQ(choice["message"]["tool_calls"].size(), 1u);
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(test.generator->cancelled.size(), before + 1);
  EXPECT_EQ(test.generator->open(), 0u);
  // Required: a grammar of all, or of the one that is named.
  ask(R"("tool_choice":"required")");
  EXPECT_EQ(test.grammars->seen.back().kind, GrammarSource::Kind::ToolCalls);
  EXPECT_TRUE(test.grammars->seen.back().several);
  EXPECT_EQ(json::parse(test.grammars->seen.back().text).size(), 7u);
  ask(R"("tool_choice":{"type":"function","function":{"name":"b"}},"parallel_tool_calls":false)");
  EXPECT_FALSE(test.grammars->seen.back().several);
  const json named = json::parse(test.grammars->seen.back().text);
  ASSERT_EQ(named.size(), 1u);
  EXPECT_EQ(named[0]["name"], "b");
  EXPECT_TRUE(test.generator->seen.back().grammar);
  EXPECT_EQ(
      test.post("/v1/chat/completions",
                request(R"("tool_choice":"required","response_format":{"type":"json_object"})"))
          ->status,
      400);
}

TEST_F(ToolCalls, OfStrictFunctionsAreConstrainedAmidText) {
  const std::string schema =
      R"({"type":"object","properties":{"x":{"type":"integer"}},"required":["x"],"additionalProperties":false})";
  const auto ask = [&](const std::string &strict, const std::string &members) {
    const auto function = [&](const std::string &name, const std::string &more) {
      return R"({"type":"function","function":{"name":")" + name + R"(","parameters":)" + schema +
             more + "}}";
    };
    const std::string body = R"({"messages":[{"role":"user","content":"Hi"}],"tools":[)" +
                             function("a", "") + "," + function("b", strict) + "]" + members + "}";
    EXPECT_EQ(test.post("/v1/chat/completions", body)->status, 200) << body;
    return test.generator->seen.back().grammar != nullptr;
  };
  EXPECT_TRUE(ask(R"(,"strict":true)", ""));
  GrammarSource source = test.grammars->seen.back();
  EXPECT_EQ(source.kind, GrammarSource::Kind::ToolCalls);
  EXPECT_TRUE(source.amidText && source.several);
  const json tools = json::parse(source.text);
  ASSERT_EQ(tools.size(), 1u); // the other one may be called in any way
  EXPECT_EQ(tools[0]["name"], "b");
  EXPECT_EQ(tools[0]["parameters"], json::parse(schema));
  EXPECT_TRUE(tools[0]["strict"]);
  EXPECT_TRUE(ask(R"(,"strict":true)", R"(,"tool_choice":"auto","parallel_tool_calls":false)"));
  EXPECT_FALSE(test.grammars->seen.back().several);
  EXPECT_FALSE(ask(R"(,"strict":false)", ""));
  EXPECT_FALSE(ask("", R"(,"tool_choice":"auto")"));
  EXPECT_FALSE(ask(R"(,"strict":true)", R"(,"tool_choice":"none")"));
  EXPECT_TRUE(ask(R"(,"strict":true)", R"(,"tool_choice":"required")"));
  EXPECT_FALSE(test.grammars->seen.back().amidText);
  // A form of the whole answer leaves no room for calls.
  EXPECT_TRUE(ask(R"(,"strict":true)", R"(,"response_format":{"type":"json_object"})"));
  EXPECT_EQ(test.grammars->seen.back().kind, GrammarSource::Kind::JsonObject);
  // Calls of Python have no grammar.
  auto model = test.model("cria");
  ChatFormat format = ChatFormat::llama4();
  format.tools = ChatFormat::kPythonic;
  model->chat =
      std::make_shared<ChatTemplate>(*ChatTemplate::create(byteTokenizer(), std::move(format)));
  test.models->put(model);
  EXPECT_FALSE(ask(R"(,"strict":true)", ""));
}

TEST_F(ToolCalls, ThatAreCutAreText) {
  test.generator->says = R"([get_weather(city="Oslo")])";
  const json body =
      json::parse(test.post("/v1/chat/completions", request(R"("max_tokens":15)"))->body);
  EXPECT_EQ(body["choices"][0]["message"]["content"], "[get_weather(ci");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
}

TEST_F(ToolCalls, NeedATemplateThatHasThem) {
  auto model = test.model("cria");
  model->chat =
      std::make_shared<ChatTemplate>(*ChatTemplate::create(byteTokenizer(), ChatFormat::llama4()));
  test.models->put(model);
  EXPECT_EQ(test.post("/v1/chat/completions", request(R"("n":1)"))->status, 400);
  EXPECT_EQ(test.post("/v1/chat/completions", request(R"("tool_choice":"none")"))->status, 200);
}

} // namespace
