#include "runtime/text/ChatTemplate.h"

#include "runtime/text/Literal.h"
#include "runtime/text/Pretokenizer.h"

#include <algorithm>

namespace moe {
namespace {

// Ordinary text between two special tokens is encoded as one, wherever it came from: the header's
// newlines can share a token with the first of the message.
class Layout {
public:
  Layout(const Tokenizer &tokenizer, std::vector<int32_t> &out) : tokenizer(tokenizer), out(out) {}
  ~Layout() { encodePending(); }

  // A part of the format: special tokens in it are such.
  void format(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
      const auto match = tokenizer.nextSpecial(text, at);
      pending += text.substr(at, match.begin - at);
      if (match.length > 0) {
        encodePending();
        out.push_back(match.id);
      }
      at = match.begin + match.length;
    }
  }

  void message(std::string_view text) { pending += text; }

private:
  void encodePending() {
    tokenizer.encode(pending, out, /*parseSpecial=*/false);
    pending.clear();
  }

  const Tokenizer &tokenizer;
  std::vector<int32_t> &out;
  std::string pending;
};

// What Hugging Face's template says before the tools, to the letter.
constexpr const char *kAskInUser =
    "Given the following functions, please respond with a JSON for a function call with its proper "
    "arguments that best answers the given prompt.\n\n";
constexpr const char *kAskInSystem =
    "You have access to the following functions. To call a function, please respond with JSON for "
    "a function call.";
constexpr const char *kCallFormat =
    "Respond in the format {\"name\": function name, \"parameters\": dictionary of argument name "
    "and its value}.Do not use variables.\n\n";
constexpr const char *kEnvironment = "Environment: ipython\n";

constexpr const char *kImage = "<|image|>";

// After the system message of Meta's prompt guide: rules for calls, then the functions.
constexpr const char *kPythonicRules =
    "You can answer from your own knowledge or invoke functions. Follow these rules:\n\n"
    "1. FUNCTION CALLS:\n"
    "- Invoke only functions of the list below, with values for all of their required "
    "parameters\n"
    "- Use exact format: [func_name1(param1=value1, param2=value2), func_name2(...)]\n"
    "- Output only the function calls, without any other text, and never empty brackets\n\n"
    "2. ALL OTHER ANSWERS:\n"
    "- If no function fits, answer in text only\n"
    "- If a required parameter is missing, ask for it\n"
    "- If the answer needs a function that is not in the list, say so\n"
    "- Use what a function returned to answer in natural language\n\n"
    "Here is a list of functions in JSON format that you can invoke.\n\n";

// Lays out the messages of one conversation.
class Renderer {
public:
  Renderer(const Tokenizer &tokenizer, const ChatFormat &format, std::vector<int32_t> &out)
      : layout(tokenizer, out), chat(format) {}

  void format(std::string_view text) { layout.format(text); }

  void header(Role role) {
    layout.format(chat.headerStart);
    switch (role) {
    case Role::System:
      layout.format(chat.system);
      break;
    case Role::User:
      layout.format(chat.user);
      break;
    case Role::Assistant:
      layout.format(chat.assistant);
      break;
    case Role::Tool:
      layout.format("ipython");
      break;
    }
    layout.format(chat.headerEnd);
  }

  void endTurn() { layout.format(chat.turnEnd); }

  // The text of a message with its images, without white space around it if it is `trimmed`.
  void text(const Message &message, bool trimmed = false) {
    const std::string_view whole = message.text;
    const std::string_view kept = trimmed ? trim(whole) : whole;
    const size_t first = kept.empty() ? 0 : size_t(kept.data() - whole.data());
    size_t at = 0;
    for (const size_t image : message.images) {
      const size_t to = std::clamp(image, first + at, first + kept.size()) - first;
      layout.message(kept.substr(at, to - at));
      layout.format(kImage);
      at = to;
    }
    layout.message(kept.substr(at));
  }

  void message(const Message &message) {
    header(message.role);
    if (message.role == Role::Tool && !pythonic())
      layout.message(quoted(message.text));
    else if (message.calls.empty())
      text(message);
    else
      calls(message);
    endTurn();
  }

