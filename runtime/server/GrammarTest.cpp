#include "runtime/server/TestGrammars.h"
#include "runtime/server/TestJson.h"

#include <atomic>
#include <gtest/gtest.h>
#include <thread>

using namespace moe;
using namespace moe::server;

namespace {
using Kind = GrammarSource::Kind;

struct World {
  TestVocabularyOfJson json = jsonVocabulary(7, 900);
  std::unique_ptr<GrammarCompiler> compiler = make({});

  std::unique_ptr<GrammarCompiler> make(const GrammarLimits &limits) const {
    const int32_t stops[] = {kEnd, kTurn};
    auto created = GrammarCompiler::create(json.owned.tokenizer, json.vocab, stops, limits);
    EXPECT_TRUE(created) << (created ? "" : created.error().message);
    return std::move(*created);
  }
  int64_t vocab() const { return json.vocab; }
  std::string_view bytes(int32_t id) const { return json.owned.tokenizer.bytes(id); }
  bool isSpecial(int32_t id) const {
    return id >= json.vocab - 1 || json.owned.tokenizer.isSpecial(id);
  }
};

World &world() {
  static World world;
  return world;
}

GrammarSource schema(std::string text, bool strict = false) {
  return {Kind::JsonSchema, std::move(text), {}, strict};
}
GrammarSource regex(std::string text) { return {Kind::Regex, std::move(text)}; }
GrammarSource ebnf(std::string text) { return {Kind::Ebnf, std::move(text)}; }
GrammarSource tools(std::string text, bool several = false, bool strict = false) {
  return {Kind::ToolCalls, std::move(text), {}, strict, several};
}

std::string errorOf(const GrammarSource &source, GrammarCompiler &compiler = *world().compiler) {
  const auto grammar = compiler.compile(source);
  return grammar ? "" : grammar.error().message;
}

std::shared_ptr<const CompiledGrammar> compiled(const GrammarSource &source) {
  auto grammar = world().compiler->compile(source);
  EXPECT_TRUE(grammar) << source.text << ": " << (grammar ? "" : grammar.error().message);
  return grammar ? *grammar : nullptr;
}

// Whether `token` after `text` gives a number an exponent, with which it soon is more than any
// parser takes.
bool startsExponent(std::string_view text, std::string_view token) {
  char before = text.empty() ? ' ' : text.back();
  for (char c : token) {
    if ((c == 'e' || c == 'E') && before >= '0' && before <= '9')
      return true;
    before = c;
  }
  return false;
}

// The text of a walk that any mask allows, up to a stop token; none if it has not come to an end.
// From some step on, it is drawn to tokens that end things.
std::optional<std::string> walk(const CompiledGrammar &grammar, std::mt19937 &random,
                                int most = 150) {
  const auto matcher = grammar.start();
  std::string text;
  for (int step = 0; step < most; ++step) {
    auto ids = idsOf(maskOf(*matcher, world().vocab()), world().vocab());
    if (ids.empty()) {
      ADD_FAILURE() << "nothing may follow " << text;
      return std::nullopt;
    }
    std::erase_if(ids, [&](int32_t id) { return startsExponent(text, world().bytes(id)); });
    std::vector<int32_t> ending;
    for (int32_t id : ids)
      if (id == kEnd || id == kTurn ||
          (world().bytes(id).size() == 1 &&
           std::string_view("\"}]").find(world().bytes(id)[0]) != std::string_view::npos))
        ending.push_back(id);
    const bool end = !ending.empty() && random() % 100 < unsigned(step < 20 ? 20 : 90);
    const auto &from = end ? ending : ids;
    const int32_t id = from[random() % from.size()];
    if (!matcher->accept(id)) {
      ADD_FAILURE() << "the mask allows '" << world().bytes(id) << "' after " << text;
      return std::nullopt;
    }
    if (id == kEnd || id == kTurn) {
      EXPECT_TRUE(matcher->finished());
      return text;
    }
    text += world().bytes(id);
  }
  return std::nullopt;
}

// Walks often, and gives what came to an end.
std::vector<std::string> walks(const GrammarSource &source, int count = 60) {
  std::vector<std::string> texts;
  const auto grammar = compiled(source);
  std::mt19937 random(uint32_t(std::hash<std::string>()(source.text)));
  for (int i = 0; grammar && i < count; ++i)
    if (auto text = walk(*grammar, random))
      texts.push_back(std::move(*text));
  EXPECT_GE(texts.size(), size_t(count) / 4) << "few walks come to an end: " << source.text;
  return texts;
}

constexpr const char *kPerson = R"({"type": "object", "properties": {
    "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "tags": {"type": "array",
    "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3}}, "required": ["name", "tags"]})";
constexpr const char *kTree =
    R"({"$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"},
    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["value"], "additionalProperties": false}},
    "$ref": "#/$defs/node"})";
