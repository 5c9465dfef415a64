#include "runtime/server/KvEvents.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <unistd.h>
#include <variant>

#ifdef MOE_ZMQ
#include <zmq.h>
#endif

namespace moe::server {
namespace {

// msgpack as a reader without our writer in mind has it.
struct Value;
using Array = std::vector<Value>;
using Map = std::map<std::string, Value>;
struct Value {
  std::variant<std::monostate, uint64_t, double, std::string, Array, Map> is;
  const Array &array() const { return std::get<Array>(is); }
  const Map &map() const { return std::get<Map>(is); }
  uint64_t number() const { return std::get<uint64_t>(is); }
  const std::string &text() const { return std::get<std::string>(is); }
  bool nil() const { return is.index() == 0; }
};

class Reader {
public:
  explicit Reader(const std::string &bytes) : bytes(bytes) {}
  Value next() {
    const uint8_t head = uint8_t(bytes.at(at++));
    if (head < 0x80)
      return {uint64_t(head)};
    if (head < 0x90)
      return {fields(head & 15)};
    if (head < 0xa0)
      return {elements(head & 15)};
    if (head < 0xc0)
      return {text(head & 31)};
    switch (head) {
    case 0xc0:
      return {};
    case 0xcb: {
      const uint64_t bits = big(8);
      double value;
      std::memcpy(&value, &bits, 8);
      return {value};
    }
    case 0xcc:
      return {big(1)};
    case 0xcd:
      return {big(2)};
    case 0xce:
      return {big(4)};
    case 0xcf:
      return {big(8)};
    case 0xdc:
      return {elements(big(2))};
    case 0xdd:
      return {elements(big(4))};
    }
    throw std::runtime_error("a byte that is not expected");
  }
  bool done() const { return at == bytes.size(); }

private:
  uint64_t big(int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; ++i)
      value = value << 8 | uint8_t(bytes.at(at++));
    return value;
  }
  std::string text(size_t size) {
    at += size;
    return bytes.substr(at - size, size);
  }
  Array elements(uint64_t count) {
    Array all;
    for (uint64_t i = 0; i < count; ++i)
      all.push_back(next());
    return all;
  }
  Map fields(uint64_t count) {
    Map all;
    for (uint64_t i = 0; i < count; ++i) {
      const std::string name = next().text();
      all[name] = next();
    }
    return all;
  }

  const std::string &bytes;
  size_t at = 0;
};

std::vector<KvEvent> randomEvents(std::mt19937_64 &random, size_t count) {
  std::vector<KvEvent> events;
  for (size_t i = 0; i < count; ++i) {
    KvEvent event{random() % 3 != 0, random() >> random() % 64, std::nullopt, {}};
    if (event.stored) {
      if (random() % 4)
        event.parent = random() >> random() % 64;
      for (int j = 0; j < 64; ++j)
        event.tokens.push_back(int32_t(random() % 202048 >> random() % 18));
    }
    events.push_back(std::move(event));
  }
  return events;
}

TEST(KvEvents, AreMapsThatReadBack) {
  std::mt19937_64 random(3);
  for (const size_t count : {1u, 15u, 16u, 300u, 70000u / 64}) {
    const std::vector<KvEvent> events = randomEvents(random, count);
    const std::string bytes = encodeKvEvents(events, 1234.5, KvEncoding::Map);
    Reader reader(bytes);
    const Value batch = reader.next();
    EXPECT_TRUE(reader.done());
    EXPECT_EQ(std::get<double>(batch.map().at("ts").is), 1234.5);
    EXPECT_EQ(batch.map().at("data_parallel_rank").number(), 0u);
    const Array &read = batch.map().at("events").array();
    ASSERT_EQ(read.size(), events.size());
    for (size_t i = 0; i < events.size(); ++i) {
      const Map &fields = read[i].map();
      EXPECT_EQ(fields.at("type").text(), events[i].stored ? "BlockStored" : "BlockRemoved");
      ASSERT_EQ(fields.at("block_hashes").array().size(), 1u);
      EXPECT_EQ(fields.at("block_hashes").array()[0].number(), events[i].hash);
      EXPECT_TRUE(fields.at("medium").nil());
      EXPECT_EQ(fields.size(), events[i].stored ? 8u : 3u);
      if (!events[i].stored)
        continue;
      EXPECT_EQ(fields.at("parent_block_hash").nil(), !events[i].parent);
      if (events[i].parent)
        EXPECT_EQ(fields.at("parent_block_hash").number(), *events[i].parent);
      EXPECT_EQ(fields.at("block_size").number(), 64u);
      ASSERT_EQ(fields.at("token_ids").array().size(), 64u);
      for (size_t j = 0; j < 64; ++j)
        EXPECT_EQ(fields.at("token_ids").array()[j].number(), uint64_t(events[i].tokens[j]));
    }
  }
}

TEST(KvEvents, AreArraysInTheOrderOfTheFields) {
  const KvEvent events[] = {{true, 7, 6, {1, 2, 300}}, {false, 7, std::nullopt, {}}};
  const std::string bytes = encodeKvEvents(events, 2, KvEncoding::Array);
  Reader reader(bytes);
  const Value read = reader.next();
  EXPECT_TRUE(reader.done());
  const Array &batch = read.array();
  ASSERT_EQ(batch.size(), 3u);
  const Array &stored = batch[1].array()[0].array(), &removed = batch[1].array()[1].array();
  ASSERT_EQ(stored.size(), 8u); // tag, hashes, parent, tokens, size, LoRA's id, medium, LoRA's name
  EXPECT_EQ(stored[0].text(), "BlockStored");
  EXPECT_EQ(stored[1].array()[0].number(), 7u);
  EXPECT_EQ(stored[2].number(), 6u);
  EXPECT_EQ(stored[3].array()[2].number(), 300u);
  EXPECT_EQ(stored[4].number(), 3u);
  ASSERT_EQ(removed.size(), 3u);
  EXPECT_EQ(removed[0].text(), "BlockRemoved");
}

#ifdef MOE_ZMQ

class Client {
public:
  Client(int type, const std::string &endpoint)
      : context(zmq_ctx_new()), socket(zmq_socket(context, type)) {
    const int time = 5000, none = 0;
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &time, sizeof time);
    zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none);
    if (type == ZMQ_SUB)
      zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    EXPECT_EQ(zmq_connect(socket, endpoint.c_str()), 0);
  }
  ~Client() {
    zmq_close(socket);
    zmq_ctx_term(context);
  }
  std::vector<std::string> receive() {
    std::vector<std::string> frames;
    for (int more = 1; more;) {
      zmq_msg_t message;
      zmq_msg_init(&message);
      if (zmq_msg_recv(&message, socket, 0) < 0)
        return {};
      frames.emplace_back(static_cast<const char *>(zmq_msg_data(&message)),
                          zmq_msg_size(&message));
      more = zmq_msg_more(&message);
      zmq_msg_close(&message);
    }
    return frames;
  }
  void send(const std::string &bytes) { zmq_send(socket, bytes.data(), bytes.size(), 0); }

