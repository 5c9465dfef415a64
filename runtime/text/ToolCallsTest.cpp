#include "runtime/text/ToolCalls.h"

#include "runtime/text/TestJson.h"

#include <gtest/gtest.h>

#include <random>

using namespace moe;

namespace {

using Events = std::vector<ToolCallEvent>;

const std::vector<std::string> kNames = {
    "get_weather", "get_user_info", "now", "f", "say", "a", "b"};

// What an answer says, however it was divided.
struct Answer {
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls; // name and arguments
  bool operator==(const Answer &) const = default;
};

std::ostream &operator<<(std::ostream &out, const Answer &answer) {
  out << '\'' << answer.content << '\'';
  for (const auto &[name, arguments] : answer.calls)
    out << ' ' << name << arguments;
  return out;
}

void add(Answer &answer, const Events &events) {
  for (const ToolCallEvent &event : events) {
    if (event.kind == ToolCallEvent::Kind::Content) {
      EXPECT_FALSE(event.text.empty());
      answer.content += event.text;
      continue;
    }
    EXPECT_EQ(event.call, int32_t(answer.calls.size()));
    answer.calls.emplace_back(event.name, event.text);
  }
}

// The text in parts that end at `cuts`.
Answer scan(std::string_view text, const std::vector<size_t> &cuts = {}, bool several = true,
            std::vector<std::string> names = kNames) {
  ToolCallScanner scanner(std::move(names), several);
  Answer answer;
  size_t from = 0;
  const auto push = [&](size_t to) {
    Events events;
    scanner.push(text.substr(from, to - from), events);
    add(answer, events);
    from = to;
  };
  for (const size_t cut : cuts)
    push(cut);
  push(text.size());
  Events events;
  scanner.finish(events);
  add(answer, events);
  EXPECT_EQ(scanner.calls(), int32_t(answer.calls.size()));
  return answer;
}

std::vector<size_t> randomCuts(std::mt19937 &random, size_t size) {
  std::vector<size_t> cuts;
  for (size_t count = random() % 12; count > 0; --count)
    cuts.push_back(random() % (size + 1));
  std::sort(cuts.begin(), cuts.end());
  return cuts;
}

std::vector<size_t> everyByte(size_t size) {
  std::vector<size_t> cuts(size);
  for (size_t i = 0; i < size; ++i)
    cuts[i] = i + 1;
  return cuts;
}

Answer content(std::string_view text) { return {std::string(text), {}}; }

Answer call(std::string_view arguments, std::string_view name = "f") {
  return {"", {{std::string(name), std::string(arguments)}}};
}

} // namespace

TEST(ToolCalls, vectorsInAnyDivision) {
  const TestJson vectors = TestJson::read(MOE_SOURCE_DIR "/test/chat/tool-calls.json");
  EXPECT_EQ(vectors.array.size(), 31u);
  std::mt19937 random(1);
  for (const TestJson &vector : vectors.array) {
    SCOPED_TRACE(vector["name"].string);
    const std::string &text = vector["output"].string;
    const Answer answer = scan(text);
    const bool isNull = answer.content.empty() && !answer.calls.empty();
    EXPECT_EQ(isNull, vector["content"].kind == TestJson::Kind::Null);
    EXPECT_EQ(answer.content, vector["content"].string);
    const auto &calls = vector["tool_calls"].array;
    ASSERT_EQ(answer.calls.size(), calls.size());
    for (size_t i = 0; i < calls.size(); ++i) {
      EXPECT_EQ(answer.calls[i].first, calls[i]["name"].string);
      EXPECT_EQ(TestJson::parse(answer.calls[i].second), calls[i]["arguments"]);
    }
    EXPECT_EQ(scan(text, everyByte(text.size())), answer);
    for (int i = 0; i < 100; ++i)
      EXPECT_EQ(scan(text, randomCuts(random, text.size())), answer);
  }
}