constexpr const char *kTools =
    R"([{"name": "get_weather", "parameters": {"type": "object", "properties": {"city":
    {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}, {"name": "now", "parameters": null}])";

const std::vector<GrammarSource> &everyKind() {
  static const std::vector<GrammarSource> sources = {
      {Kind::JsonObject, ""},
      schema(kPerson),
      schema(kTree),
      schema(R"({"type": "string", "pattern": "^[a-c]+(@|\\.)x*$"})"),
      regex("(ab|a)*[0-9]{2,4}(x|y)?"),
      {Kind::Choice, "", {"red", "green", "gre", "blue \"x\"\n", "\xC3\xA9"}},
      ebnf("root ::= item (\", \" item)*\nitem ::= [a-c]+ | \"[\" root \"]\""),
      tools(kTools, true),
  };
  return sources;
}
} // namespace

TEST(Grammar, refusesEverythingWhereItIsNotBuilt) {
  if (GrammarCompiler::available())
    GTEST_SKIP() << "this build has grammars";
  const auto grammar = world().compiler->compile({Kind::JsonObject, ""});
  ASSERT_FALSE(grammar);
  EXPECT_EQ(grammar.error().code, Code::Unavailable);
  EXPECT_NE(grammar.error().message.find("MOE_GRAMMAR"), std::string::npos);
}

struct Grammars : testing::Test {
  void SetUp() override {
    if (!GrammarCompiler::available())
      GTEST_SKIP() << "this build has no grammars";
  }
};

TEST_F(Grammars, maskIsWhatAcceptTakes) {
  std::mt19937 random(3);
  for (const GrammarSource &source : everyKind()) {
    const auto grammar = compiled(source);
    ASSERT_TRUE(grammar);
    int checked = 0;
    for (int i = 0; i < 12; ++i) {
      const auto matcher = grammar->start();
      std::string text;
      for (int step = 0; step < 25 && !matcher->finished(); ++step) {
        const auto mask = maskOf(*matcher, world().vocab());
        for (int32_t id = 0; id < world().vocab(); ++id) {
          const bool taken = matcher->accept(id);
          ASSERT_EQ(taken, bit(mask, id)) << source.text << "\nafter " << text << "\ntoken " << id
                                          << " '" << world().bytes(id) << "'";
          if (taken)
            matcher->rollback(1);
          ASSERT_FALSE(taken && id != kEnd && id != kTurn && world().isSpecial(id));
          ++checked;
        }
        // Bits above the vocabulary stay clear.
        for (auto id = int32_t(world().vocab()); id < int32_t(mask.size() * 32); ++id)
          ASSERT_FALSE(bit(mask, id));
        const auto ids = idsOf(mask, world().vocab());
        ASSERT_FALSE(ids.empty());
        const int32_t id = ids[random() % ids.size()];
        ASSERT_TRUE(matcher->accept(id));
        text += world().bytes(id);
      }
    }
    EXPECT_GT(checked, 1000);
  }
}

