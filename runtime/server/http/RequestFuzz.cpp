// Fuzzes the reader of requests with what a connection would feed it: requests one after another,
// whole and in pieces. Both must give the same, keep within the limits, and leave nothing unclean
// in a request.
#include "runtime/server/http/Characters.h"
#include "runtime/server/http/RequestParser.h"

#include <cstdlib>
#include <memory>

using namespace moe::server::http;

namespace {
constexpr uint64_t kHeader = 512, kBody = 256;

void check(bool holds) {
  if (!holds)
    std::abort();
}

struct Reader {
  std::string input; // not taken yet
  std::unique_ptr<RequestParser> parser;
  std::string log; // all that was read, and the refusal
  bool refused = false;

  void feed(std::string_view bytes) {
    input += bytes;
    while (!refused && !input.empty()) {
      if (!parser)
        parser = std::make_unique<RequestParser>(kHeader, kBody);
      input.erase(0, parser->feed(input));
      if (parser->refusal() != 0) {
        check(parser->refusal() >= 400 && !parser->message().empty() && !parser->done());
        log += "refused"; // with which of several statuses may depend on how much was there
        refused = true;
      } else if (parser->done()) {
        use(parser->request());
        parser.reset();
      } else {
        check(input.size() <= kHeader);
        break;
      }
    }
  }

  void use(const HttpRequest &request) {
    check(parser->headerDone() && request.body.size() <= kBody);
    check(request.path[0] == '/' || request.path == "*");
    check(request.path.find('\0') == request.path.npos);
    size_t header = 0, lengths = 0;
    for (const auto &[name, value] : request.headers) {
      check(isToken(name));
      for (char c : name)
        check(c == lowerCase(c));
      for (char c : value)
        check(!isControl(c));
      header += name.size() + value.size();
      lengths += name == "content-length" || name == "transfer-encoding";
    }
    check(header <= kHeader && lengths <= 1);
    log += request.method + " " + request.path + "?" + request.query + "\n";
    for (const auto &[name, value] : request.headers)
      log += name + ":" + value + "\n";
    log += request.body + (parser->keepAlive() ? "\nstays\n" : "\ngoes\n");
  }
};
} // namespace

// A byte that chooses the size of the pieces, then what a client sends.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size == 0)
    return 0;
  const std::string_view text(reinterpret_cast<const char *>(bytes + 1), size - 1);
  Reader whole, pieces;
  whole.feed(text);
  uint32_t random = bytes[0];
  for (size_t at = 0; at < text.size();) {
    random = random * 1664525 + 1013904223;
    const size_t step = bytes[0] == 0 ? 1 : 1 + (random >> 16) % (bytes[0] + 1);
    pieces.feed(text.substr(at, step));
    at += step;
  }
  // A header that came in pieces is read on when it is whole: what is wrong with it shows later.
  if (whole.refused && !pieces.refused)
    pieces.log += "refused";
  check(whole.log == pieces.log);
  return 0;
}
