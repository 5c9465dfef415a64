#include "runtime/text/ChatTemplate.h"

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

const std::string &nameOf(Role role, const ChatFormat &format) {
  switch (role) {
  case Role::System:
    return format.system;
  case Role::User:
    return format.user;
  case Role::Assistant:
    break;
  }
  return format.assistant;
}

void header(Layout &layout, Role role, const ChatFormat &format) {
  layout.format(format.headerStart);
  layout.format(nameOf(role, format));
  layout.format(format.headerEnd);
}

void addMessage(Layout &layout, Role role, std::string_view text, const ChatFormat &format) {
  header(layout, role, format);
  layout.message(text);
  layout.format(format.turnEnd);
}

} // namespace

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
  return ChatTemplate(tokenizer, std::move(format));
}

void ChatTemplate::start(std::span<const Message> messages, std::vector<int32_t> &out) const {
  Layout(*tokenizer, out).format(format.bos);
  if (!messages.empty() && messages[0].role == Role::System) {
    Layout layout(*tokenizer, out);
    addMessage(layout, Role::System, trim(messages[0].text), format);
    messages = messages.subspan(1);
  }
  next(messages, out);
}

void ChatTemplate::next(std::span<const Message> messages, std::vector<int32_t> &out) const {
  Layout layout(*tokenizer, out);
  for (const Message &message : messages)
    addMessage(layout, message.role, message.text, format);
}

void ChatTemplate::startAssistant(std::vector<int32_t> &out) const {
  Layout layout(*tokenizer, out);
  header(layout, Role::Assistant, format);
}

void ChatTemplate::endTurn(std::vector<int32_t> &out) const {
  Layout(*tokenizer, out).format(format.turnEnd);
}

bool ChatTemplate::isStop(int32_t id) const {
  return std::find(format.stopTokens.begin(), format.stopTokens.end(), id) !=
         format.stopTokens.end();
}

} // namespace moe