// The same at a few places with the vocabulary that counts, whose 200,000 tokens cut text in ways
// that nobody thinks of.
TEST_F(Grammars, maskIsWhatAcceptTakesOfLlama4) {
  const char *path = std::getenv("MOE_LLAMA4_TOKENIZER");
  if (!path)
    GTEST_SKIP() << "set MOE_LLAMA4_TOKENIZER to the path of Llama 4's tokenizer.model";
  const auto tokens = readVocabulary(path);
  const auto end = int32_t(tokens.size());
  const auto owned =
      OwnedTokenizer::make(tokens, {}, {{"<|eot|>", end, true}, {"<|image|>", end + 1, true}});
  const int64_t vocab = 202048;
  const int32_t stops[] = {end};
  const auto compiler = GrammarCompiler::create(owned.tokenizer, vocab, stops);
  ASSERT_TRUE(compiler) << compiler.error().message;
  std::mt19937 random(5);
  for (const GrammarSource &source : everyKind()) {
    const auto grammar = (*compiler)->compile(source);
    ASSERT_TRUE(grammar) << grammar.error().message;
    const auto matcher = (*grammar)->start();
    for (int step = 0; step < 2 && !matcher->finished(); ++step) {
      const auto mask = maskOf(*matcher, vocab);
      for (int32_t id = 0; id < int32_t(vocab); ++id) {
        const bool taken = matcher->accept(id);
        ASSERT_EQ(taken, bit(mask, id))
            << source.text << "\nstep " << step << ", token '" << owned.tokenizer.bytes(id) << "'";
        if (taken)
          matcher->rollback(1);
      }
      const auto ids = idsOf(mask, vocab);
      ASSERT_FALSE(ids.empty());
      ASSERT_TRUE(matcher->accept(ids[random() % ids.size()]));
    }
  }
}

TEST_F(Grammars, jsonObject) {
  for (const std::string &text : walks({Kind::JsonObject, ""})) {
    const auto value = parseStrictly(text);
    ASSERT_TRUE(value) << text;
    EXPECT_TRUE(value->is_object()) << text;
  }
}

TEST_F(Grammars, jsonSchemas) {
  const char *schemas[] = {
      kPerson,
      kTree,
      R"({"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": {"type": "number"}, "minItems": 2, "maxItems": 4})",
      R"({"anyOf": [{"type": "string", "minLength": 2, "maxLength": 5}, {"const": {"a": [1, null]}}, {"type": ["null", "boolean"]}]})",
      R"({"type": "object", "properties": {"a": {}, "b": {"type": "object"}, "c": {"type": "array"}}, "required": ["a", "b", "c"]})",
      R"({"type": "object", "additionalProperties": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500}})",
      R"({"properties": {"kind": {"const": "x"}}, "required": ["kind"]})",
      R"({"type": "string", "pattern": "^a[b-d]{2,3}$"})",
      R"({"oneOf": [{"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 12}, {"type": "string", "enum": ["a", "b"]}]})",
      R"({"allOf": [{"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}]})",
      R"({"type": "string", "format": "date"})",
  };
  for (const char *text : schemas) {
    const Json wanted = Json::parse(text);
    for (const std::string &answer : walks(schema(text))) {
      const auto value = parseStrictly(answer);
      ASSERT_TRUE(value) << text << "\n" << answer;
      EXPECT_TRUE(conforms(*value, wanted, wanted)) << text << "\n" << answer;
    }
  }
}

// What an object's schema lists is all that it has, unless the schema says otherwise.
TEST_F(Grammars, listedPropertiesAreAll) {
  const auto others = [](const char *text) {
    size_t count = 0;
    for (const std::string &answer : walks(schema(text))) {
      const auto value = parseStrictly(answer);
      if (!value) {
        ADD_FAILURE() << answer;
        continue;
      }
      for (const auto &[name, member] : value->items())
        count += name != "a";
    }
    return count;
  };
  EXPECT_EQ(others(R"({"type": "object", "properties": {"a": {"type": "integer"}}})"), 0u);
  EXPECT_GT(
      others(
          R"({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": true})"),
      0u);
}

// As models write them: JSON would allow escapes, too.
TEST_F(Grammars, charactersOfEnumsArePlain) {
  const auto grammar = compiled(schema("{\"enum\": [\"a/b \xC3\xA9\", \"\\u20ac\\n\"]}"));
  ASSERT_TRUE(grammar);
  for (const char *answer : {"\"a/b \xC3\xA9\"", "\"\xE2\x82\xAC\\n\""}) {
    const auto matcher = grammar->start();
    for (const char *c = answer; *c; ++c)
      ASSERT_TRUE(matcher->accept(2 + uint8_t(*c))) << answer << " at " << c;
    EXPECT_TRUE(matcher->finished());
  }
}

