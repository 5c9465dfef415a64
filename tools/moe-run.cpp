// moe-run: runs a plan. Generates text, talks, embeds, scores, measures.
#include "tools/moe-run/Commands.h"
#include "tools/moe-run/Output.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <cstdio>

using namespace moe;

namespace {

constexpr int32_t kDefaultDrafts = 7, kMostDrafts = 63;

void addPlace(CLI::App &app, PlaceOptions &place, bool json = true) {
  app.add_option("plan", place.plan, "the plan file, made by moec compile")->type_name("PLAN");
  app.add_option("--device", place.device,
                 "auto, cuda, cuda:N, cpu, ptxsim to simulate a GPU, or null to run no kernels")
      ->capture_default_str();
  app.add_option("--threads", place.threads,
                 "threads of a CPU (default: one for each core that it may use)")
      ->check(CLI::Range(1, 4096));
  app.add_option("--numa", place.numa,
                 "where weights lie on a machine with several memory nodes: off, in the file's "
                 "pages; interleave, a copy over all nodes; replicate, a copy on each; auto, by "
                 "what fits")
      ->check(CLI::IsMember({"auto", "off", "interleave", "replicate"}))
      ->capture_default_str();
  app.add_option("--context", place.context,
                 "tokens that a sequence may have (default: what the plan allows, up to 4096)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 40));
  app.add_option("--load", place.load, "map the plan's file, or read it into memory")
      ->check(CLI::IsMember({"map", "read"}))
      ->capture_default_str();
  if (json)
    app.add_flag("--json", place.json, "print one JSON object, for programs");
}

// "ngram" or "ngram:K": the drafts of a step.
int32_t draftsOf(std::string_view kind) {
  int32_t drafts = kDefaultDrafts;
  const std::string_view name = kind.substr(0, kind.find(':'));
  const std::string_view count = name.size() < kind.size() ? kind.substr(name.size() + 1) : "";
  const auto [end, error] = std::from_chars(count.data(), count.data() + count.size(), drafts);
  const bool counted = error == std::errc() && end == count.data() + count.size();
  if (name != "ngram" || (name.size() < kind.size() && !counted) || drafts < 1 ||
      drafts > kMostDrafts)
    throw CLI::ValidationError("--draft", "'" + std::string(kind) +
                                              "' is not ngram or ngram:K, with K from 1 to " +
                                              std::to_string(kMostDrafts));
  return drafts;
}

void addText(CLI::App &app, TextOptions &text) {
  SamplerOptions &s = text.sampling;
  app.add_option("-n,--max-tokens", text.maxTokens,
                 "stop after so many tokens (default: when the context is full)")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 40));
  app.add_option("--temperature", s.temperature, "0 is greedy: always the most likely token")
      ->capture_default_str();
  app.add_option("--top-k", s.topK, "sample from the K most likely tokens (0: all)");
  app.add_option("--top-p", s.topP, "sample from the fewest tokens of total probability P");
  app.add_option("--min-p", s.minP, "leave out tokens below P times the most likely one's");
  app.add_option("--repetition-penalty", s.repetitionPenalty, "above 1 discourages repetition");
  app.add_option("--frequency-penalty", s.frequencyPenalty,
                 "-2 to 2: taken from a token's logit each time that it was generated");
  app.add_option("--presence-penalty", s.presencePenalty,
                 "-2 to 2: taken from a token's logit once it was generated");
  app.add_option("--seed", s.seed, "of the random numbers: the same seed, the same text")
      ->capture_default_str();
  app.add_option("--stop", text.stop, "stop before this string; may be repeated")
      ->allow_extra_args(false);
  app.add_flag("--ignore-eos", text.ignoreEos, "do not stop at the model's end tokens");
  app.add_option_function<std::string>(
         "--draft", [&text](const std::string &kind) { text.drafts = draftsOf(kind); },
         "check guesses of the next tokens, up to K a step: ngram takes them from the text before "
         "(default: none); the text is the same on CPUs")
      ->type_name("ngram[:K]");
}

void addPrompt(CLI::App &app, PromptOptions &prompt) {
  app.add_option("-p,--prompt", prompt.text, "the prompt");
  app.add_option("-f,--file", prompt.file, "file with the prompt; - is standard input");
  app.add_option("--tokens", prompt.tokenFile, "file with the prompt as token ids");
}

// Files of --image and --video, which take one each, in their order on the command line.
void addMedia(CLI::App &app, std::vector<std::string> &images, std::vector<std::string> &videos) {
  app.add_option(
         "--image", images,
         "a picture of the prompt, at its next <image> or before its text: JPEG, PNG, WebP, "
         "GIF, PPM, or 640x480:FILE of raw RGB; may be repeated")
      ->type_name("FILE")
      ->allow_extra_args(false);
  app.add_option("--video", videos, "a film, of which a frame a second is taken; may be repeated")
      ->type_name("FILE")
      ->allow_extra_args(false);
}

std::vector<MediaFile> mediaOf(const CLI::App &app, const std::vector<std::string> &images,
                               const std::vector<std::string> &videos) {
  std::vector<MediaFile> media;
  size_t image = 0, video = 0;
  for (const CLI::Option *option : app.parse_order())
    if (option->check_name("--image"))
      media.push_back({images[image++], false});
    else if (option->check_name("--video"))
      media.push_back({videos[video++], true});
  return media;
}

