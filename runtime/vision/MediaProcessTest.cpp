// readPicture with programs that are not moe-media, or behave as it never should.
#include "runtime/vision/MediaProcess.h"

#include "runtime/vision/ChildProcess.h"
#include "runtime/vision/Video.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <dirent.h>
#include <fstream>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>

using namespace moe;
using namespace std::chrono_literals;

namespace {

std::span<const std::byte> bytes(const std::string &text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A shell script as a program.
std::string script(const std::string &name, const std::string &body) {
  const std::string path = testing::TempDir() + "moe-vision-" + name;
  std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
  chmod(path.c_str(), 0755);
  return path;
}

int openDescriptors() {
  int count = 0;
  DIR *folder = opendir("/proc/self/fd");
  while (readdir(folder))
    ++count;
  closedir(folder);
  return count;
}

Result<Picture> read(const std::string &program, std::chrono::milliseconds deadline = 10s,
                     const std::string &file = "a file") {
  return readPicture(bytes(file), {program, deadline});
}

void refuses(const Result<Picture> &picture, Code code, const std::string &why) {
  ASSERT_FALSE(bool(picture)) << why;
  EXPECT_EQ(picture.error().code, code) << picture.error().message;
  EXPECT_NE(picture.error().message.find(why), std::string::npos) << picture.error().message;
}

// printf's octal escapes of a header.
const std::string kHeader = R"(printf 'MOEP\001\000\000\000\002\000\000\000\001\000\000\000')";

TEST(MediaProcess, TakesAnAnswer) {
  const Result<Picture> picture = read(script("good", kHeader + "\nprintf abcdef"));
  ASSERT_TRUE(bool(picture)) << picture.error().message;
  EXPECT_EQ(*picture, (Picture{2, 1, {'a', 'b', 'c', 'd', 'e', 'f'}}));
}

TEST(MediaProcess, GivesTheFileAsItIs) {
  std::string file(300000, 0);
  for (size_t i = 0; i < file.size(); ++i)
    file[i] = char(i * 7 >> 3);
  std::string output;
  const auto end = runChild("/bin/cat", {}, bytes(file), 10s, [&](std::span<const std::byte> part) {
    output.append(reinterpret_cast<const char *>(part.data()), part.size());
    return true;
  });
  ASSERT_TRUE(bool(end));
  EXPECT_EQ(end->how, ChildEnd::How::Exited);
  EXPECT_EQ(end->value, 0);
  EXPECT_TRUE(output == file);
}

TEST(MediaProcess, NeedsNoProgramForPpm) {
  const Result<Picture> picture = read("/nowhere/moe-media", 1s, "P6 1 1 255\nabc");
  ASSERT_TRUE(bool(picture));
  EXPECT_EQ(*picture, (Picture{1, 1, {'a', 'b', 'c'}}));
  refuses(read("/nowhere/moe-media", 1s, "P6 1 1 255\nab"), Code::InvalidArgument, "is cut short");
}

TEST(MediaProcess, SaysThatItIsMissing) {
  refuses(read("/nowhere/moe-media"), Code::Unavailable, "there is none at /nowhere/moe-media");
  setenv("MOE_MEDIA", "/elsewhere/media", 1);
  refuses(read(""), Code::Unavailable, "there is none at /elsewhere/media");
  unsetenv("MOE_MEDIA");
  const Result<std::string> beside = findMedia({}); // where this test is
  if (!beside)
    EXPECT_NE(beside.error().message.find("unittests/moe-media"), std::string::npos)
        << beside.error().message;
  const std::string text = testing::TempDir() + "moe-vision-no-program";
  std::ofstream(text) << "\x7f"
                         "ELF but not really";
  chmod(text.c_str(), 0755);
  refuses(read(text), Code::IoError, "cannot start");
}

TEST(MediaProcess, SaysHowItEnded) {
  refuses(read(script("crash", "kill -SEGV $$")), Code::IoError,
          "died of signal 11 (Segmentation fault)");
  refuses(read(script("crash-late", kHeader + "\nprintf abc; kill -SYS $$")), Code::IoError,
          "died of signal 31");
  refuses(read(script("fails", "exit 3")), Code::IoError, "exited with status 3");
  refuses(read(script("silent", "true")), Code::IoError, "exited with status 0");
  refuses(read(script("cut", kHeader + "\nprintf abc")), Code::IoError,
          "before the picture was whole");
}

TEST(MediaProcess, BelievesNothing) {
  refuses(read(script("stranger", "echo hello, this is something else")), Code::IoError,
          "something else than a picture");
  refuses(read(script("large", R"(printf 'MOEP\001\000\000\000\377\377\377\377\001\000\000\000')")),
          Code::InvalidArgument, "at most 16384");
  refuses(read(script("endless", kHeader + "\nwhile :; do printf abcdef; done")), Code::IoError,
          "wrote more than");
}

// Neither one that hangs nor one that drips keeps the caller longer than it wanted to wait.
TEST(MediaProcess, WaitsNoLongerThanItsDeadline) {
  const std::pair<const char *, std::string> slow[] = {
      {"hangs", "exec sleep 100"},
      {"drips", kHeader + "\nwhile :; do printf ''; sleep 0.01; done"},
      {"closed", "exec >&- 2>&-; exec sleep 100"},
      {"chatters", "while :; do echo no >&2; done"},
      {"deaf", "trap '' TERM HUP INT; exec sleep 100"},
  };
  for (const auto &[name, body] : slow) {
    const auto before = std::chrono::steady_clock::now();
    refuses(read(script(name, body), 200ms), Code::InvalidArgument, "took too long");
    EXPECT_LT(std::chrono::steady_clock::now() - before, 5s) << name;
  }
}

TEST(MediaProcess, LimitsTheFile) {
  refuses(read("/bin/true", 1s, ""), Code::InvalidArgument, "is empty");
  refuses(read("/bin/true", 1s, std::string((20 << 20) + 1, 'x')), Code::InvalidArgument,
          "has 20971521 bytes, at most 20971520 are read");
}

// No descriptor, and no process.
TEST(MediaProcess, LeavesNothingBehind) {
  const std::string programs[] = {script("left-good", kHeader + "\nprintf abcdef"),
                                  script("left-bad", "kill -SEGV $$"),
                                  script("left-slow", "exec sleep 100"), "/nowhere/moe-media"};
  (void)read(programs[0]);
  const int before = openDescriptors();
  for (int i = 0; i < 5; ++i)
    for (const std::string &program : programs)
      (void)read(program, 30ms);
  EXPECT_EQ(openDescriptors(), before);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(MediaProcess, ServesSeveralThreads) {
  const std::string program = script("threads", kHeader + "\nprintf abcdef");
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 8; ++k)
        good += bool(read(program));
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(good, 32);
}

// A caller that has closed its standard descriptors, or ignores its children, gets pictures too.
TEST(MediaProcess, AsksNothingOfItsCaller) {
  const std::string program = script("alone", kHeader + "\nprintf abcdef");
  const auto inChild = [&](auto prepare) {
    const pid_t process = fork();
    if (process == 0) {
      prepare();
      _exit(read(program) ? 0 : 1);
    }
    int status = 0;
    waitpid(process, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  };
  EXPECT_EQ(inChild([] {
              for (int i = 0; i < 3; ++i)
                close(i);
            }),
            0);
  EXPECT_EQ(inChild([] { signal(SIGCHLD, SIG_IGN); }), 0);
  EXPECT_EQ(inChild([] {
              sigset_t all;
              sigfillset(&all);
              sigprocmask(SIG_BLOCK, &all, nullptr);
            }),
            0);
}

TEST(Video, ChecksItsOptions) {
  const auto refuses = [](const std::string &file, const VideoOptions &options, Code code,
                          const std::string &why) {
    const auto frames = readVideo(bytes(file), options);
    ASSERT_FALSE(bool(frames));
    EXPECT_EQ(frames.error().code, code);
    EXPECT_NE(frames.error().message.find(why), std::string::npos) << frames.error().message;
  };
  VideoOptions options;
  for (const double rate : {0.0, -1.0, 61.0, double(NAN), double(INFINITY)}) {
    options.framesPerSecond = rate;
    refuses("film", options, Code::InvalidArgument, "more than 0 and at most 60");
  }
  options = {};
  for (const int32_t most : {0, -1, 257}) {
    options.maxFrames = most;
    refuses("film", options, Code::InvalidArgument, "should be 1 to 256");
  }
  options = {};
  refuses("", options, Code::InvalidArgument, "has 0 bytes");
  options.folder = "/nowhere";
  refuses("film", options, Code::Unavailable, "a film needs ffmpeg, and there is none in /nowhere");
}

TEST(Video, LabelsTimes) {
  EXPECT_EQ(timeLabel(0), "[00:00] ");
  EXPECT_EQ(timeLabel(65.9), "[01:05] ");
  EXPECT_EQ(timeLabel(6000), "[100:00] ");
}

} // namespace