TEST_F(Grammars, regexes) {
  for (const char *text : {"(ab|a)*[0-9]{2,4}(x|y)?", "[^a-y]{0,3}z", "a(b(c|d)?)+",
                           "\\d+\\.\\d{1,2}", "(true|false|null)", "\\w+@\\w+"}) {
    const std::regex wanted(text);
    for (const std::string &answer : walks(regex(text)))
      EXPECT_TRUE(std::regex_match(answer, wanted) || std::string_view(text).starts_with("[^"))
          << text << "\n"
          << answer;
  }
}

TEST_F(Grammars, choices) {
  const std::vector<std::string> choices = {"red",
                                            "green",
                                            "gre",
                                            "blue \"x\"\n",
                                            "\xC3\xA9",
                                            "back\\slash",
                                            "\x01\x7f",
                                            "\x01"
                                            "66666666666"};
  std::set<std::string> seen;
  for (const std::string &answer : walks({Kind::Choice, "", choices}, 300)) {
    EXPECT_NE(std::ranges::find(choices, answer), choices.end()) << answer;
    seen.insert(answer);
  }
  EXPECT_EQ(seen.size(), choices.size());
}

TEST_F(Grammars, toolCalls) {
  for (bool several : {false, true}) {
    size_t most = 0;
    for (std::string rest : walks(tools(kTools, several))) {
      size_t calls = 0;
      // Objects one after the other: each is what its own parser takes before it complains of the
      // next.
      while (!rest.empty()) {
        size_t length = rest.size();
        while (length > 0 && !parseStrictly(rest.substr(0, length)))
          --length;
        ASSERT_GT(length, 0u) << rest;
        const Json call = *parseStrictly(rest.substr(0, length));
        ASSERT_EQ(call.size(), 2u) << rest;
        const Json &parameters = call.at("parameters");
        ASSERT_TRUE(parameters.is_object());
        if (call.at("name") == "get_weather")
          EXPECT_TRUE(parameters.at("city").is_string() &&
                      (!parameters.contains("days") || parameters["days"].is_number_integer()));
        else
          EXPECT_EQ(call["name"], "now");
        rest.erase(0, length);
        ++calls;
      }
      most = std::max(most, calls);
    }
    EXPECT_EQ(most > 1, several);
  }
}

// A model that writes white space wherever it may comes to an end of it, and mask and accept agree
// on where.
TEST_F(Grammars, whiteSpaceOfJsonEnds) {
  const auto isBlank = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; };
  for (const GrammarSource &source : {schema(kPerson), tools(kTools)}) {
    const auto matcher = compiled(source)->start();
    std::mt19937 random(9);
    size_t run = 0, longest = 0, checked = 0;
    for (int step = 0; step < 2500 && !matcher->finished(); ++step) {
      const auto mask = maskOf(*matcher, world().vocab());
      auto ids = idsOf(mask, world().vocab());
      ASSERT_FALSE(ids.empty());
      const auto blank = [&](int32_t id) {
        return !world().isSpecial(id) && std::ranges::all_of(world().bytes(id), isBlank);
      };
      if (run >= 32)
        for (int32_t id = 0; id < world().vocab(); ++id, ++checked) {
          const bool taken = matcher->accept(id);
          ASSERT_EQ(taken, bit(mask, id)) << world().bytes(id);
          if (taken)
            matcher->rollback(1);
        }
      if (std::ranges::any_of(ids, blank))
        std::erase_if(ids, [&](int32_t id) { return !blank(id); });
      const int32_t id = ids[random() % ids.size()];
      ASSERT_TRUE(matcher->accept(id));
      for (char c : world().bytes(id))
        run = isBlank(c) ? run + 1 : 0;
      longest = std::max(longest, run);
    }
    EXPECT_GE(longest, 32u);
    EXPECT_LT(longest, 32u + 8);
    EXPECT_GT(checked, 0u);
  }
  // White space that a value has to have still comes.
  const std::string spaces = "\"" + std::string(400, ' ') + "\"";
  for (const std::string &answer : walks(schema("{\"const\": " + spaces + "}"), 1))
    EXPECT_EQ(answer, spaces);
}

TEST_F(Grammars, ebnf) {
  for (const std::string &answer : walks(ebnf("root ::= \"a\" root \"b\" | \"x\""))) {
    const size_t x = answer.find('x');
    EXPECT_EQ(answer, std::string(x, 'a') + "x" + std::string(x, 'b'));
  }
}

