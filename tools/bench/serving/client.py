"""Streams of completions over plain sockets: many at once in one thread, with the time of each token.

Definitions are those of `vllm bench serve`: the first token is the first event that has choices, the time between
tokens that between such events, and the number of tokens is what `usage` says. An event is looked at as bytes, since a
client that parses each would take from the server's processors what is to be measured.
"""

import dataclasses
import json
import selectors
import socket
import time

HEAD_END = b"\r\n\r\n"


@dataclasses.dataclass
class Record:
    """What became of a request. Times are seconds of time.monotonic()."""

    start: float
    status: int = 0
    times: list = dataclasses.field(default_factory=list)  # of events with choices
    end: float = 0.0
    usage: dict = None
    error: str = None  # of the connection, or in the stream
    cut: bool = False  # by this client, as it was asked to
    retry_after: str = None
    text: bytes = b""  # the whole answer, where `keep` was asked for

    @property
    def ok(self):
        return self.status == 200 and self.error is None and not self.cut

    @property
    def first(self):
        return self.times[0] - self.start if self.times else None

    @property
    def gaps(self):
        return [b - a for a, b in zip(self.times, self.times[1:])]

    @property
    def tokens(self):
        return self.usage["completion_tokens"] if self.usage else 0


class Chunked:
    """Takes the framing off a body that is sent in chunks."""

    def __init__(self):
        self.buffer = b""
        self.left = None  # of the chunk; None: its size comes next
        self.done = False

    def feed(self, data):
        self.buffer += data
        out = []
        while not self.done:
            if self.left is None:
                line, found, rest = self.buffer.partition(b"\r\n")
                if not found:
                    break
                self.left = int(line.split(b";")[0], 16)
                self.buffer = rest
                if self.left == 0:
                    self.done = True
                    break
            if len(self.buffer) < self.left + 2:
                break
            out.append(self.buffer[:self.left])
            self.buffer = self.buffer[self.left + 2:]
            self.left = None
        return b"".join(out)


class Stream:
    """One request and its answer, on a socket that does not block."""

    def __init__(self, address, path, body, headers=(), cut_after=None, keep=False):
        """`cut_after`: events with choices after which the connection is closed, or seconds where it is a float."""
        payload = json.dumps(body).encode()
        head = [f"POST {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", "Content-Type: application/json",
                f"Content-Length: {len(payload)}", "Connection: close", *headers]
        self.out = "\r\n".join(head).encode() + HEAD_END + payload
        self.record = Record(time.monotonic())
        self.cut_after = cut_after
        self.keep = keep
        self.head = b""
        self.body = None  # takes the framing off, once the head is there
        self.events = b""
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.socket.connect_ex(address)

    def write(self):
        """Sends what is left of the request; True when all of it is sent."""
        self.out = self.out[self.socket.send(self.out):]
        return not self.out

    def read(self):
        """Takes what has come; True at the end."""
        data = self.socket.recv(1 << 16)
        if not data:
            to_the_end = isinstance(self.body, dict) and self.body["left"] is None
            if self.record.error is None and not (self.body and (to_the_end or self.body_ended())):
                self.record.error = "the server closed the connection within its answer"
            return True
        if self.body is None:
            self.head += data
            head, found, data = self.head.partition(HEAD_END)
            if not found:
                return False
            self.begin(head)
        if isinstance(self.body, Chunked):
            data = self.body.feed(data)
        elif self.body["left"] is not None:
            self.body["left"] -= len(data)
        self.take(data)
        return self.body_ended() or self.due()

    def begin(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.record.status = int(lines[0].split()[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.record.retry_after = fields.get("retry-after")
        self.body = Chunked() if "chunked" in fields.get("transfer-encoding", "") else {
            "left": int(fields["content-length"]) if "content-length" in fields else None}  # None: up to the end

    def body_ended(self):
        if isinstance(self.body, Chunked):
            return self.body.done
        return self.body["left"] is not None and self.body["left"] <= 0

    def take(self, data):
        if self.keep or self.record.status != 200:
            self.record.text += data
        self.events += data
        *events, self.events = self.events.split(b"\n\n")
        if not events:
            return
        now = time.monotonic()
        for event in events:
            if b'"choices":[{' in event or b'"choices": [{' in event:
                self.record.times.append(now)
            if event.startswith(b'data: {"error"'):
                self.record.error = event.decode(errors="replace")
            elif b'"usage":{' in event or b'"usage": {' in event:
                self.record.usage = json.loads(event[6:])["usage"]

    def due(self):
        """Whether it is time to cut the connection."""
        after = self.cut_after
        if after is None:
            return False
        passed = time.monotonic() - self.record.start if isinstance(after, float) else len(self.record.times)
        if passed < after:
            return False
        self.record.cut = True
        return True

    def close(self):
        self.record.end = time.monotonic()
        self.socket.close()


class Loop:
    """Runs streams side by side. `next_stream(running)` gives another one to begin now, seconds to wait until it may
    be asked again, or None where no more come before one has ended."""

    def __init__(self, next_stream, deadline=None):
        self.next_stream = next_stream
        self.deadline = deadline
        self.selector = selectors.DefaultSelector()
        self.running = {}

    def begin(self):
        """Begins what may; returns seconds until more may, or None."""
        while True:
            stream = self.next_stream(len(self.running))
            if not isinstance(stream, Stream):
                return stream
            self.running[stream] = selectors.EVENT_WRITE
            self.selector.register(stream.socket, selectors.EVENT_WRITE, stream)

    def end(self, stream, error=None):
        if error:
            stream.record.error = error
        self.selector.unregister(stream.socket)
        del self.running[stream]
        stream.close()
        return stream.record

    def step(self, stream, mask):
        """Returns the record of a stream that has ended."""
        try:
            if mask & selectors.EVENT_WRITE and stream.write():
                self.selector.modify(stream.socket, selectors.EVENT_READ, stream)
            if mask & selectors.EVENT_READ and stream.read():
                return self.end(stream)
        except BlockingIOError:
            pass
        except (OSError, ValueError) as failure:
            return self.end(stream, str(failure))
        return None

    def records(self):
        """Yields the record of each stream as it ends."""
        while True:
            wait = self.begin()
            if not self.running and wait is None:
                return
            if self.deadline and time.monotonic() > self.deadline:
                for stream in list(self.running):
                    stream.record.cut = True
                    yield self.end(stream)
                return
            for key, mask in self.selector.select(0.05 if wait is None else min(wait, 0.05)):
                record = self.step(key.data, mask)
                if record:
                    yield record
            for stream in [stream for stream in self.running
                           if isinstance(stream.cut_after, float) and stream.due()]:
                yield self.end(stream)


def closed(make, concurrency, total, deadline=None):
    """`total` requests, so many at a time. `make(i)` gives the stream of the i-th."""
    begun = 0

    def next_stream(running):
        nonlocal begun
        if running >= concurrency or begun == total:
            return None
        begun += 1
        return make(begun - 1)

    return list(Loop(next_stream, deadline).records())


def open_loop(make, times, deadline=None):
    """A request at each of the times, in seconds from now, whether others have ended or not."""
    start, begun = time.monotonic(), 0

    def next_stream(_):
        nonlocal begun
        if begun == len(times):
            return None
        wait = start + times[begun] - time.monotonic()
        if wait > 0:
            return wait
        begun += 1
        return make(begun - 1)

    return list(Loop(next_stream, deadline).records())


def quantile(values, share):
    """The value below which so large a share lies; nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
