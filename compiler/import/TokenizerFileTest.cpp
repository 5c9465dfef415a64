#include "compiler/import/TokenizerFile.h"

#include "runtime/text/TestVocabulary.h"

#include "llvm/Support/Base64.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"

#include <gtest/gtest.h>

#include <filesystem>

using namespace moe;

namespace {

const std::string kFolder = MOE_SOURCE_DIR "/test/tokenizer/";

std::string readFile(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TokenizerModel readSmall(const std::string &name) {
  auto model = TokenizerModel::parseJson(readFile(kFolder + name), name);
  EXPECT_TRUE(bool(model)) << llvm::toString(model.takeError());
  return std::move(*model);
}

template <typename T> std::string messageOf(llvm::Expected<T> value) {
  return value ? "" : llvm::toString(value.takeError());
}

// The message for ranked.json with the first `from` replaced.
std::string errorWith(std::string_view from, std::string_view to) {
  std::string json = readFile(kFolder + "ranked.json");
  const size_t at = json.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  json.replace(at, from.size(), to);
  return messageOf(TokenizerModel::parseJson(json, "t.json"));
}

void expectGoldens(const TokenizerModel &model, const std::string &goldens) {
  const auto tables = buildTokenizerTables(model.tokens, model.merges);
  ASSERT_TRUE(tables) << tables.error().message;
  const auto tokenizer = Tokenizer::create(*tables, model.settings());
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  for (const auto &[text, ids] : readGoldens(kFolder + goldens)) {
    std::vector<int32_t> got;
    tokenizer->encode(text, got);
    EXPECT_EQ(got, ids) << text;
  }
}

// Meta's file of `count` tokens: all bytes, then "!!", "!\"" and so on.
std::string ranksFile(size_t count) {
  std::string text;
  for (size_t id = 0; id < count; ++id) {
    std::string token(1, char(id));
    if (id >= 256) {
      const size_t n = id - 256;
      token = {char('!' + n % 90), char('!' + n / 90 % 90), char('!' + n / 8100)};
    }
    text += llvm::encodeBase64(token) + " " + std::to_string(id) + "\n";
  }
  return text;
}

} // namespace

TEST(TokenizerFile, jsonWithMergesByRank) {
  const TokenizerModel model = readSmall("ranked.json");
  EXPECT_EQ(model.tokens, readVocabulary(kFolder + "ranked.model"));
  EXPECT_EQ(model.merges, mergesByRank(model.tokens));
  EXPECT_TRUE(model.ignoreMerges);
  EXPECT_TRUE(model.addBos);
  EXPECT_EQ(model.bos, int32_t(model.tokens.size()));
  ASSERT_EQ(model.specials.size(), 7u);
  EXPECT_EQ(model.specials[5], (SpecialToken{"<|eot|>", model.bos + 5, true}));
  expectGoldens(model, "ranked.txt");
}

TEST(TokenizerFile, jsonAsTheTrainerLeavesIt) {
  const TokenizerModel model = readSmall("trained.json");
  EXPECT_FALSE(model.ignoreMerges);
  EXPECT_EQ(model.bos, 0);
  EXPECT_EQ(model.tokens[0], ""); // special tokens are holes
  expectGoldens(model, "trained.txt");
}

TEST(TokenizerFile, mergesAsStrings) {
  std::string json = readFile(kFolder + "ranked.json");
  for (size_t at = json.find("\"merges\""); (at = json.find("[\n\"", at)) != std::string::npos;) {
    const size_t comma = json.find("\",\n\"", at), end = json.find("\"\n]", comma);
    json.replace(end, 3, "\"");
    json.replace(comma, 4, " ");
    json.replace(at, 3, "\"");
  }
  ASSERT_NE(json.find("\"t h\""), std::string::npos);
  auto model = TokenizerModel::parseJson(json, "t.json");
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  EXPECT_EQ(model->merges, readSmall("ranked.json").merges);
}

TEST(TokenizerFile, chatFormat) {
  const TokenizerModel model = readSmall("ranked.json");
  ASSERT_TRUE(model.chat);
  ChatFormat expected = ChatFormat::llama4();
  expected.stopTokens = {model.bos + 1, model.bos + 4, model.bos + 5};
  EXPECT_EQ(*model.chat, expected);

  std::string json = readFile(kFolder + "ranked.json");
  json.replace(json.find("<|header_start|>"), 16, "<|heading|>");
  auto other = TokenizerModel::parseJson(json, "t.json");
  ASSERT_TRUE(bool(other));
  EXPECT_FALSE(other->chat);
}

TEST(TokenizerFile, jsonOfAnotherTokenizerIsRefused) {
  const auto contains = [](const std::string &text, std::string_view part) {
    return text.find(part) != std::string::npos ? testing::AssertionSuccess()
                                                : testing::AssertionFailure() << text;
  };
  EXPECT_TRUE(contains(errorWith("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}"),
                       R"(t.json: normalizer is {"type":"NFC"}, expected null)"));
  const std::string expected = "expected Llama 4's: Split by its regular expression";
  EXPECT_TRUE(contains(errorWith("{1,3}", "{1,2}"), "t.json: pre_tokenizer is {"));
  EXPECT_TRUE(contains(errorWith("{1,3}", "{1,2}"), expected));
  EXPECT_TRUE(contains(errorWith("\"Isolated\"", "\"Removed\""), expected));
  EXPECT_TRUE(contains(errorWith("\"invert\": false", "\"invert\": true"), expected));
  EXPECT_TRUE(contains(errorWith("\"use_regex\": false", "\"use_regex\": true"), expected));
  EXPECT_TRUE(
      contains(errorWith("\"add_prefix_space\": false", "\"add_prefix_space\": true"), expected));
  EXPECT_TRUE(contains(errorWith("\"pre_tokenizer\"", "\"other\""), "pre_tokenizer is missing"));
  EXPECT_TRUE(contains(errorWith("\"decoder\"", "\"other\""), "decoder is missing"));
  EXPECT_TRUE(contains(errorWith("\"type\": \"BPE\"", "\"type\": \"Unigram\""),
                       R"(model.type is "Unigram", expected BPE)"));
  EXPECT_TRUE(contains(errorWith("\"byte_fallback\": false", "\"byte_fallback\": true"),
                       "model.byte_fallback is true"));
  EXPECT_TRUE(contains(errorWith("\"dropout\": null", "\"dropout\": 0.1"), "model.dropout is 0.1"));
  EXPECT_TRUE(contains(errorWith("\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"_\""),
                       "model.end_of_word_suffix is \"_\""));
  EXPECT_TRUE(
      contains(errorWith("\"lstrip\": false", "\"lstrip\": true"), "expected lstrip to be false"));
  EXPECT_TRUE(contains(errorWith("\"TemplateProcessing\"", "\"Roberta\""),
                       "expected ByteLevel or TemplateProcessing"));
  EXPECT_TRUE(
      contains(errorWith("\"id\": \"A\"", "\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"B\""),
               "the text after at most one special token"));
}

TEST(TokenizerFile, damagedJsonIsRefused) {
  const auto contains = [](const std::string &text, std::string_view part) {
    return text.find(part) != std::string::npos ? testing::AssertionSuccess()
                                                : testing::AssertionFailure() << text;
  };
  const auto parse = [](llvm::StringRef text) {
    return messageOf(TokenizerModel::parseJson(text, "t.json"));
  };
  EXPECT_TRUE(contains(parse("{"), "t.json is not JSON"));
  EXPECT_TRUE(contains(parse("[]"), "t.json: expected an object"));
  EXPECT_TRUE(contains(errorWith("\"!\": 0", "\"!\": -1"), "model.vocab[\"!\"] is -1"));
  EXPECT_TRUE(contains(errorWith("\"!\": 0", "\"!\": 1e9"), "expected an id below 16777216"));
  EXPECT_TRUE(contains(errorWith("\"!\": 0", "\"!\": \"x\""), "model.vocab[\"!\"]"));
  EXPECT_TRUE(contains(errorWith("\"!\": 0", "\"!\": 1"), "have the same id, 1"));
  EXPECT_TRUE(contains(errorWith("\"!\": 0", "\"\\u00ad\": 0"), "is not made of the characters"));
  EXPECT_TRUE(contains(errorWith("\"!\": 0", "\"!?!\": 0"), "byte 33 has no token of its own"));
  EXPECT_TRUE(contains(errorWith("[\n\"t\",\n\"h\"\n]", "[\"t\"]"), "a merge is [\"t\"]"));
  EXPECT_TRUE(contains(errorWith("[\n\"t\",\n\"h\"\n]", "7"), "a merge is 7"));
  EXPECT_TRUE(contains(errorWith("[\n\"t\",\n\"h\"\n]", "\"th\""), "a merge is \"th\""));
  EXPECT_TRUE(contains(errorWith("[\n\"t\",\n\"h\"\n]", "\"q q\""), "whose concatenation is one"));
  EXPECT_TRUE(contains(errorWith("\"content\": \"<|eom|>\"", "\"content\": \"<|eot|>\""),
                       "the added token <|eot|> occurs twice"));
  EXPECT_TRUE(contains(errorWith("\"content\": \"<|eom|>\"", "\"content\": \"\""),
                       "expected a content and an id"));
  EXPECT_TRUE(
      contains(errorWith("\"id\": 586", "\"id\": 587"), "two added tokens have the id 587"));
  EXPECT_TRUE(contains(errorWith("\"id\": 586", "\"id\": 1"), R"(the id 1 is """ in model.vocab)"));
  EXPECT_TRUE(contains(errorWith("\"SpecialToken\": {\n\"id\": \"<|begin_of_text|>\"",
                                 "\"SpecialToken\": {\n\"id\": \"<s>\""),
                       "starts with \"<s>\", which is no added token"));
  // No truncation may crash.
  const std::string json = readFile(kFolder + "ranked.json");
  for (size_t size = 0; size < json.size() - 2; size += 97)
    EXPECT_NE(parse(llvm::StringRef(json).take_front(size)), "");
}

TEST(TokenizerFile, ranks) {
  auto model = TokenizerModel::parseRanks(ranksFile(200000), "t.model");
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  EXPECT_EQ(model->tokens.size(), 200000u);
  EXPECT_TRUE(model->ignoreMerges);
  EXPECT_TRUE(model->addBos);
  EXPECT_EQ(model->bos, 200000);
  ASSERT_TRUE(model->chat);
  EXPECT_EQ(model->chat->stopTokens, (std::vector<int32_t>{200001, 200007, 200008}));
}

// A sample of each stretch of the list.
TEST(TokenizerFile, llama4SpecialTokens) {
  const auto tokens = llama4SpecialTokens();
  ASSERT_EQ(tokens.size(), 2048u);
  const std::pair<int, const char *> samples[] = {
      {200000, "<|begin_of_text|>"},
      {200004, "<|fim_suffix|>"},
      {200005, "<|header_start|>"},
      {200008, "<|eot|>"},
      {200015, "<|text_post_train_reserved_special_token_5|>"},
      {200016, "<|python_start|>"},
      {200018, "<|finetune_right_pad|>"},
      {200019, "<|text_post_train_reserved_special_token_8|>"},
      {200079, "<|text_post_train_reserved_special_token_68|>"},
      {200080, "<|image_start|>"},
      {200083, "<|vision_reserved_special_token_1|>"},
      {200084, "<|tile_x_separator|>"},
      {200089, "<|vision_reserved_special_token_5|>"},
      {200090, "<|image|>"},
      {200092, "<|patch|>"},
      {200093, "<|vision_reserved_special_token_7|>"},
      {201133, "<|vision_reserved_special_token_1047|>"},
      {201141, "<|reasoning_reserved_special_token_7|>"},
      {201143, "<|reasoning_thinking_end|>"},
      {201144, "<|reserved_special_token_0|>"},
      {202047, "<|reserved_special_token_903|>"},
  };
  for (const auto &[id, content] : samples)
    EXPECT_EQ(tokens[size_t(id) - 200000], content);
}

TEST(TokenizerFile, damagedRanksAreRefused) {
  const auto parse = [](const std::string &text) {
    return messageOf(TokenizerModel::parseRanks(text, "t.model"));
  };
  EXPECT_EQ(parse(""), "t.model: 0 tokens, expected Llama 4's 200000");
  EXPECT_EQ(parse(ranksFile(300)), "t.model: 300 tokens, expected Llama 4's 200000");
  EXPECT_EQ(parse(ranksFile(200001)), "t.model: more tokens, expected Llama 4's 200000");
  const std::string start = "t.model:2: expected the bytes of token 1 in base64";
  for (const char *line :
       {"AQ==", "AQ== 2", "AQ== x", "A!== 1", " 1", "\xFF 1", "AQ== 99999999999"})
    EXPECT_TRUE(parse(std::string("AA== 0\n") + line + "\n").starts_with(start)) << line;
  EXPECT_EQ(parse("AA== 0\nAA== 1\n"), "t.model:2: these bytes are a token already");
}

TEST(TokenizerFile, opensAFolder) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "moe-tokenizer-file-test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  std::vector<std::string> warnings;
  auto none = TokenizerModel::open(folder.string(), warnings);
  ASSERT_TRUE(bool(none)) << llvm::toString(none.takeError());
  EXPECT_FALSE(*none);

  std::ofstream(folder / "tokenizer.model") << "AA== 1\n";
  EXPECT_NE(messageOf(TokenizerModel::open(folder.string(), warnings)).find("tokenizer.model:1:"),
            std::string::npos);

  // Without a post-processor only the configuration names a BOS.
  std::string json = readFile(kFolder + "ranked.json");
  json.replace(json.find("\"post_processor\""), 16, "\"ignored\"");
  std::ofstream(folder / "tokenizer.json") << json;
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"bos_token": {"content": "<|begin_of_text|>"}, "chat_template": "[INST]"})";
  auto model = TokenizerModel::open(folder.string(), warnings);
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  ASSERT_TRUE(*model);
  EXPECT_FALSE((*model)->addBos);
  EXPECT_EQ((*model)->bos, int32_t((*model)->tokens.size()));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("its chat_template is not Llama 4's"), std::string::npos);
  EXPECT_EQ((*model)->unknownTemplate, "");
  fs::remove_all(folder);
}

