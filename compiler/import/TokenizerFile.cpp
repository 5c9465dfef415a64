#include "compiler/import/TokenizerFile.h"

#include "compiler/import/ChatTemplates.h"
#include "compiler/import/Json.h"
#include "runtime/text/Pretokenizer.h"
#include "runtime/text/Utf8.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/Base64.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include <array>

using namespace moe;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;
namespace json = llvm::json;

static constexpr int64_t kMaxIds = 1 << 24; // far above any vocabulary: a bound on memory
static constexpr size_t kLlama4Tokens = 200000;

//===----------------------------------------------------------------------===//
// What both forms share
//===----------------------------------------------------------------------===//

static llvm::Error checkBytes(const TokenizerModel &model, StringRef name) {
  std::array<bool, 256> present{};
  for (const std::string &token : model.tokens)
    if (token.size() == 1)
      present[uint8_t(token[0])] = true;
  for (int byte = 0; byte < 256; ++byte)
    if (!present[byte])
      return llvm::createStringError(name + ": byte " + Twine(byte) +
                                     " has no token of its own, expected all 256 to have one");
  return llvm::Error::success();
}

static int32_t findSpecial(const TokenizerModel &model, StringRef content) {
  for (const SpecialToken &token : model.specials)
    if (token.content == content)
      return token.id;
  return -1;
}

// The layout of a conversation is Llama 4's wherever the tokens for it exist.
static void addChat(TokenizerModel &model) {
  ChatFormat format = ChatFormat::llama4();
  for (const char *content : {"<|header_start|>", "<|header_end|>", "<|eot|>"})
    if (findSpecial(model, content) < 0)
      return;
  if (findSpecial(model, format.bos) < 0)
    format.bos.clear();
  for (const char *content : {"<|end_of_text|>", "<|eom|>", "<|eot|>"})
    if (const int32_t id = findSpecial(model, content); id >= 0)
      format.stopTokens.push_back(id);
  model.chat = std::move(format);
}

//===----------------------------------------------------------------------===//
// tokenizer.json
//===----------------------------------------------------------------------===//

namespace {

class JsonReader {
public:
  explicit JsonReader(StringRef name) : name(name) {}
  Expected<TokenizerModel> read(const json::Value &file);

private:
  llvm::Error error(const Twine &message) { return llvm::createStringError(name + ": " + message); }

  // "`what` is FOUND, expected EXPECTED", with as much of FOUND as fits a line.
  llvm::Error unexpected(StringRef what, const json::Value *found, const Twine &expected);

  llvm::Error readAddedTokens(const json::Array &tokens);
  llvm::Error readModel(const json::Object &object);
  llvm::Error readVocabulary(const json::Object &vocabulary);
  llvm::Error readMerges(const json::Array &merges);
  llvm::Error checkPreTokenizer(const json::Value *value);
  llvm::Error readPostProcessor(const json::Value *value);
  llvm::Error readTemplate(const json::Object &processor);

  StringRef name;
  TokenizerModel model;
  llvm::StringMap<SpecialToken *> added; // by content; they point into model.specials
  llvm::StringMap<int32_t> ids;          // of the vocabulary's names
};

// The printable characters that stand for bytes in a vocabulary's names, as GPT-2 chose them: a
// byte that is printable in Latin-1 stands for itself, the others count up from U+0100.
class ByteNames {
public:
  ByteNames() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
      bytes[printable ? byte : next++] = int16_t(byte);
    }
  }

  // Nothing if some character stands for no byte.
  std::optional<std::string> decode(StringRef text) const {
    std::string out;
    while (!text.empty()) {
      const Utf8Char c = decodeUtf8(text);
      if (c.kind != Utf8Char::Valid || c.codePoint >= bytes.size() || bytes[c.codePoint] < 0)
        return std::nullopt;
      out += char(bytes[c.codePoint]);
      text = text.drop_front(c.length);
    }
    return out;
  }

private:
  std::array<int16_t, 0x100 + 68> bytes;
};

} // namespace

// A field with JSON's `null` and a missing one mean the same in this format.
static const json::Value *find(const json::Object &object, StringRef key) {
  const json::Value *value = object.get(key);
  return value && value->kind() != json::Value::Null ? value : nullptr;
}

static bool isFlag(const json::Object &object, StringRef key, bool fallback) {
  return object.getBoolean(key).value_or(fallback);
}

