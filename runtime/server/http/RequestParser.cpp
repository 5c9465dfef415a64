#include "runtime/server/http/RequestParser.h"

#include "runtime/server/http/Characters.h"

// Beast asserts that five bytes of a last chunk are there when it comes back to it, four of which
// are enough for what it does. A client that sends four must not end a build with asserts.
#define BOOST_DISABLE_ASSERTS
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>

#include <algorithm>

namespace moe::server::http {

namespace beast = boost::beast;
using beast::error_code;

namespace {
std::string_view view(beast::string_view text) { return {text.data(), text.size()}; }

int hexDigit(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

// False: an escape that is none, or one of NUL, at which C functions would cut the path.
bool decodePath(std::string_view text, std::string &path) {
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      if (text.size() - i < 3 || hexDigit(text[i + 1]) < 0 || hexDigit(text[i + 2]) < 0)
        return false;
      c = char(hexDigit(text[i + 1]) * 16 + hexDigit(text[i + 2]));
      i += 2;
      if (c == '\0')
        return false;
    }
    path += c;
  }
  return true;
}
// Whether a request line ends in a version as it should be written, of which two are known.
bool namesAnotherVersion(std::string_view text) {
  const std::string_view line = text.substr(0, text.find_first_of("\r\n"));
  const size_t at = line.rfind(" HTTP/");
  return at != line.npos && line.size() == at + 9 && isDigit(line[at + 6]) && line[at + 7] == '.' &&
         isDigit(line[at + 8]) && !line.ends_with("1.0") && !line.ends_with("1.1");
}

// A line feed without a carriage return before it, in lines that are not yet parsed. Beast would
// wait for an empty line that never comes.
bool hasBareLineFeed(std::string_view text) {
  for (size_t at = text.find('\n'); at != text.npos; at = text.find('\n', at + 1))
    if (at == 0 || text[at - 1] != '\r')
      return true;
  return false;
}
// Beast looks for the end of a quoted value beyond the line's. Nobody needs extensions, and no
// client is known that sends one with quotes.
constexpr const char *kQuoted = "the request is malformed: a chunk has a quoted extension";

// Of what follows a chunk, the line with the next one's size, as far as it is there.
std::string_view chunkLine(std::string_view text) {
  if (text.starts_with("\r\n"))
    text.remove_prefix(2);
  return text.substr(0, text.find("\r\n"));
}
} // namespace

struct RequestParser::Impl : beast::http::basic_parser<true> {
  uint64_t headerLimit = 0, bodyLimit = 0;
  uint64_t headerTaken = 0;
  HttpRequest request;
  bool head = false, http11 = false, expectsContinue = false;
  bool hasHost = false, hasLength = false, hasEncoding = false;
  bool headerEnded = false; // what comes after it in the form of headers are trailers
  int refusal = 0;
  std::string message;

  void refuse(int status, std::string text, error_code &ec) {
    refusal = status;
    message = std::move(text);
    ec = beast::http::error::bad_value; // any: ends the parser
  }

  void on_request_impl(beast::http::verb, beast::string_view method, beast::string_view target,
                       int version, error_code &ec) override {
    http11 = version == 11;
    head = method == "HEAD";
    request.method = head ? "GET" : std::string(view(method));
    std::string_view rest = view(target);
    if (const size_t scheme = rest.find("://");
        rest[0] != '/' && scheme != rest.npos) { // as a proxy is asked
      const size_t slash = rest.find_first_of("/?", scheme + 3);
      rest = slash == rest.npos ? "/" : rest.substr(slash);
    }
    const size_t question = std::min(rest.find('?'), rest.size());
    if (question < rest.size())
      request.query = rest.substr(question + 1);
    if (!decodePath(rest.substr(0, question), request.path))
      return refuse(400, "the path of the request has a malformed percent escape", ec);
    if (request.path.empty() ||
        (request.path[0] != '/' && !(request.method == "OPTIONS" && request.path == "*")))
      return refuse(400, "the path of the request does not start with '/'", ec);
  }

  void on_field_impl(beast::http::field, beast::string_view name, beast::string_view value,
                     error_code &ec) override {
    if (headerEnded)
      return;
    std::string lower(view(name));
    std::transform(lower.begin(), lower.end(), lower.begin(), lowerCase);
    const std::string_view text = view(value);
    if (std::any_of(text.begin(), text.end(), isControl))
      return refuse(400, "the header " + lower + " contains a control character", ec);
    const auto once = [&](bool &seen) {
      if (seen)
        refuse(400, "the header " + lower + " comes twice", ec);
      return !std::exchange(seen, true);
    };
    if (lower == "host") {
      if (!once(hasHost))
        return;
    } else if (lower == "content-length") {
      // Others on the way may read "+1", "1, 1" or two lengths in another way than we do.
      if (!once(hasLength))
        return;
      if (!std::all_of(text.begin(), text.end(), isDigit))
        return refuse(400, "content-length is not a number", ec);
    } else if (lower == "transfer-encoding") {
      if (!once(hasEncoding))
        return;
      if (!http11)
        return refuse(400, "HTTP/1.0 has no transfer-encoding", ec);
      if (!equalsIgnoringCase(text, "chunked"))
        return refuse(501, "transfer-encoding can only be chunked", ec);
    } else if (lower == "expect") {
      if (!equalsIgnoringCase(text, "100-continue"))
        return refuse(417, "expect can only be 100-continue", ec);
      expectsContinue = http11;
    }
    request.headers.emplace_back(std::move(lower), text);
  }

