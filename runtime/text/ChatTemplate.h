// Lays out a conversation as token ids, as Llama 4 was trained to read it.
//
//   <|begin_of_text|><|header_start|>user<|header_end|>⏎⏎Hello<|eot|><|header_start|>assistant…
//
// Special tokens come only from the layout. What a message, a tool or a call says is ordinary text,
// even where it spells a special token, so a user cannot end a turn or speak as the system.
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
  // How tools are laid out: kHfJson, as the chat template of Hugging Face's checkpoints does;
  // kPythonic, after Meta's prompt guide; empty: not at all.
  std::string tools;

  static constexpr const char *kHfJson = "hf-json", *kPythonic = "pythonic";
  // Whether `tools` is one of those.
  static bool knowsTools(std::string_view tools);

  // Llama 4's own, without stop tokens and tools.
  static ChatFormat llama4();
  bool operator==(const ChatFormat &) const = default;
};

enum class Role { System, User, Assistant, Tool }; // Tool: what a call gave

// A call of a tool that the assistant made.
struct ToolCall {
  std::string name;
  std::string
      arguments; // a JSON object as text, spaced in any way; else it is laid out as a string
};

struct Message {
  Role role;
  std::string text;
  std::vector<ToolCall> calls = {}; // of the assistant, after its text
  std::vector<size_t> images = {};  // the bytes of `text` before which an image stands, ascending
};

// A conversation and how it is laid out.
struct Conversation {
  std::span<const Message> messages;
  // Each tool as JSON text, spaced in any way, with what OpenAI's API has in `tools`:
  // {"type": "function", "function": {"name": ...}}. It is laid out with the keys in this order.
  std::span<const std::string> tools = {};
  bool toolsInUserMessage = true; // of kHfJson; false: in the system message, if there is one
  enum class End {
    Open,     // with the last message
    Answer,   // with the assistant's header, for an answer to come
    Continue, // inside the last message, which is the assistant's, for more of it to come
  } end = End::Answer;
};

class ChatTemplate {
public:
  // The tokenizer must outlive this object. Error: InvalidPlan, when the layout leaves a turn's end
  // or its header to ordinary text, which a message could imitate, or its tools are unknown.
  static Result<ChatTemplate> create(const Tokenizer &tokenizer, ChatFormat format);

  // Appends a whole conversation. A system message that comes first is trimmed, and so is the
  // user's message that tools are put into. Error: InvalidArgument, with nothing appended, for a
  // client: tools that are no JSON or that this format cannot lay out, or a last message that
  // cannot be continued.
  Status render(const Conversation &conversation, std::vector<int32_t> &out) const;

  // Appends a conversation from its start: BOS, then the messages. A system message that comes
  // first is trimmed; no other text is changed. Without calls and their results.
  void start(std::span<const Message> messages, std::vector<int32_t> &out) const;

  // Appends further messages to a conversation. start(a + b) is start(a), next(b).
  void next(std::span<const Message> messages, std::vector<int32_t> &out) const;

  // Appends the assistant's header: generation goes on from there.
  void startAssistant(std::vector<int32_t> &out) const;

  // Appends the end of a turn, for an answer that was cut short. An answer that the model ended
  // itself has one already.
  void endTurn(std::vector<int32_t> &out) const;

  // Whether a conversation may have tools.
  bool hasTools() const { return !format.tools.empty(); }
  // Whether the model is asked for calls as JSON objects, and not for those of Python.
  bool asksForJson() const { return format.tools == ChatFormat::kHfJson; }

  const std::vector<int32_t> &stopTokens() const { return format.stopTokens; }
  bool isStop(int32_t id) const;

private:
  ChatTemplate(const Tokenizer &tokenizer, ChatFormat format)
      : tokenizer(&tokenizer), format(std::move(format)) {}

  Status check(const Conversation &conversation) const;

  const Tokenizer *tokenizer;
  ChatFormat format;
};

} // namespace moe

#endif