static bool isType(const json::Object *object, StringRef type) {
  return object && object->getString("type") == type;
}

llvm::Error JsonReader::unexpected(StringRef what, const json::Value *found,
                                   const Twine &expected) {
  std::string text = found ? llvm::formatv("{0}", *found).str() : "missing";
  constexpr size_t kShown = 300;
  if (text.size() > kShown)
    text = json::fixUTF8(StringRef(text).take_front(kShown)) + "...";
  return error(what + " is " + text + ", expected " + expected);
}

Expected<TokenizerModel> JsonReader::read(const json::Value &file) {
  const json::Object *root = file.getAsObject();
  if (!root)
    return error("expected an object");
  if (const json::Value *normalizer = find(*root, "normalizer"))
    return unexpected("normalizer", normalizer, "null");
  if (llvm::Error e = checkPreTokenizer(find(*root, "pre_tokenizer")))
    return e;
  const json::Value *decoder = find(*root, "decoder");
  if (!decoder || !isType(decoder->getAsObject(), "ByteLevel"))
    return unexpected("decoder", decoder, "ByteLevel");

  if (const json::Value *tokens = find(*root, "added_tokens")) {
    if (!tokens->getAsArray())
      return unexpected("added_tokens", tokens, "an array");
    if (llvm::Error e = readAddedTokens(*tokens->getAsArray()))
      return e;
  }
  const json::Value *bpe = find(*root, "model");
  if (!bpe || !bpe->getAsObject())
    return unexpected("model", bpe, "an object");
  if (llvm::Error e = readModel(*bpe->getAsObject()))
    return e;
  if (llvm::Error e = readPostProcessor(find(*root, "post_processor")))
    return e;
  if (llvm::Error e = checkBytes(model, name))
    return e;
  addChat(model);
  return std::move(model);
}

llvm::Error JsonReader::checkPreTokenizer(const json::Value *value) {
  const auto isLlama4 = [&] {
    const json::Object *sequence = value ? value->getAsObject() : nullptr;
    if (!isType(sequence, "Sequence"))
      return false;
    const json::Array *parts = sequence->getArray("pretokenizers");
    if (!parts || parts->size() != 2)
      return false;
    const json::Object *split = (*parts)[0].getAsObject(), *bytes = (*parts)[1].getAsObject();
    if (!isType(split, "Split") || !isType(bytes, "ByteLevel"))
      return false;
    const json::Object *pattern = split->getObject("pattern");
    return pattern && pattern->getString("Regex") == StringRef(kLlama4Pattern) &&
           split->getString("behavior") == "Isolated" && !isFlag(*split, "invert", false) &&
           !isFlag(*bytes, "add_prefix_space", true) && !isFlag(*bytes, "use_regex", true);
  };
  if (isLlama4())
    return llvm::Error::success();
  return unexpected("pre_tokenizer", value,
                    "Llama 4's: Split by its regular expression, then ByteLevel");
}

llvm::Error JsonReader::readAddedTokens(const json::Array &tokens) {
  for (const json::Value &value : tokens) {
    const json::Object *object = value.getAsObject();
    const auto content = object ? object->getString("content") : std::nullopt;
    const auto id = object ? object->getInteger("id") : std::nullopt;
    if (!content || content->empty() || !id || *id < 0 || *id >= kMaxIds)
      return unexpected("an added token", &value, "a content and an id");
    for (const char *key : {"lstrip", "rstrip", "single_word"})
      if (isFlag(*object, key, false))
        return unexpected("an added token", &value, Twine(key) + " to be false");
    model.specials.push_back({content->str(), int32_t(*id), isFlag(*object, "special", false)});
  }

  llvm::sort(model.specials, [](const auto &a, const auto &b) { return a.id < b.id; });
  for (size_t i = 0; i < model.specials.size(); ++i) {
    SpecialToken &token = model.specials[i];
    if (i > 0 && token.id == model.specials[i - 1].id)
      return error("two added tokens have the id " + Twine(token.id));
    if (!added.try_emplace(token.content, &token).second)
      return error("the added token " + token.content + " occurs twice");
  }
  return llvm::Error::success();
}

