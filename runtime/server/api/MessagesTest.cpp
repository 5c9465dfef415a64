#include "runtime/server/api/TestApi.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

using namespace moe;
using namespace moe::server;
using namespace moe::server::api;
using nlohmann::json;

namespace {

const char *kCall = R"({"name": "get_weather", "parameters": {"city": "Oslo"}})";

// Each event's data; its type is what its name says.
std::vector<json> eventsOf(const LocalReply &reply) {
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.contentType, "text/event-stream");
  std::vector<json> events;
  const std::string &body = reply.body;
  for (size_t at = 0; at < body.size();) {
    const size_t line = body.find("\ndata: ", at), end = body.find("\n\n", at);
    if (line == body.npos || end == body.npos) {
      ADD_FAILURE() << body.substr(at);
      break;
    }
    events.push_back(json::parse(body.substr(line + 7, end - line - 7)));
    EXPECT_EQ("event: " + events.back().at("type").get<std::string>(), body.substr(at, line - at));
    at = end + 2;
  }
  return events;
}

std::string textOf(const Request &request) {
  return byteTokenizer().decode(request.prompt, /*skipSpecial=*/false);
}

const char *kWeatherTool = R"("tools":[{"name":"get_weather","description":"d",
  "input_schema":{"type":"object","properties":{"city":{"type":"string"}}}}])";

std::string messagesWith(const std::string &members) {
  return R"({"model":"cria","max_tokens":200,"messages":[{"role":"user","content":"Hi"}])" +
         (members.empty() ? "" : "," + members) + "}";
}

TEST(Messages, AnswerInOnePiece) {
  TestApi test;
  test.generator->cached = 5;
  const auto reply = test.post("/v1/messages", messagesWith(R"("system":[{"type":"text",
      "text":"S"}],"temperature":0.5,"top_k":5,"stop_sequences":["x"])"));
  ASSERT_EQ(reply->status, 200) << reply->body;
  const json body = json::parse(reply->body);
  EXPECT_EQ(body["type"], "message");
  EXPECT_EQ(body["role"], "assistant");
  EXPECT_EQ(body["content"], json::parse(R"([{"type":"text","text":"Hello"}])"));
  EXPECT_EQ(body["stop_reason"], "end_turn");
  const Request &asked = test.generator->seen.at(0);
  EXPECT_EQ(body["usage"]["input_tokens"], asked.prompt.size() - 5);
  EXPECT_EQ(body["usage"]["cache_read_input_tokens"], 5);
  EXPECT_EQ(body["usage"]["output_tokens"], 6);
  EXPECT_NE(textOf(asked).find("system<|header_end|>\n\nS<|eot|>"), std::string::npos);
  EXPECT_EQ(asked.sampling.topK, 5);
  EXPECT_EQ(asked.maxTokens, 200);
  EXPECT_EQ(asked.stopStrings, std::vector<std::string>{"x"});
}

TEST(Messages, Stream) {
  TestApi test;
  const auto events = eventsOf(*test.post("/v1/messages", messagesWith(R"("stream":true)")));
  std::string text;
  std::vector<std::string> types;
  for (const json &event : events) {
    if (event["type"] == "content_block_delta")
      text += event["delta"]["text"].get<std::string>();
    if (types.empty() || types.back() != event["type"].get<std::string>())
      types.push_back(event["type"]);
  }
  EXPECT_EQ(text, "Hello");
  EXPECT_EQ(types,
            (std::vector<std::string>{"message_start", "content_block_start", "content_block_delta",
                                      "content_block_stop", "message_delta", "message_stop"}));
  EXPECT_EQ(events[events.size() - 2]["delta"]["stop_reason"], "end_turn");
  EXPECT_EQ(events[events.size() - 2]["usage"]["output_tokens"], 6);
}

TEST(Messages, CallTools) {
  TestApi test;
  test.generator->says = std::string("Let me see.") + kCall;
  for (const char *choice :
       {R"({"type":"auto"})", R"({"type":"any"})", R"({"type":"tool","name":"get_weather"})"}) {
    const std::string members = std::string(kWeatherTool) + R"(,"tool_choice":)" + choice;
    const json body = json::parse(test.post("/v1/messages", messagesWith(members))->body);
    ASSERT_EQ(body["content"].size(), 2u) << body;
    EXPECT_EQ(body["content"][1]["type"], "tool_use");
    EXPECT_EQ(body["content"][1]["name"], "get_weather");
    EXPECT_EQ(body["content"][1]["input"], json::parse(R"({"city":"Oslo"})"));
    EXPECT_EQ(body["stop_reason"], "tool_use");

    const auto events =
        eventsOf(*test.post("/v1/messages", messagesWith(members + R"(,"stream":true)")));
    std::string arguments;
    for (const json &event : events)
      if (event["type"] == "content_block_delta" && event["delta"].contains("partial_json"))
        arguments += event["delta"]["partial_json"].get<std::string>();
    EXPECT_EQ(json::parse(arguments), json::parse(R"({"city":"Oslo"})"));
    EXPECT_EQ(events[events.size() - 2]["delta"]["stop_reason"], "tool_use");
  }
  EXPECT_FALSE(test.generator->seen.front().grammar);
  EXPECT_TRUE(test.generator->seen.back().grammar); // a call that must be
}

TEST(Messages, TakeResultsOfTools) {
  TestApi test;
  const auto reply = test.post("/v1/messages", R"({"max_tokens":5,"messages":[
    {"role":"user","content":"Weather?"},
    {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},
      {"type":"tool_use","id":"t1","name":"get_weather","input":{"city":"Oslo"}}]},
    {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":
      [{"type":"text","text":"12 C"}]},{"type":"text","text":"And?"}]}]})");
  ASSERT_EQ(reply->status, 200) << reply->body;
  const std::string text = textOf(test.generator->seen.at(0));
  const size_t call = text.find("get_weather"), result = text.find("12 C"),
               and_ = text.find("And?");
  EXPECT_LT(call, result) << text;
  EXPECT_LT(result, and_) << text;
  EXPECT_NE(and_, std::string::npos);
}

TEST(Messages, RefuseInTheirOwnForm) {
  TestApi test;
  for (
      const char *body :
      {"{", "{}", R"({"messages":[{"role":"user","content":"x"}]})",
       R"({"max_tokens":0,"messages":[{"role":"user","content":"x"}]})",
       R"({"max_tokens":5,"messages":[{"role":"system","content":"x"}]})",
       R"({"max_tokens":5,"messages":[{"role":"user","content":[{"type":"document"}]}]})",
       R"({"max_tokens":5,"messages":[{"role":"user","content":"x"}],"tool_choice":{"type":"any"}})",
       R"({"max_tokens":5,"messages":[{"role":"user","content":"x"}],"tools":[{"type":"bash_20250124","name":"bash"}]})"}) {
    const auto reply = test.post("/v1/messages", body);
    EXPECT_EQ(reply->status, 400) << body;
    const json error = json::parse(reply->body);
    EXPECT_EQ(error["type"], "error");
    EXPECT_EQ(error["error"]["type"], "invalid_request_error");
  }
}

TEST(Messages, CountTokens) {
  TestApi test;
  const json body = json::parse(test.post("/v1/messages/count_tokens", messagesWith(""))->body);
  test.post("/v1/messages", messagesWith(""));
  EXPECT_EQ(body["input_tokens"], test.generator->seen.at(0).prompt.size());
}

