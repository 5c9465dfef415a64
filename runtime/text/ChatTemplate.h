// Lays out a conversation as token ids, as Llama 4 was trained to read it.
//
//   <|begin_of_text|><|header_start|>user<|header_end|>⏎⏎Hello<|eot|><|header_start|>assistant…
//
// Special tokens come only from the layout. What a message says is ordinary text, even where it
// spells a special token, so a user cannot end a turn or speak as the system.
#ifndef MOE_RUNTIME_TEXT_CHATTEMPLATE_H
#define MOE_RUNTIME_TEXT_CHATTEMPLATE_H

#include "runtime/text/Tokenizer.h"

namespace moe {

// The text around each message; the table of the same name in Plan.fbs.
struct ChatFormat {
  std::string bos;         // once, at the start
  std::string headerStart; // before the role
  std::string headerEnd;   // after the role, with its newlines
  std::string turnEnd;     // after each message
  std::string user, assistant, system;
  std::vector<int32_t> stopTokens; // end of the assistant's turn

  // Llama 4's own, without stop tokens.
  static ChatFormat llama4();
  bool operator==(const ChatFormat &) const = default;
};

enum class Role { System, User, Assistant };

struct Message {
  Role role;
  std::string text;
};

class ChatTemplate {
public:
  // The tokenizer must outlive this object. Error: InvalidPlan, when the layout leaves a turn's end
  // or its header to ordinary text, which a message could imitate.
  static Result<ChatTemplate> create(const Tokenizer &tokenizer, ChatFormat format);

  // Appends a conversation from its start: BOS, then the messages. A system message that comes
  // first is trimmed; no other text is changed.
  void start(std::span<const Message> messages, std::vector<int32_t> &out) const;

  // Appends further messages to a conversation. start(a + b) is start(a), next(b).
  void next(std::span<const Message> messages, std::vector<int32_t> &out) const;

  // Appends the assistant's header: generation goes on from there.
  void startAssistant(std::vector<int32_t> &out) const;

  // Appends the end of a turn, for an answer that was cut short. An answer that the model ended
  // itself has one already.
  void endTurn(std::vector<int32_t> &out) const;

  const std::vector<int32_t> &stopTokens() const { return format.stopTokens; }
  bool isStop(int32_t id) const;

private:
  ChatTemplate(const Tokenizer &tokenizer, ChatFormat format)
      : tokenizer(&tokenizer), format(std::move(format)) {}

  const Tokenizer *tokenizer;
  ChatFormat format;
};

} // namespace moe

#endif