llvm::Error JsonReader::readModel(const json::Object &object) {
  // Old files have no type: then it is whatever has merges.
  if (const json::Value *type = find(object, "type"); type && type->getAsString() != "BPE")
    return unexpected("model.type", type, "BPE");
  for (const char *key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const json::Value *affix = find(object, key); affix && affix->getAsString() != "")
      return unexpected((Twine("model.") + key).str(), affix, "none");
  if (const json::Value *dropout = find(object, "dropout"); dropout && dropout->getAsNumber() != 0)
    return unexpected("model.dropout", dropout, "none");
  if (isFlag(object, "byte_fallback", false))
    return error("model.byte_fallback is true, expected a byte-level BPE, which has no use for it");
  model.ignoreMerges = isFlag(object, "ignore_merges", false);

  const json::Object *vocabulary = object.getObject("vocab");
  const json::Array *merges = object.getArray("merges");
  if (!vocabulary || !merges)
    return error(Twine("model.") + (vocabulary ? "merges" : "vocab") +
                 " is missing, expected a BPE model");
  if (llvm::Error e = readVocabulary(*vocabulary))
    return e;
  return readMerges(*merges);
}

llvm::Error JsonReader::readVocabulary(const json::Object &vocabulary) {
  static const ByteNames names;
  llvm::DenseMap<int64_t, StringRef> nameOf;
  for (const auto &[key, value] : vocabulary) {
    const StringRef text = key;
    const auto id = value.getAsInteger();
    if (!id || *id < 0 || *id >= kMaxIds)
      return unexpected(("model.vocab[\"" + text + "\"]").str(), &value,
                        "an id below " + Twine(kMaxIds));
    if (const auto [it, isNew] = nameOf.try_emplace(*id, text); !isNew)
      return error("\"" + it->second + "\" and \"" + text + "\" have the same id, " + Twine(*id));
    if (size_t(*id) >= model.tokens.size())
      model.tokens.resize(size_t(*id) + 1);

    // A special token may be listed in the vocabulary too. There it stays a hole, so that only
    // parsing for special tokens can produce it.
    const auto special = added.find(text);
    if (special != added.end()) {
      if (special->second->id != *id)
        return error("\"" + text + "\" has the id " + Twine(*id) + " in model.vocab and " +
                     Twine(special->second->id) + " in added_tokens");
      if (special->second->special)
        continue;
    }
    std::optional<std::string> bytes = names.decode(text);
    if (!bytes || bytes->empty()) {
      if (special != added.end())
        continue;
      return error("the token \"" + text +
                   "\" is not made of the characters that stand for bytes"
                   " in a byte-level vocabulary");
    }
    model.tokens[size_t(*id)] = std::move(*bytes);
    ids[text] = int32_t(*id);
  }
  for (const SpecialToken &token : model.specials)
    if (const auto it = nameOf.find(token.id); it != nameOf.end() && it->second != token.content)
      return error("the id " + Twine(token.id) + " is \"" + it->second +
                   "\" in model.vocab and \"" + token.content + "\" in added_tokens");
  return llvm::Error::success();
}

llvm::Error JsonReader::readMerges(const json::Array &merges) {
  std::string result;
  for (const json::Value &value : merges) {
    // "a b" in older files, ["a", "b"] in newer ones.
    std::optional<StringRef> left, right;
    if (const auto text = value.getAsString()) {
      const auto [first, second] = text->split(' ');
      left = first;
      right = second;
    } else if (const json::Array *pair = value.getAsArray(); pair && pair->size() == 2) {
      left = (*pair)[0].getAsString();
      right = (*pair)[1].getAsString();
    }
    if (!left || !right)
      return unexpected("a merge", &value, "\"a b\" or [\"a\", \"b\"]");
    const auto l = ids.find(*left), r = ids.find(*right);
    result = (*left + *right).str();
    if (l == ids.end() || r == ids.end() || !ids.contains(result))
      return unexpected("a merge", &value, "two tokens of model.vocab whose concatenation is one");
    model.merges.push_back({l->second, r->second});
  }
  return llvm::Error::success();
}

llvm::Error JsonReader::readPostProcessor(const json::Value *value) {
  if (!value)
    return llvm::Error::success();
  std::vector<const json::Value *> processors{value};
  const json::Object *object = value->getAsObject();
  if (isType(object, "Sequence"))
    if (const json::Array *parts = object->getArray("processors")) {
      processors.clear();
      for (const json::Value &part : *parts)
        processors.push_back(&part);
    }
  for (const json::Value *processor : processors) {
    const json::Object *part = processor->getAsObject();
    if (isType(part, "ByteLevel")) // only moves offsets
      continue;
    if (!isType(part, "TemplateProcessing"))
      return unexpected("post_processor", processor, "ByteLevel or TemplateProcessing");
    if (llvm::Error e = readTemplate(*part))
      return e;
  }
  return llvm::Error::success();
}