TEST_F(Grammars, escapesOfEbnf) {
  EXPECT_EQ(walks(ebnf("root ::= \"\\u00e9ffff\\x41\\U0001F600\""), 1),
            std::vector<std::string>{"\xC3\xA9"
                                     "ffffA\xF0\x9F\x98\x80"});
}

TEST_F(Grammars, rollbackIsNeverHavingAccepted) {
  std::mt19937 random(11);
  for (const GrammarSource &source : everyKind()) {
    const auto grammar = compiled(source);
    ASSERT_TRUE(grammar);
    for (int i = 0; i < 6; ++i) {
      const auto matcher = grammar->start();
      std::vector<int32_t> taken;
      for (int step = 0; step < 60; ++step) {
        const auto ids = idsOf(maskOf(*matcher, world().vocab()), world().vocab());
        if (ids.empty() || (random() % 4 == 0 && !taken.empty())) {
          const auto back = int32_t(1 + random() % taken.size());
          matcher->rollback(back);
          taken.resize(taken.size() - size_t(back));
        } else {
          taken.push_back(ids[random() % ids.size()]);
          ASSERT_TRUE(matcher->accept(taken.back()));
        }
        const auto fresh = grammar->start();
        for (int32_t id : taken)
          ASSERT_TRUE(fresh->accept(id));
        ASSERT_EQ(maskOf(*matcher, world().vocab()), maskOf(*fresh, world().vocab()))
            << source.text;
        ASSERT_EQ(matcher->finished(), fresh->finished()) << source.text;
      }
    }
  }
}

TEST_F(Grammars, finishedIsWhenNothingButTheEndMayFollow) {
  const auto take = [](GrammarMatcher &matcher, std::string_view text) {
    for (char c : text)
      ASSERT_TRUE(matcher.accept(2 + uint8_t(c))) << text; // the token of one byte
  };
  auto matcher = compiled(regex("ab?"))->start();
  take(*matcher, "a");
  EXPECT_FALSE(matcher->finished()); // b may follow
  EXPECT_TRUE(bit(maskOf(*matcher, world().vocab()), kTurn));
  take(*matcher, "b");
  EXPECT_TRUE(matcher->finished());
  EXPECT_FALSE(matcher->accept(2 + 'b'));
  matcher->rollback(1);
  EXPECT_FALSE(matcher->finished());
  ASSERT_TRUE(matcher->accept(kEnd));
  EXPECT_TRUE(matcher->finished());
  EXPECT_EQ(idsOf(maskOf(*matcher, world().vocab()), world().vocab()), std::vector<int32_t>());
  EXPECT_FALSE(matcher->accept(kEnd));
  for (int32_t id : {-1, int32_t(world().vocab()), INT32_MAX, INT32_MIN})
    EXPECT_FALSE(matcher->accept(id));
}

