#include "runtime/server/http/Server.h"
#include "runtime/server/http/TestClient.h"

#include <atomic>
#include <csignal>
#include <gtest/gtest.h>
#include <mutex>
#include <sys/stat.h>

using namespace moe;
using namespace moe::server::http;
using namespace std::chrono_literals;

namespace {
// /echo gives the body back, anything else what was asked.
void answer(const HttpRequest &request, const std::shared_ptr<Reply> &reply) {
  reply->send(200, "text/plain",
              request.path == "/echo" ? request.body
                                      : request.method + " " + request.path + "?" + request.query);
}

// Keeps the last request and its reply.
struct Keeper {
  std::mutex mutex;
  std::shared_ptr<Reply> reply;
  std::atomic<int> requests = 0, gone = 0;

  Handler handler() {
    return [this](HttpRequest request, std::shared_ptr<Reply> given) {
      given->onGone([this] { ++gone; });
      const std::lock_guard lock(mutex);
      reply = std::move(given);
      ++requests;
    };
  }
};

TEST(Server, AnswersARequest) {
  TestServer server(answer);
  Client client(server.port());
  client.send(get("/v1/a%20b?x=%31"));
  const auto response = client.response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "GET /v1/a b?x=%31");
  EXPECT_EQ(response->headers.at("content-type"), "text/plain");
  EXPECT_EQ(response->headers.count("connection"), 0u);
  EXPECT_EQ(response->headers.at("date").size(), 29u);
  EXPECT_TRUE(response->headers.at("x-request-id").starts_with("req-"));
}

TEST(Server, KeepsConnectionsAndAnswersPipelinedRequestsInOrder) {
  TestServer server(answer);
  Client client(server.port());
  std::string all;
  for (int i = 0; i < 200; ++i)
    all += i % 3 == 0 ? post("/echo", "body " + std::to_string(i)) : get("/" + std::to_string(i));
  client.send(all);
  for (int i = 0; i < 200; ++i) {
    const auto response = client.response();
    ASSERT_TRUE(response) << i;
    EXPECT_EQ(response->body,
              i % 3 == 0 ? "body " + std::to_string(i) : "GET /" + std::to_string(i) + "?");
  }
  EXPECT_EQ(server.connections(), 1u);
  client.send(get("/last", "connection: close\r\n"));
  const auto last = client.response();
  ASSERT_TRUE(last);
  EXPECT_EQ(last->headers.at("connection"), "close");
  EXPECT_TRUE(client.ended());
}

TEST(Server, AnswersAPipelinedRequestOnlyAfterTheOneBefore) {
  Keeper keeper;
  TestServer server(keeper.handler());
  Client client(server.port());
  client.send(get("/1") + get("/2"));
  ASSERT_TRUE(eventually([&] { return keeper.requests == 1; }));
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(keeper.requests, 1);
  server->post([&] { keeper.reply->send(200, "text/plain", "one"); });
  EXPECT_EQ(client.response()->body, "one");
  ASSERT_TRUE(eventually([&] { return keeper.requests == 2; }));
  server->post([&] { keeper.reply->send(200, "text/plain", "two"); });
  EXPECT_EQ(client.response()->body, "two");
  EXPECT_EQ(keeper.gone, 0);
}

TEST(Server, TakesBodiesInAllFormsAndDivisions) {
  TestServer server(answer);
  const std::string chunked = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                              "4;name=v\r\nWiki\r\nA\r\npedia in 6\r\n0\r\nTrailer: t\r\n\r\n";
  for (size_t step : {1, 2, 3, 7, 1000}) {
    Client client(server.port());
    for (size_t i = 0; i < chunked.size(); i += step) {
      client.send(chunked.substr(i, step));
      if (i % 16 == 0)
        std::this_thread::sleep_for(1ms);
    }
    const auto response = client.response();
    ASSERT_TRUE(response) << step;
    EXPECT_EQ(response->body, "Wikipedia in 6");
  }
  std::string large(3 << 20, 'x');
  for (size_t i = 0; i < large.size(); ++i)
    large[i] = char(i * 7 + i / 251);
  Client client(server.port());
  std::thread sender([&] { client.send(post("/echo", large)); });
  const auto response = client.response();
  sender.join();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->body, large);
}

