// What hostile, slow and vanishing clients cost: limits hold, others are served, nothing leaks.
#include "runtime/server/http/TestClient.h"

#include <atomic>
#include <fcntl.h>
#include <random>
#include <sys/resource.h>

using namespace moe;
using namespace moe::server::http;
using namespace std::chrono_literals;

namespace {
using TestClock = std::chrono::steady_clock;

void answer(const HttpRequest &request, const std::shared_ptr<Reply> &reply) {
  reply->send(200, "text/plain", std::to_string(request.body.size()));
}

// Sends until the server takes no more, at most `bytes`; then what it answered.
std::optional<Response> flood(Client &client, const std::string &start, const std::string &piece,
                              size_t bytes) {
  client.send(start);
  for (size_t sent = 0; sent < bytes && client.send(piece); sent += piece.size()) {
    pollfd poll = {client.socket(), POLLIN, 0};
    if (::poll(&poll, 1, 0) == 1)
      break;
  }
  return client.response();
}

TEST(Limits, EndFloodsWithAnAnswer) {
  TestServer server(answer);
  const std::string chunked = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
  const auto statusOf = [&](const std::string &start, const std::string &piece) {
    Client client(server.port());
    const auto response = flood(client, start, piece, 256 << 20);
    EXPECT_TRUE(response);
    return response ? response->status : 0;
  };
  const std::string chunk = "10000\r\n" + std::string(65536, 'a') + "\r\n";
  EXPECT_EQ(statusOf(chunked, chunk), 413);
  EXPECT_EQ(statusOf("GET / HTTP/1.1\r\nhost: x\r\n", "x-flood: 1\r\n"), 431);
  EXPECT_EQ(statusOf("GET / HTTP/1.1\r\nx: ", std::string(1000, 'a')), 431);
  EXPECT_EQ(statusOf("", std::string(1000, 'A')), 431);
  EXPECT_EQ(statusOf(chunked, "1;" + std::string(1000, 'a')), 400);
  Client client(server.port());
  client.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000000\r\n\r\n");
  const auto response = client.response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 413);
  EXPECT_EQ(response->headers.at("connection"), "close");
  EXPECT_NE(response->body.find("longer than 16777216 bytes"), std::string::npos);
  EXPECT_TRUE(eventually([&] { return server.connections() <= 1; }));
}

TEST(Limits, AnswerInTheFormThatTheyWereGiven) {
  Options options;
  options.errorBody = [](int status, std::string_view message) {
    return "[" + std::to_string(status) + "] " + std::string(message);
  };
  TestServer server(answer, options);
  Client client(server.port());
  client.send("nonsense\r\n\r\n");
  const auto response = client.response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 400);
  EXPECT_EQ(response->headers.at("content-type"), "application/json");
  EXPECT_TRUE(response->body.starts_with("[400] the request is malformed"));
  EXPECT_TRUE(response->headers.at("x-request-id").starts_with("req-"));
  EXPECT_TRUE(client.ended());
}

TEST(Limits, EndHeadersAndBodiesThatDrip) {
  Options options;
  options.limits.headerTime = 300ms;
  options.limits.bodyTime = 400ms;
  options.limits.idleTime = 200ms;
  TestServer server(answer, options);
  const auto drip = [&](Client &client, std::string_view text) {
    const auto begin = TestClock::now();
    for (size_t i = 0; i < text.size() && !client.more(100ms); ++i)
      client.send(text.substr(i, 1));
    const auto response = client.response();
    EXPECT_TRUE(response);
    EXPECT_EQ(response ? response->status : 0, 408);
    EXPECT_TRUE(client.ended());
    return TestClock::now() - begin;
  };
  const std::string request = "GET / HTTP/1.1\r\nhost: a-name-of-some-length.example\r\n\r\n";
  Client first(server.port());
  const auto time = drip(first, request);
  EXPECT_GE(time, 280ms);
  EXPECT_LT(time, 3s);
  Client second(server.port()); // a later request of a connection has its own time
  second.send(request);
  EXPECT_EQ(second.response()->status, 200);
  EXPECT_GE(drip(second, request), 280ms);
  Client body(server.port());
  body.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n");
  EXPECT_GE(drip(body, std::string(1000, 'b')), 380ms);
  Client idle(server.port()); // ends without an answer to nothing
  idle.send(request);
  EXPECT_EQ(idle.response()->status, 200);
  EXPECT_TRUE(idle.ended(3s));
  Client silent(server.port());
  EXPECT_TRUE(silent.ended(3s));
}