llvm::Error JsonReader::readTemplate(const json::Object &processor) {
  const json::Value *single = find(processor, "single");
  const json::Array *parts = single ? single->getAsArray() : nullptr;
  const auto isText = [](const json::Value &part) {
    const json::Object *object = part.getAsObject();
    return object && object->getObject("Sequence");
  };
  const auto specialOf = [](const json::Value &part) {
    const json::Object *object = part.getAsObject();
    const json::Object *token = object ? object->getObject("SpecialToken") : nullptr;
    return token ? token->getString("id") : std::nullopt;
  };
  if (parts && parts->size() == 1 && isText((*parts)[0]))
    return llvm::Error::success();
  if (parts && parts->size() == 2 && isText((*parts)[1]))
    if (const auto content = specialOf((*parts)[0])) {
      const auto token = added.find(*content);
      if (token == added.end())
        return error("post_processor starts with \"" + *content + "\", which is no added token");
      model.bos = token->second->id;
      model.addBos = true;
      return llvm::Error::success();
    }
  return unexpected("post_processor.single", single, "the text after at most one special token");
}

Expected<TokenizerModel> TokenizerModel::parseJson(StringRef text, StringRef name) {
  Expected<json::Value> file = moe::parseJson(text, name);
  if (!file)
    return file.takeError();
  return JsonReader(name).read(*file);
}

//===----------------------------------------------------------------------===//
// tokenizer.model
//===----------------------------------------------------------------------===//

std::vector<std::string> moe::llama4SpecialTokens() {
  std::vector<std::string> tokens;
  const auto add = [&](std::initializer_list<const char *> names) {
    for (const char *name : names)
      tokens.push_back((Twine("<|") + name + "|>").str());
  };
  const auto reserve = [&](const char *prefix, int first, int last) {
    for (int i = first; i <= last; ++i)
      tokens.push_back((Twine("<|") + prefix + "reserved_special_token_" + Twine(i) + "|>").str());
  };
  add({"begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix", "header_start",
       "header_end", "eom", "eot", "step"});
  reserve("text_post_train_", 0, 5);
  add({"python_start", "python_end", "finetune_right_pad"});
  reserve("text_post_train_", 8, 68);
  add({"image_start", "image_end"});
  reserve("vision_", 0, 1);
  add({"tile_x_separator", "tile_y_separator"});
  reserve("vision_", 2, 5);
  add({"image"});
  reserve("vision_", 6, 6);
  add({"patch"});
  reserve("vision_", 7, 1047);
  reserve("reasoning_", 0, 7);
  add({"reasoning_thinking_start", "reasoning_thinking_end"});
  reserve("", 0, 903);
  assert(tokens.size() == 2048);
  return tokens;
}

Expected<TokenizerModel> TokenizerModel::parseRanks(StringRef text, StringRef name) {
  TokenizerModel model;
  llvm::StringSet<> seen;
  while (!text.empty()) {
    const auto [line, rest] = text.split('\n');
    text = rest;
    const auto [base64, rank] = line.rtrim('\r').split(' ');
    std::vector<char> bytes;
    size_t number;
    llvm::Error bad = llvm::decodeBase64(base64, bytes);
    if (bad || bytes.empty() || rank.getAsInteger(10, number) || number != model.tokens.size()) {
      llvm::consumeError(std::move(bad));
      return llvm::createStringError(name + ":" + Twine(model.tokens.size() + 1) +
                                     ": expected the bytes of token " + Twine(model.tokens.size()) +
                                     " in base64, a space, and its number; found \"" +
                                     json::fixUTF8(line.take_front(80)) + "\"");
    }
    const StringRef token(bytes.data(), bytes.size());
    if (!seen.insert(token).second)
      return llvm::createStringError(name + ":" + Twine(model.tokens.size() + 1) +
                                     ": these bytes are a token already");
    model.tokens.push_back(token.str());
    if (model.tokens.size() > kLlama4Tokens)
      break;
  }
  if (model.tokens.size() != kLlama4Tokens)
    return llvm::createStringError(
        name + ": " +
        (model.tokens.size() > kLlama4Tokens ? Twine("more") : Twine(model.tokens.size())) +
        " tokens, expected Llama 4's " + Twine(kLlama4Tokens));
  if (llvm::Error e = checkBytes(model, name))
    return e;

  model.merges = mergesByRank(model.tokens);
  for (std::string &content : llama4SpecialTokens())
    model.specials.push_back({std::move(content), int32_t(kLlama4Tokens + model.specials.size())});
  model.ignoreMerges = true;
  model.addBos = true;
  model.bos = int32_t(kLlama4Tokens);
  addChat(model);
  return model;
}