  // A message that is trimmed, after what the layout says in it.
  void message(std::string_view before, const Message &message) {
    header(message.role);
    layout.message(before);
    text(message, /*trimmed=*/true);
    endTurn();
  }

private:
  bool pythonic() const { return chat.tools == ChatFormat::kPythonic; }

  void calls(const Message &message) {
    if (pythonic()) {
      text(message);
      layout.message("[");
      for (const ToolCall &call : message.calls) {
        layout.message(&call == &message.calls.front() ? "" : ", ");
        layout.message(call.name + "(" + argumentsOf(call, LiteralStyle::Keywords) + ")");
      }
      layout.message("]");
      return;
    }
    layout.format("<|python_start|>");
    text(message);
    layout.format("<|python_end|>");
    for (const ToolCall &call : message.calls)
      layout.message("{\"name\": \"" + call.name +
                     "\", \"parameters\": " + argumentsOf(call, LiteralStyle::Spaced) + "}");
  }

  static std::string argumentsOf(const ToolCall &call, LiteralStyle style) {
    auto printed = printLiteral(call.arguments, style);
    return printed ? std::move(*printed) : quoted(call.arguments);
  }

  Layout layout;
  const ChatFormat &chat;
};

Error refused(std::string message) { return {Code::InvalidArgument, std::move(message)}; }

// Each tool, indented, with an empty line after it.
std::string printEach(std::span<const std::string> tools) {
  std::string text;
  for (const std::string &tool : tools)
    text += *printLiteral(tool, LiteralStyle::Indented) + "\n\n";
  return text;
}

// The functions of the tools as one list.
std::string printFunctions(std::span<const std::string> tools) {
  std::string list = "[";
  for (const std::string &tool : tools) {
    const std::string object = *printLiteral(tool, LiteralStyle::Compact);
    list += &tool == &tools.front() ? "" : ",";
    list += memberOf(object, "function").value_or(object);
  }
  return *printLiteral(list + "]", LiteralStyle::Indented);
}

} // namespace

bool ChatFormat::knowsTools(std::string_view tools) {
  return tools.empty() || tools == kHfJson || tools == kPythonic;
}

ChatFormat ChatFormat::llama4() {
  ChatFormat format;
  format.bos = "<|begin_of_text|>";
  format.headerStart = "<|header_start|>";
  format.headerEnd = "<|header_end|>\n\n";
  format.turnEnd = "<|eot|>";
  format.user = "user";
  format.assistant = "assistant";
  format.system = "system";
  return format;
}

Result<ChatTemplate> ChatTemplate::create(const Tokenizer &tokenizer, ChatFormat format) {
  const auto startsWithSpecial = [&](const std::string &text) {
    const auto match = tokenizer.nextSpecial(text, 0);
    return match.begin == 0 && match.length > 0 && tokenizer.isSpecial(match.id);
  };
  for (const std::string *part : {&format.headerStart, &format.headerEnd, &format.turnEnd})
    if (!startsWithSpecial(*part))
      return Error{Code::InvalidPlan, "chat format: '" + *part +
                                          "' does not start with a special token of the tokenizer"};
  if (!format.bos.empty() && tokenizer.special(format.bos) < 0)
    return Error{Code::InvalidPlan,
                 "chat format: '" + format.bos + "' is no special token of the tokenizer"};
  for (const int32_t id : format.stopTokens)
    if (tokenizer.bytes(id).empty())
      return Error{Code::InvalidPlan,
                   "chat format: stop token " + std::to_string(id) + " is no token"};
  if (!ChatFormat::knowsTools(format.tools))
    return Error{Code::InvalidPlan, "chat format: tools in the form '" + format.tools +
                                        "', expected hf-json, pythonic or none"};
  return ChatTemplate(tokenizer, std::move(format));
}