TEST(Server, SpeaksHttp10) {
  TestServer server([](const HttpRequest &request, const std::shared_ptr<Reply> &reply) {
    if (request.path == "/stream") {
      reply->start(200, "text/plain");
      reply->write("part 1, ");
      reply->write("part 2");
      reply->finish();
    } else
      reply->send(200, "text/plain", "whole");
  });
  Client client(server.port());
  client.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
  const auto kept = client.response();
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->headers.at("connection"), "keep-alive");
  client.send("GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
  const auto streamed = client.response();
  ASSERT_TRUE(streamed);
  EXPECT_EQ(streamed->headers.count("transfer-encoding"), 0u);
  EXPECT_EQ(streamed->headers.at("connection"), "close");
  EXPECT_EQ(streamed->body, "part 1, part 2");
}

TEST(Server, LeavesTheBodyOutForHead) {
  TestServer server([](const HttpRequest &request, const std::shared_ptr<Reply> &reply) {
    EXPECT_EQ(request.method, "GET");
    if (request.path == "/stream") {
      reply->start(200, "text/plain");
      reply->write("unseen");
      reply->finish();
    } else
      reply->send(200, "text/plain", "12345");
  });
  Client client(server.port());
  client.send("HEAD / HTTP/1.1\r\nhost: x\r\n\r\nHEAD /stream HTTP/1.1\r\nhost: x\r\n\r\n" +
              get("/"));
  const auto whole = client.response(true);
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->headers.at("content-length"), "5");
  const auto streamed = client.response(true);
  ASSERT_TRUE(streamed);
  EXPECT_EQ(streamed->headers.at("transfer-encoding"), "chunked");
  EXPECT_EQ(client.response()->body, "12345");
}

TEST(Server, InvitesABodyThatWaitsToBe) {
  Options options;
  options.limits.body = 100;
  TestServer server(answer, options);
  Client client(server.port());
  client.send(
      "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-Continue\r\ncontent-length: 5\r\n\r\n");
  ASSERT_EQ(client.response()->status, 100);
  client.send("hello");
  EXPECT_EQ(client.response()->body, "hello");
  // With the body at once no invitation is needed, and of one that is too long none comes.
  client.send(
      "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello");
  EXPECT_EQ(client.response()->status, 200);
  client.send(
      "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 101\r\n\r\n");
  EXPECT_EQ(client.response()->status, 413);
}

TEST(Server, StreamsInOrderAndJoinsWhatIsWrittenInOneTurn) {
  Keeper keeper;
  TestServer server(keeper.handler());
  Client client(server.port());
  client.send(post("/", "{}"));
  ASSERT_TRUE(eventually([&] { return keeper.requests == 1; }));
  server->post(
      [&] { keeper.reply->start(200, "text/event-stream", {{"cache-control", "no-cache"}}); });
  const auto head = client.head();
  ASSERT_TRUE(head);
  EXPECT_EQ(head->headers.at("cache-control"), "no-cache");
  // One chunk for all of a turn, however many writes; the next turn's is one of its own.
  server.ask([&] {
    keeper.reply->write("a");
    keeper.reply->write("bc");
    keeper.reply->write("");
    return keeper.reply->write("d"), 0;
  });
  EXPECT_EQ(client.chunk(), "abcd");
  server->post([&] { keeper.reply->write("e"); });
  EXPECT_EQ(client.chunk(), "e");
  std::string expected;
  for (int i = 0; i < 5000; ++i) {
    expected += std::to_string(i) + ";";
    server->post([&, i] { keeper.reply->write(std::to_string(i) + ";"); });
  }
  server->post([&] { keeper.reply->finish(); });
  std::string got;
  size_t chunks = 0;
  for (auto chunk = client.chunk(); chunk && !chunk->empty(); chunk = client.chunk(), ++chunks)
    got += *chunk;
  EXPECT_EQ(got, expected);
  EXPECT_LE(chunks, 5000u);
  client.send(post("/", "{}")); // the connection is good for more
  ASSERT_TRUE(eventually([&] { return keeper.requests == 2; }));
  EXPECT_EQ(keeper.gone, 0);
}

