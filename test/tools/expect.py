#!/usr/bin/env python3
"""Runs a command and says whether it ended as a test expects; its output passes through.

    expect.py [--status N] [--memory MB] [--file-limit BYTES] [--interrupt-when-in FOLDER | --interrupt-at-output] -- COMMAND...

--interrupt-when-in sends SIGINT as soon as the command has a file of FOLDER open, be it without a name;
--interrupt-at-output when it first prints something.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import time

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--status", type=int, default=0, help="the exit status")
arguments.add_argument("--memory", type=int, metavar="MB", help="the most memory that may be resident")
arguments.add_argument("--file-limit", type=int, metavar="BYTES", help="of each file, as on a full disk")
arguments.add_argument("--interrupt-when-in", metavar="FOLDER")
arguments.add_argument("--interrupt-at-output", action="store_true")
arguments.add_argument("command", nargs="+")
options = arguments.parse_args()


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))


def has_open(process, folder):
    files = f"/proc/{process}/fd"
    try:
        return any(os.readlink(f"{files}/{name}").startswith(folder + "/") for name in os.listdir(files))
    except OSError:  # closed meanwhile
        return False


child = subprocess.Popen(options.command, stdout=subprocess.PIPE if options.interrupt_at_output else None,
                         preexec_fn=limit_files if options.file_limit is not None else None)
if options.interrupt_when_in:
    while child.poll() is None and not has_open(child.pid, os.path.realpath(options.interrupt_when_in)):
        time.sleep(0.01)
    if child.poll() is not None:
        sys.exit(f"expect.py: it ended with {child.returncode} before it opened a file of {options.interrupt_when_in}")
    child.send_signal(signal.SIGINT)
elif options.interrupt_at_output:
    first = os.read(child.stdout.fileno(), 1 << 16)
    child.send_signal(signal.SIGINT)
    sys.stdout.buffer.write(first + child.stdout.read())
status = child.wait()
if status != options.status:
    sys.exit(f"expect.py: it ended with {status}, expected {options.status}")
if options.memory:
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    if used > options.memory:
        sys.exit(f"expect.py: it took {used:.0f} MB, expected at most {options.memory}")