// Where the chat template may be, and what it says about tools.
TEST(TokenizerFile, chatTemplates) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "moe-chat-template-test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  fs::copy(kFolder + "ranked.json", folder / "tokenizer.json");
  std::vector<std::string> warnings;
  const auto open = [&] {
    auto model = TokenizerModel::open(folder.string(), warnings);
    EXPECT_TRUE(bool(model)) << llvm::toString(model.takeError());
    return **model;
  };
  const auto config = [&](const llvm::json::Value &value) {
    std::string text;
    llvm::raw_string_ostream(text)
        << llvm::json::Value(llvm::json::Object{{"chat_template", value}});
    std::ofstream(folder / "tokenizer_config.json") << text;
  };
  const std::string known = readFile(MOE_SOURCE_DIR "/models/cria/chat_template.jinja");
  const std::string unknown = "{{ '<|header_start|>' }}";
  const std::string configPath = (folder / "tokenizer_config.json").string();
  using llvm::json::Array, llvm::json::Object;

  EXPECT_EQ(open().chat->tools, "");
  EXPECT_EQ(open().unknownTemplate, ""); // there is none
  config(known);
  EXPECT_EQ(open().chat->tools, ChatFormat::kHfJson);
  EXPECT_EQ(open().unknownTemplate, "");
  config(unknown);
  EXPECT_EQ(open().chat->tools, "");
  EXPECT_EQ(open().unknownTemplate, configPath);
  config(Array{Object{{"name", "default"}, {"template", unknown}},
               Object{{"name", "tool_use"}, {"template", known}}});
  EXPECT_EQ(open().chat->tools, ChatFormat::kHfJson);
  config(Array{Object{{"name", "default"}, {"template", known}}, 7, Object{{"name", "rag"}}});
  EXPECT_EQ(open().chat->tools, ChatFormat::kHfJson);
  config(17);
  EXPECT_EQ(open().unknownTemplate, "");
  // A file of its own goes before.
  config(unknown);
  std::ofstream(folder / "chat_template.jinja") << known;
  EXPECT_EQ(open().chat->tools, ChatFormat::kHfJson);
  config(known);
  std::ofstream(folder / "chat_template.jinja") << unknown;
  EXPECT_EQ(open().chat->tools, "");
  EXPECT_EQ(open().unknownTemplate, (folder / "chat_template.jinja").string());
  EXPECT_EQ(warnings.size(), 0u);
  fs::remove_all(folder);
}

TEST(TokenizerFile, llama4) {
  const char *path = std::getenv("MOE_LLAMA4_TOKENIZER");
  if (!path)
    GTEST_SKIP() << "set MOE_LLAMA4_TOKENIZER to the path of Llama 4's tokenizer.model";
  auto model = TokenizerModel::parseRanks(readFile(path), path);
  ASSERT_TRUE(bool(model)) << llvm::toString(model.takeError());
  EXPECT_EQ(model->merges.size(), 439802u);
  const auto tables = buildTokenizerTables(model->tokens, model->merges);
  ASSERT_TRUE(tables);
  const auto tokenizer = Tokenizer::create(*tables, model->settings());
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const auto chat = ChatTemplate::create(*tokenizer, *model->chat);
  ASSERT_TRUE(chat) << chat.error().message;

  std::vector<int32_t> ids;
  chat->start({}, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{200000}));
  const Message message{Role::User, "Hello world"};
  chat->next({&message, 1}, ids);
  chat->startAssistant(ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{200000, 200005, 1556, 200006, 368, 19873, 3817, 200008,
                                       200005, 140680, 200006, 368}));
}
