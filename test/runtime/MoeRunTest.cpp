// The program moe-run from outside, on the toy plan: what it prints, and how it ends.
#include "test/runtime/ToyPlan.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

using namespace moe;

namespace {

struct Outcome {
  int status;
  std::string out, err;
};

class MoeRun : public testing::Test {
protected:
  static void SetUpTestSuite() {
    toy::writePlan(file("toy.plan"));
    toy::writePlan(file("ids.plan"), {.text = false});
    toy::writePlan(file("future.plan"), {.feature = "avx4096"});
    toy::writePlan(file("fat.plan"), {.pageBytes = uint64_t(1) << 44});
    toy::writePlan(file("both.plan"), {.gpu = true});
    toy::writePlan(file("eyes.plan"), {.vision = true});
  }
  static std::string file(const std::string &name) {
    return testing::TempDir() + "moe-run-" + name;
  }
  static void write(const std::string &name, const std::string &text) {
    std::ofstream(file(name)) << text;
  }
  static std::string read(const std::string &path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  // "@name" in the command is that file. `before` is what the shell reads before moe-run's name.
  // `atOutput` is called once, when moe-run has said its first letters.
  static Outcome run(std::string arguments, const std::string &before = "",
                     std::function<void()> atOutput = {}) {
    for (size_t at; (at = arguments.find('@')) != std::string::npos;)
      arguments.replace(at, 1, testing::TempDir() + "moe-run-");
    std::string command = before + " " MOE_RUN_PROGRAM " " + arguments + " 2>" + file("stderr");
    std::FILE *pipe = popen(command.c_str(), "r");
    Outcome outcome;
    char buffer[4096];
    for (ssize_t count; (count = ::read(fileno(pipe), buffer, sizeof buffer)) > 0;) {
      outcome.out.append(buffer, count);
      if (atOutput)
        std::exchange(atOutput, {})();
    }
    int status = pclose(pipe);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    outcome.err = read(file("stderr"));
    return outcome;
  }
  // What the toy says after some tokens; `history` goes on with it.
  static std::string say(std::vector<int32_t> &history, int most) {
    std::string text;
    for (int i = 0; i < most; ++i) {
      int32_t sum = 0;
      for (int32_t token : history)
        sum = (sum + token) % (26 * 41);
      int32_t next = toy::nextToken(sum);
      history.push_back(next);
      if (next == toy::eos)
        break;
      text += char(next);
    }
    return text;
  }
  static std::vector<int32_t> ids(const std::string &text, bool bos = true) {
    std::vector<int32_t> tokens;
    if (bos)
      tokens.push_back(256);
    for (unsigned char c : text)
      tokens.push_back(c);
    return tokens;
  }
};

TEST_F(MoeRun, TellsTextAndFigures) {
  auto history = ids("Hello");
  Outcome o = run("@toy.plan -p Hello -n 12 --threads 2");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(o.out, say(history, 12) + "\n");
  EXPECT_NE(o.err.find("prompt 6 tokens, "), std::string::npos) << o.err;
  EXPECT_NE(o.err.find("generated "), std::string::npos);
  EXPECT_NE(o.err.find("cpu:toy, 2 threads"), std::string::npos);
}

// The simulator is never chosen by itself, and says the same as the processor.
TEST_F(MoeRun, SimulatesAGpu) {
  auto history = ids("Hello");
  const std::string text = say(history, 80) + "\n";
  Outcome o = run("@both.plan -p Hello -n 80 --device cpu");
  EXPECT_EQ(o.out, text) << o.err;
  o = run("@both.plan -p Hello -n 80 --device ptxsim");
  EXPECT_EQ(o.status, 0);
  EXPECT_EQ(o.out, text) << o.err;
  EXPECT_NE(o.err.find("cuda:sm_80, on ptxsim:0"), std::string::npos) << o.err;
  EXPECT_EQ(o.err.find('\x1b'), std::string::npos); // no bar where there is no terminal
  EXPECT_EQ(run("@both.plan -p Hello -n 80", "CUDA_VISIBLE_DEVICES=").out, text);
  o = run("@toy.plan -p a --device ptxsim");
  EXPECT_EQ(o.status, 1);
  EXPECT_NE(o.err.find("no programs for device cuda, only for cpu"), std::string::npos) << o.err;
  o = run("@both.plan -p Hello --device ptxsim", "MOE_PTXSIM_MEMORY=60000");
  EXPECT_EQ(o.status, 1);
  EXPECT_NE(o.err.find("the KV cache needs"), std::string::npos) << o.err;
  EXPECT_NE(o.err.find(" would fit"), std::string::npos) << o.err;
}

// No kernel runs, so there is no memory to compare with.
TEST_F(MoeRun, MeasuresTheRuntimeAlone) {
  for (const char *device : {"null", "null:cuda"}) {
    Outcome o =
        run(std::string("bench @both.plan --prompt 8 --generate 4 --repeat 1 --device ") + device);
    EXPECT_EQ(o.status, 0) << o.err;
    EXPECT_EQ(o.out.find("null, which runs no kernels, 1 rounds"), 0u) << o.out;
    EXPECT_NE(o.out.find("the runtime alone: "), std::string::npos) << o.out;
    EXPECT_EQ(o.out.find("GB/s"), std::string::npos) << o.out;
  }
  Outcome o = run("bench @toy.plan --device null:cuda");
  EXPECT_EQ(o.status, 1);
  EXPECT_NE(o.err.find("no programs for device cuda, only for cpu"), std::string::npos) << o.err;
}

TEST_F(MoeRun, TakesPromptsFromFilesAndPipes) {
  const std::string prompt = "A longer prompt, of more tokens than the largest step takes.\n";
  write("prompt", prompt);
  auto history = ids(prompt);
  std::string expected = say(history, 9) + "\n";
  EXPECT_EQ(run("@toy.plan -f @prompt -n 9").out, expected);
  EXPECT_EQ(run("@toy.plan -f - -n 9 <@prompt").out, expected);
  EXPECT_EQ(run("@toy.plan -f @prompt -n 9 --threads 1 --load read").out, expected);
  EXPECT_EQ(run("@toy.plan -f @nothing").err.substr(0, 28), "moe-run: error: cannot read ");
}

TEST_F(MoeRun, GivesIdsWithoutATokenizer) {
  write("ids", "5, 6\n7");
  std::vector<int32_t> history{5, 6, 7};
  say(history, 5);
  std::string expected;
  for (size_t i = 3; i < history.size(); ++i)
    if (history[i] != toy::eos)
      expected += (i > 3 ? " " : "") + std::to_string(history[i]);
  Outcome o = run("@ids.plan --tokens @ids -n 5");
  EXPECT_EQ(o.out, expected + "\n") << o.err;
  EXPECT_NE(run("@ids.plan -p Hello").err.find("no tokenizer"), std::string::npos);
  EXPECT_NE(run("@ids.plan --tokens @ids --stop x").err.find("no tokenizer"), std::string::npos);
  EXPECT_NE(run("chat @ids.plan </dev/null").err.find("no tokenizer"), std::string::npos);
  write("bad", "5 6\n7 267");
  o = run("@ids.plan --tokens @bad");
  EXPECT_EQ(o.status, 1);
  EXPECT_NE(o.err.find("bad: token 3 (line 2) is 267, the plan's ids are 0 to 266"),
            std::string::npos)
      << o.err;
}

TEST_F(MoeRun, PrintsJson) {
  auto history = ids("Hi");
  std::string text = say(history, 4);
  Outcome o = run("@toy.plan -p Hi -n 4 --json --threads 1");
  EXPECT_EQ(o.status, 0);
  EXPECT_EQ(o.err, "");
  EXPECT_EQ(o.out.substr(0, 10 + text.size()), "{\"text\": \"" + text);
  for (const char *member : {"\"finish_reason\": \"length\"", "\"prompt_tokens\": 3",
                             "\"generated_tokens\": 4", "\"device\": \"cpu:toy, 1 thread\""})
    EXPECT_NE(o.out.find(member), std::string::npos) << member << " in " << o.out;
}

TEST_F(MoeRun, StopsAtStringsAndEnds) {
  auto history = ids("Hello");
  std::string text = say(history, 300);
  ASSERT_EQ(history.back(), toy::eos);
  ASSERT_GT(text.size(), 6u);
  EXPECT_EQ(run("@toy.plan -p Hello").out, text + "\n");
  Outcome o = run("@toy.plan -p Hello --json --stop zzzzz --stop " + text.substr(2, 3));
  EXPECT_EQ(o.out.substr(0, 13), "{\"text\": \"" + text.substr(0, 2) + "\"");
  EXPECT_NE(o.out.find("\"finish_reason\": \"stop_string\""), std::string::npos);
  o = run("@toy.plan -p Hello --ignore-eos -n 300 --json");
  EXPECT_NE(o.out.find("\"generated_tokens\": 300"), std::string::npos);
  o = run("@toy.plan -p Hello --ignore-eos --context 40 --json");
  EXPECT_NE(o.out.find("\"generated_tokens\": 35"), std::string::npos) << o.out;
}

TEST_F(MoeRun, SamplesTheSameWithTheSameSeed) {
  auto with = [&](const char *seed) {
    return run(std::string("@toy.plan -p Hello --ignore-eos -n 40 --temperature 3 --seed ") + seed)
        .out;
  };
  EXPECT_EQ(with("1"), with("1"));
  EXPECT_NE(with("1"), with("2"));
  EXPECT_EQ(run("@toy.plan -p x --temperature -1").err,
            "moe-run: error: temperature must be 0 (greedy) or more, not -1\n");
}

TEST_F(MoeRun, SaysWhatIsWrong) {
  auto error = [](const Outcome &o) { return o.err; };
  EXPECT_EQ(run("").status, 2);
  EXPECT_EQ(run("@toy.plan").status, 2);
  EXPECT_NE(error(run("@toy.plan")).find("-p TEXT"), std::string::npos);
  EXPECT_EQ(run("@toy.plan -p a -f b").status, 2);
  EXPECT_EQ(run("@toy.plan -p a --threads 0").status, 2);
  EXPECT_EQ(run("@toy.plan -p a --nonsense").status, 2);
  EXPECT_EQ(run("score @toy.plan").status, 2);
  EXPECT_EQ(run("--help").status, 0);
  EXPECT_EQ(run("--version").out.substr(0, 8), "moe-run ");
  EXPECT_EQ(run("batch in.jsonl -o out.jsonl @toy.plan").status, 2);
  EXPECT_NE(error(run("batch in.jsonl -o out.jsonl @toy.plan")).find("moe-serve batch"),
            std::string::npos);
  Outcome o = run("@nothing.plan -p a");
  EXPECT_EQ(o.status, 1);
  EXPECT_EQ(o.err.substr(0, 16), "moe-run: error: ");
  EXPECT_NE(
      error(run("@toy.plan -p a --device gpu")).find("the devices are auto, cuda, cpu, ptxsim"),
      std::string::npos);
  EXPECT_NE(error(run("@future.plan -p a")).find("this processor lacks avx4096; compile with"),
            std::string::npos);
  EXPECT_NE(error(run("@toy.plan -p Hello --context 5"))
                .find("the prompt has 6 tokens, the context has room for 5; ask for more with "
                      "--context"),
            std::string::npos);
  EXPECT_NE(error(run("@fat.plan -p Hello")).find("the KV cache needs "), std::string::npos);
}

TEST_F(MoeRun, NoticesThatOutputIsLost) {
  for (const char *arguments : {"@toy.plan -p Hello", "@toy.plan -p Hello --json"}) {
    Outcome o = run(std::string(arguments) + " >/dev/full");
    EXPECT_EQ(o.status, 1);
    EXPECT_NE(o.err.find("cannot write to standard output: No space left"), std::string::npos)
        << o.err;
  }
}

TEST_F(MoeRun, EndsAtCtrlC) {
  Outcome o =
      run("@toy.plan -p Hello --ignore-eos --context 16777216",
          "echo $$ >" + file("pid") + "; exec", [] { kill(std::stoi(read(file("pid"))), SIGINT); });
  EXPECT_EQ(o.status, 130);
  EXPECT_TRUE(o.out.ends_with('\n'));
  EXPECT_NE(o.err.find("cancelled"), std::string::npos) << o.err;
}

TEST_F(MoeRun, Chats) {
  // The conversation as one history, with what the toy answers.
  const int header = 258, headerEnd = 259, eot = 260;
  std::vector<int32_t> history{256};
  auto message = [&](const std::string &role, const std::string &text) {
    history.push_back(header);
    for (int32_t id : ids(role, false))
      history.push_back(id);
    history.insert(history.end(), {headerEnd, '\n'});
    for (int32_t id : ids(text, false))
      history.push_back(id);
    if (role != "assistant")
      history.push_back(eot);
  };
  message("system", "Be brief");
  std::string expected;
  for (const char *text : {"Hello", "And more"}) {
    message("user", text);
    message("assistant", "");
    expected += say(history, 6) + "\n";
    if (history.back() == toy::eos)
      history.pop_back();
    history.push_back(eot);
  }
  const std::string once = expected;
  write("talk", "Hello\n\nAnd more\n/reset\nHello\nAnd more\n/exit\nnever read\n");
  Outcome o = run("chat @toy.plan --system 'Be brief' -n 6 <@talk");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(o.out, once + once);
  // A turn that does not fit is an error, and the conversation goes on.
  write("talk", "Hello\n" + std::string(200, 'x') + "\nAnd more\n");
  o = run("chat @toy.plan --system 'Be brief' -n 6 --context 150 <@talk");
  EXPECT_EQ(o.status, 1);
  EXPECT_EQ(o.out, once);
  EXPECT_NE(o.err.find("--context"), std::string::npos) << o.err;
}

TEST_F(MoeRun, Scores) {
  write("ids", "97 98 99 100 101 102 103");
  Outcome o = run("score @toy.plan --tokens @ids --logits @logits.npy --json");
  EXPECT_EQ(o.status, 0) << o.err;
  // No letter follows as the toy expects, so each prediction costs log(e^8 + 266).
  int hits = 0;
  for (int32_t sum = 0, id = 97; id < 103; ++id)
    hits += toy::nextToken(sum += id) == id + 1;
  char expected[64];
  const double nll = std::log(std::exp(8.0) + 266) - 8.0 * hits / 6;
  std::snprintf(expected, sizeof expected, "\"mean_nll\": %.6f", nll);
  EXPECT_NE(o.out.find(std::string(expected).substr(0, 18)), std::string::npos)
      << o.out << expected;
  EXPECT_NE(o.out.find("\"predictions\": 6"), std::string::npos);
  const std::string logits = read(file("logits.npy"));
  ASSERT_EQ(logits.size(), 128 + 7 * 4u * toy::vocab);
  float value;
  std::memcpy(&value, &logits[128 + 4 * (2 * toy::vocab + toy::nextToken(97 + 98 + 99))], 4);
  EXPECT_EQ(value, 8);
  // Windows are sequences of their own: row 4 is the second of the window 100 101 102.
  o = run("score @toy.plan --tokens @ids --logits @logits.npy --window 3");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.out.find("over 4 predictions of 7 tokens, windows of 3"), std::string::npos) << o.out;
  const std::string windows = read(file("logits.npy"));
  std::memcpy(&value, &windows[128 + 4 * (4 * toy::vocab + toy::nextToken(100 + 101))], 4);
  EXPECT_EQ(value, 8);
  EXPECT_EQ(run("score @toy.plan --tokens @ids --window 1").status, 1);
  EXPECT_EQ(run("score @toy.plan --tokens @ids --logits /dev/full/x.npy").status, 1);
}

// A picture of 8 by 8 pixels, which is one tile, as a PPM file.
std::string ppm(int shade) { return "P6 8 8 255\n" + std::string(toy::tileBytes, char(shade)); }

// What a tile of one shade is to the toy: its tokens, and what they count as.
void addTile(std::vector<int32_t> &seen, int shade) {
  seen.insert(seen.end(), {261, 265});
  for (int32_t row = 0; row < toy::rowsPerTile; ++row)
    seen.push_back(toy::rowOfTile(toy::tileBytes * shade, row));
  seen.push_back(262);
}

TEST_F(MoeRun, SeesPictures) {
  write("dark.ppm", ppm(3));
  write("light.ppm", ppm(200));
  write("dark.rgb", std::string(toy::tileBytes, char(3)));
  const auto seen = [](std::initializer_list<int> parts, const std::string &text) {
    std::vector<int32_t> tokens{256};
    for (int shade : parts)
      addTile(tokens, shade);
    for (unsigned char c : text)
      tokens.push_back(c);
    return tokens;
  };
  auto history = seen({3}, "What?");
  const std::string dark = say(history, 12) + "\n";
  Outcome o = run("@eyes.plan --image @dark.ppm -p 'What?' -n 12");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(o.out, dark);
  EXPECT_NE(o.err.find("1 tile, "), std::string::npos) << o.err;
  EXPECT_NE(o.err.find("prompt 13 tokens"), std::string::npos) << o.err;
  EXPECT_EQ(run("--image 8x8:@dark.rgb @eyes.plan -p 'What?' -n 12").out, dark);
  history = seen({200}, "What?");
  EXPECT_EQ(run("@eyes.plan --image @light.ppm -p 'What?' -n 12").out, say(history, 12) + "\n");
  history = seen({3, 200}, "What?");
  EXPECT_EQ(run("@eyes.plan --image @dark.ppm --image @light.ppm -p 'What?' -n 12").out,
            say(history, 12) + "\n");
  // Where the prompt says.
  history = {256, 'a'};
  addTile(history, 200);
  history.push_back('b');
  addTile(history, 3);
  const std::string placed = say(history, 12) + "\n";
  EXPECT_EQ(run("@eyes.plan --image @light.ppm --image @dark.ppm -p 'a<image>b<image>' -n 12").out,
            placed);
  write("placed", "a<image>b<|image|>");
  o = run("@eyes.plan --image @light.ppm --image @dark.ppm -f @placed -n 12 --json");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.out.find("\"tiles\": 2"), std::string::npos) << o.out;
  // Ids with the tokens of the picture; the context cuts none of it.
  write("expanded", "256 261 265 266 266 266 266 262 63");
  history = seen({3}, "?");
  EXPECT_EQ(run("@eyes.plan --image @dark.ppm --tokens @expanded -n 12").out,
            say(history, 12) + "\n");
}

