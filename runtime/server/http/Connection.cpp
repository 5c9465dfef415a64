#include "runtime/server/http/Connection.h"

#include "runtime/server/http/Characters.h"
#include "runtime/server/http/Cors.h"
#include "runtime/server/http/Response.h"

#include <algorithm>
#include <cassert>
#include <sys/socket.h>

namespace moe::server::http {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {
constexpr size_t kMaxReadAhead =
    64 << 10; // bytes of later requests that are read while one is answered
constexpr size_t kKeptBuffer =
    4 << 10;                          // bytes of a buffer that a connection keeps when it is empty
constexpr size_t kMaxRequestId = 128; // characters
constexpr std::chrono::milliseconds kLeaveTime{
    1000}; // in which the peer has to read the last answer

void shrink(std::string &buffer) {
  buffer.clear();
  if (buffer.capacity() > kKeptBuffer)
    std::string().swap(buffer);
}

// What a handler holds: the connection may be gone, or at a later request.
class ConnectionReply final : public Reply {
public:
  ConnectionReply(std::weak_ptr<Connection> connection, uint64_t number,
                  std::weak_ptr<PostQueue> posts)
      : connection(std::move(connection)), posts(std::move(posts)), number(number) {}

  // On whichever thread.
  ~ConnectionReply() override {
    if (complete)
      return;
    if (const auto queue = posts.lock())
      queue->post([connection = std::move(connection), number = number] {
        if (const auto open = connection.lock())
          open->dropped(number);
      });
  }

