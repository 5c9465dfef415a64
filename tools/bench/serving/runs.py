"""The runs: each takes a started server and returns its figures."""

import json
import random
import socket
import statistics
import subprocess
import threading
import time

from serving.client import Stream, closed, open_loop, post, quantile
from serving.server import Failure

PATH = "/v1/completions"
IDS = (300, 3000)  # ids of the prompts lie here: ordinary tokens of any vocabulary


class Prompts:
    """Prompts of given lengths that no other one begins with."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def ids(self, length):
        return [self.random.randrange(*IDS) for _ in range(length)]


def body(prompt, tokens, **fields):
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}, **fields}


def stream(server, prompt, tokens, fields=None, **options):
    """A stream of a completion; `options` are Stream's."""
    return Stream(server.address, post(server.address, PATH, body(prompt, tokens, **(fields or {}))), **options)


def all_ok(records, what):
    bad = [record for record in records if not record.ok]
    if bad:
        raise Failure(f"{what}: {len(bad)} of {len(records)} requests failed, the first with "
                      f"{bad[0].status} {bad[0].error or bad[0].text[:200]}")
    return records


def rate(records):
    """Generated tokens a second, from the first request to the last token."""
    return sum(r.tokens for r in records) / (max(r.end for r in records) - min(r.start for r in records))


def context_of(server):
    """Tokens of a prompt and its answer."""
    return json.loads(server.request("GET", "/v1/models")[1])["data"][0].get("max_model_len", 2048)


class Watch(threading.Thread):
    """Asks a moe-serve for its figures now and then. Text may come late, where a token ends amid a character; counters
    do not. What it says is read when the load is over."""

    NAMES = {"tokens": "vllm:generation_tokens_total", "begun": "vllm:time_to_first_token_seconds_count",
             "ended": "vllm:request_success_total"}

    def __init__(self, server, interval):
        super().__init__(daemon=True)
        self.server, self.interval, self.texts, self.stop = server, interval, [], threading.Event()
        self.ask()  # before all
        self.start()

    def ask(self):
        with socket.create_connection(self.server.address) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        self.texts.append((time.monotonic(), text))

    def run(self):
        while not self.stop.wait(self.interval):
            self.ask()

    def sums(self, text):
        sums = dict.fromkeys(self.NAMES, 0.0)
        for line in text.decode().splitlines():
            for key, name in self.NAMES.items():
                if line.startswith(name) and line[len(name)] in " {":
                    sums[key] += float(line.rpartition(" ")[2])
        return sums

    def steady_rate(self, streams):
        """Tokens a second while all decode: from the last one's first token to the first one's last."""
        self.stop.set()
        self.join()
        samples = [(at, self.sums(text)) for at, text in self.texts]
        before = samples[0][1]
        together = [(at, sums["tokens"]) for at, sums in samples
                    if sums["begun"] - before["begun"] >= streams and sums["ended"] == before["ended"]]
        if len(together) < 3:
            raise Failure(f"{streams} answers did not decode side by side for long: ask for more with --generate")
        return (together[-1][1] - together[0][1]) / (together[-1][0] - together[0][0])


def latencies(records):
    gaps = [gap for record in records for gap in record.gaps]
    firsts = [record.first for record in records if record.times]
    return {"first_p50": quantile(firsts, 0.5), "first_p99": quantile(firsts, 0.99),
            "between_p50": quantile(gaps, 0.5), "between_p99": quantile(gaps, 0.99)}


