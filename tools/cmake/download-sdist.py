#!/usr/bin/env python3
"""Downloads the source package of a PyPI project, one that its hash pins, through pip.

  download-sdist.py NAME VERSION SHA256 FOLDER    leaves NAME-VERSION.tar.gz in FOLDER

pip asks the package's build backend for metadata before it lets go of the archive, and would install that backend, with
all that it needs, to get them. The one below knows name and version, which is all that is asked, so that nothing is installed
and nothing of the package runs. pip's own settings (index, proxy, certificates) hold.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

BACKEND = '''
import pathlib


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = "{name}-{version}.dist-info"
    target = pathlib.Path(folder) / info
    target.mkdir()
    (target / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return info


def build_wheel(*arguments, **options):
    raise RuntimeError("this backend only names the package")
'''


def pip(arguments, **environment):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "20", *arguments]
    run = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.returncode, run.stdout


def main():
    name, version, sha256, folder = sys.argv[1:]
    archive = f"{name}-{version}.tar.gz"
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        (work / "requirements.txt").write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
        # Under the name that the package gives for its build backend.
        modules = work / "modules"
        module = modules / "scikit_build_core"
        module.mkdir(parents=True)
        (module / "__init__.py").write_text("")
        (module / "build.py").write_text(BACKEND.format(name=name, version=version))
        code, said = pip(["download", "--no-deps", "--no-binary", name, "--no-build-isolation", "--require-hashes",
                          "--quiet", "--dest", str(work), "--requirement", str(work / "requirements.txt")],
                         PYTHONPATH=str(modules))
        if code != 0 or not (work / archive).exists():
            sys.exit(said.strip() or f"pip downloaded no {archive}")
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        # Beside its place first, so that an interrupted copy is never taken for the archive.
        partial = pathlib.Path(folder) / f"{archive}.{os.getpid()}"
        partial.write_bytes((work / archive).read_bytes())
        partial.replace(pathlib.Path(folder) / archive)


if __name__ == "__main__":
    main()