TEST(ToolCalls, argumentsAreCompactJson) {
  EXPECT_EQ(scan("[f(x = 1, y-z = 'a', w=[1, 2.50], v={'k' : None},)]"),
            call(R"({"x":1,"y-z":"a","w":[1,2.5],"v":{"k":null}})"));
  EXPECT_EQ(scan(R"({"name": "f", "parameters": { "x" : "\u00e9" } })"),
            call("{\"x\":\"\xC3\xA9\"}"));
  EXPECT_EQ(scan("<function=f>\n{\"x\": 1}\n</function>"), call(R"({"x":1})"));
  EXPECT_EQ(scan("[f(code=\"\"\"print(\"a\")\n\"\"\")]"), call(R"({"code":"print(\"a\")\n"})"));
}

TEST(ToolCalls, objectsInOtherShapes) {
  for (const char *text : {
           R"({"parameters": {"x": 1}, "name": "f"})",
           R"({"type": "function", "function": {"name": "f", "parameters": {"x": 1}}})",
           R"({"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}})",
           R"({"function": "f", "parameters": {"x": 1}})",
           R"({'name': 'f', 'parameters': {'x': 1}})",
           R"([{"name": "f", "parameters": {"x": 1}}])",
           R"([{"name": "f", "parameters": {"x": 1}})", // closed by the end
           R"({"name": "f", "parameters": {"x": 1})",
           R"({"type": "function", "function": {"name": "f", "parameters": {"x": 1})",
           "<function=f>{\"x\": 1}",
           "<function=f>{\"x\": 1}</func",
           "  [f(x=1)] \n",
           "<|python_start|>\n[f(x=1)\n<|python_end|>\n",
           "[ f(x=1) ]",
       })
    EXPECT_EQ(scan(text), call(R"({"x":1})")) << text;
  EXPECT_EQ(scan(R"({"name": "now", "parameters": null})"), call("{}", "now"));
}