TEST_F(MoeRun, ScoresPictures) {
  write("dark.ppm", ppm(3));
  write("expanded", "256 261 265 266 266 266 266 262 63 64");
  Outcome o = run("score @eyes.plan --tokens @expanded --image @dark.ppm --logits @logits.npy");
  EXPECT_EQ(o.status, 0) << o.err;
  const std::string logits = read(file("logits.npy"));
  ASSERT_EQ(logits.size(), 128 + 10 * 4u * toy::vocab);
  std::vector<int32_t> seen{256};
  addTile(seen, 3);
  seen.insert(seen.end(), {63, 64});
  int32_t sum = 0;
  for (size_t i = 0; i < seen.size(); ++i) {
    sum = (sum + seen[i]) % (26 * 41);
    float value;
    std::memcpy(&value, &logits[128 + 4 * (i * toy::vocab + size_t(toy::nextToken(sum)))], 4);
    EXPECT_EQ(value, 8) << i;
  }
}

TEST_F(MoeRun, SaysWhatIsWrongWithPictures) {
  write("dark.ppm", ppm(3));
  write("short.ppm", ppm(3).substr(0, 100));
  write("wide.ppm", "P6 40 10 255\n" + std::string(40 * 10 * 3, 'x'));
  write("text", "not a picture");
  write("expanded", "256 261 265 266 266 266 266 262 63 64");
  const auto refused = [](const std::string &arguments, const std::string &part) {
    const Outcome o = run(arguments);
    EXPECT_EQ(o.status, 1) << arguments;
    EXPECT_EQ(o.out, "");
    EXPECT_NE(o.err.find(part), std::string::npos) << o.err;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  };
  refused("@toy.plan --image @dark.ppm -p a", "the plan takes no pictures: it was compiled from");
  refused("score @toy.plan --tokens @expanded --image @dark.ppm", "the plan takes no pictures");
  refused("@eyes.plan --image @nowhere.ppm -p a", "nowhere.ppm: No such file");
  refused("@eyes.plan --image /tmp -p a", "Is a directory");
  refused("@eyes.plan --image /dev/zero -p a", "/dev/zero has more than the");
  refused("@eyes.plan --image @short.ppm -p a", "short.ppm: ");
  refused("@eyes.plan --image 8x9:@dark.ppm -p a", "8x9:");
  refused("@eyes.plan --image 0x9:@dark.ppm -p a", "0x9:");
  refused("@eyes.plan --image @dark.ppm --image @dark.ppm -p 'a<image>'",
          "2 pictures and films were given, and the prompt has 1 places for them");
  refused("@eyes.plan -p 'a<|patch|>'", "stands for a row of a picture, and no picture was given");
  refused("@eyes.plan --image @wide.ppm -p a --context 20",
          "do not fit in the context of 20; ask for more with --context");
  refused("score @eyes.plan --tokens @expanded",
          "0 pictures were given, and the prompt has places for 1");
  refused("score @eyes.plan --tokens @expanded --image @dark.ppm @dark.ppm",
          "2 pictures were given, and the prompt has places for 1");
  refused("score @eyes.plan --tokens @expanded --image @wide.ppm",
          "the tokens at position 1 are not those of picture 0, which is cut into");
  refused("score @eyes.plan --tokens @expanded --image @dark.ppm --window 3", "--window would cut");
}