TEST_F(Grammars, refusesWhatIsWrong) {
  const auto repeated = [](std::string_view text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i)
      all += text;
    return all;
  };
  const std::pair<GrammarSource, const char *> cases[] = {
      {schema("{"), "the schema is no JSON, at byte 1"},
      {schema("{} x"), "the schema is no JSON, at byte 3"},
      {schema(""), "no JSON"},
      {schema("[]"), "at its root: found a value of type array, expected an object or a boolean"},
      {schema("false"), "cannot accept any value"},
      {schema(R"({"type": "strin"})"), "at /type: found \"strin\", expected object, array"},
      {schema(R"({"type": 3})"), "at /type"},
      {schema(R"({"properties": {"a": {"items": 3}}})"),
       "at /properties/a/items: found a value of type number"},
      {schema(R"({"properties": []})"),
       "at /properties: found a value of type array, expected an object of schemas"},
      {schema(R"({"enum": []})"), "at /enum: expected an array of at least one value"},
      {schema(R"({"type": "integer", "enum": ["a"]})"), "at /enum: no value is of type integer"},
      {schema(R"({"anyOf": []})"), "at /anyOf"},
      {schema(R"({"type": "string", "pattern": "(("})"), "parenthesis"},
      {schema(R"({"type": "string", "pattern": 7})"),
       "at /pattern: found a value of type number, expected a string"},
      {schema(R"({"type": "string", "format": {}})"), "at /format"},
      {schema("{\"properties\": {\"" + std::string(60000, 'k') + "\": 3}}"), "at /properties/kkk"},
      {schema(R"({"required": [1]})"), "at /required: expected an array of names"},
      {schema(R"({"$ref": "#"})"), "at /$ref: '#' leads to itself"},
      {schema(
           R"({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})"),
       "leads to itself"},
      {schema(R"({"$ref": "#/$defs/none"})"), "there is no '#/$defs/none'"},
      {schema(R"({"$ref": "https://example.org/schema"})"), "expected a place in the same schema"},
      {schema(R"({"$ref": "other"})"), "expected a place in the same schema"},
      {schema(R"({"type": "integer", "minimum": 5, "maximum": 2})"), "range"},
      {schema(repeated("{\"items\":", 40) + "{}" + repeated("}", 40)), "nested more than 32 deep"},
      {schema(repeated("[", 60000)), "nested more than 32 deep"},
      {schema(R"({"description": ")" + std::string(70000, 'x') + "\"}"),
       "bytes, and 65536 is the most"},
      {schema(R"({"type": "string", "pattern": "(a{1,1000}){1,1000}"})"), "repeat"},
      {regex("(("), "parenthesis"},
      {regex("a{2,1}"), ""},
      {regex("(?=a)b"), "ookahead"},
      {regex("(a{1,1000}){1,1000}"), "repeat"},
      {regex(repeated("(", 40) + "a" + repeated(")", 40)), "nested more than 32 deep"},
      {ebnf("root ::= nothing"), "nothing"},
      {ebnf("root ::= \"\\x66666666666\""), "an escape that is no character, at byte 17"},
      {ebnf("root ::= [a-\\U00110000]"), "an escape that is no character"},
      {ebnf("rot ::= \"a\""), "root"},
      {ebnf("root ::= root"), "there is no text that the grammar allows"},
      {ebnf(""), "root"},
      {{Kind::Choice, ""}, "there are no choices"},
      {tools("[]"), "expected an array of at least one object with a name"},
      {tools("{}"), "expected an array"},
      {tools(R"([{"name": 3}])"), "expected an array"},
      {tools(R"([{"name": "f", "parameters": 3}])"), "tool 'f': parameters are no object"},
      {tools(R"([{"name": "f", "parameters": {"type": "x"}}])"), "tool 'f': schema, at /type"},
  };
  for (const auto &[source, message] : cases) {
    const auto start = std::chrono::steady_clock::now();
    const auto grammar = world().compiler->compile(source);
    ASSERT_FALSE(grammar) << source.text.substr(0, 100);
    EXPECT_NE(grammar.error().message.find(message), std::string::npos)
        << source.text.substr(0, 100) << "\n"
        << grammar.error().message;
    EXPECT_EQ(grammar.error().code, Code::InvalidArgument) << grammar.error().message;
    EXPECT_LT(grammar.error().message.size(), 600u);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  }
}

TEST_F(Grammars, strictRefusesWhatCannotBePromised) {
  const std::pair<const char *, const char *> cases[] = {
      {R"({"type": "object", "properties": {"a": {"not": {}}}})",
       "at /properties/a: the keyword 'not' cannot be kept to"},
      {R"({"type": "array", "uniqueItems": true})", "'uniqueItems'"},
      {R"({"type": "string", "format": "regex"})", "the format 'regex'"},
      {R"({"anyOf": [{"type": "string"}], "properties": {}})", "'properties' beside 'anyOf'"},
      {R"({"type": "string", "pattern": "a+", "minLength": 3})", "minLength"},
      {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "oneOf"},
      {R"({"allOf": [{"type": "integer"}, {"minimum": 3}]})", "allOf"},
      {R"({"minimum": 3, "minLength": 3})", "keywords for values of types number and string"},
      {R"({"type": "number", "multipleOf": 0.5})", "multipleOf"},
  };
  for (const auto &[text, message] : cases) {
    EXPECT_EQ(errorOf(schema(text)), "") << text;
    EXPECT_NE(errorOf(schema(text, true)).find(message), std::string::npos)
        << text << "\n"
        << errorOf(schema(text, true));
    const std::string tool =
        std::string(R"([{"name": "f", "strict": true, "parameters": )") + text + "}]";
    EXPECT_NE(errorOf(tools(tool, false)).find(message), std::string::npos) << tool << "\n"
                                                                            << errorOf(tools(tool));
  }
  EXPECT_EQ(
      errorOf(schema(
          R"({"title": "t", "description": "d", "type": "object", "properties": {"a": {"type": ["string", "null"],
      "description": "x"}}, "required": ["a"], "additionalProperties": false})",
          true)),
      "");
}

// Sources that would take long, or much memory, end in time; grammars that are costly to follow
// give up.
TEST_F(Grammars, limitsHold) {
  std::string properties = R"({"type": "object", "properties": {)";
  for (int i = 0; i < 2000; ++i)
    properties += (i ? ", \"" : "\"") + std::to_string(i) + "\": {\"type\": \"string\"}";
  GrammarLimits limits;
  limits.maxTime = std::chrono::milliseconds(200);
  const auto hasty = world().make(limits);
  const auto start = std::chrono::steady_clock::now();
  const auto late = hasty->compile(schema(properties + "}}"));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Code::ResourceExhausted);
  EXPECT_NE(late.error().message.find("too long"), std::string::npos) << late.error().message;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  const auto again = std::chrono::steady_clock::now(); // is remembered
  EXPECT_EQ(errorOf(schema(properties + "}}"), *hasty), late.error().message);
  EXPECT_LT(std::chrono::steady_clock::now() - again, limits.maxTime);
  limits.retry = std::chrono::milliseconds(0); // is tried again
  const auto forgetful = world().make(limits);
  for (int round = 0; round < 2; ++round) {
    const auto began = std::chrono::steady_clock::now();
    EXPECT_NE(errorOf(schema(properties + "}}"), *forgetful), "");
    EXPECT_GE(std::chrono::steady_clock::now() - began, limits.maxTime);
  }

  limits = {};
  limits.maxMemory = 1 << 16;
  const auto poor = world().make(limits);
  EXPECT_EQ(errorOf(regex("[a-z]+"), *poor), "");
  std::vector<std::string> choices;
  for (int i = 0; i < 5000; ++i)
    choices.push_back("choice" + std::to_string(i));
  EXPECT_EQ(errorOf({Kind::Choice, "", choices}), "");
  const auto tooLarge = poor->compile({Kind::Choice, "", choices});
  ASSERT_FALSE(tooLarge);
  EXPECT_EQ(tooLarge.error().code, Code::ResourceExhausted);
  EXPECT_NE(tooLarge.error().message.find("memory"), std::string::npos) << tooLarge.error().message;
}

// Text is free until a call of a strict tool begins; then its arguments are what they should be.
TEST_F(Grammars, callsAmidTextKeepToTheirSchema) {
  GrammarSource source = tools(
      R"([{"name": "f", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}},
          "required": ["n"], "additionalProperties": false}, "strict": true}])",
      true);
  source.amidText = true;
  const auto grammar = compiled(source);
  ASSERT_TRUE(grammar);
  // How many bytes are accepted.
  const auto taken = [&](const CompiledGrammar &form, std::string_view text) {
    const auto matcher = form.start();
    size_t count = 0;
    while (count < text.size()) {
      const auto mask = maskOf(*matcher, world().json.vocab);
      const int32_t id = 2 + uint8_t(text[count]);
      const bool allowed = bit(mask, id);
      EXPECT_EQ(matcher->accept(id), allowed) << text.substr(0, count);
      if (!allowed)
        return count;
      ++count;
    }
    EXPECT_TRUE(bit(maskOf(*matcher, world().json.vocab), kEnd) ||
                text.find("\"f\"") != std::string_view::npos);
    return count;
  };
  for (const std::string_view text :
       {"Plain text, {\"a\": [1]} and all, \n\n\n    code() {}",
        R"({"name": "g", "parameters": "x"})",
        R"(Well: {"name": "f", "parameters": {"n": 12}} and {"name":"f","parameters":{"n":-3}}.)",
        R"(<function=f>{"n": 0}</function> done)", R"(<function=g>[]</function>)",
        R"({"type": "function", "name": "f", "parameters": {"n": 1}})", "[f(n='x')]"})
    EXPECT_EQ(taken(*grammar, text), text.size()) << text;
  for (const auto &[begin, rest] : {std::pair<std::string, std::string>{
                                        R"(Well: {"name": "f", "parameters": {"n": )", R"("x"}})"},
                                    {R"({"name": "f", "parameters": {)", "}}"},
                                    {R"({"name": "f", "parameters": {"n": 1)", R"(, "m": 2}})"},
                                    {R"({"name": "f", ")", R"(arguments": {"n": 1}})"},
                                    {R"(<function=f>{"n": 1}</function> <function=f>)", "[]"}})
    EXPECT_EQ(taken(*grammar, begin + rest), begin.size()) << begin << rest;
  // A call that has begun has to be ended.
  const auto matcher = grammar->start();
  for (const char c : std::string_view(R"({"name": "f", "parameters": {"n": 1)"))
    ASSERT_TRUE(matcher->accept(2 + uint8_t(c)));
  EXPECT_FALSE(bit(maskOf(*matcher, world().json.vocab), kEnd));
  // With one call alone nothing but the end comes after it.
  source.several = false;
  const auto one = compiled(source);
  const std::string call = R"(So: {"name": "f", "parameters": {"n": 1}})";
  EXPECT_EQ(taken(*one, call + " more"), call.size());
}