TEST(Server, TellsWhenAClientGoes) {
  Keeper keeper;
  TestServer server(keeper.handler());
  for (const bool streaming : {false, true})
    for (const int how : {0, 1, 2}) {
      const int before = keeper.gone, seen = keeper.requests;
      Client client(server.port());
      client.send(post("/", "{}"));
      ASSERT_TRUE(eventually([&] { return keeper.requests == seen + 1; }));
      if (streaming) {
        server->post([&] {
          keeper.reply->start(200, "text/plain");
          keeper.reply->write("x");
        });
        ASSERT_TRUE(client.head());
      }
      if (how == 0)
        client.close();
      else if (how == 1)
        client.reset();
      else
        ::shutdown(client.socket(), SHUT_WR);
      EXPECT_TRUE(eventually([&] { return keeper.gone == before + 1; })) << streaming << how;
      server.ask([&] { // nothing happens any more
        keeper.reply->write("y");
        keeper.reply->finish();
        return 0;
      });
      EXPECT_EQ(keeper.gone, before + 1);
      EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
    }
}

TEST(Server, TellsAtOnceWhoAsksTooLate) {
  std::shared_ptr<Reply> kept;
  std::atomic<int> requests = 0, gone = 0;
  TestServer server([&](const HttpRequest &, std::shared_ptr<Reply> reply) {
    kept = std::move(reply);
    ++requests;
  });
  Client client(server.port());
  client.send(get("/"));
  ASSERT_TRUE(eventually([&] { return requests == 1; }));
  client.close();
  ASSERT_TRUE(eventually([&] { return server.connections() == 0; }));
  server->post([&] { kept->onGone([&] { ++gone; }); });
  EXPECT_TRUE(eventually([&] { return gone == 1; }));
  server->post([&] { kept.reset(); });
}

TEST(Server, AnswersForAHandlerThatDoesNot) {
  std::mutex mutex;
  std::vector<std::string> reports;
  Options options;
  options.report = [&](std::string_view message) {
    const std::lock_guard lock(mutex);
    reports.emplace_back(message);
  };
  options.errorBody = [](int status, std::string_view message) {
    return "{\"" + std::to_string(status) + "\": \"" + std::string(message) + "\"}";
  };
  TestServer server(
      [](const HttpRequest &request, std::shared_ptr<Reply> reply) {
        if (request.path == "/throw")
          throw std::runtime_error("oh");
        if (request.path == "/late") {
          reply->start(200, "text/plain");
          reply->write("half");
          throw 3;
        }
        if (request.path == "/thread") // the last reference goes on another thread
          std::thread([moved = std::move(reply)] {}).detach();
      },
      options);
  for (const char *path : {"/throw", "/drop", "/thread"}) {
    Client client(server.port());
    client.send(get(path));
    const auto response = client.response();
    ASSERT_TRUE(response) << path;
    EXPECT_EQ(response->status, 500);
    EXPECT_EQ(response->body, "{\"500\": \"the server failed to answer\"}");
    EXPECT_EQ(response->headers.at("content-type"), "application/json");
  }
  Client client(server.port());
  client.send(get("/late"));
  EXPECT_FALSE(client.response()); // ends before the body does
  server->post([] { throw std::logic_error("posted"); });
  EXPECT_EQ(server.ask([] { return 1; }), 1); // goes on
  const std::lock_guard lock(mutex);
  ASSERT_EQ(reports.size(), 3u);
  EXPECT_NE(reports[0].find("oh"), std::string::npos);
  EXPECT_NE(reports[2].find("posted"), std::string::npos);
}

TEST(Server, EndsAnAbortedStreamWithoutALastChunk) {
  Keeper keeper;
  TestServer server(keeper.handler());
  Client client(server.port());
  client.send(get("/"));
  ASSERT_TRUE(eventually([&] { return keeper.requests == 1; }));
  server->post([&] { keeper.reply->start(200, "text/plain"); });
  ASSERT_TRUE(client.head());
  server->post([&] { keeper.reply->abort(); });
  EXPECT_FALSE(client.chunk());
  EXPECT_EQ(server.connections(), 0u);
  EXPECT_EQ(keeper.gone, 0); // who aborts knows
}