TEST_F(MoeRun, ChatsAboutPictures) {
  write("dark.ppm", ppm(3));
  write("light.ppm", ppm(200));
  const int header = 258, headerEnd = 259, eot = 260;
  std::vector<int32_t> history{256};
  const auto begin = [&](const std::string &role) {
    history.push_back(header);
    for (int32_t id : ids(role, false))
      history.push_back(id);
    history.insert(history.end(), {headerEnd, '\n'});
  };
  std::string expected;
  const auto turn = [&](std::initializer_list<int> shades, const std::string &text) {
    begin("user");
    for (int shade : shades)
      addTile(history, shade);
    for (int32_t id : ids(text, false))
      history.push_back(id);
    history.push_back(eot);
    begin("assistant");
    expected += say(history, 6) + "\n";
    if (history.back() == toy::eos)
      history.pop_back();
    history.push_back(eot);
  };
  turn({3}, "What?");
  turn({}, "Sure?");
  turn({200, 3}, "And these?");
  const std::string dark = file("dark.ppm"), light = file("light.ppm");
  write("talk", "/image " + dark + "\nWhat?\nSure?\n/image " + light + "\n/image " + dark +
                    "\nAnd these?\n");
  Outcome o = run("chat @eyes.plan -n 6 <@talk");
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_EQ(o.out, expected);
  // What cannot be shown is said, and the conversation goes on.
  write("talk", "/image nowhere.ppm\n/image " + dark + "\nWhat?\n");
  o = run("chat @eyes.plan -n 6 <@talk");
  EXPECT_EQ(o.status, 1);
  EXPECT_EQ(o.out, expected.substr(0, o.out.size()));
  EXPECT_NE(o.err.find("nowhere.ppm: No such file"), std::string::npos) << o.err;
  o = run("chat @toy.plan -n 6 <@talk");
  EXPECT_EQ(o.status, 1);
  EXPECT_NE(o.err.find("the plan takes no pictures"), std::string::npos) << o.err;
}