  void send(int status, std::string_view contentType, std::string body, Headers headers) override {
    complete = true;
    if (const auto open = connection.lock())
      open->send(number, status, contentType, body, headers);
  }
  void start(int status, std::string_view contentType, Headers headers) override {
    if (const auto open = connection.lock())
      open->begin(number, status, contentType, headers);
  }
  void write(std::string_view data) override {
    if (const auto open = connection.lock())
      open->write(number, data);
  }
  void finish() override {
    complete = true;
    if (const auto open = connection.lock())
      open->finish(number);
  }
  void abort() override {
    complete = true;
    if (const auto open = connection.lock())
      open->abort(number);
  }
  void onGone(std::function<void()> call) override {
    if (complete)
      return;
    if (const auto open = connection.lock())
      open->onGone(number, std::move(call));
    else if (const auto queue = posts.lock())
      queue->post(std::move(call));
  }

private:
  std::weak_ptr<Connection> connection;
  std::weak_ptr<PostQueue> posts;
  uint64_t number;
  bool complete = false;
};
} // namespace

Connection::Connection(Connections &all, int descriptor, std::unique_ptr<Transport> transport,
                       Peer peer, size_t listener)
    : all(all), peer(std::move(peer)), listener(listener), socket(all.io, descriptor),
      transport(std::move(transport)), timer(all.io) {}

void Connection::start() {
  setDeadline(all.options.limits.headerTime);
  awaitReading();
}

// --- Reading ---------------------------------------------------------------------------------

void Connection::awaitReading() {
  if (reading || state == State::Closed)
    return;
  reading = true;
  socket.async_wait(socket.wait_read, [self = shared_from_this()](error_code error) {
    self->reading = false;
    if (error)
      return;
    if (!self->all.guard([&] { self->onReadable(); }))
      self->gone();
    if (std::exchange(self->writeNeedsRead, false))
      self->flush();
  });
}

void Connection::onReadable() {
  if (state == State::Closed)
    return;
  const Transfer got = transport->read(all.scratch.data(), all.scratch.size());
  switch (got.state) {
  case Transfer::State::Done:
    take({all.scratch.data(), got.bytes});
    break;
  case Transfer::State::NeedsRead:
    awaitReading();
    break;
  case Transfer::State::NeedsWrite:
    awaitWriting();
    break;
  case Transfer::State::Closed:
    if (state == State::Answered)
      keepAlive = false; // it still gets the rest
    else
      gone();
    break;
  case Transfer::State::Failed:
    gone();
    break;
  }
}

void Connection::take(std::string_view bytes) {
  // What comes too late is read so that it does not destroy the last answer.
  if (state != State::Leaving) {
    if (input.empty())
      input.assign(bytes.substr(parse(bytes)));
    else {
      input += bytes;
      input.erase(0, parse(input));
    }
    if (input.empty())
      shrink(input);
    act(); // `bytes` may change from here on: the handler may have the server read another
           // connection
  }
  if (mayRead())
    awaitReading();
}

// With one read always pending, a client that goes is seen at once. Only one that sends yet more
// requests, and waits for none, is left unread.
bool Connection::mayRead() const {
  const bool busy =
      state == State::Waiting || state == State::Streaming || state == State::Answered;
  return state != State::Closed && (!busy || input.size() <= kMaxReadAhead);
}

// The bytes of the current request are taken; those of later ones only when it is answered.
size_t Connection::parse(std::string_view bytes) {
  size_t used = 0;
  if (state == State::Idle) {
    while (bytes.substr(used).starts_with("\r\n")) // RFC 9112, 2.2
      used += 2;
    if (used == bytes.size() || bytes.substr(used) == "\r")
      return used;
    state = State::Header;
    parser = std::make_unique<RequestParser>(all.options.limits.header, all.options.limits.body);
    if (requests > 0)
      setDeadline(all.options.limits.headerTime);
  }
  if (state != State::Header && state != State::Body)
    return used;
  used += parser->feed(bytes.substr(used));
  if (state == State::Header && parser->headerDone() && parser->refusal() == 0) {
    state = State::Body;
    setDeadline(all.options.limits.bodyTime);
    if (parser->expectsContinue() && !parser->done() && used == bytes.size()) {
      out += "HTTP/1.1 100 Continue\r\n\r\n";
      flushLater();
    }
  }
  return used;
}

// Does what the bytes so far ask for.
void Connection::act() {
  if (state != State::Header && state != State::Body)
    return;
  if (parser->refusal() != 0)
    return refuse(parser->refusal(), parser->message());
  if (parser->done())
    return dispatch();
  countBody(parser->request().body.size());
  if (all.bodies > all.options.limits.bodies)
    refuse(503, "the bodies of too many requests arrive at a time; try again");
}

void Connection::countBody(uint64_t bytes) {
  all.bodies += bytes - counted;
  counted = bytes;
}

void Connection::dispatch() {
  countBody(0); // it is the handler's now
  clearDeadline();
  state = State::Waiting;
  ++requests;
  HttpRequest request = std::move(parser->request());
  http11 = parser->http11();
  keepAlive = parser->keepAlive();
  withoutBody = parser->head();
  parser.reset();
  const std::string *sentId = request.header("x-request-id");
  const bool clean = sentId && !sentId->empty() && sentId->size() <= kMaxRequestId &&
                     std::all_of(sentId->begin(), sentId->end(), isGraph);
  id = clean ? *sentId : all.newId();
  request.id = id;
  request.peer = peer.text;
  request.listener = listener;
  const std::vector<std::string> &origins = all.options.corsOrigins;
  if (!origins.empty() && isPreflight(request)) {
    const Headers headers = preflightHeaders(origins, request);
    if (headers.empty()) {
      extra = corsHeaders(origins, request);
      return send(requests, 403, all.errorType(),
                  all.errorBody(403, "pages of this origin may not call"), {});
    }
    return send(requests, 204, "", "", headers);
  }
  extra = corsHeaders(origins, request);
  const uint64_t number = requests;
  auto reply = std::make_shared<ConnectionReply>(weak_from_this(), number, all.posts);
  if (!all.guard([&] { all.handler(std::move(request), std::move(reply)); }))
    dropped(number);
}

// --- Answers ---------------------------------------------------------------------------------

void Connection::refuse(int status, std::string_view message) {
  const std::string body = all.errorBody(status, message); // of the parser, which goes now
  countBody(0);
  parser.reset();
  id = all.newId();
  extra.clear();
  withoutBody = false;
  keepAlive = false;
  http11 = true;
  ++requests;
  state = State::Waiting;
  Headers headers;
  if (status == 503)
    headers.emplace_back("retry-after", "1");
  send(requests, status, all.errorType(), body, headers);
}

void Connection::head(int status, std::string_view contentType, std::optional<uint64_t> length,
                      const Headers &headers) {
  keepAlive = keepAlive && all.keepsAlive;
  chunked = !length && http11;
  if (!length && !http11)
    keepAlive = false; // the end of the connection is the end of the answer
  Headers every = headers;
  every.insert(every.end(), extra.begin(), extra.end());
  every.emplace_back("x-request-id", id);
  appendHead(out, {status, contentType, length, !length && !http11, keepAlive, http11}, every);
}

void Connection::send(uint64_t number, int status, std::string_view contentType,
                      std::string_view body, const Headers &headers) {
  if (!answering(number))
    return;
  if (state == State::Streaming) // too late for another answer, and the first is not whole
    return abort(number);
  head(status, contentType, body.size(), headers);
  if (!withoutBody && status != 204 && status != 304)
    out += body;
  complete();
}

void Connection::begin(uint64_t number, int status, std::string_view contentType,
                       const Headers &headers) {
  if (!answering(number) || state == State::Streaming)
    return;
  state = State::Streaming;
  head(status, contentType, std::nullopt, headers);
  flushLater();
}

void Connection::write(uint64_t number, std::string_view data) {
  if (!answering(number) || state != State::Streaming || withoutBody || data.empty())
    return;
  stream += data;
  flushLater();
  if (unsent() > all.options.limits.pending)
    flush(); // unless the socket takes it, the reader is too slow
}

void Connection::finish(uint64_t number) {
  if (!answering(number))
    return;
  if (state == State::Waiting)
    return dropped(number);
  if (chunked) {
    appendChunk(out, stream);
    if (!withoutBody)
      appendLastChunk(out);
  } else
    out += stream;
  shrink(stream);
  complete();
}

void Connection::complete() {
  state = State::Answered;
  whenGone = nullptr;
  flushLater();
}

void Connection::abort(uint64_t number) {
  if (!answering(number))
    return;
  whenGone = nullptr;
  reset();
}

void Connection::dropped(uint64_t number) {
  if (!answering(number))
    return;
  if (state == State::Streaming)
    return abort(number);
  send(number, 500, all.errorType(), all.errorBody(500, "the server failed to answer"), {});
}

void Connection::onGone(uint64_t number, std::function<void()> call) {
  if (answering(number))
    whenGone = std::move(call);
  else if (state == State::Closed && number == requests)
    all.posts->post(std::move(call));
}

// --- Writing ---------------------------------------------------------------------------------

void Connection::flushLater() {
  if (std::exchange(unflushed, true))
    return;
  all.flushLater(shared_from_this());
}

void Connection::awaitWriting() {
  if (writing || state == State::Closed)
    return;
  writing = true;
  socket.async_wait(socket.wait_write, [self = shared_from_this()](error_code error) {
    self->writing = false;
    if (error)
      return;
    self->flush();
    // A handshake, too, may have waited for room.
    if (!self->reading && self->mayRead() && !self->all.guard([&] { self->onReadable(); }))
      self->gone();
  });
}

void Connection::flush() {
  unflushed = false;
  if (!all.guard([&] { push(); }))
    gone();
}

void Connection::push() {
  if (state == State::Closed || state == State::Leaving)
    return;
  if (chunked)
    appendChunk(out, stream);
  else
    out += stream;
  stream.clear();
  bool progress = false;
  while (outSent < out.size()) {
    const Transfer put = transport->write(std::string_view(out).substr(outSent));
    if (put.state == Transfer::State::Closed || put.state == Transfer::State::Failed)
      return gone();
    if (put.state == Transfer::State::NeedsRead) {
      writeNeedsRead = true;
      awaitReading();
      break;
    }
    if (put.state == Transfer::State::NeedsWrite) {
      awaitWriting();
      break;
    }
    outSent += put.bytes;
    progress = true;
  }
  if (outSent == out.size()) {
    outSent = 0;
    shrink(out);
    shrink(stream);
    if (state == State::Answered)
      return sent();
    if (state == State::Streaming)
      clearDeadline();
    return;
  }
  if (outSent > out.size() / 2) {
    out.erase(0, outSent);
    outSent = 0;
  }
  if (state == State::Streaming && unsent() > all.options.limits.pending)
    return reset();
  if ((state == State::Streaming || state == State::Answered) && (progress || !deadline))
    setDeadline(all.options.limits.writeTime);
}

void Connection::sent() {
  id.clear();
  extra.clear();
  if (!keepAlive || !all.keepsAlive)
    return leave();
  state = State::Idle;
  setDeadline(all.options.limits.idleTime);
  const std::string early = std::exchange(input, {}); // requests that did not wait for this answer
  if (early.empty())
    awaitReading();
  else if (!all.guard([&] { take(early); }))
    gone();
}

// --- Ends ------------------------------------------------------------------------------------

// A socket that is closed while bytes of the peer are unread takes back what was last sent: the
// peer gets an error in place of the answer. So it is told that no more comes, and gets time to end
// itself.
void Connection::leave() {
  transport->endWriting();
  shrink(input);
  state = State::Leaving;
  setDeadline(kLeaveTime);
  awaitReading();
}

void Connection::closeIfIdle() {
  if (state != State::Idle)
    return;
  // A request that is here already is answered.
  if (!all.guard([&] { onReadable(); }) || state == State::Idle)
    shut();
}

// Not told from here: this may be inside of a call that the handler makes.
void Connection::gone() {
  if (std::function<void()> call = std::exchange(whenGone, nullptr))
    all.posts->post(std::move(call));
  shut();
}

void Connection::reset() {
  const linger none = {1, 0};
  ::setsockopt(socket.native_handle(), SOL_SOCKET, SO_LINGER, &none, sizeof(none));
  gone();
}

void Connection::shut() {
  if (state == State::Closed)
    return;
  state = State::Closed;
  countBody(0);
  whenGone = nullptr;
  parser.reset();
  transport.reset();
  error_code ignored;
  socket.close(ignored);
  timer.cancel(ignored);
  all.remove(shared_from_this(), peer);
}

// --- Time ------------------------------------------------------------------------------------

void Connection::setDeadline(std::chrono::milliseconds fromNow) {
  deadline = Clock::now() + fromNow;
  awaitDeadline();
}

// A deadline that moves away leaves the timer as it is, so that a write of a stream costs none.
void Connection::awaitDeadline() {
  if (!deadline || (timerEnd && *timerEnd <= *deadline))
    return;
  timerEnd = deadline;
  timer.expires_at(*deadline); // cancels the wait for a later one
  timer.async_wait([self = shared_from_this()](error_code error) {
    if (error || self->state == State::Closed)
      return;
    self->timerEnd.reset();
    if (self->deadline && *self->deadline <= Clock::now()) {
      self->deadline.reset();
      if (!self->all.guard([&] { self->onDeadline(); }))
        self->gone();
    }
    self->awaitDeadline();
  });
}

void Connection::onDeadline() {
  switch (state) {
  case State::Header:
    return refuse(408, "the header of the request did not arrive in time");
  case State::Body:
    return refuse(408, "the body of the request did not arrive in time");
  case State::Waiting:
    return;
  case State::Streaming:
  case State::Answered:
    return reset();
  case State::Idle:
  case State::Leaving:
  case State::Closed:
    return shut();
  }
}

} // namespace moe::server::http