TEST(Server, GivesBackARequestIdThatIsClean) {
  TestServer server([](const HttpRequest &request, const std::shared_ptr<Reply> &reply) {
    reply->send(200, "text/plain", request.id);
  });
  Client client(server.port());
  const auto idOf = [&](const std::string &sent) {
    client.send(get("/", "X-Request-Id: " + sent + "\r\n"));
    const auto response = client.response();
    EXPECT_EQ(response->headers.at("x-request-id"), response->body);
    return response->body;
  };
  EXPECT_EQ(idOf("abc-123/{}"), "abc-123/{}");
  EXPECT_EQ(idOf(std::string(128, 'a')), std::string(128, 'a'));
  EXPECT_TRUE(idOf(std::string(129, 'a')).starts_with("req-"));
  EXPECT_TRUE(idOf("a b").starts_with("req-"));
  EXPECT_TRUE(idOf("\xc3\xa9").starts_with("req-"));
  EXPECT_NE(idOf(""), idOf(""));
}

TEST(Server, KeepsHeaderValuesInTheirLines) {
  TestServer server([](const HttpRequest &, const std::shared_ptr<Reply> &reply) {
    reply->send(200, "text/plain\r\nx-evil: 1", "ok",
                {{"x-a", "1\r\n\r\n<html>"},
                 {"x b", "bad name"},
                 {"x-c\r\nx-evil", "2"},
                 {"x-d", std::string("a\0b", 3)},
                 {"Content-Length", "7"},
                 {"x-e", "é\t!"}});
  });
  Client client(server.port());
  client.send(get("/"));
  const auto response = client.response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->body, "ok");
  EXPECT_EQ(response->headers.at("content-type"), "text/plain  x-evil: 1");
  EXPECT_EQ(response->headers.at("x-a"), "1    <html>");
  EXPECT_EQ(response->headers.at("x-d"), "a b");
  EXPECT_EQ(response->headers.at("x-e"), "é\t!");
  EXPECT_EQ(response->headers.count("x-evil"), 0u);
  EXPECT_EQ(response->headers.count("x b"), 0u);
  EXPECT_TRUE(client.input.empty());
}

TEST(Server, RunsPostsInOrderAndTimersWhenTheyAreDue) {
  TestServer server(answer);
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i)
    server->post([&, i] { order.push_back(i); });
  ASSERT_EQ(server.ask([&] { return order.size(); }), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  std::vector<std::thread> threads;
  int sum = 0;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i)
        server->post([&] { ++sum; });
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(server.ask([&] { return sum; }), 4000);
  std::atomic<int> fired = 0;
  const auto begin = std::chrono::steady_clock::now();
  server->post([&] {
    server->after(60ms, [&] { fired = fired * 10 + 2; });
    server->after(20ms, [&] { fired = fired * 10 + 1; });
    server->after(1h, [&] { fired = -1; }); // dropped with the server
  });
  ASSERT_TRUE(eventually([&] { return fired == 12; }));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 60ms);
}

TEST(Server, TakesSignals) {
  TestServer server(answer);
  std::atomic<int> got = 0;
  server.ask([&] {
    server->onSignal({SIGUSR1, SIGUSR2}, [&](int signal) { got = got * 100 + signal; });
    return 0;
  });
  ::raise(SIGUSR1);
  ASSERT_TRUE(eventually([&] { return got == SIGUSR1; }));
  ::raise(SIGUSR2);
  ASSERT_TRUE(eventually([&] { return got == SIGUSR1 * 100 + SIGUSR2; }));
}

TEST(Server, DrainsWhatIsOpen) {
  Keeper keeper;
  TestServer server(keeper.handler());
  Client idle(server.port()), open(server.port()), half(server.port());
  const uint16_t port = server.port();
  open.send(get("/"));
  half.send("GET / HTTP/1.1\r\nhost");
  ASSERT_TRUE(eventually([&] { return keeper.requests == 1 && server.connections() == 3; }));
  EXPECT_EQ(server.ask([&] { return server->answering(); }), 1u); // half a request is none
  Client racing(server.port()); // its request is there before the listener closes
  server.ask([&] {
    racing.send(get("/"));
    return server->closeListener(), 0;
  });
  EXPECT_TRUE(idle.ended());
  EXPECT_FALSE(Client(port).connected());
  ASSERT_TRUE(eventually([&] { return keeper.requests == 2; }));
  server->post([&] { keeper.reply->send(200, "text/plain", "raced"); });
  EXPECT_EQ(racing.response()->body, "raced");
  half.send(": x\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return keeper.requests == 3; }));
  server->post([&] { keeper.reply->send(200, "text/plain", "late"); });
  const auto response = half.response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->headers.at("connection"), "close");
  EXPECT_TRUE(half.ended());
}

