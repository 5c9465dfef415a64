// The program moe-media, as the runtime starts it.
#include "runtime/vision/ChildProcess.h"
#include "runtime/vision/MediaProcess.h"
#include "runtime/vision/TestPictures.h"
#include "tools/moe-media/Formats.h"
#include "tools/moe-media/Sandbox.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <linux/landlock.h>
#include <random>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace moe;
using namespace std::chrono_literals;

namespace {

const std::string kFolder = MOE_SOURCE_DIR "/test/vision/";
const MediaOptions kOptions{MOE_MEDIA_PROGRAM, 20s};

std::span<const std::byte> bytes(const std::string &text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string readFile(const std::string &name) {
  std::ifstream file(kFolder + "files/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Media, DecodesFiles) {
  const TestJson goldens = TestJson::read(kFolder + "files.json");
  for (const TestJson &golden : goldens["files"].array) {
    const std::string name = golden["file"].string;
    if ((!kReadsGif && name.ends_with(".gif")) || (!kReadsAvif && name.ends_with(".avif")))
      continue;
    const Result<Picture> picture = readPicture(bytes(readFile(name)), kOptions);
    ASSERT_TRUE(bool(picture)) << name << ": " << picture.error().message;
    EXPECT_EQ(checksum(picture->rgb), golden["pixels"].string) << name;
  }
}

TEST(Media, RefusesInOneSentence) {
  const std::pair<std::string, const char *> files[] = {
      {"%PDF-1.4", "the file is a PDF file; JPEG, PNG"},
      {"hello", "the file is no picture of a known type"},
      {readFile("rgb.png").substr(0, 80), "the PNG file is damaged: it is cut short"},
      {readFile("420.jpg").substr(0, 640), "the JPEG file is damaged: it is cut short"}};
  for (const auto &[file, why] : files) {
    const Result<Picture> picture = readPicture(bytes(file), kOptions);
    ASSERT_FALSE(bool(picture));
    EXPECT_EQ(picture.error().code, Code::InvalidArgument);
    EXPECT_NE(picture.error().message.find(why), std::string::npos) << picture.error().message;
    EXPECT_EQ(picture.error().message.find('\n'), std::string::npos);
  }
}

// Damaged files, a hundred or as many as MOE_DAMAGED_FILES says: a picture or a sentence each time,
// and never a death.
TEST(Media, SurvivesDamage) {
  std::mt19937 random(2);
  const std::vector<TestJson> all = TestJson::read(kFolder + "files.json")["files"].array;
  const char *wanted = std::getenv("MOE_DAMAGED_FILES");
  for (int i = 0; i < (wanted ? std::atoi(wanted) : 100); ++i) {
    const std::string name = all[random() % all.size()]["file"].string;
    std::string file = readFile(name);
    for (uint32_t count = 1 + random() % 8; count > 0; --count)
      file[random() % file.size()] = char(random());
    if (random() % 4 == 0)
      file.resize(1 + random() % (file.size() - 1));
    const Result<Picture> picture = readPicture(bytes(file), kOptions);
    if (picture)
      ASSERT_TRUE(bool(checkPicture(*picture))) << name << " " << i;
    else
      ASSERT_EQ(picture.error().code, Code::InvalidArgument)
          << name << " " << i << ": " << picture.error().message;
  }
}

TEST(Media, SaysWhatItIsFor) {
  const auto end = runChild(MOE_MEDIA_PROGRAM, {"--help"}, {}, 10s, [](auto) { return true; });
  ASSERT_TRUE(bool(end));
  EXPECT_EQ(end->value, 2);
  EXPECT_NE(end->said.find("moe-run and moe-serve"), std::string::npos) << end->said;
}

// What a process ends with that does this in the decoders' sandbox: its status, or 1000 and a
// signal.
template <typename Action> int inDecoderSandbox(Action action) {
  const pid_t process = fork();
  if (process == 0) {
    if (!enterDecoderSandbox())
      _exit(100);
    _exit(action());
  }
  int status = 0;
  waitpid(process, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

TEST(DecoderSandbox, LetsMemoryBeTakenAndNothingElse) {
  if (kIsSanitized)
    GTEST_SKIP() << "a build with AddressSanitizer has no sandbox";
  const auto take = [](size_t bytes) {
    return [bytes] {
      void *memory =
          mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      return memory == MAP_FAILED ? 3 : 0;
    };
  };
  EXPECT_EQ(inDecoderSandbox(take(500 << 20)), 0);
  EXPECT_EQ(inDecoderSandbox(take(size_t(1) << 30)), 3);
  const int killed = 1000 + SIGSYS;
  EXPECT_EQ(inDecoderSandbox([] { return open("/etc/passwd", O_RDONLY); }), killed);
  EXPECT_EQ(inDecoderSandbox([] { return socket(AF_INET, SOCK_STREAM, 0); }), killed);
  EXPECT_EQ(inDecoderSandbox([] { return kill(getppid(), 0); }), killed);
  EXPECT_EQ(inDecoderSandbox([] { return int(fork()); }), killed);
  EXPECT_EQ(inDecoderSandbox([] { return execl("/bin/true", "true", nullptr); }), killed);
  EXPECT_EQ(inDecoderSandbox([] {
              mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              return 0;
            }),
            killed);
  EXPECT_EQ(inDecoderSandbox([] { return write(9, "x", 1) < 0 ? 4 : 0; }), 4); // it was closed
}

// What a program in the sandbox of `moe-media run` can do, tried with shell commands.
class Sandbox : public testing::Test {
protected:
  void SetUp() override {
    if (kIsSanitized)
      GTEST_SKIP() << "a build with AddressSanitizer has no sandbox";
  }
  struct Outcome {
    ChildEnd end;
    std::string output;
  };
  static Outcome run(const std::string &command) {
    Outcome outcome;
    const auto end =
        runChild(MOE_MEDIA_PROGRAM, {"run", "/bin/sh", "-c", command}, bytes("input"), 10s,
                 [&](std::span<const std::byte> part) {
                   outcome.output.append(reinterpret_cast<const char *>(part.data()), part.size());
                   return true;
                 });
    EXPECT_TRUE(bool(end));
    outcome.end = *end;
    return outcome;
  }
};

TEST_F(Sandbox, LetsItsInputBeReadAndItsOutputBeWritten) {
  const Outcome outcome = run("read line; echo got $line");
  EXPECT_EQ(outcome.output, "got input\n") << outcome.end.said;
}

TEST_F(Sandbox, KeepsFilesFromBeingChanged) {
  const std::string path = testing::TempDir() + "moe-media-sandbox";
  std::ofstream(path) << "before";
  for (const std::string &command : {"echo after > " + path, "echo after >> " + path}) {
    const Outcome outcome = run(command);
    EXPECT_NE(outcome.end.value, 0);
    EXPECT_NE(outcome.end.said.find("denied"), std::string::npos) << outcome.end.said;
  }
  std::string text;
  std::getline(std::ifstream(path) >> std::ws, text);
  EXPECT_EQ(text, "before");
}

TEST_F(Sandbox, KeepsOtherProgramsFromBeingStarted) {
  const Outcome outcome = run("echo one; /bin/true; echo two");
  EXPECT_EQ(outcome.output, "one\n");
  EXPECT_NE(outcome.end.value, 0);
}

TEST_F(Sandbox, KeepsFilesFromBeingRead) {
  if (syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1)
    GTEST_SKIP() << "this kernel has no Landlock";
  const Outcome outcome = run("read line < /etc/passwd && echo $line");
  EXPECT_NE(outcome.end.value, 0);
  EXPECT_EQ(outcome.output, "");
  EXPECT_NE(outcome.end.said.find("denied"), std::string::npos) << outcome.end.said;
}

TEST_F(Sandbox, SaysWhatCannotBeStarted) {
  const auto end =
      runChild(MOE_MEDIA_PROGRAM, {"run", "/nowhere/ffmpeg"}, {}, 10s, [](auto) { return true; });
  ASSERT_TRUE(bool(end));
  EXPECT_EQ(end->said, "moe-media: /nowhere/ffmpeg: No such file or directory");
}

} // namespace
