// moe-run chat PLAN: a conversation, each turn added to what the cache has.
#include "tools/moe-run/Commands.h"
#include "tools/moe-run/Output.h"
#include "tools/moe-run/Pictures.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <unistd.h>

namespace moe {
namespace {

// Lines of standard input, without stdio, which would go on reading after Ctrl-C.
class Lines {
public:
  // False at the end of the input and after Ctrl-C.
  bool next(std::string &line) {
    line.clear();
    while (true) {
      size_t end = buffer.find('\n');
      if (end != std::string::npos) {
        line = buffer.substr(0, end);
        buffer.erase(0, end + 1);
        return true;
      }
      char bytes[4096];
      ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
      if (count < 0 && errno == EINTR && !interrupted)
        continue;
      if (count <= 0) {
        line.swap(buffer);
        return count == 0 && !line.empty();
      }
      buffer.append(bytes, count);
    }
  }

private:
  std::string buffer;
};

class Chat {
public:
  Chat(const Opened &opened, const ChatTemplate &layout, Session &session,
       GenerateOptions generation, std::string system)
      : opened(opened), layout(layout), session(session), generation(std::move(generation)),
        system(std::move(system)) {}

  Status reset() {
    if (sequence >= 0)
      session.removeSequence(sequence);
    MOE_ASSIGN(added, session.addSequence());
    sequence = added;
    ids.clear();
    shown.clear();
    return ok();
  }

  // Shows a picture with the next message, before its text. What there is to say of it.
  Result<std::string> show(const std::string &name) {
    MOE_TRY(session.checkPictures());
    MOE_ASSIGN(format, planVision(opened.plan));
    MOE_ASSIGN(tiles, readTiles(name, format));
    const std::string text = name + ": " + std::to_string(tiles.grid.rows) + " x " +
                             std::to_string(tiles.grid.columns) + " tiles, " +
                             std::to_string(imageTokenCount(tiles.grid, format)) + " tokens";
    shown.push_back(std::move(tiles));
    return text;
  }

  // Adds a user's message and prints the answer. After an error the conversation is as before.
  Status turn(std::string text) {
    const size_t before = ids.size();
    std::vector<Message> messages;
    if (ids.empty() && !system.empty())
      messages.push_back({Role::System, system});
    messages.push_back({Role::User, std::move(text), {}, std::vector<size_t>(shown.size(), 0)});
    if (ids.empty())
      layout.start(messages, ids);
    else
      layout.next(messages, ids);
    layout.startAssistant(ids);
    if (!shown.empty())
      if (Status placed = placeShown(before); !placed) {
        ids.resize(before);
        return placed;
      }

    // The cache may lag behind: the last token of an answer was told, but not yet fed.
    std::span<const int32_t> all = ids;
    size_t cached = size_t(session.length(sequence));
    bool newline = false;
    auto answer = generate(
        session, sequence, all.subspan(cached), generation, &*opened.tokenizer,
        [&](const Piece &piece) -> Status {
          if (piece.text.empty())
            return ok();
          newline = piece.text.ends_with('\n');
          return print(piece.text);
        },
        all.first(cached));
    if (!answer) {
      ids.resize(before);
      // Some of the message may be in the cache, after a failure in the middle.
      if (size_t(session.length(sequence)) > before)
        MOE_TRY(session.truncate(sequence, int64_t(before)));
      return answer.error();
    }
    shown.clear();
    if (!newline)
      MOE_TRY(print("\n"));
    ids.insert(ids.end(), answer->tokens.begin(), answer->tokens.end());
    if (answer->reason == FinishReason::StopToken && !layout.isStop(ids.back()))
      ids.pop_back(); // an end of text, which has no place in a conversation
    if (answer->reason != FinishReason::StopToken || !layout.isStop(ids.back()))
      layout.endTurn(ids);
    if (answer->reason == FinishReason::Length && session.length(sequence) >= session.context())
      std::fprintf(stderr, "[the context of %lld tokens is full; /reset starts anew]\n",
                   (long long)session.context());
    return ok();
  }

private:
  // The ids from `before` on get the tokens of the pictures in their places.
  Status placeShown(size_t before) {
    MOE_ASSIGN(format, planVision(opened.plan));
    MOE_ASSIGN(placed, placeImages(std::span(ids).subspan(before), shown, format));
    ids.resize(before);
    ids.insert(ids.end(), placed.tokens.begin(), placed.tokens.end());
    MOE_TRY(checkImagesFit(session, int64_t(ids.size()), shown, format));
    MOE_ASSIGN(spans, encodeImages(session, shown, placed.positions, int64_t(before)));
    return session.setImages(sequence, spans);
  }

  const Opened &opened;
  const ChatTemplate &layout;
  Session &session;
  GenerateOptions generation;
  std::string system;
  int32_t sequence = -1;
  std::vector<int32_t> ids; // the conversation; the cache holds the first of them
  std::vector<Tiles> shown; // with the next message
};

} // namespace

Result<int> runChat(const ChatOptions &options) {
  MOE_ASSIGN(opened, openPlan(options.place));
  auto format = planChatFormat(opened->plan);
  if (!opened->tokenizer)
    return Error{
        Code::InvalidArgument,
        "this plan has no tokenizer, which a conversation needs; use moe-run PLAN --tokens "
        "FILE"};
  if (!format)
    return Error{Code::InvalidArgument,
                 "this plan has no chat format: its checkpoint had no chat template; use moe-run "
                 "PLAN -p TEXT"};
  MOE_ASSIGN(layout, ChatTemplate::create(*opened->tokenizer, *format));
  std::vector<int32_t> stopTokens = stopTokensOf(opened->plan);
  stopTokens.insert(stopTokens.end(), layout.stopTokens().begin(), layout.stopTokens().end());
  MOE_ASSIGN(generation, generateOptions(options.text, std::move(stopTokens), true));
  MOE_ASSIGN(session, createSession(opened->plan, sessionOptions(options.place)));
  catchInterrupts();
  session.setCancel(&interrupted);

  Chat chat(*opened, layout, session, std::move(generation), options.system);
  MOE_TRY(chat.reset());
  const bool terminal = isatty(STDIN_FILENO);
  if (terminal)
    std::fprintf(stderr,
                 "%s; context %lld tokens; /exit ends, /reset starts anew, /image FILE shows a "
                 "picture\n",
                 session.description().c_str(), (long long)session.context());
  Lines lines;
  bool failed = false;
  for (std::string line;;) {
    if (terminal)
      MOE_TRY(print("> "));
    if (!lines.next(line)) {
      if (terminal)
        MOE_TRY(print("\n"));
      break;
    }
    if (line.ends_with('\r'))
      line.pop_back();
    if (line == "/exit")
      break;
    if (line == "/reset") {
      MOE_TRY(chat.reset());
      continue;
    }
    if (line.empty())
      continue;
    constexpr std::string_view show = "/image ";
    if (line.starts_with(show)) {
      auto shown = chat.show(line.substr(show.size()));
      if (shown && terminal)
        std::fprintf(stderr, "%s\n", shown->c_str());
      if (!shown)
        std::fprintf(stderr, "moe-run: error: %s\n", shown.error().message.c_str());
      failed |= !shown;
      continue;
    }
    auto turn = chat.turn(line);
    interrupted = false; // it ended this answer alone
    if (!turn && turn.error().code == Code::IoError)
      return turn.error();
    if (!turn) {
      std::fprintf(stderr, "moe-run: error: %s\n", turn.error().message.c_str());
      failed = true;
    }
  }
  return interrupted ? kInterrupted : failed ? 1 : 0;
}

} // namespace moe