  void on_header_impl(error_code &ec) override {
    headerEnded = true;
    if (http11 && !hasHost)
      return refuse(400, "the header host is missing", ec);
    if (hasLength && hasEncoding)
      return refuse(400, "content-length and transfer-encoding exclude each other", ec);
  }

  void on_response_impl(int, beast::string_view, int, error_code &) override {}
  void on_body_init_impl(const boost::optional<uint64_t> &, error_code &) override {}
  size_t on_body_impl(beast::string_view data, error_code &) override {
    request.body += view(data);
    return data.size();
  }
  void on_chunk_header_impl(uint64_t, beast::string_view extension, error_code &ec) override {
    if (view(extension).find('"') != std::string_view::npos)
      refuse(400, kQuoted, ec);
  }
  size_t on_chunk_body_impl(uint64_t, beast::string_view data, error_code &) override {
    request.body += view(data);
    return data.size();
  }
  void on_finish_impl(error_code &) override {}

  // What Beast found, said to a client. `rest` is where it stopped.
  void explain(error_code ec, std::string_view rest) {
    using beast::http::error;
    if (refusal != 0)
      return; // said already
    if (ec == error::header_limit)
      tooLong(431, "the header of the request");
    else if (ec == error::body_limit) {
      refusal = 413;
      message = "the body of the request is longer than " + std::to_string(bodyLimit) + " bytes";
    } else if (ec == error::bad_version && namesAnotherVersion(rest)) {
      refusal = 505;
      message = "only HTTP/1.0 and HTTP/1.1 are spoken here";
    } else {
      refusal = 400;
      message = "the request is malformed: " + ec.message();
    }
  }

  void tooLong(int status, const std::string &what) {
    refusal = status;
    message = what + " is longer than " + std::to_string(headerLimit) + " bytes";
  }
};

RequestParser::RequestParser(uint64_t headerLimit, uint64_t bodyLimit)
    : impl(std::make_unique<Impl>()) {
  impl->headerLimit = std::min<uint64_t>(headerLimit, UINT32_MAX);
  impl->bodyLimit = bodyLimit;
  impl->header_limit(uint32_t(impl->headerLimit));
  impl->body_limit(bodyLimit);
}

RequestParser::~RequestParser() = default;

size_t RequestParser::feed(std::string_view bytes) {
  size_t taken = 0;
  while (impl->refusal == 0 && !impl->is_done() && taken < bytes.size()) {
    std::string_view rest = bytes.substr(taken);
    // Beast's limit holds for what it was given at once, and fields that are complete leave that.
    const bool inHeader = !impl->headerEnded;
    if (inHeader)
      rest = rest.substr(0, impl->headerLimit - impl->headerTaken);
    impl->eager(!inHeader); // of the header no more than that
    error_code ec;
    const size_t used = impl->put({rest.data(), rest.size()}, ec);
    taken += used;
    if (inHeader)
      impl->headerTaken += used;
    if (ec == beast::http::error::need_more) {
      // What is not taken is a line that has no end yet: of the header, of a chunk's size, or
      // trailers.
      const uint64_t most = impl->headerLimit - (inHeader ? impl->headerTaken : 0);
      if (hasBareLineFeed(rest.substr(used))) {
        impl->refusal = 400;
        impl->message = "the request is malformed: a line ends without a carriage return";
      } else if (!inHeader && chunkLine(rest.substr(used)).find('"') != rest.npos) {
        impl->refusal = 400;
        impl->message = kQuoted;
      } else if (rest.size() - used < most)
        break;
      else
        impl->tooLong(inHeader ? 431 : 400,
                      inHeader ? "the header of the request" : "what follows a chunk of the body");
    } else if (ec)
      impl->explain(ec, rest.substr(used));
  }
  return taken;
}

bool RequestParser::headerDone() const { return impl->headerEnded; }
bool RequestParser::done() const { return impl->refusal == 0 && impl->is_done(); }
int RequestParser::refusal() const { return impl->refusal; }
std::string_view RequestParser::message() const { return impl->message; }
HttpRequest &RequestParser::request() { return impl->request; }
bool RequestParser::head() const { return impl->head; }
bool RequestParser::http11() const { return impl->http11; }
bool RequestParser::keepAlive() const { return impl->keep_alive(); }
bool RequestParser::expectsContinue() const { return impl->expectsContinue; }

} // namespace moe::server::http