TEST(Server, MayBeDrainedByAHandler) {
  std::atomic<TestServer *> self = nullptr;
  TestServer server([&](const HttpRequest &request, const std::shared_ptr<Reply> &reply) {
    if (request.path == "/drain")
      (*self.load())->closeListener();
    reply->send(200, "text/plain", request.path + request.body);
  });
  self = &server;
  Client first(server.port()), second(server.port());
  second.send(get("/warm"));
  EXPECT_EQ(second.response()->body, "/warm");
  first.send(get("/warm"));
  EXPECT_EQ(first.response()->body, "/warm");
  // Whichever comes first: what is here is answered.
  server.ask([&] {
    second.send(post("/other", std::string(500, 'o')));
    return first.send(post("/drain", "1") + post("/pipelined", std::string(500, 'p')));
  });
  EXPECT_EQ(first.response()->body, "/drain1");
  EXPECT_TRUE(first.ended()); // draining: the pipelined request is for another connection
  EXPECT_EQ(second.response()->body, "/other" + std::string(500, 'o'));
  EXPECT_TRUE(second.ended());
}

TEST(Server, EndsKeepAliveWithTheNextAnswer) {
  TestServer server(answer);
  Client client(server.port());
  client.send(get("/"));
  EXPECT_EQ(client.response()->headers.count("connection"), 0u);
  server.ask([&] { return server->endKeepAlive(), 0; });
  client.send(get("/"));
  EXPECT_EQ(client.response()->headers.at("connection"), "close");
  EXPECT_TRUE(client.ended());
  Client another(server.port()); // is still let in
  another.send(get("/"));
  EXPECT_EQ(another.response()->status, 200);
}

