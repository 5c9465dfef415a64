"""What moe-serve publishes of its prefix cache, read as vLLM's subscribers do: pyzmq, and msgspec with the structures
of vLLM's kv_events.py, by their names, fields and options.

  MOE_SERVE=moe-serve MOE_SERVE_PLAN=cria.plan python kv_events.py      with the packages of requirements.txt
"""

import importlib.util
import json
import os
import random
import socket
import subprocess
import time
import unittest
import urllib.request

MISSING = [name for name in ("msgspec", "zmq") if not importlib.util.find_spec(name)]
PAGE = 64  # tokens
TOPIC = "kv-events"


def batch_decoder(array_like):
    """Of vLLM's structures: maps with the type's name as a field since 2026, arrays that begin with it before."""
    import msgspec

    options = {"array_like": array_like, "omit_defaults": True}
    hashes = list[int | bytes]
    stored = msgspec.defstruct("BlockStored", [
        ("block_hashes", hashes), ("parent_block_hash", int | bytes | None), ("token_ids", list[int]),
        ("block_size", int), ("lora_id", int | None), ("medium", str | None), ("lora_name", str | None)],
        tag=True, **options)
    removed = msgspec.defstruct("BlockRemoved", [("block_hashes", hashes), ("medium", str | None)], tag=True, **options)
    cleared = msgspec.defstruct("AllBlocksCleared", [], tag=True, **options)
    batch = msgspec.defstruct("KVEventBatch", [
        ("ts", float), ("events", list[stored | removed | cleared]), ("data_parallel_rank", int | None, None)],
        **options)
    return msgspec.msgpack.Decoder(batch)


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Server:
    """A moe-serve that publishes, and its subscriber."""

    def __init__(self, encoding, *options):
        import zmq

        port, events, replay = free_ports(3)
        self.url = f"http://127.0.0.1:{port}"
        addresses = [f"tcp://127.0.0.1:{number}" for number in (events, replay)]
        self.process = subprocess.Popen(
            [os.environ["MOE_SERVE"], os.environ["MOE_SERVE_PLAN"], "--port", str(port), "--kv-events", addresses[0],
             "--kv-events-replay", addresses[1], "--kv-events-topic", TOPIC, "--kv-events-encoding", encoding,
             "--drain-grace", "0", *options],
            stderr=subprocess.PIPE, text=True)
        self.decoder = batch_decoder(encoding == "array")
        self.context = zmq.Context()
        self.subscriber = self.context.socket(zmq.SUB)
        self.subscriber.setsockopt_string(zmq.SUBSCRIBE, TOPIC)
        self.subscriber.connect(addresses[0])
        self.replay = self.context.socket(zmq.DEALER)  # one of type REQ takes the first answer alone
        self.replay.connect(addresses[1])
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url + "/health").close()
                return
            except OSError:
                time.sleep(0.02)
        said = self.process.stderr.read().strip()
        self.close()
        if "ZeroMQ" in said:
            raise unittest.SkipTest(f"this moe-serve publishes no events: {said}")
        raise AssertionError(f"moe-serve did not come up: {said}")

    def close(self):
        self.context.destroy(linger=0)
        self.process.terminate()
        self.process.wait(60)
        self.process.stderr.close()

    def complete(self, prompt):
        request = urllib.request.Request(
            self.url + "/v1/completions", json.dumps({"prompt": prompt, "max_tokens": 1}).encode(),
            {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def received(self, milliseconds=500):
        """Numbers and batches that have come, until none comes for so long."""
        batches = []
        while self.subscriber.poll(milliseconds):
            topic, number, payload = self.subscriber.recv_multipart()
            assert topic.decode() == TOPIC and len(number) == 8, (topic, number)
            batches.append((int.from_bytes(number, "big"), self.decoder.decode(payload)))
        return batches

    def replayed(self, start):
        """What the server still knows from a number on."""
        self.replay.send_multipart([b"", start.to_bytes(8, "big")])
        batches = []
        while self.replay.poll(30000):
            empty, number, payload = self.replay.recv_multipart()
            assert empty == b""
            if not payload:
                assert int.from_bytes(number, "big", signed=True) == -1
                return batches
            batches.append((int.from_bytes(number, "big"), self.decoder.decode(payload)))
        raise AssertionError("no end of what was asked for again")

    def cached_pages(self):
        with urllib.request.urlopen(self.url + "/metrics") as answer:
            return [float(line.rpartition(" ")[2]) for line in answer.read().decode().splitlines()
                    if line.startswith("moe_kv_pages{") and 'state="cached"' in line]


class Mirror:
    """What a router knows of a server: the tokens of each block, and the block before it."""

    def __init__(self):
        self.blocks = {}

    def apply(self, batch):
        for event in batch.events:
            (block,) = event.block_hashes
            if type(event).__name__ == "BlockStored":
                assert block not in self.blocks, "a block was stored twice"
                assert event.parent_block_hash is None or event.parent_block_hash in self.blocks, "no such parent"
                assert event.block_size == len(event.token_ids) == PAGE
                self.blocks[block] = (event.parent_block_hash, event.token_ids)
            else:
                assert type(event).__name__ == "BlockRemoved"
                del self.blocks[block]

    def texts(self):
        """The beginnings of prompts that are cached. Those of the token 0 alone are of no client: by them the engine
        has learnt, at its start, what steps cost."""
        def whole(block):
            parent, tokens = self.blocks[block]
            return (whole(parent) if parent is not None else []) + tokens

        return {text for text in (tuple(whole(block)) for block in self.blocks) if any(text)}


@unittest.skipIf(MISSING, f"{' and '.join(MISSING)} not installed")
class KvEvents(unittest.TestCase):
    def serve(self, encoding, *options):
        server = Server(encoding, *options)
        self.addCleanup(server.close)
        return server

    def both(self, encoding):
        server, chance = self.serve(encoding), random.Random(1)
        prompt = [chance.randrange(300, 3000) for _ in range(200)]
        began = time.time()
        server.complete(prompt)
        # Who subscribes may miss what was said just before: that is what can be asked for again.
        mirror = Mirror()
        server.received()
        said = server.replayed(0)
        self.assertEqual([number for number, _ in said], list(range(len(said))))
        for _, batch in said:
            self.assertLess(abs(batch.ts - began), 60)
            self.assertEqual(batch.data_parallel_rank, 0)
            mirror.apply(batch)
        self.assertEqual(mirror.texts(), {tuple(prompt[:end]) for end in (64, 128, 192)})

        server.complete(prompt)
        self.assertEqual(server.received(), [], "nothing new is stored of a prompt that is cached")
        other = prompt[:100] + [chance.randrange(300, 3000) for _ in range(60)]
        server.complete(other)
        heard = server.received()
        self.assertEqual([number for number, _ in heard], list(range(len(said), len(said) + len(heard))))
        for _, batch in heard:
            mirror.apply(batch)
        self.assertIn(tuple(other[:128]), mirror.texts())
        self.assertEqual(len(mirror.texts()), 4)
        again = server.replayed(len(said))
        self.assertEqual([(number, batch.ts) for number, batch in again],
                         [(number, batch.ts) for number, batch in heard])

    def test_maps(self):
        self.both("map")

    def test_arrays(self):
        self.both("array")

    def test_what_is_evicted_is_removed(self):
        server = self.serve("map", "--kv-memory", "6M", "--max-sequences", "1")
        chance, mirror = random.Random(2), Mirror()
        for _ in range(16):
            server.complete([chance.randrange(300, 3000) for _ in range(chance.randrange(400, 900))])
        server.received()
        removed = 0
        for _, batch in server.replayed(0):
            mirror.apply(batch)
            removed += sum(type(event).__name__ == "BlockRemoved" for event in batch.events)
        self.assertGreater(removed, 0)
        self.assertEqual(len(mirror.blocks), max(server.cached_pages()))


if __name__ == "__main__":
    unittest.main()