//===----------------------------------------------------------------------===//
// A checkpoint
//===----------------------------------------------------------------------===//

// A chat template, where the checkpoint has one: the text, and the file that holds it.
namespace {
struct TemplateText {
  std::string text, path;
};
} // namespace

// "chat_template" is one text, or several with names, of which "tool_use" is for tools.
static std::string templateOf(const json::Object &config) {
  if (const auto text = config.getString("chat_template"))
    return text->str();
  std::string found;
  if (const json::Array *named = config.getArray("chat_template"))
    for (const json::Value &value : *named)
      if (const json::Object *entry = value.getAsObject()) {
        const StringRef name = entry->getString("name").value_or("");
        if (name == "tool_use" || (name == "default" && found.empty()))
          found = entry->getString("template").value_or("").str();
      }
  return found;
}

// tokenizer_config.json names a BOS where the tokenizer itself adds none, and may hold the chat
// template.
static llvm::Error readConfig(StringRef path, TokenizerModel &model, TemplateText &chat) {
  Expected<json::Value> file = readJson(path);
  if (!file)
    return file.takeError();
  const json::Object *config = file->getAsObject();
  if (!config)
    return llvm::createStringError(path + ": expected an object");
  if (model.bos == -1) {
    std::optional<StringRef> bos = config->getString("bos_token");
    if (const json::Object *token = config->getObject("bos_token"))
      bos = token->getString("content");
    if (bos)
      model.bos = findSpecial(model, *bos);
  }
  chat = {templateOf(*config), path.str()};
  return llvm::Error::success();
}

// A template may lay out conversations in a way of its own.
static void readTemplate(const TemplateText &chat, TokenizerModel &model,
                         std::vector<std::string> &warnings) {
  if (chat.text.empty() || !model.chat)
    return;
  if (const char *tools = toolsOfChatTemplate(chat.text))
    model.chat->tools = tools;
  else if (StringRef(chat.text).contains("<|header_start|>"))
    model.unknownTemplate = chat.path;
  else
    warnings.push_back(chat.path + ": its chat_template is not Llama 4's; the plan's layout is");
}

Expected<std::optional<TokenizerModel>> TokenizerModel::open(StringRef folder,
                                                             std::vector<std::string> &warnings) {
  const auto pathOf = [&](StringRef file) {
    llvm::SmallString<256> path(folder);
    llvm::sys::path::append(path, file);
    return std::string(path);
  };
  const bool isJson = llvm::sys::fs::exists(pathOf("tokenizer.json"));
  const std::string path = pathOf(isJson ? "tokenizer.json" : "tokenizer.model");
  if (!llvm::sys::fs::exists(path))
    return std::nullopt;
  auto text = llvm::MemoryBuffer::getFile(path);
  if (!text)
    return llvm::createStringError("cannot read " + path + ": " + text.getError().message());
  Expected<TokenizerModel> model =
      isJson ? parseJson((*text)->getBuffer(), path) : parseRanks((*text)->getBuffer(), path);
  if (!model)
    return model.takeError();
  TemplateText chat;
  if (const std::string config = pathOf("tokenizer_config.json"); llvm::sys::fs::exists(config))
    if (llvm::Error e = readConfig(config, *model, chat))
      return e;
  // transformers prefers this file.
  if (const std::string own = pathOf("chat_template.jinja"); llvm::sys::fs::exists(own)) {
    auto file = llvm::MemoryBuffer::getFile(own);
    if (!file)
      return llvm::createStringError("cannot read " + own + ": " + file.getError().message());
    chat = {(*file)->getBuffer().str(), own};
  }
  readTemplate(chat, *model, warnings);
  return std::move(*model);
}