TEST_F(MoeRun, Measures) {
  Outcome o = run("bench @toy.plan --prompt 40 --generate 8 --repeat 2 --json");
  EXPECT_EQ(o.status, 0) << o.err;
  for (const char *member : {"\"prefill_tokens_per_second\": {\"median\": ",
                             "\"read_bytes_per_second\": {\"median\": ", "\"repeat\": 2"})
    EXPECT_NE(o.out.find(member), std::string::npos) << member << " in " << o.out;
  o = run("bench @toy.plan --prompt 40 --generate 8 --repeat 1 --depth 20");
  EXPECT_NE(o.out.find("decode 8 tokens after 20: "), std::string::npos) << o.out;
}

TEST_F(MoeRun, MeasuresSequencesTogether) {
  Outcome o = run("bench @toy.plan --prompt 20 --generate 4 --repeat 1 --sequences 1,3");
  EXPECT_EQ(o.status, 0) << o.err;
  for (const char *part : {"1 rounds of 4 steps after prompts of 20 tokens",
                           "\n1 sequence: ", "\n3 sequences: ", " ms a step\n"})
    EXPECT_NE(o.out.find(part), std::string::npos) << part << " in " << o.out;
  o = run("bench @toy.plan --prompt 20 --generate 4 --repeat 1 --sequences 2 --json");
  EXPECT_NE(o.out.find("\"batches\": [{\"sequences\": 2, \"decode_tokens_per_second\": {"),
            std::string::npos)
      << o.out;
  EXPECT_EQ(run("bench @toy.plan --sequences 0").status, 2);
  EXPECT_EQ(run("bench @toy.plan --sequences 1,x").status, 2);
  EXPECT_EQ(run("bench @toy.plan --sequences 2 --prompt 0").status, 1);
}

} // namespace