TEST(Server, ListensInTheFileSystem) {
  const std::string path = testing::TempDir() + "moe-http-" + std::to_string(::getpid()) + ".sock";
  Options options;
  options.others = {{"unix:" + path}, {"::1", 0}};
  const auto whence = [](const HttpRequest &request, const std::shared_ptr<Reply> &reply) {
    reply->send(200, "text/plain", std::to_string(request.listener) + " " + request.peer);
  };
  std::optional<TestServer> server;
  try {
    server.emplace(whence, options);
  } catch (const std::runtime_error &) { // a machine without IPv6
    options.others.pop_back();
    server.emplace(whence, options);
  }
  struct stat file = {};
  ASSERT_EQ(::stat(path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  Client inFile(path), overTcp(server->port());
  inFile.send(get("/"));
  EXPECT_EQ(inFile.response()->body, "1 unix");
  overTcp.send(get("/"));
  EXPECT_EQ(overTcp.response()->body, "0 127.0.0.1");
  // A second server is not to take the file over; a file that is no socket stays.
  Options second;
  second.host = "unix:" + path;
  const auto taken = Server::create(second, whence);
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().message.find("another program listens there"), std::string::npos)
      << taken.error().message;
  server.reset();
  EXPECT_NE(::stat(path.c_str(), &file), 0);
  // What a process that was killed has left is replaced.
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int left = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(::bind(left, reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
  ::close(left);
  EXPECT_TRUE(Server::create(second, whence));
  std::FILE *plain = std::fopen(path.c_str(), "w");
  ASSERT_TRUE(plain);
  std::fclose(plain);
  const auto blocked = Server::create(second, whence);
  ASSERT_FALSE(blocked);
  EXPECT_NE(blocked.error().message.find("no socket"), std::string::npos);
  EXPECT_EQ(::stat(path.c_str(), &file), 0);
  ::unlink(path.c_str());
}

TEST(Server, SaysWhatItCannotListenOn) {
  TestServer server(answer);
  const auto messageOf = [](const Options &options) {
    const auto made = Server::create(options, answer);
    return made ? std::string("made") : made.error().message;
  };
  Options options;
  options.port = server.port();
  EXPECT_EQ(messageOf(options),
            "cannot listen on 127.0.0.1:" + std::to_string(server.port()) +
                ": the port is taken by another program. Choose another port, or end that program");
  options.port = 0;
  options.host = "203.0.113.7";
  EXPECT_NE(messageOf(options).find("this machine has no such address"), std::string::npos)
      << messageOf(options);
  options.host = "no such host";
  EXPECT_NE(messageOf(options).find("cannot listen on no such host"), std::string::npos)
      << messageOf(options);
  options.host = "";
  EXPECT_NE(messageOf(options).find("is empty"), std::string::npos);
  options.host = "unix:" + std::string(200, 'x');
  EXPECT_NE(messageOf(options).find("1 to 107 bytes"), std::string::npos);
  options.host = "unix:/no/such/folder/socket";
  EXPECT_NE(messageOf(options).find("No such file"), std::string::npos);
  options = {};
  options.limits.connections = 0;
  EXPECT_NE(messageOf(options).find("the limit connections is 0"), std::string::npos);
  options = {};
  options.corsOrigins = {"chat.example"};
  EXPECT_NE(messageOf(options).find("'chat.example' is no origin"), std::string::npos);
  options = {};
  options.certificate = "cert.pem";
  EXPECT_NE(messageOf(options).find("no private key"), std::string::npos);
}

TEST(Server, LetsPagesInThatItWasTold) {
  const std::string page = "Origin: https://chat.example\r\n",
                    other = "Origin: https://evil.example\r\n";
  const std::string preflight =
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, "
      "x-stainless-os\r\n";
  const auto ask = [](TestServer &server, const std::string &method, const std::string &headers) {
    Client client(server.port());
    client.send(method + " / HTTP/1.1\r\nhost: x\r\n" + headers + "\r\n");
    return client.response().value_or(Response());
  };
  Options options;
  {
    TestServer server(answer, options); // none: browsers keep pages out
    EXPECT_EQ(ask(server, "GET", page).headers.count("access-control-allow-origin"), 0u);
    EXPECT_EQ(ask(server, "OPTIONS", page + preflight).body, "OPTIONS /?"); // the handler's
  }
  options.corsOrigins = {"https://chat.example", "http://localhost:3000"};
  {
    TestServer server(answer, options);
    Response response = ask(server, "GET", page);
    EXPECT_EQ(response.headers.at("access-control-allow-origin"), "https://chat.example");
    EXPECT_EQ(response.headers.at("vary"), "origin");
    EXPECT_EQ(response.headers.count("access-control-allow-credentials"), 0u);
    response = ask(server, "GET", other);
    EXPECT_EQ(response.headers.count("access-control-allow-origin"), 0u);
    EXPECT_EQ(response.headers.at("vary"), "origin");
    response = ask(server, "OPTIONS", page + preflight);
    EXPECT_EQ(response.status, 204);
    EXPECT_EQ(response.headers.at("access-control-allow-origin"), "https://chat.example");
    EXPECT_EQ(response.headers.at("access-control-allow-headers"), "authorization, x-stainless-os");
    EXPECT_EQ(response.headers.count("access-control-allow-credentials"), 0u);
    response = ask(server, "OPTIONS", other + preflight);
    EXPECT_EQ(response.status, 403);
    EXPECT_EQ(response.headers.count("access-control-allow-origin"), 0u);
    EXPECT_EQ(ask(server, "OPTIONS", "Origin: https://chat.example.evil\r\n" + preflight).status,
              403);
    EXPECT_EQ(ask(server, "OPTIONS", "").status, 200); // no question of a browser
  }
  options.corsOrigins = {"*"};
  TestServer server(answer, options);
  EXPECT_EQ(ask(server, "POST", other + "content-length: 0\r\n")
                .headers.at("access-control-allow-origin"),
            "*");
  EXPECT_EQ(ask(server, "OPTIONS", other + preflight).status, 204);
}

TEST(Server, LeavesNothingBehind) {
  const size_t before = openDescriptors();
  Keeper keeper;
  std::optional<Client> client;
  {
    TestServer server(keeper.handler());
    client.emplace(server.port());
    client->send(get("/"));
    ASSERT_TRUE(eventually([&] { return keeper.requests == 1; }));
    Client half(server.port());
    half.send("POST / HTTP/1.1\r\n");
    server->post([&] { server->after(1h, [&] { ++keeper.gone; }); });
    server.end(); // with an answer open, a request half there and a timer
  }
  EXPECT_TRUE(client->ended());
  client.reset();
  keeper.reply->write("too late"); // the reply outlives the server
  keeper.reply.reset();
  EXPECT_EQ(keeper.gone, 0);
  EXPECT_EQ(openDescriptors(), before);
}
} // namespace
