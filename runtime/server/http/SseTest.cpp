#include "runtime/server/http/Sse.h"
#include "runtime/server/http/TestSse.h"

#include <gtest/gtest.h>
#include <random>

using namespace moe::server::http;

namespace {
std::string eventOf(std::string_view data, std::string_view name = {}) {
  std::string out;
  appendEvent(out, data, name);
  return out;
}

TEST(Sse, WritesWhatClientsExpect) {
  EXPECT_EQ(eventOf("{\"a\": 1}"), "data: {\"a\": 1}\n\n");
  EXPECT_EQ(eventOf("[DONE]"), "data: [DONE]\n\n");
  EXPECT_EQ(eventOf("{}", "message_stop"), "event: message_stop\ndata: {}\n\n");
  EXPECT_EQ(eventOf("a\nb\r\nc\rd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
  EXPECT_EQ(eventOf(""), "data: \n\n");
  EXPECT_EQ(eventOf("x", "a\nb\r"), "event: ab\ndata: x\n\n");
}

TEST(Sse, IsReadBackAsWritten) {
  std::mt19937 random(1);
  const std::string_view alphabet = "ab: \r\n\t\"{}data:\xc3\xa9";
  std::string stream;
  std::vector<SseEvent> expected;
  for (int i = 0; i < 20000; ++i) {
    if (random() % 4 == 0)
      stream += kPing;
    std::string data(random() % 12, ' '), name;
    for (char &c : data)
      c = alphabet[random() % alphabet.size()];
    if (random() % 2)
      name = "type_" + std::to_string(random() % 3);
    appendEvent(stream, data, name);
    expected.push_back({name.empty() ? "message" : name, withLineFeeds(data)});
  }
  EXPECT_EQ(parseSse(stream), expected);
}
} // namespace