def raw_batch(moe_run, plan, streams, prompt, tokens, options):
    """Run A: tokens a second of Session::run alone, by the number of sequences."""
    command = [str(moe_run), "bench", str(plan), "--sequences", ",".join(map(str, streams)), "--prompt", str(prompt),
               "--generate", str(tokens), "--repeat", "2", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
    batches = json.loads(done.stdout)["batches"]
    return {batch["sequences"]: batch["decode_tokens_per_second"]["median"] for batch in batches}


def raw_prefill(moe_run, plan, prompt):
    """Seconds that moe-run takes for a prompt."""
    command = [str(moe_run), "bench", str(plan), "--prompt", str(prompt), "--generate", "0", "--repeat", "7", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
    return prompt / json.loads(done.stdout)["prefill_tokens_per_second"]["median"]


def streams(server, count, prompts, prompt=128, tokens=128, fields=None, interval=0.1, warmed=None):
    """Run B: `count` streams that begin together and decode side by side. `interval`: seconds between two looks at the
    server's figures; None: it has not those of vLLM. `warmed` is called before them with the server."""
    all_ok(closed(lambda _: stream(server, prompts.ids(prompt), 8, fields), 1, 1), "warming up")
    if warmed:
        warmed(server)
    threads = server.threads()
    watch = Watch(server, interval) if interval else None
    records = all_ok(closed(lambda _: stream(server, prompts.ids(prompt), tokens, fields), count, count, yields=True),
                     f"{count} streams")
    used = {name: seconds - threads.get(name, 0) for name, seconds in server.threads().items()}
    seconds = max(r.end for r in records) - min(r.start for r in records)
    return {"streams": count, "whole": rate(records), **({"steady": watch.steady_rate(count)} if watch else {}),
            **latencies(records),
            "threads": {name: round(share / seconds, 3) for name, share in used.items() if share / seconds > 0.001}}


def first_token(server, prompts, prompt=16, requests=200):
    """Run C: the time to the first token when nobody else asks."""
    records = all_ok(closed(lambda _: stream(server, prompts.ids(prompt), 1), 1, requests), "first tokens")
    return {"prompt": prompt, **latencies(records)}


def idle_streams(server, prompts, count=1000):
    """Run D: what so many open streams cost while they wait for their turn."""
    longest = context_of(server) - 16
    before = server.resident()
    stop = threading.Event()
    figures = {}

    def watch():
        while not stop.wait(0.05):
            figures["resident"] = max(figures.get("resident", 0), server.resident())
            figures["threads"] = len(server.threads())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        records = closed(lambda _: stream(server, prompts.ids(16), longest, cut_after=6.0), count, count)
    finally:
        stop.set()
        watcher.join()
    refused = sum(record.status not in (0, 200) for record in records)
    return {"streams": count, "refused": refused, "bytes": figures["resident"] - before, "threads": figures["threads"]}


def mixed(server, prompts, seconds=25, streams=8, every=5, length=512):
    """Run E: streams that decode, without and with a long prompt now and then."""
    longest = context_of(server) - 32
    settled = 2.0  # seconds until all of them decode

    def decode(background):
        def make(i):
            if i < streams:
                return stream(server, prompts.ids(32), longest, cut_after=settled + seconds)
            return stream(server, prompts.ids(length), 8)

        results = open_loop(make, [0.0] * streams + [settled + at for at in background])
        if len(results) != streams + len(background):
            raise Failure(f"{len(results)} of {streams + len(background)} requests ended")
        begin = min(r.start for r in results) + settled
        gaps = [b - a for r in results if r.cut for a, b in zip(r.times, r.times[1:]) if a >= begin]
        if not gaps:
            raise Failure(f"{server.name}: no stream decoded for {seconds} s: "
                          f"{results[0].status} {results[0].error or results[0].text[:200]}")
        written = sum(at >= begin for r in results if r.cut for at in r.times)
        return gaps, written / seconds, [r.first for r in all_ok([r for r in results if not r.cut], "long prompts")]

    alone, rate_alone, _ = decode([])
    beside, rate_beside, firsts = decode([every * (i + 0.5) for i in range(int(seconds / every))])
    return {"streams": streams, "between_p50_alone": quantile(alone, 0.5), "between_p50": quantile(beside, 0.5),
            "between_p99_alone": quantile(alone, 0.99), "between_p99": quantile(beside, 0.99),
            "ratio": quantile(beside, 0.99) / quantile(alone, 0.99), "events_alone": rate_alone,
            "events": rate_beside, "prompt": length, "first_of_prompts": statistics.median(firsts)}


def prefix(server, prompts, system=1000, users=8, turns=4, tokens=16, more=24):
    """Run F: conversations with a common beginning: the first token of later turns beside that of the first. Each turn
    has `more` tokens; an answer's take the places of as many others, so that what can be found again is known."""
    system = min(system, context_of(server) - (turns + 2) * (tokens + more))  # so that all turns have room
    common = prompts.ids(system)
    histories = [common + prompts.ids(more) for _ in range(users)]
    cold = all_ok(closed(lambda _: stream(server, prompts.ids(system + more), 1), 1, 3), "cold")
    firsts, cached, asked, ideal = [], 0, 0, 0
    for turn in range(turns):
        for user in range(users):
            history = histories[user]
            record = all_ok(closed(lambda _: stream(server, history, tokens), 1, 1), "turns")[0]
            firsts.append((turn, user, record.first))
            cached += record.usage["prompt_tokens_details"]["cached_tokens"]
            asked += len(history)
            if turn or user:  # whole pages of what was there before
                ideal += ((len(history) - tokens - more if turn else system) // 64) * 64
            histories[user] = history + prompts.ids(tokens + more)
    cold_first = statistics.median(record.first for record in cold)
    second = statistics.median(first for turn, _, first in firsts if turn)
    shared = statistics.median(first for turn, user, first in firsts if turn == 0 and user)
    return {"system": system, "users": users, "cold": cold_first, "shared": shared, "second": second,
            "second_to_cold": second / cold_first, "hit_of_ideal": cached / ideal, "cached": cached, "asked": asked}


def capacity(server, prompts, prompt=32, tokens=64, requests=96):
    """Requests a second of those that the next run has, when there are always 32 of them."""
    records = all_ok(closed(lambda _: stream(server, prompts.ids(prompt), tokens, times=False), 32, requests,
                            yields=True), "calibrating")
    return len(records) / (max(r.end for r in records) - min(r.start for r in records))


def overload(server, prompts, capacity, seconds=30, factor=4, prompt=32, tokens=64):
    """Run H: so many times as many requests as can be served; `capacity` in requests a second."""
    chance = random.Random(5)
    times, at = [], 0.0
    while (at := at + chance.expovariate(capacity * factor)) < seconds:
        times.append(at)
    requests = [post(server.address, PATH, body(prompts.ids(prompt), tokens)) for _ in times]
    used = time.process_time()
    records = open_loop(lambda i: Stream(server.address, requests[i], times=False), times, yields=True)
    used = time.process_time() - used
    kinds = {}
    for record in records:
        kind = str(record.status) if not record.error else f"{record.status} {record.error}"
        kinds[kind] = kinds.get(kind, 0) + 1
    good = [record for record in records if record.ok]
    span = max(r.end for r in good) - min(r.start for r in records)
    starts = sorted(r.start for r in records)
    return {"requests": len(records), "capacity": capacity, "asked_of_capacity":
            len(records) / (starts[-1] - starts[0]) / capacity, "answers": kinds,
            "good_of_capacity": len(good) / span / capacity, "processors_of_client": used / span,
            "refused_without_retry_after": sum(r.status == 429 and not r.retry_after for r in records)}


def churn(server, prompts, requests=2000, concurrency=32, cut=0.3):
    """Run I: requests of which many are cut at random points. What is left when all have ended."""
    chance = random.Random(7)
    time.sleep(0.2)  # for connections that have ended
    before = server.descriptors()

    def make(_):
        after = None
        if chance.random() < cut:
            after = chance.choice([chance.randrange(1, 30), chance.random() * 0.3])
        return stream(server, prompts.ids(chance.randrange(1, 200)), chance.randrange(1, 48), cut_after=after)

    records = closed(make, concurrency, requests)
    for _ in range(100):
        figures = server.figures()
        busy = [name for name, value in figures.items()
                if value and (name.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting"))
                              or 'state="held"' in name)]
        if not busy:
            break
        time.sleep(0.1)
    time.sleep(0.2)
    bad = [r for r in records if not r.ok and not r.cut]
    return {"requests": len(records), "cut": sum(r.cut for r in records), "failed": len(bad),
            "still_busy": busy, "descriptors_left": server.descriptors() - before}
