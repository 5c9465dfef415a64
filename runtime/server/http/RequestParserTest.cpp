#include "runtime/server/http/RequestParser.h"

#include <gtest/gtest.h>
#include <optional>
#include <random>

using namespace moe::server::http;

namespace {
constexpr uint64_t kHeader = 1000, kBody = 100;

// The status that a request is refused with, 0: it is done, -1: more is needed; the same in any
// pieces.
int statusOf(const std::string &text) {
  std::mt19937 random(3);
  std::optional<int> result;
  for (size_t step : {text.size(), size_t(1), size_t(2), size_t(0), size_t(0)}) {
    RequestParser parser(kHeader, kBody);
    std::string input;
    for (size_t at = 0; at < text.size() && !parser.done() && parser.refusal() == 0;) {
      const size_t piece = std::min(step ? step : 1 + random() % 9, text.size() - at);
      input += text.substr(at, piece);
      at += piece;
      input.erase(0, parser.feed(input));
    }
    const int status = parser.refusal() != 0 ? parser.refusal() : parser.done() ? 0 : -1;
    if (result && *result != status)
      ADD_FAILURE() << *result << " whole, " << status << " in pieces of " << step << ": " << text;
    result = status;
  }
  return *result;
}

std::string with(const std::string &headers, const std::string &body = "") {
  return "POST / HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" + body;
}

TEST(RequestParser, TakesWhatClientsSend) {
  EXPECT_EQ(statusOf("GET / HTTP/1.1\r\nHost: localhost:8000\r\n\r\n"), 0);
  EXPECT_EQ(statusOf("GET / HTTP/1.0\r\n\r\n"), 0);
  EXPECT_EQ(statusOf("GET http://x/v1/models?a HTTP/1.1\r\nHost: x\r\n\r\n"), 0);
  EXPECT_EQ(statusOf("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), 0);
  EXPECT_EQ(statusOf(with("Content-Length: 3\r\n", "abc")), 0);
  EXPECT_EQ(statusOf(with("Content-Length: 0\r\n")), 0);
  EXPECT_EQ(statusOf(with("Content-Length: 3\r\n", "ab")), -1);
  EXPECT_EQ(statusOf(with("Transfer-Encoding: Chunked\r\n", "3\r\nabc\r\n0\r\n\r\n")), 0);
  EXPECT_EQ(
      statusOf(with("Transfer-Encoding: chunked\r\n", "003;a=b\r\nabc\r\n00\r\nX-T: 1\r\n\r\n")),
      0);
  EXPECT_EQ(statusOf(with("Transfer-Encoding: chunked\r\n", "0\r\n\r")), -1);
  EXPECT_EQ(statusOf(with("Empty:\r\nTab: a\tb\r\nUtf-8: \xc3\xa9\r\n")), 0);
}

TEST(RequestParser, GivesTheRequest) {
  RequestParser parser(kHeader, kBody);
  const std::string text = "PUT /a%2Fb%20c?q=%20 HTTP/1.1\r\nHOST: x\r\nX-Two:  1 \r\nx-two: "
                           "2\r\nTransfer-Encoding: chunked\r\n\r\n"
                           "2\r\nhi\r\n0\r\nX-Two: trailer\r\nContent-Type: evil\r\n\r\nGET";
  EXPECT_EQ(parser.feed(text), text.size() - 3); // the next request's bytes stay
  ASSERT_TRUE(parser.done());
  const HttpRequest &request = parser.request();
  EXPECT_EQ(request.method, "PUT");
  EXPECT_EQ(request.path, "/a/b c");
  EXPECT_EQ(request.query, "q=%20");
  EXPECT_EQ(request.body, "hi");
  const Headers expected = {
      {"host", "x"}, {"x-two", "1"}, {"x-two", "2"}, {"transfer-encoding", "chunked"}};
  EXPECT_EQ(request.headers, expected); // no trailer among them
  EXPECT_EQ(*request.header("x-two"), "1");
  EXPECT_EQ(request.header("content-type"), nullptr);
  EXPECT_TRUE(parser.keepAlive());
  EXPECT_EQ(parser.feed("more"), 0u);
}

TEST(RequestParser, RefusesWhatOthersMayReadInAnotherWay) {
  EXPECT_EQ(statusOf(with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
            400);
  EXPECT_EQ(statusOf(with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n")),
            400);
  EXPECT_EQ(statusOf(with("Content-Length: 3\r\nContent-Length: 3\r\n", "abc")), 400);
  EXPECT_EQ(statusOf(with("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd")), 400);
  EXPECT_EQ(statusOf(with("Content-Length: 3, 3\r\n", "abc")), 400);
  for (const char *length : {"-1", "+3", "3x", "0x3", "", " ", "3 3", "99999999999999999999999"})
    EXPECT_EQ(statusOf(with("Content-Length: " + std::string(length) + "\r\n", "abc")), 400)
        << length;
  EXPECT_EQ(statusOf(with("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")), 501);
  EXPECT_EQ(statusOf(with("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")), 501);
  EXPECT_EQ(statusOf(with("Transfer-Encoding: identity\r\n")), 501);
  EXPECT_EQ(
      statusOf(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
      400);
  EXPECT_EQ(statusOf(with("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")), 400);
  EXPECT_EQ(statusOf("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  for (const char *chunk :
       {"-1\r\n", "g\r\n", "\r\n", " 3\r\n", "0x3\r\n", "3\nabc", "3;a\nb\r\n", "3;a=\"b\"\r\n",
        "3;a=\"b\r\n", "fffffffffffffffff\r\n", "3\r\nabcX\r\n"})
    EXPECT_EQ(
        statusOf(with("Transfer-Encoding: chunked\r\n", chunk + std::string("abc\r\n0\r\n\r\n"))),
        400)
        << chunk;
  EXPECT_EQ(statusOf("GET / HTTP/1.1\nHost: x\n\n"), 400); // bare line feeds
  EXPECT_EQ(statusOf("GET / HTTP/1.1\r\nHost: x\n\r\n"), 400);
  EXPECT_EQ(statusOf("GET / HTTP/1.1\r\nHost: x\rY: z\r\n\r\n"), 400);
}

TEST(RequestParser, RefusesWhatIsMalformed) {
  EXPECT_EQ(statusOf("GET / HTTP/1.1\r\n\r\n"), 400); // no Host
  EXPECT_EQ(statusOf("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(statusOf(with(std::string("X-Nul: a\0b\r\n", 12))), 400);
  EXPECT_EQ(statusOf(with("X-Delete: \x7f\r\n")), 400);
  EXPECT_EQ(statusOf(with("X Space: 1\r\n")), 400);
  EXPECT_EQ(statusOf(with(": no name\r\n")), 400);
  EXPECT_EQ(statusOf("GET relative HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(statusOf("GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(statusOf("GET /a%00b HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(statusOf("GET /a% HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(statusOf("GET  / HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(statusOf("GET /\r\nHost: x\r\n\r\n"), 400); // HTTP/0.9
  EXPECT_EQ(statusOf("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
  EXPECT_EQ(statusOf("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505); // how HTTP/2 begins
  EXPECT_EQ(statusOf("GET / FTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(statusOf("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400); // how TLS begins
  EXPECT_EQ(statusOf(with("Expect: a surprise\r\n")), 417);
}

TEST(RequestParser, RefusesWhatIsTooLong) {
  EXPECT_EQ(statusOf(with("X: " + std::string(kHeader, 'a') + "\r\n")), 431);
  EXPECT_EQ(statusOf("GET /" + std::string(kHeader, 'a')), 431);
  EXPECT_EQ(statusOf(std::string(kHeader + 1, 'A')), 431);
  std::string flood = "GET / HTTP/1.1\r\nHost: x\r\n";
  while (flood.size() < 3 * kHeader) // each is short, and complete
    flood += "X: y\r\n";
  EXPECT_EQ(statusOf(flood), 431);
  std::string fits = "GET / HTTP/1.1\r\nHost: x\r\nX: ";
  fits += std::string(kHeader - fits.size() - 4, 'a') + "\r\n\r\n";
  ASSERT_EQ(fits.size(), kHeader);
  EXPECT_EQ(statusOf(fits), 0);
  EXPECT_EQ(statusOf(fits.substr(0, kHeader - 4) + "a\r\n\r\n"), 431);

  EXPECT_EQ(statusOf(with("Content-Length: 100\r\n", std::string(100, 'a'))), 0);
  EXPECT_EQ(statusOf(with("Content-Length: 101\r\n")), 413);
  EXPECT_EQ(statusOf(with("Content-Length: 10000000000\r\n")), 413);
  EXPECT_EQ(statusOf(with("Transfer-Encoding: chunked\r\n", "65\r\n")), 413);
  EXPECT_EQ(statusOf(with("Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\n")), 413);
  std::string endless;
  while (endless.size() < 10 * kBody)
    endless += "1\r\na\r\n";
  EXPECT_EQ(statusOf(with("Transfer-Encoding: chunked\r\n", endless)), 413);
  EXPECT_EQ(statusOf(with("Transfer-Encoding: chunked\r\n", "1;" + std::string(2 * kHeader, 'e'))),
            400);
  EXPECT_EQ(
      statusOf(with("Transfer-Encoding: chunked\r\n", "0\r\nT: " + std::string(2 * kHeader, 't'))),
      400);
}
} // namespace