TEST(Limits, MayBeRaised) {
  Options options;
  options.limits.header = 1 << 20;
  options.limits.body = 64 << 20;
  TestServer server(answer, options);
  Client client(server.port());
  client.send(get("/", "x: " + std::string(900'000, 'a') + "\r\n"));
  const auto response = client.response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 200);
  client.send(get("/", "x: " + std::string(1 << 20, 'a') + "\r\n"));
  EXPECT_EQ(client.response()->status, 431);
}

TEST(Limits, HoldForBodiesOfAllConnections) {
  Options options;
  options.limits.bodies = 1 << 20;
  TestServer server(answer, options);
  std::vector<Client> clients;
  for (int i = 0; i < 10; ++i) {
    clients.emplace_back(server.port());
    clients.back().send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200001\r\n\r\n" +
                        std::string(200'000, 'a'));
  }
  int refused = 0;
  for (Client &client : clients)
    if (client.more(200ms)) {
      const auto response = client.response();
      ASSERT_TRUE(response);
      EXPECT_EQ(response->status, 503);
      EXPECT_EQ(response->headers.at("retry-after"), "1");
      ++refused;
    }
  EXPECT_GE(refused, 4);
  EXPECT_LE(refused, 9);
  clients.clear();
  ASSERT_TRUE(eventually([&] { return server.connections() == 0; }));
  Client client(server.port()); // all is given back
  client.send(post("/", std::string(900'000, 'a')));
  EXPECT_EQ(client.response()->body, "900000");
}

TEST(Limits, EndStreamsThatAreNotRead) {
  for (const bool stalls : {false, true}) {
    std::shared_ptr<Reply> kept;
    std::atomic<int> gone = 0, requests = 0;
    Options options;
    options.limits.pending = stalls ? 64 << 20 : 200'000;
    options.limits.writeTime = stalls ? 200ms : 60'000ms;
    TestServer server(
        [&](const HttpRequest &, std::shared_ptr<Reply> reply) {
          reply->onGone([&] { ++gone; });
          reply->start(200, "text/plain");
          kept = std::move(reply);
          ++requests;
        },
        options);
    Client client(server.port(), 4096);
    client.send(get("/"));
    ASSERT_TRUE(client.head());
    Client other(server.port());
    // Until the system's buffers and ours are full: a few megabytes.
    for (int i = 0; i < 2000 && gone == 0; ++i) {
      server.ask([&] { return kept->write(std::string(10'000, 'x')), 0; });
      if (stalls && i > 500)
        std::this_thread::sleep_for(2ms);
    }
    EXPECT_TRUE(eventually([&] { return gone == 1; })) << stalls;
    while (client.more()) {
    }
    EXPECT_TRUE(client.wasReset);
    EXPECT_TRUE(eventually([&] { return server.connections() == 1; }));
    server.ask([&] { return kept.reset(), 0; });
    EXPECT_EQ(gone, 1);
  }
}

TEST(Limits, SpareReadersThatAreSlowAndRead) {
  std::shared_ptr<Reply> kept;
  std::atomic<int> gone = 0, requests = 0;
  Options options;
  options.limits.writeTime = 300ms;
  options.limits.pending = 8 << 20;
  TestServer server(
      [&](const HttpRequest &request, std::shared_ptr<Reply> reply) {
        reply->onGone([&] { ++gone; });
        if (request.path == "/whole")
          return reply->send(200, "text/plain", std::string(6 << 20, 'w'));
        reply->start(200, "text/plain");
        kept = std::move(reply);
        ++requests;
      },
      options);
  Client client(server.port(), 4096);
  client.send(get("/"));
  ASSERT_TRUE(client.head());
  server.ask([&] {
    kept->write(std::string(4 << 20, 's'));
    return kept->finish(), 0;
  });
  size_t got = 0;
  const auto begin = TestClock::now();
  for (auto chunk = client.chunk(); chunk && !chunk->empty(); chunk = client.chunk())
    got += chunk->size();
  EXPECT_EQ(got, size_t(4) << 20);
  client.send(get("/whole"));
  while (client.input.size() < 6 << 20 && client.more())
    if (TestClock::now() - begin < 1500ms) // longer than the time without any progress
      std::this_thread::sleep_for(1ms);
  EXPECT_EQ(client.response()->body.size(), size_t(6) << 20);
  EXPECT_EQ(gone, 0);
}

TEST(Limits, LeaveUnreadWhoSendsMoreAndMoreRequests) {
  std::shared_ptr<Reply> kept;
  std::atomic<int> requests = 0;
  TestServer server([&](const HttpRequest &, std::shared_ptr<Reply> reply) {
    kept = std::move(reply);
    ++requests;
  });
  Client client(server.port());
  client.send(get("/"));
  ASSERT_TRUE(eventually([&] { return requests == 1; }));
  ::fcntl(client.socket(), F_SETFL, O_NONBLOCK);
  const std::string many(1 << 20, '\n');
  size_t sent = 0;
  for (int idle = 0; idle < 20 && sent < 256 << 20;) {
    const ssize_t bytes = ::send(client.socket(), many.data(), many.size(), MSG_NOSIGNAL);
    if (bytes > 0)
      sent += size_t(bytes);
    else {
      ++idle;
      std::this_thread::sleep_for(5ms);
    }
  }
  EXPECT_LT(sent, size_t(64) << 20); // the system's buffers
  client.reset();
  server.ask([&] { // is found out by the next write at the latest
    kept->send(200, "text/plain", "");
    return 0;
  });
  EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
}

TEST(Limits, HoldForConnections) {
  rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  const size_t many = std::min<rlim_t>(10'000, limit.rlim_max > 300 ? limit.rlim_max - 300 : 0);
  if (many < 500)
    GTEST_SKIP() << "only " << limit.rlim_max << " descriptors are allowed";
  Options options;
  options.limits.connections = 100;
  options.limits.perAddress = 100;
  const size_t before = openDescriptors();
  {
    TestServer server(answer, options);
    std::vector<Client> clients;
    size_t most = 0;
    for (size_t i = 0; i < many; ++i) {
      clients.emplace_back(server.port());
      ASSERT_TRUE(clients.back().connected()) << i;
      if (i % 500 == 0)
        most = std::max(most, server.connections());
    }
    EXPECT_LE(most, 100u);
    EXPECT_TRUE(eventually([&] { return server.connections() == 100; }));
    size_t refused = 0;
    for (size_t i = 100; i < many; ++i) {
      const auto response = clients[i].response();
      ASSERT_TRUE(response) << i;
      EXPECT_EQ(response->status, 503);
      EXPECT_EQ(response->headers.at("retry-after"), "1");
      EXPECT_EQ(response->headers.at("connection"), "close");
      EXPECT_TRUE(clients[i].ended());
      ++refused;
    }
    EXPECT_EQ(refused, many - 100);
    clients[7].send(get("/")); // those within the limit are served
    EXPECT_EQ(clients[7].response()->status, 200);
    clients.clear();
    EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
    Client again(server.port());
    again.send(get("/"));
    EXPECT_EQ(again.response()->status, 200);
  }
  EXPECT_EQ(openDescriptors(), before);
}

TEST(Limits, HoldForConnectionsOfAnAddress) {
  const std::string path =
      testing::TempDir() + "moe-limits-" + std::to_string(::getpid()) + ".sock";
  Options options;
  options.limits.perAddress = 3;
  options.others = {{"unix:" + path}};
  TestServer server(answer, options);
  std::vector<Client> clients;
  for (int i = 0; i < 3; ++i)
    clients.emplace_back(server.port());
  ASSERT_TRUE(eventually([&] { return server.connections() == 3; }));
  Client refused(server.port());
  EXPECT_EQ(refused.response()->status, 503);
  Client inFile(path); // whoever may open the file is not shut out
  inFile.send(get("/"));
  EXPECT_EQ(inFile.response()->status, 200);
  clients.pop_back();
  EXPECT_TRUE(eventually([&] { return server.connections() == 3; }));
  Client now(server.port());
  now.send(get("/"));
  EXPECT_EQ(now.response()->status, 200);
}

TEST(Limits, SurviveTheLastDescriptor) {
  rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  TestServer server(answer);
  std::vector<Client> clients;
  clients.emplace_back(server.port());
  ASSERT_TRUE(eventually([&] { return server.connections() == 1; }));
  const int spare = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int lowestFree = ::dup(spare);
  ::close(lowestFree);
  rlimit tight = limit;
  tight.rlim_cur = rlim_t(lowestFree);
  ::setrlimit(RLIMIT_NOFILE, &tight);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(server.port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(spare, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
  clients[0].send(get("/")); // the open ones go on
  EXPECT_EQ(clients[0].response()->status, 200);
  std::this_thread::sleep_for(30ms);
  EXPECT_EQ(server.connections(), 1u);
  ::setrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_TRUE(eventually(
      [&] { return server.connections() == 2; })); // and the next is taken when it can be
  ::close(spare);
}

TEST(Limits, LeakNothingWhereClientsVanish) {
  const size_t before = openDescriptors();
  {
    std::atomic<int> asked = 0, ends = 0;
    TestServer server([&](const HttpRequest &request, std::shared_ptr<Reply> reply) {
      ++asked;
      if (request.path == "/now") {
        ++ends;
        return reply->send(200, "text/plain", std::string(request.body.size() * 3, 'n'));
      }
      reply->onGone([&] { ++ends; });
      reply->start(200, "text/plain");
      for (int i = 0; i < 20; ++i)
        reply->write(std::string(1000, 's'));
      if (request.path == "/finish") {
        reply->finish();
        ++ends;
      } else if (request.path == "/abort") {
        reply->abort();
        ++ends;
      } else // ends with the client: nothing else holds the reply
        reply->onGone([&, reply] { ++ends; });
    });
    std::mt19937 random(5);
    const std::string requests[] = {post("/now", std::string(5000, 'p')), get("/finish"),
                                    get("/abort"), get("/wait"),
                                    "POST /now HTTP/1.1\r\nhost: x\r\ntransfer-encoding: "
                                    "chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"};
    for (int i = 0; i < 3000; ++i) {
      Client client(server.port());
      std::string text;
      for (size_t n = 1 + random() % 3; n > 0; --n)
        text += requests[random() % std::size(requests)];
      client.send(std::string_view(text).substr(0, random() % (text.size() + 1)));
      if (random() % 3 == 0)
        client.more(1ms);
      if (random() % 2)
        client.reset();
    }
    EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
    EXPECT_GT(asked, 500);
    EXPECT_TRUE(eventually([&] { return ends == asked; })) << asked << " " << ends;
    Client client(server.port());
    client.send(post("/now", "x"));
    EXPECT_EQ(client.response()->body, "nnn");
  }
  EXPECT_EQ(openDescriptors(), before);
}
} // namespace