TEST(Responses, AnswerInOnePieceAndStreamTheSame) {
  TestApi test;
  test.generator->says = std::string("Well.") + kCall;
  const std::string request =
      R"({"model":"cria","instructions":"S","input":[{"role":"user","content":
        [{"type":"input_text","text":"Hi"}]}],"max_output_tokens":200,"tools":[{"type":"function",
        "name":"get_weather","parameters":{"type":"object"}}])";
  json whole = json::parse(test.post("/v1/responses", request + "}")->body);
  EXPECT_EQ(whole["object"], "response");
  EXPECT_EQ(whole["status"], "completed");
  EXPECT_EQ(whole["instructions"], "S");
  EXPECT_EQ(whole["store"], false);
  ASSERT_EQ(whole["output"].size(), 2u) << whole;
  EXPECT_EQ(whole["output"][0]["content"][0]["text"], "Well.");
  EXPECT_EQ(whole["output"][1]["arguments"], R"({"city":"Oslo"})");
  EXPECT_EQ(whole["usage"]["output_tokens"], test.generator->says.size() + 1);

  const auto events = eventsOf(*test.post("/v1/responses", request + R"(,"stream":true})"));
  std::string text, arguments;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i]["sequence_number"], i);
    if (events[i]["type"] == "response.output_text.delta")
      text += events[i]["delta"].get<std::string>();
    if (events[i]["type"] == "response.function_call_arguments.delta")
      arguments += events[i]["delta"].get<std::string>();
  }
  EXPECT_EQ(events.front()["type"], "response.created");
  EXPECT_EQ(events.front()["response"]["status"], "in_progress");
  EXPECT_EQ(text, "Well.");
  EXPECT_EQ(arguments, R"({"city":"Oslo"})");
  ASSERT_EQ(events.back()["type"], "response.completed");
  // But for the names, which are new each time, it is the same.
  json streamed = events.back()["response"];
  for (json *each : {&whole, &streamed}) {
    each->erase("id");
    each->erase("created_at");
    for (json &item : (*each)["output"]) {
      item.erase("id");
      item.erase("call_id");
    }
  }
  EXPECT_EQ(streamed, whole);
}

TEST(Responses, SayIfTheyWereCut) {
  TestApi test;
  const json body =
      json::parse(test.post("/v1/responses", R"({"input":"Hi","max_output_tokens":2})")->body);
  EXPECT_EQ(body["status"], "incomplete");
  EXPECT_EQ(body["incomplete_details"]["reason"], "max_output_tokens");
  const auto events = eventsOf(
      *test.post("/v1/responses", R"({"input":"Hi","max_output_tokens":2,"stream":true})"));
  EXPECT_EQ(events.back()["type"], "response.incomplete");
}

TEST(Responses, TakeEarlierCalls) {
  TestApi test;
  const auto reply = test.post("/v1/responses", R"({"input":[{"role":"user","content":"W?"},
    {"type":"reasoning","summary":[]},
    {"type":"function_call","call_id":"c","name":"get_weather","arguments":"{\"city\":\"Oslo\"}"},
    {"type":"function_call_output","call_id":"c","output":"12 C"}],
    "text":{"format":{"type":"json_schema","name":"r","strict":true,"schema":{"type":"object"}}}})");
  ASSERT_EQ(reply->status, 200) << reply->body;
  const std::string text = textOf(test.generator->seen.at(0));
  EXPECT_LT(text.find("get_weather"), text.find("12 C")) << text;
  EXPECT_EQ(test.grammars->seen.at(0).text, R"({"type":"object"})");
  EXPECT_TRUE(test.grammars->seen.at(0).strict);
}

TEST(Responses, KeepNothing) {
  TestApi test;
  const std::pair<const char *, const char *> cases[] = {
      {R"("store":true)", "store"},
      {R"("background":true)", "background"},
      {R"("previous_response_id":"resp_1")", "previous_response_id"},
      {R"("conversation":"c")", "conversation"},
      {R"("tools":[{"type":"web_search"}])", "tools[0].type"},
      {R"("tool_choice":"required")", "tool_choice"},
      {R"("text":{"format":{"type":"xml"}})", "text.format.type"},
      {R"("top_logprobs":21)", "top_logprobs"},
  };
  for (const auto &[members, param] : cases) {
    const auto reply = test.post("/v1/responses", std::string(R"({"input":"Hi",)") + members + "}");
    EXPECT_EQ(reply->status, 400);
    EXPECT_EQ(json::parse(reply->body)["error"]["param"], param) << reply->body;
  }
  EXPECT_EQ(test.post("/v1/responses", R"({"input":[]})")->status, 400);
  EXPECT_EQ(test.post("/v1/responses", R"({"input":"Hi","store":false})")->status, 200);
}

} // namespace