private:
  void *context, *socket;
};

std::string endpointOf(const char *what) {
  return "ipc:///tmp/moe-kv-" + std::string(what) + "-" + std::to_string(getpid());
}

TEST(KvEvents, ReachSubscribersAndCanBeAskedForAgain) {
  KvEventOptions options{endpointOf("events"), endpointOf("replay"), "kv", KvEncoding::Map, 3};
  auto publisher = KvEventPublisher::create(options);
  ASSERT_TRUE(publisher) << publisher.error().message;
  const auto publish = [&](const KvEvent &event) { (*publisher)->publish({&event, 1}); };
  Client subscriber(ZMQ_SUB, options.endpoint);
  // A subscription takes its time to arrive.
  std::vector<std::string> first;
  uint64_t number = 0;
  for (int i = 0; i < 100 && first.empty(); ++i) {
    publish({false, 1, std::nullopt, {}});
    ++number;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (i > 10)
      first = subscriber.receive();
  }
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[0], "kv");
  ASSERT_EQ(first[1].size(), 8u);

  for (int i = 0; i < 5; ++i) {
    publish({true, uint64_t(100 + i), std::nullopt, {1, 2}});
  }
  (*publisher)->publish({}); // no events: no batch
  std::vector<std::string> last;
  do
    last = subscriber.receive();
  while (last.size() == 3 && uint8_t(last[1][7]) != number + 4);
  ASSERT_EQ(last.size(), 3u);
  Reader reader(last[2]);
  EXPECT_EQ(
      reader.next().map().at("events").array()[0].map().at("block_hashes").array()[0].number(),
      104u);

  Client asking(ZMQ_REQ, options.replayEndpoint);
  asking.send(std::string(8, 0)); // from the beginning: three are still known
  // A REQ socket takes one answer; the rest is dropped by it.
  const std::vector<std::string> answer = asking.receive();
  ASSERT_EQ(answer.size(), 2u);
  EXPECT_EQ(uint8_t(answer[0][7]), number + 2);

  Client dealer(ZMQ_DEALER, options.replayEndpoint);
  dealer.send("no number"); // is ignored
}

TEST(KvEvents, SayWhatCannotBeBound) {
  for (const char *endpoint :
       {"nonsense", "ipc:///no/such/folder/socket", "tcp://no.such.host.invalid:1"}) {
    const auto publisher = KvEventPublisher::create({endpoint, "", "", KvEncoding::Map, 10});
    ASSERT_FALSE(publisher);
    EXPECT_NE(publisher.error().message.find(endpoint), std::string::npos);
  }
}

#endif

} // namespace
} // namespace moe::server