int usage(const char *message) {
  std::fprintf(stderr, "moe-run: error: %s\n", message);
  return 2;
}

int report(const Error &error) {
  std::fprintf(stderr, "moe-run: error: %s\n", error.message.c_str());
  return error.code == Code::Cancelled ? kInterrupted : 1;
}

} // namespace

int main(int argc, char **argv) {
  CLI::App app("Runs a compiled Llama 4 plan.\n\n"
               "  moe-run PLAN -p TEXT                 the text that follows a prompt\n"
               "  moe-run PLAN --image FILE -p TEXT    and a picture\n"
               "  moe-run chat PLAN                    a conversation\n"
               "  moe-run embed PLAN -p TEXT           a vector of a text\n"
               "  moe-run score PLAN --tokens FILE     perplexity and logits\n"
               "  moe-run bench PLAN                   speed, beside the memory's\n",
               "moe-run");
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", "moe-run " MOE_VERSION);

  RunOptions run;
  addPlace(app, run.place);
  addPrompt(app, run.prompt);
  std::vector<std::string> images, videos;
  addMedia(app, images, videos);
  addText(app, run.text);

  ChatOptions chat;
  CLI::App *chatApp = app.add_subcommand(
      "chat", "a conversation; /exit ends, /reset starts anew, /image FILE shows a picture");
  addPlace(*chatApp, chat.place, /*json=*/false);
  chatApp->add_option("--system", chat.system, "the system message");
  addText(*chatApp, chat.text);

  EmbedOptions embed;
  CLI::App *embedApp = app.add_subcommand(
      "embed", "a vector of a text, of length 1, by a plan compiled with --embeddings");
  addPlace(*embedApp, embed.place);
  addPrompt(*embedApp, embed.prompt);
  embedApp->add_option("--pooling", embed.pooling, "of the tokens' hidden states")
      ->check(CLI::IsMember({"mean", "last"}))
      ->capture_default_str();

  ScoreOptions score;
  CLI::App *scoreApp = app.add_subcommand("score", "perplexity of a text, and its logits");
  addPlace(*scoreApp, score.place);
  scoreApp->add_option("--tokens", score.tokenFile, "file with token ids")->required();
  scoreApp
      ->add_option("--image", score.images,
                   "pictures, in the order in which the tokens have places for them")
      ->type_name("FILE...");
  scoreApp->add_option("--logits", score.logits, "write float32 [tokens, vocab] to this .npy file");
  scoreApp->add_option("--window", score.window, "split into independent sequences of N tokens")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 40));

  BenchOptions bench;
  CLI::App *benchApp = app.add_subcommand("bench", "speed on random tokens");
  addPlace(*benchApp, bench.place);
  const CLI::Range counts(int64_t(0), int64_t(1) << 32);
  benchApp->add_option("--prompt", bench.prompt, "tokens of a prompt")
      ->check(counts)
      ->capture_default_str();
  benchApp->add_option("--generate", bench.generate, "tokens decoded one by one")
      ->check(counts)
      ->capture_default_str();
  benchApp->add_option("--depth", bench.depth, "tokens before those")
      ->check(counts)
      ->capture_default_str();
  benchApp->add_option("--repeat", bench.repeat, "timed rounds")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  benchApp
      ->add_option("--sequences", bench.sequences,
                   "instead how fast N sequences decode together after a prompt each; several N "
                   "are told apart by commas")
      ->type_name("N[,N...]")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->excludes("--depth");
  benchApp
      ->add_flag("--serve", bench.serve,
                 "instead answer lines of standard input, prefill N or decode N [AFTER], with "
                 "the seconds they took, as JSON")
      ->excludes("--sequences");
  // Where people look for it.
  CLI::App *batchApp = app.add_subcommand("batch", "see moe-serve batch")->allow_extras();
  for (CLI::App *command : {chatApp, embedApp, scoreApp, benchApp})
    command->get_option("plan")->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success &success) { // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError &error) {
    std::fprintf(stderr, "moe-run: error: %s\n", error.what());
    return 2;
  }

  std::signal(SIGXFSZ, SIG_IGN); // a full file is an error of write(), not the end of us
  if (*batchApp)
    return usage("files of requests are worked off by moe-serve batch IN.jsonl -o OUT.jsonl PLAN");
  Result<int> status = 0;
  if (*chatApp)
    status = runChat(chat);
  else if (*embedApp && embed.prompt.given() != 1)
    return usage("give one text: -p TEXT, -f FILE (- is standard input) or --tokens FILE");
  else if (*embedApp)
    status = runEmbed(embed);
  else if (*scoreApp)
    status = runScore(score);
  else if (*benchApp)
    status = runBench(bench);
  else if (run.place.plan.empty())
    return usage("which plan? moe-run PLAN -p TEXT; --help says more");
  else if (run.prompt.given() != 1)
    return usage("give one prompt: -p TEXT, -f FILE (- is standard input) or --tokens FILE; or use "
                 "moe-run chat");
  else {
    run.media = mediaOf(app, images, videos);
    status = runPrompt(run);
  }
  return status ? *status : report(status.error());
}