Status ChatTemplate::check(const Conversation &conversation) const {
  const auto usesTools = [](const Message &message) {
    return message.role == Role::Tool || !message.calls.empty();
  };
  const auto &messages = conversation.messages;
  if (!hasTools() &&
      (!conversation.tools.empty() || std::any_of(messages.begin(), messages.end(), usesTools)))
    return refused("this plan lays out no tools: the chat template of its checkpoint is not one "
                   "that is known; compile it with --tools hf-json or --tools pythonic");
  for (const Message &message : messages)
    if (!message.images.empty() && tokenizer->special(kImage) < 0)
      return refused("a message has an image, and this model knows none");
  for (size_t i = 0; i < conversation.tools.size(); ++i) {
    const auto tool = printLiteral(conversation.tools[i], LiteralStyle::Compact);
    // A list of them is one level deeper.
    if (!tool || !tool->starts_with('{') || !printLiteral("[" + *tool + "]", LiteralStyle::Compact))
      return refused("tool " + std::to_string(i) + " is no JSON object of at most " +
                     std::to_string(LiteralReader::kMaxDepth - 1) + " levels");
  }
  if (conversation.end == Conversation::End::Continue &&
      (messages.empty() || messages.back().role != Role::Assistant ||
       !messages.back().calls.empty()))
    return refused("only a last message of the assistant that calls no tools can be continued");
  return ok();
}

Status ChatTemplate::render(const Conversation &conversation, std::vector<int32_t> &out) const {
  MOE_TRY(check(conversation));
  std::span<const Message> messages = conversation.messages;
  const bool tools = !conversation.tools.empty(), pythonic = format.tools == ChatFormat::kPythonic;
  const bool hasSystem = !messages.empty() && messages[0].role == Role::System;
  // The message that tools come before, if the system's is not.
  const Message *user = nullptr;
  if (tools && !pythonic && conversation.toolsInUserMessage) {
    const auto first = std::find_if(messages.begin(), messages.end(),
                                    [](const Message &m) { return m.role == Role::User; });
    if (first == messages.end())
      return refused("tools are told in the first message of the user, and there is none");
    user = &*first;
  }

  Renderer renderer(*tokenizer, format, out);
  renderer.format(format.bos);
  std::string before; // the system's own words
  if (tools && pythonic)
    before = kPythonicRules + printFunctions(conversation.tools) + (hasSystem ? "\n\n" : "");
  else if (tools && hasSystem)
    before = user ? std::string(kEnvironment)
                  : std::string(kEnvironment) + kAskInSystem + kCallFormat +
                        printEach(conversation.tools);
  if (hasSystem || !before.empty())
    renderer.message(before, hasSystem ? messages[0] : Message{Role::System, ""});
  if (hasSystem)
    messages = messages.subspan(1);
  for (const Message &message : messages) {
    if (conversation.end == Conversation::End::Continue && &message == &messages.back()) {
      renderer.header(Role::Assistant);
      renderer.text(message);
    } else if (&message == user) {
      renderer.message(std::string(kAskInUser) + kCallFormat + printEach(conversation.tools),
                       message);
    } else {
      renderer.message(message);
    }
  }
  if (conversation.end == Conversation::End::Answer)
    renderer.header(Role::Assistant);
  return ok();
}

void ChatTemplate::start(std::span<const Message> messages, std::vector<int32_t> &out) const {
  Renderer renderer(*tokenizer, format, out);
  renderer.format(format.bos);
  for (const Message &message : messages)
    if (message.role == Role::System && &message == &messages.front())
      renderer.message("", message);
    else
      renderer.message(message);
}

void ChatTemplate::next(std::span<const Message> messages, std::vector<int32_t> &out) const {
  Renderer renderer(*tokenizer, format, out);
  for (const Message &message : messages)
    renderer.message(message);
}

void ChatTemplate::startAssistant(std::vector<int32_t> &out) const {
  Renderer(*tokenizer, format, out).header(Role::Assistant);
}

void ChatTemplate::endTurn(std::vector<int32_t> &out) const {
  Renderer(*tokenizer, format, out).endTurn();
}

bool ChatTemplate::isStop(int32_t id) const {
  return std::find(format.stopTokens.begin(), format.stopTokens.end(), id) !=
         format.stopTokens.end();
}

} // namespace moe
