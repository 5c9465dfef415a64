// The commands of moe-run and the options that they share.
#ifndef MOE_TOOLS_MOE_RUN_COMMANDS_H
#define MOE_TOOLS_MOE_RUN_COMMANDS_H

#include "runtime/session/Generate.h"
#include "runtime/session/PlanPrograms.h"
#include "runtime/session/PlanText.h"

#include <atomic>
#include <optional>
#include <string>
#include <vector>

namespace moe {

// Where and with how much memory: every command.
struct PlaceOptions {
  std::string plan;
  std::string device = "auto";
  int threads = 0;
  std::string numa = "auto"; // as cpu::numaNamed has it
  int64_t context = 0;
  std::string load = "map"; // or "read"
  bool json = false;
};

// How text is made: run and chat.
struct TextOptions {
  SamplerOptions sampling;
  int64_t maxTokens = -1;
  std::vector<std::string> stop;
  bool ignoreEos = false;
  int32_t drafts = 0; // most n-gram drafts of a step
};

// What a command reads: exactly one of them.
struct PromptOptions {
  std::optional<std::string> text, file, tokenFile;

  int given() const { return !!text + !!file + !!tokenFile; }
};

// A picture or film that goes with a prompt.
struct MediaFile {
  std::string name; // as readTiles has it
  bool isVideo = false;
};

struct RunOptions {
  PlaceOptions place;
  TextOptions text;
  PromptOptions prompt;
  std::vector<MediaFile> media; // in their order
};

struct EmbedOptions {
  PlaceOptions place;
  PromptOptions prompt;
  std::string pooling = "mean"; // as poolingNamed has it
};

struct ChatOptions {
  PlaceOptions place;
  TextOptions text;
  std::string system;
};

struct ScoreOptions {
  PlaceOptions place;
  std::string tokenFile;
  std::string logits;              // path of a .npy file; empty: none
  int64_t window = 0;              // 0: all tokens are one sequence
  std::vector<std::string> images; // that the tokens have places for
};

struct BenchOptions {
  PlaceOptions place;
  int64_t prompt = 512, generate = 64, depth = 0;
  int repeat = 5;
  bool serve = false; // turns on request instead
  std::vector<int32_t>
      sequences; // that decode together instead, a figure for each of these numbers
};

// Each returns the exit status, or an error for `main` to print.
Result<int> runPrompt(const RunOptions &options);
Result<int> runChat(const ChatOptions &options);
Result<int> runEmbed(const EmbedOptions &options);
Result<int> runScore(const ScoreOptions &options);
Result<int> runBench(const BenchOptions &options);

// A plan opened for a command. Members are destroyed in reverse order; it stays where it is, since
// the session refers to the plan.
struct Opened {
  Plan plan;
  std::optional<Tokenizer> tokenizer;
  double openSeconds = 0;

  int64_t vocab() const { return plan.index().model()->vocab_size(); }
};
Result<std::unique_ptr<Opened>> openPlan(const PlaceOptions &place);
SessionOptions sessionOptions(const PlaceOptions &place);
// The ids of what the command reads. Errors: InvalidArgument where text is given and the plan has
// no tokenizer; those of readTokens.
Result<std::vector<int32_t>> promptTokens(const PromptOptions &prompt, const Opened &opened);
// Session::create, with a bar where weights take their time to the device.
Result<Session> createSession(const Plan &plan, SessionOptions options);

// The common options as generate takes them. `stopTokens` are left out with --ignore-eos.
Result<GenerateOptions> generateOptions(const TextOptions &text, std::vector<int32_t> stopTokens,
                                        bool hasTokenizer);

// Ctrl-C: the first sets the flag, where it finds it set it ends the process with status 130.
constexpr int kInterrupted = 130;
extern std::atomic<bool> interrupted;
void catchInterrupts();

std::string fixed(double value, int digits); // "12.34"

} // namespace moe

#endif
