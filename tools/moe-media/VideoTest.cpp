// Films, where there is an ffmpeg to make and to read them.
#include "runtime/vision/Video.h"
#include "runtime/vision/ChildProcess.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <unistd.h>

using namespace moe;
using namespace std::chrono_literals;

namespace {

std::span<const std::byte> bytes(const std::string &text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

class Film : public testing::Test {
protected:
  void SetUp() override {
    if (std::system("ffmpeg -version >/dev/null 2>&1 && ffprobe -version >/dev/null 2>&1") != 0)
      GTEST_SKIP() << "there is no ffmpeg (Debian: apt-get install ffmpeg)";
    options.media.program = MOE_MEDIA_PROGRAM;
  }

  // A film of `seconds`, 64x48 at 10 frames a second, whose red grows by 10 with each second.
  static std::string make(const std::string &name, int seconds, const std::string &more = "") {
    const std::string path = testing::TempDir() + "moe-film-" + name;
    const std::string command =
        "ffmpeg -nostdin -v error -y -f lavfi -i \"color=c=black:s=64x48:r=10:d=" +
        std::to_string(seconds) + ",format=rgb24,geq=r='10*floor(T)':g=20:b=200\" " + more + " " +
        path;
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  void refuses(const std::string &file, Code code, const std::string &why) {
    const auto frames = readVideo(bytes(file), options);
    ASSERT_FALSE(bool(frames)) << why;
    EXPECT_EQ(frames.error().code, code) << frames.error().message;
    EXPECT_NE(frames.error().message.find(why), std::string::npos) << frames.error().message;
  }

  VideoOptions options;
};

TEST_F(Film, HasFrames) {
  // MP4 has its index at its end, where a pipe could not seek.
  for (const char *name : {"a.avi", "a.mkv", "a.mp4"}) {
    const std::string codec =
        name == std::string("a.avi") ? "-pix_fmt bgr24 -c:v rawvideo" : "-c:v mpeg4 -q:v 2";
    const auto frames = readVideo(bytes(make(name, 5, codec)), options);
    ASSERT_TRUE(bool(frames)) << name << ": " << frames.error().message;
    ASSERT_EQ(frames->size(), 5u) << name;
    for (size_t i = 0; i < frames->size(); ++i) {
      const Picture &picture = (*frames)[i].picture;
      EXPECT_EQ((*frames)[i].seconds, double(i));
      EXPECT_EQ(picture.width, 64);
      EXPECT_EQ(picture.height, 48);
      EXPECT_NEAR(picture.rgb[0], 10 * double(i), 4) << name << " " << i;
      EXPECT_NEAR(picture.rgb[2], 200, 6);
    }
  }
}

TEST_F(Film, IsSampledOverItsWholeLength) {
  const std::string film = make("long.avi", 20, "-pix_fmt bgr24 -c:v rawvideo");
  options.maxFrames = 4;
  const auto frames = readVideo(bytes(film), options);
  ASSERT_TRUE(bool(frames)) << frames.error().message;
  ASSERT_EQ(frames->size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ((*frames)[i].seconds, 5.0 * double(i));
    EXPECT_NEAR((*frames)[i].picture.rgb[0], 50 * double(i), 1) << i;
  }
  options.maxFrames = 64;
  options.framesPerSecond = 2;
  EXPECT_EQ(readVideo(bytes(film), options)->size(), 40u);
}

TEST_F(Film, IsRefusedInOneSentence) {
  refuses("this is no film", Code::InvalidArgument, "the file is no film, or has no frames: ");
  refuses(make("cut.mp4", 2, "-c:v mpeg4").substr(0, 600), Code::InvalidArgument, "is no film");
  refuses("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n", Code::InvalidArgument,
          "is no film");
  refuses(make("sound.mkv", 1, "-f lavfi -i sine=d=1 -map 1:a -c:a pcm_s16le"),
          Code::InvalidArgument, "has no frames");
  options.media.deadline = 1ms;
  refuses(make("slow.avi", 2, "-pix_fmt bgr24 -c:v rawvideo"), Code::InvalidArgument,
          "took too long");
  options.media = {"/nowhere/moe-media", 10s};
  refuses("film", Code::Unavailable, "there is none at /nowhere/moe-media");
}

TEST_F(Film, SurvivesDamage) {
  const std::string film = make("damaged.mkv", 1, "-c:v mpeg4");
  uint32_t random = 1;
  for (int i = 0; i < 4; ++i) {
    std::string file = film;
    for (int k = 0; k < 20; ++k) {
      random = random * 1664525 + 1013904223;
      file[(random >> 8) % file.size()] = char(random >> 4);
    }
    const auto frames = readVideo(bytes(file), options);
    if (!frames)
      EXPECT_EQ(frames.error().code, Code::InvalidArgument) << frames.error().message;
  }
}

} // namespace
