// What streams that wait cost, in a program of its own: what other tests have freed would hide it.
#include "runtime/server/http/TestClient.h"

#include <fstream>
#include <sys/resource.h>

using namespace moe::server::http;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MOE_TEST_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MOE_TEST_SANITIZED
#endif
#endif

namespace {
size_t residentBytes() {
  std::ifstream file("/proc/self/statm");
  size_t pages = 0;
  file >> pages >> pages;
  return pages * size_t(::sysconf(_SC_PAGESIZE));
}

TEST(Streams, CostLittleWhileTheyWait) {
  rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < 2500)
    GTEST_SKIP() << "only " << limit.rlim_max << " descriptors are allowed";
  Options options;
  options.limits.perAddress = 2000;
  std::vector<std::shared_ptr<Reply>> replies;
  replies.reserve(1000);
  TestServer server(
      [&](const HttpRequest &, std::shared_ptr<Reply> reply) {
        reply->start(200, "text/event-stream");
        reply->write(": ping\n\n");
        replies.push_back(std::move(reply));
      },
      options);
  const std::string request =
      post("/v1/chat/completions", std::string(2000, ' '),
           "authorization: Bearer abcdefghijklmnop\r\nuser-agent: test\r\n");
  {
    Client warm(server.port());
    warm.send(request);
    ASSERT_TRUE(warm.head());
  }
  std::vector<Client> clients;
  clients.reserve(1000);
  const size_t before = residentBytes();
  for (int i = 0; i < 1000; ++i) {
    clients.emplace_back(server.port());
    clients.back().send(request);
  }
  ASSERT_TRUE(eventually([&] { return server.ask([&] { return replies.size(); }) == 1001; }));
  const size_t after = residentBytes();
  RecordProperty("bytes_each", std::to_string((after - std::min(before, after)) / 1000));
#ifndef MOE_TEST_SANITIZED
  EXPECT_LT(after, before + (5 << 20));
#endif
  for (int round = 0; round < 3; ++round)
    server.ask([&] {
      for (auto &reply : replies)
        reply->write("data: x\n\n");
      return 0;
    });
  for (Client &client : clients) {
    ASSERT_TRUE(client.head());
    std::string got;
    while (got.size() < 8 + 27) {
      const auto chunk = client.chunk();
      ASSERT_TRUE(chunk);
      got += *chunk;
    }
    EXPECT_EQ(got, ": ping\n\ndata: x\n\ndata: x\n\ndata: x\n\n");
  }
  server.ask([&] { return replies.clear(), 0; });
}
} // namespace
