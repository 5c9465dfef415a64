"""Where a server's threads run: three ways to share the processors between the workers and the sockets.

The server leaves that to the system. Here its threads are placed from outside, so that the ways can be compared.
"""

import os

LAYOUTS = {
    "free": "a worker for each processor, and nothing is pinned",
    "pinned": "a worker pinned to each processor; sockets and answers run where the system puts them",
    "apart": "a worker less, and the last processor for sockets and answers alone",
}


def workers(layout, processors):
    """How many workers a server has."""
    return max(1, len(processors) - (layout == "apart"))


def assignment(layout, processors, workers, others):
    """The processors that each thread may use, by its id."""
    if layout == "pinned":
        return {thread: {processors[i % len(processors)]} for i, thread in enumerate(workers)}
    if layout == "apart" and len(processors) > 1:
        return {**{thread: set(processors[:-1]) for thread in workers},
                **{thread: {processors[-1]} for thread in others}}
    return {}


def arrange(layout, server, processors):
    """Places the threads of a server that has worked: its workers are those that have had most processor time."""
    used = {int(name.rpartition(" ")[2]): seconds for name, seconds in server.threads().items()}
    order = sorted(used, key=used.get, reverse=True)
    count = workers(layout, processors)
    for thread, allowed in assignment(layout, processors, order[:count], order[count:]).items():
        os.sched_setaffinity(thread, allowed)
