"""The script and the command lines of docs/scale.md, on two processes of this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from study_tree import free_port

from ecglib import datasets
from ecglib.data import cohort
from ecgsim import hospitals

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/scale.md").read_text()
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small cohort and the script of the page."""
    folder = tmp_path_factory.mktemp("nodes")
    hospitals.generate(folder / "data", hospitals=("A",), workers=1, scale=0.02)
    options = dict(workers=1, options={"hospital": "A"})
    cohort.pack("A", datasets.get("simulated"), folder / "data", folder / "cohort", **options)
    block = re.search(r"^    # pretrain\.py\n(?:    .*\n|\n)+", PAGE, re.MULTILINE)[0]
    (folder / "pretrain.py").write_text(re.sub(r"^    ", "", block, flags=re.MULTILINE))
    return folder


def started(folder: Path, out: str, *words: str) -> subprocess.Popen:
    """A torchrun of the script with few steps."""
    values = dict(COHORT=str(folder / "cohort"), OUT=str(folder / out), STEPS="3", BATCH="8", OMP_NUM_THREADS="1")
    values |= {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen([*TORCHRUN, *words, str(folder / "pretrain.py")], env=os.environ | values)


def test_one_node_of_two_and_two_nodes_of_one_end_with_the_same_bytes(folder):
    """The options are those of the page, with other numbers."""
    for option in ("--standalone", "--nnodes", "--nproc-per-node", "--rdzv-id", "--rdzv-backend", "--rdzv-endpoint"):
        assert option in PAGE
    assert started(folder, "one", "--standalone", "--nproc-per-node=2").wait(600) == 0
    port = free_port()
    meet = ["--rdzv-id=7", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"]
    nodes = [started(folder, "two", "--nnodes=2", "--nproc-per-node=1", *meet) for _ in range(2)]
    try:
        assert [node.wait(600) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    for name in ("encoder.safetensors", "history.csv"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes(), name
    assert (folder / "one/history.csv").read_text().count("\n") == 4
