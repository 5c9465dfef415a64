// One client's connection: reads requests, one after another, and sends the answers.
#ifndef MOE_RUNTIME_SERVER_HTTP_CONNECTION_H
#define MOE_RUNTIME_SERVER_HTTP_CONNECTION_H

#include "runtime/server/http/Connections.h"
#include "runtime/server/http/RequestParser.h"

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <optional>

namespace moe::server::http {

class Connection : public std::enable_shared_from_this<Connection> {
  enum class State {
    Idle,      // no byte of the next request yet
    Header,    //
    Body,      //
    Waiting,   // the handler has the request
    Streaming, // its answer has begun
    Answered,  // and is complete, but not yet sent
    Leaving,   // nothing more will be sent; the peer's end is awaited
    Closed
  };

public:
  // Takes over the descriptor. `all` outlives the connection's last event.
  Connection(Connections &all, int descriptor, std::unique_ptr<Transport> transport, Peer peer,
             size_t listener);

  void start();
  void flush(); // sends what was written, as far as the socket takes it
  bool answering() const {
    return state == State::Waiting || state == State::Streaming || state == State::Answered ||
           state == State::Leaving;
  }
  void closeIfIdle(); // unless a request is on its way or being answered
  void shut();        // at once; whoever waits for the client to go is told nothing

  // Of Reply, for the request of that number; nothing happens where that is answered or the client
  // gone.
  void send(uint64_t number, int status, std::string_view contentType, std::string_view body,
            const Headers &headers);
  void begin(uint64_t number, int status, std::string_view contentType, const Headers &headers);
  void write(uint64_t number, std::string_view data);
  void finish(uint64_t number);
  void abort(uint64_t number);
  void dropped(uint64_t number); // nobody will answer any more
  void onGone(uint64_t number, std::function<void()> call);

private:
  bool answering(uint64_t number) const {
    return number == requests && (state == State::Waiting || state == State::Streaming);
  }

  void push();
  void awaitReading();
  void awaitWriting();
  void onReadable();
  void take(std::string_view bytes);
  size_t parse(std::string_view bytes);
  void act();
  bool mayRead() const;
  void countBody(uint64_t bytes);
  void dispatch();
  void refuse(int status, std::string_view message);
  void head(int status, std::string_view contentType, std::optional<uint64_t> length,
            const Headers &headers);
  void complete();
  void sent(); // an answer is complete and out
  void leave();
  void gone();  // the client is: tells who waits for that, and closes
  void reset(); // closes so that the client sees an error, and the system keeps nothing for it
  void flushLater();
  size_t unsent() const { return out.size() - outSent + stream.size(); }

  using Clock = std::chrono::steady_clock;
  void setDeadline(std::chrono::milliseconds fromNow);
  void clearDeadline() { deadline.reset(); }
  void awaitDeadline();
  void onDeadline();

  Connections &all;
  const Peer peer;
  const size_t listener;
  boost::asio::posix::stream_descriptor socket;
  std::unique_ptr<Transport> transport;
  State state = State::Idle;
  bool reading = false, writing = false; // is waited for
  bool writeNeedsRead = false;           // TLS
  bool unflushed = false;                // flush will be called
  bool keepAlive = false, http11 = true, withoutBody = false,
       chunked = false;  // of the current answer
  uint64_t requests = 0; // number of the current one
  std::unique_ptr<RequestParser> parser;
  std::string input;    // read, but not yet parsed
  uint64_t counted = 0; // of Connections::bodies
  std::string id;       // of the current request
  Headers extra;        // that its answer has besides: CORS
  std::function<void()> whenGone;
  std::string out; // framed; of it `outSent` bytes are sent
  size_t outSent = 0;
  std::string stream; // written since the last flush: the next chunk
  std::optional<Clock::time_point> deadline;
  boost::asio::steady_timer timer;
  std::optional<Clock::time_point> timerEnd; // is waited for
};

} // namespace moe::server::http

#endif
