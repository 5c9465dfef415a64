// The encoding; the sockets are in KvEventsZmq.cpp.
#include "runtime/server/KvEvents.h"

#include <bit>

namespace moe::server {
namespace {

// The parts of msgpack that the events are made of (msgpack specification, formats).
class Msgpack {
public:
  void nil() { byte(0xc0); }
  void map(uint32_t fields) { byte(uint8_t(0x80 | fields)); } // below 16
  void array(uint32_t elements) {
    if (elements < 16)
      return byte(uint8_t(0x90 | elements));
    const bool small = elements <= 0xffff;
    byte(small ? 0xdc : 0xdd);
    bigEndian(elements, small ? 2 : 4);
  }
  void string(std::string_view text) { // below 32 bytes
    byte(uint8_t(0xa0 | text.size()));
    out += text;
  }
  void number(uint64_t value) {
    if (value < 128)
      return byte(uint8_t(value));
    const int log = value <= 0xff ? 0 : value <= 0xffff ? 1 : value <= 0xffffffff ? 2 : 3;
    byte(uint8_t(0xcc + log));
    bigEndian(value, 1 << log);
  }
  void real(double value) {
    byte(0xcb);
    bigEndian(std::bit_cast<uint64_t>(value), 8);
  }

  std::string out;

private:
  void byte(uint8_t value) { out += char(value); }
  void bigEndian(uint64_t value, int bytes) {
    for (int i = bytes; i-- > 0;)
      byte(uint8_t(value >> (8 * i)));
  }
};

// A structure's fields, in either form.
class Structure {
public:
  Structure(Msgpack &pack, KvEncoding encoding, const char *tag, uint32_t fields)
      : pack(pack), maps(encoding == KvEncoding::Map) {
    if (maps)
      pack.map(fields + (tag ? 1 : 0));
    else
      pack.array(fields + (tag ? 1 : 0));
    if (tag) {
      field("type");
      pack.string(tag);
    }
  }
  void field(std::string_view name) {
    if (maps)
      pack.string(name);
  }

private:
  Msgpack &pack;
  bool maps;
};

void write(Msgpack &pack, const KvEvent &event, KvEncoding encoding) {
  Structure fields(pack, encoding, event.stored ? "BlockStored" : "BlockRemoved",
                   event.stored ? 7 : 2);
  fields.field("block_hashes");
  pack.array(1);
  pack.number(event.hash);
  if (event.stored) {
    fields.field("parent_block_hash");
    event.parent ? pack.number(*event.parent) : pack.nil();
    fields.field("token_ids");
    pack.array(uint32_t(event.tokens.size()));
    for (const int32_t token : event.tokens)
      pack.number(uint64_t(token));
    fields.field("block_size");
    pack.number(event.tokens.size());
    fields.field("lora_id");
    pack.nil();
  }
  fields.field("medium");
  pack.nil();
  if (event.stored) {
    fields.field("lora_name");
    pack.nil();
  }
}

} // namespace

std::string encodeKvEvents(std::span<const KvEvent> events, double seconds, KvEncoding encoding) {
  Msgpack pack;
  Structure batch(pack, encoding, nullptr, 3);
  batch.field("ts");
  pack.real(seconds);
  batch.field("events");
  pack.array(uint32_t(events.size()));
  for (const KvEvent &event : events)
    write(pack, event, encoding);
  batch.field("data_parallel_rank");
  pack.number(0);
  return std::move(pack.out);
}

} // namespace moe::server