TEST_F(Grammars, anotherThreadsLongCompileDelaysNobody) {
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  const auto compiler = world().make({});
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(uint32_t(t) + 1);
      for (int i = 0; i < 12; ++i) {
        const GrammarSource &source = everyKind()[random() % everyKind().size()];
        const auto grammar = compiler->compile(source);
        const auto bad = compiler->compile(schema(R"({"type": "x"})"));
        if (!grammar || bad)
          continue;
        const auto mine = (*grammar)->start(),
                   reference = (*world().compiler->compile(source))->start();
        for (int step = 0; step < 15; ++step) {
          const auto mask = maskOf(*mine, world().vocab());
          if (mask != maskOf(*reference, world().vocab()))
            return;
          const auto ids = idsOf(mask, world().vocab());
          if (ids.empty())
            break;
          const int32_t id = ids[random() % ids.size()];
          if (!mine->accept(id) || !reference->accept(id))
            return;
        }
        ++right;
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(right, 6 * 12);
}

TEST_F(Grammars, keepsWhatWasCompiledWithinItsBytes) {
  GrammarLimits limits;
  limits.cacheBytes = 256 << 10;
  const auto compiler = world().make(limits);
  const auto first = *compiler->compile(schema(kPerson));
  EXPECT_EQ(first, *compiler->compile(schema(kPerson)));
  EXPECT_NE(first, *compiler->compile(schema(kPerson, true))); // another question
  EXPECT_NE(*compiler->compile({Kind::Choice, "", {"ab", "c"}}),
            *compiler->compile({Kind::Choice, "", {"a", "bc"}}));
  // Many others push it out, and those who have it keep it.
  for (int i = 0; i < 200; ++i)
    ASSERT_TRUE(compiler->compile(schema(R"({"type": "object", "properties": {"p)" +
                                         std::to_string(i) + R"(": {"type": "string"}}})")));
  EXPECT_NE(first, *compiler->compile(schema(kPerson)));
  EXPECT_FALSE(idsOf(maskOf(*first->start(), world().vocab()), world().vocab()).empty());
}

TEST_F(Grammars, needsStopTokensOfTheVocabulary) {
  const auto error = [](std::vector<int32_t> stops, int64_t vocab) {
    auto created = GrammarCompiler::create(world().json.owned.tokenizer, vocab, stops);
    return created ? "" : created.error().message;
  };
  EXPECT_NE(error({}, world().vocab()).find("there is none"), std::string::npos);
  EXPECT_NE(error({int32_t(world().vocab())}, world().vocab()).find("is not among"),
            std::string::npos);
  EXPECT_NE(error({-1}, world().vocab()).find("is not among"), std::string::npos);
  EXPECT_NE(error({0}, 0).find("a vocabulary of 0 tokens"), std::string::npos);
}
