"""Streams of completions over plain sockets: many at once in one thread, with the time of each token.

Definitions are those of `vllm bench serve`: the first token is the first event that has choices, the time between
tokens that between such events, and the number of tokens is what `usage` says. The processors that this takes are taken
from the server that is measured. So events are counted as bytes and not parsed, requests are made before the clock
runs, and where no times are wanted an answer is looked at once, when it is complete.
"""

import concurrent.futures
import dataclasses
import json
import os
import select
import socket
import threading
import time

HEAD_END = b"\r\n\r\n"
CHOICES = (b'"choices":[{', b'"choices": [{')
USAGE = (b'"usage":{', b'"usage": {')
ERROR = b'data: {"error"'
NICE = 10  # of a client that yields
TICK = 0.02  # seconds between two looks at what is to be cut


def post(address, path, body):
    """The bytes of a request."""
    payload = json.dumps(body).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n")
    return head.encode() + payload


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
        self.done = False

    def feed(self, data):
        data = self.buffer + data
        out, at = [], 0
        while not self.done:
            line = data.find(b"\r\n", at)
            if line < 0:
                break
            size = int(data[at:line].split(b";")[0], 16)
            end = line + 2 + size
            if size == 0:
                self.done = True
            elif len(data) < end + 2:
                break
            else:
                out.append(data[line + 2:end])
                at = end + 2
        self.buffer = data[at:]
        return b"".join(out)


class Stream:
    """One request and its answer, on a socket that does not block."""

    def __init__(self, address, request, cut_after=None, keep=False, times=True):
        """`request`: bytes, of post(). `cut_after`: events with choices after which the connection is closed, or
        seconds where it is a float. Without `times` the answer is read when the server has ended it: all its times are
        that of its end."""
        self.address = address
        self.out = request
        self.record = None
        self.cut_after = cut_after
        self.keep = keep
        self.wakes_late = not times
        self.head = b""
        self.body = None  # takes the framing off, once the head is there
        self.left = None  # bytes of a body without framing; None: up to the end of the connection
        self.events = b""

    def open(self):
        """Connects and sends what can be sent; True when all of it is sent."""
        self.record = Record(time.monotonic())
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.wakes_late:  # not before so many bytes are there, or the end
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 18)
        self.socket.setblocking(False)
        self.socket.connect_ex(self.address)
        return self.write()

    def write(self):
        """Sends what is left of the request; True when all of it is sent."""
        try:
            self.out = self.out[self.socket.send(self.out):]
        except BlockingIOError:
            return False
        return not self.out

    def read(self):
        """Takes what has come; True at the end."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        if not data:
            to_the_end = self.body is not None and not self.is_chunked() and self.left is None
            if self.record.error is None and not self.ended() and not to_the_end:
                self.record.error = "the server closed the connection within its answer"
            return True
        if self.body is None:
            self.head += data
            head, found, data = self.head.partition(HEAD_END)
            if not found:
                return False
            self.begin(head)
        if self.is_chunked():
            data = self.body.feed(data)
        elif self.left is not None:
            self.left -= len(data)
        if data:
            self.take(data)
        return self.ended() or self.due()

    def is_chunked(self):
        return isinstance(self.body, Chunked)

    def begin(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.record.status = int(lines[0].split()[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.record.retry_after = fields.get("retry-after")
        self.body = Chunked() if "chunked" in fields.get("transfer-encoding", "") else "plain"
        if "content-length" in fields:
            self.left = int(fields["content-length"])

    def ended(self):
        if self.is_chunked():
            return self.body.done
        return self.body is not None and self.left is not None and self.left <= 0

    def take(self, data):
        record = self.record
        if self.keep or record.status != 200:
            record.text += data
        data = self.events + data
        end = data.rfind(b"\n\n") + 2  # of the last event that is complete
        if end < 2:
            self.events = data
            return
        self.events = data[end:]
        count = data.count(CHOICES[0], 0, end) or data.count(CHOICES[1], 0, end)
        if count:
            record.times += [time.monotonic()] * count
        if data.find(USAGE[0], 0, end) >= 0 or data.find(USAGE[1], 0, end) >= 0 or data.find(ERROR, 0, end) >= 0:
            for event in data[:end].split(b"\n\n"):
                if event.startswith(ERROR):
                    record.error = event.decode(errors="replace")
                elif USAGE[0] in event or USAGE[1] in event:
                    record.usage = json.loads(event[event.index(b"{"):])["usage"]

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
        self.epoll = select.epoll()
        self.running = {}  # by descriptor
        self.timed = {}  # those that are to be cut at a time
        self.ended = []  # records

    def begin(self):
        """Begins what may; returns seconds until more may, or None."""
        while True:
            stream = self.next_stream(len(self.running))
            if not isinstance(stream, Stream):
                return stream
            try:
                sent = stream.open()
            except OSError as failure:
                stream.record.error = str(failure)
                stream.close()
                self.ended.append(stream.record)
                continue
            number = stream.socket.fileno()
            self.running[number] = stream
            if isinstance(stream.cut_after, float):
                self.timed[number] = stream
            self.epoll.register(number, select.EPOLLIN if sent else select.EPOLLOUT)

    def end(self, number, error=None):
        stream = self.running.pop(number)
        self.timed.pop(number, None)
        if error:
            stream.record.error = error
        self.epoll.unregister(number)
        stream.close()
        self.ended.append(stream.record)

    def step(self, number):
        stream = self.running[number]
        try:
            if stream.out:
                if stream.write():
                    self.epoll.modify(number, select.EPOLLIN)
            elif stream.read():
                self.end(number)
        except (OSError, ValueError) as failure:
            self.end(number, str(failure))

    def cut_all(self):
        for number, stream in list(self.running.items()):
            stream.record.cut = True
            self.end(number)

    def cut_due(self):
        for number, stream in list(self.timed.items()):
            if stream.due():
                self.end(number)

    def records(self):
        """The records of all streams, in the order in which these end."""
        looked = 0.0
        while True:
            wait = self.begin()
            if not self.running and wait is None:
                break
            now = time.monotonic()
            if self.deadline and now > self.deadline:
                self.cut_all()
                break
            if self.timed and now - looked > TICK:
                self.cut_due()
                looked = now
            longest = TICK if self.timed else 0.25
            for number, _ in self.epoll.poll(longest if wait is None else min(wait, longest)):
                self.step(number)
        self.epoll.close()
        return self.ended


def run(loop, yields):
    """`yields`: on a thread of low priority, which does not take the place of one of the server's."""
    if not yields:
        return loop.records()

    def lower():
        thread = threading.get_native_id()  # Linux has a priority for each
        os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))

    with concurrent.futures.ThreadPoolExecutor(1, initializer=lower) as pool:
        return pool.submit(loop.records).result()


def closed(make, concurrency, total, deadline=None, yields=False):
    """`total` requests, so many at a time. `make(i)` gives the stream of the i-th."""
    begun = 0

    def next_stream(running):
        nonlocal begun
        if running >= concurrency or begun == total:
            return None
        begun += 1
        return make(begun - 1)

    return run(Loop(next_stream, deadline), yields)


def open_loop(make, times, deadline=None, yields=False):
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

    return run(Loop(next_stream, deadline), yields)


def quantile(values, share):
    """The value below which so large a share lies; nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