TEST(ToolCalls, whatIsNoCallIsContent) {
  for (const char *text : {
           "[f(1)]",
           "[f(x=1",
           "[f(x=1,",
           "[f(x=",
           "[f",
           "[f x",
           "[f(x=1] [",
           "f(x=1)",
           "[f.g(x=1)]",
           "[f(x=1) is how it is called]",
           "[f(x=g())]",
           "[f(x=open('/etc/passwd'))]",
           "[f(x=1+1)]",
           "[f(**k)]",
           R"({"name": "f"})",
           R"({"parameters": {}})",
           R"({"name": 1, "parameters": {}})",
           R"({"name": "unknown", "parameters": {}})",
           R"({"name": "f", "name": "a", "parameters": {}})",
           R"({"name": "f", "parameters": {}, "arguments": {}})",
           R"({"name": "f", "parameters": []})",
           R"({"name": "f", "parameters": "[1]"})",
           R"({"name": "f", "parameters": "{"})",
           R"({"name": "f", "parameters": {"x": 1}, "id": 3})",
           R"({"type": "object", "name": "f"})",
           R"({"name": "f", "parameters": {"x": )",
           R"({"name": ["f"], "parameters": {}})",
           R"({"function": {"function": {"name": "f", "parameters": {}}}})",
           R"({})",
           "{",
           "[",
           "<",
           "[[]]",
           "<function=g>{}</function>",
           "<function=f>[]</function>",
           "<function=f>{}</f>",
           "<function=f>{",
           "<func",
           "`[now()]`",
           "a `{\"name\": \"a\", \"parameters\": {}}` b",
           "```\n[now()]\n```\n",
           "    ```\n[now()]",
           "x[now()]",
           "'[now()]'",
           "\"[now()]\"",
           "\\[now()]",
           "<|python",
           "<|python_stop|>",
           "<<<",
           "",
           " ",
           " \n",
           ",",
           "; ",
       })
    EXPECT_EQ(scan(text), content(text)) << text;
}

TEST(ToolCalls, callsAndContentInTurns) {
  EXPECT_EQ(scan("Sure: [now()]"), (Answer{"Sure: ", {{"now", "{}"}}}));
  EXPECT_EQ(scan("[see [now()]"), (Answer{"[see ", {{"now", "{}"}}}));
  EXPECT_EQ(scan("[now()]\n\nDone."), (Answer{"\n\nDone.", {{"now", "{}"}}}));
  EXPECT_EQ(scan("[a(x=1), delete_all(y=2)]"),
            (Answer{", delete_all(y=2)]", {{"a", R"({"x":1})"}}}));
  EXPECT_EQ(scan("[a(x=1), b(y="), (Answer{", b(y=", {{"a", R"({"x":1})"}}}));
  EXPECT_EQ(scan("[a(x=1), "), (Answer{"", {{"a", R"({"x":1})"}}}));
  EXPECT_EQ(scan("`x` [now()]"), (Answer{"`x` ", {{"now", "{}"}}}));
  EXPECT_EQ(scan("`x\n[now()]"), (Answer{"`x\n", {{"now", "{}"}}}));
  EXPECT_EQ(scan("```x``` y\n[now()]"), (Answer{"```x``` y\n", {{"now", "{}"}}}));
  EXPECT_EQ(scan("```py\nx\n```\n[now()]"), (Answer{"```py\nx\n```\n", {{"now", "{}"}}}));
  EXPECT_EQ(scan("{\"a\": 1} [now()]"), (Answer{"{\"a\": 1} ", {{"now", "{}"}}}));
  EXPECT_EQ(scan("[a(), {\"name\": \"b\", \"parameters\": {}}]<function=f>{}</function>"),
            (Answer{"", {{"a", "{}"}, {"b", "{}"}, {"f", "{}"}}}));
}

TEST(ToolCalls, markersAreNoContent) {
  EXPECT_EQ(scan("<|python_start|>print(1)<|python_end|> ok"), content("print(1) ok"));
  EXPECT_EQ(scan("<|python_start|>[now()]<|python_end|>ok"), (Answer{"ok", {{"now", "{}"}}}));
  EXPECT_EQ(scan("<<|python_start|>"), content("<"));
  EXPECT_EQ(scan("[no<|python_end|>w()]"), content("[now()]"));
  // Where it is talked about it stays.
  EXPECT_EQ(scan("`<|python_start|>`"), content("`<|python_start|>`"));
  EXPECT_EQ(scan("[say(text='<|python_end|>')]"), call(R"({"text":"<|python_end|>"})", "say"));
}

TEST(ToolCalls, oneCallWhereSeveralAreNotWanted) {
  EXPECT_EQ(scan("[a(x=1), b(y=2)]{\"name\": \"f\", \"parameters\": {}} ok", {}, /*several=*/false),
            (Answer{" ok", {{"a", R"({"x":1})"}}}));
}

TEST(ToolCalls, functionsOfTheRequestAlone) {
  EXPECT_EQ(scan("[now()]", {}, true, {}), content("[now()]"));
  EXPECT_EQ(scan("[no()]", {}, true, {"now", "n", "no-w"}), content("[no()]"));
  EXPECT_EQ(scan("[a.b-c()]", {}, true, {"a", "a.b-c"}), call("{}", "a.b-c"));
  EXPECT_EQ(scan("{\"name\": \"\", \"parameters\": {}}", {}, true, {"x"}).calls.size(), 0u);
}

// Nothing is kept back that can no longer be a call, and a call is told with its last byte.
TEST(ToolCalls, eventsComeAsSoonAsTheyAreCertain) {
  ToolCallScanner scanner(kNames);
  const auto push = [&](std::string_view text) {
    Events events;
    scanner.push(text, events);
    Answer answer;
    for (const ToolCallEvent &event : events)
      if (event.kind == ToolCallEvent::Kind::Content)
        answer.content += event.text;
      else
        answer.calls.emplace_back(event.name, event.text);
    return answer;
  };
  EXPECT_EQ(push("It is "), content("It is "));
  EXPECT_EQ(push("["), content(""));
  EXPECT_EQ(push("s"), content("")); // say
  EXPECT_EQ(push("ee"), content("[see"));
  EXPECT_EQ(push(" {\"na"), content(" "));
  EXPECT_EQ(push("me\": \"f\", \"parameters\": {"), content(""));
  EXPECT_EQ(push("}}"), call("{}"));
  EXPECT_EQ(push("\n[a(x=1)"), content(""));
  EXPECT_EQ(push(","), call(R"({"x":1})", "a"));
  EXPECT_EQ(push(" b()"), content(""));
  EXPECT_EQ(push("]"), call("{}", "b"));
}

TEST(ToolCalls, depthAndSizeAreBounded) {
  const auto nested = [](size_t depth) {
    return "[f(x=" + std::string(depth, '[') + std::string(depth, ']') + ")]";
  };
  EXPECT_EQ(scan(nested(LiteralReader::kMaxDepth)).calls.size(), 1u);
  EXPECT_EQ(scan(nested(LiteralReader::kMaxDepth + 1)),
            content(nested(LiteralReader::kMaxDepth + 1)));
  EXPECT_EQ(scan(nested(100000)), content(nested(100000)));

  const auto large = [](size_t size) { return "[f(x='" + std::string(size, 'y') + "')]"; };
  EXPECT_EQ(scan(large(ToolCallScanner::kMaxCallBytes - 10)).calls.size(), 1u);
  const std::string tooLarge = large(ToolCallScanner::kMaxCallBytes);
  EXPECT_EQ(scan(tooLarge), content(tooLarge));
}

// Texts made of pieces of calls: any division gives the same, no byte is lost and none is made up.
TEST(ToolCalls, anyTextInAnyDivision) {
  constexpr const char *kPieces[] = {"[",
                                     "]",
                                     "{",
                                     "}",
                                     "(",
                                     ")",
                                     ",",
                                     ", ",
                                     "; ",
                                     "\n",
                                     " ",
                                     "f",
                                     "now",
                                     "a",
                                     "x=",
                                     "x",
                                     "=",
                                     "1",
                                     "-2.5",
                                     "'",
                                     "\"",
                                     "\"\"\"",
                                     "`",
                                     "```",
                                     "\\",
                                     "\\u00e9",
                                     "\xC3\xA9",
                                     "<",
                                     "<|",
                                     "<|python_start|>",
                                     "<|python_end|>",
                                     "<|python_",
                                     "<function=",
                                     "f>",
                                     "</function>",
                                     "{\"name\": \"f\"",
                                     "\"parameters\": {",
                                     "\"arguments\": ",
                                     "null",
                                     "True",
                                     "\"type\": \"function\", ",
                                     "\"function\": {",
                                     "[f(x=1",
                                     "[now()]",
                                     "{\"name\": \"a\", \"parameters\": {}}",
                                     "word"};
  std::mt19937 random(7);
  size_t calls = 0;
  for (int i = 0; i < 30000; ++i) {
    std::string text;
    for (size_t count = random() % 12; count > 0; --count)
      text += kPieces[random() % std::size(kPieces)];
    const Answer answer = scan(text);
    ASSERT_EQ(scan(text, everyByte(text.size())), answer) << text;
    ASSERT_EQ(scan(text, randomCuts(random, text.size())), answer) << text;
    for (const auto &[name, arguments] : answer.calls)
      ASSERT_EQ(TestJson::parse(arguments).kind, TestJson::Kind::Object) << text;
    calls += answer.calls.size();
    // The content is the text without some of its parts.
    size_t at = 0;
    for (const char c : answer.content) {
      at = text.find(c, at);
      ASSERT_NE(at, text.npos) << text << "\n" << answer.content;
      ++at;
    }
    if (answer.calls.empty() && text.find("<|python_") == text.npos) {
      ASSERT_EQ(answer.content, text);
    }
  }
  EXPECT_GT(calls, 3000u);
}
