"""A copy of the tree without git, in which the pipeline may run, and commands in it."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from ecglib.pipeline import lab
from ecglib.pipeline.stages import ROOT


def copy_tree(folder: Path) -> Path:
    """The library, the notebooks and what DVC needs, in `folder`; there is no data/ and no dvc.lock."""
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "cache", "tmp")
    for name in ("ecglib", "ecgsim", "notebooks", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in (".dvcignore", "dvc.yaml", "params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    return folder


def free_port() -> int:
    """A port that nothing listens to, below those that Linux hands out (32768 on): no other process is given it."""
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


@contextmanager
def lab_server(tree: Path, token: str):
    """JupyterLab on `tree` as `ecglib lab` starts it, on a free port, for the block; gives its address."""
    port = free_port()
    options = ["--no-browser", "--allow-root", f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    options += ["--ServerApp.port_retries=0"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(tree.parent / "config"), "PYTHONPATH": str(ROOT)}
    address, log = f"http://127.0.0.1:{port}", tree.parent / "lab.log"
    with log.open("wb") as file:
        words = [sys.executable, *lab.words(tree, options)]
        process = subprocess.Popen(words, cwd=tree, env=environment, stdout=file, stderr=file)
    try:
        for _ in range(600):
            try:
                requests.get(f"{address}/api", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
        else:
            raise TimeoutError(f"no answer from {address}: {log.read_text()}")
        yield address
    finally:
        process.terminate()
        process.wait()


def call(folder: Path, *words: str, **variables: str) -> str:
    """Run a command of the environment of these tests in `folder`; its output, shown when it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DVC_SITE_CACHE_DIR": str(folder.parent / "site"), **variables}
    done = subprocess.run(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout
