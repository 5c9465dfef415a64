#!/usr/bin/env python3
"""run.py MOEC MOE_SERVE CHECKPOINT FOLDER: compiles a checkpoint and uses its chat page in a browser (page.py).

Status 77, which CTest shows as skipped, where there is no Chromium with its driver.
"""

import os
import pathlib
import subprocess
import sys

from webdriver import programs

SKIPPED = 77


def main():
    moec, serve, checkpoint, folder = map(pathlib.Path, sys.argv[1:])
    if not programs():
        print("skipped: no chromium or no chromedriver is in PATH; on Debian they are the packages chromium and chromium-driver")
        return SKIPPED
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "cria.plan"
    subprocess.run([str(moec), "compile", str(checkpoint), "-o", str(plan), "--target", "cpu:native"], check=True)
    page = pathlib.Path(__file__).with_name("page.py")
    return subprocess.run([sys.executable, "-B", str(page), "-v"],
                          env={**os.environ, "MOE_SERVE": str(serve), "MOE_PLAN": str(plan)}).returncode


if __name__ == "__main__":
    sys.exit(main())
