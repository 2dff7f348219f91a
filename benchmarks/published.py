"""Published models, dummy weights: features as the command `embed` computes them, against plain code.

Plain: Net1D and the ResNet as their papers write them, with Conv1d and explicit padding; the transformers, which have
no plainer form, as they are; under no_grad, 64 crops at a time on all cores, as the published evaluations do. On one
core both take the same time, which nearly all goes into matrix products: what differs is how several cores are used.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import signal
from torch import nn

from benchmarks.training import PlainNet1d, PlainResnet1d
from ecglib import zoo
from ecglib.data import packing
from ecglib.data.recording import LEADS
from ecglib.models.encoders import net1d, resnet1d
from ecglib.pipeline.environment import ENVIRONMENT
from ecglib.zoo import dummy, embed

BATCH, THEIRS = 16, 64  # crops at a time: of `embed`, of the published evaluations
ROUNDS = 2  # the fastest counts
NUMBER = {"clef_small": 256, "ecgfounder": 64, "clef_medium": 32, "ecgfounder_1lead": 32, "merl": 32}
NUMBER |= {"ecgjepa_weimann_s": 16, "heartlang_vqhbr": 16, "heartlang": 4, "ecgjepa_weimann_b": 4}
FEW = 2  # records for all other models
REAL, WHERE, LOOP = "ECGLIB_REAL_DATA", "ptb-xl/records500", 12  # records of the plain loop
CHILD = """
import sys
from benchmarks import print_with_peak
from ecglib import zoo
from ecglib.zoo import embed
model = zoo.load("ecgfounder", weights="dummy")
done = embed.run(model, sys.argv[2:], sys.argv[1], progress=lambda line: None)
print_with_peak(done)
"""


class PlainMerl(PlainResnet1d):
    """The ResNet of MERL in evaluation, Conv1d and BatchNorm1d, without a max-pool."""

    @staticmethod
    def conv_bn(pair, x):
        conv, norm = pair
        x = F.conv1d(x, conv.weight.squeeze(2), None, conv.stride[1], conv.padding[1])
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    def forward(self, x):
        x = torch.relu(self.conv_bn(self.ours.stem[0], x))
        for block in self.ours.blocks:
            h = self.conv_bn(block.conv2, torch.relu(self.conv_bn(block.conv1, x)))
            x = torch.relu(h + (x if isinstance(block.shortcut, nn.Identity) else self.conv_bn(block.shortcut, x)))
        return x.mean(-1)


def plain(model):
    """The network of a model in its plainest form, with the same weights, and a word for it."""
    if isinstance(model.encoder, net1d.Encoder):
        return PlainNet1d(model.encoder), "Conv1d with explicit padding"
    if isinstance(model.encoder, resnet1d.Encoder):
        return PlainMerl(model.encoder), "Conv1d"
    return model.features, "the module as it is"


def records(card, number: int) -> list[np.ndarray]:
    """Inputs of the network from `number` recordings of 10 s at 500 Hz: (crop, lead, samples) each."""
    rows = [LEADS.index(lead) for lead in card.leads]
    recordings = [dummy.pseudo_ecg(i, 0.7 + 0.005 * i, 0.2, 500, 5000)[rows] for i in range(number)]
    return [card.crops(x.astype(np.float32), 500) for x in recordings]


def by_embed(model, crops: np.ndarray, device: str) -> np.ndarray:
    """Batches side by side, one core each; float32 (crop, dim)."""

    def work(first):
        with torch.inference_mode():
            return first, model(torch.from_numpy(crops[first : first + size]).to(device)).cpu().numpy()

    workers = packing.cores()
    size = min(BATCH, -(-len(crops) // workers))
    features = dict(embed.spread(work, ((first,) for first in range(0, len(crops), size))))
    return np.concatenate([features[first] for first in sorted(features)])


def by_plain(network, crops: np.ndarray, device: str) -> np.ndarray:
    batches = np.split(crops, range(THEIRS, len(crops), THEIRS))
    with torch.no_grad():
        return np.concatenate([network(torch.from_numpy(batch).to(device)).cpu().numpy() for batch in batches])


def timed(function, *arguments) -> tuple:
    start = time.perf_counter()
    value = function(*arguments)
    return time.perf_counter() - start, value


def throughput(name: str, device: str) -> dict:
    """Records per second of both; AssertionError where the features differ by more than 1e-5 of the largest."""
    model = zoo.load(name, weights="dummy", accept=zoo.card(name).licence).to(device)
    network, how = plain(model)
    number = NUMBER.get(name, FEW)
    crops, times = np.concatenate(records(model.card, number)), []
    for _ in range(ROUNDS):
        (ours, z), (theirs, wanted) = timed(by_embed, model, crops, device), timed(by_plain, network, crops, device)
        times.append((ours, theirs))
    error = np.abs(z - wanted).max() / np.abs(wanted).max()
    assert error < 1e-5, (name, error)
    ours, theirs = np.min(times, 0).tolist()
    n_crops = f", {len(crops) // number} crops each" if len(crops) > number else ""
    where = "GPU" if device == "cuda" else f"{packing.cores()} cores"
    note = f"{model.card.title}, {model.card.parameters / 1e6:.1f} M; {number} records of 10 s{n_crops}; {where}; "
    note += f"against {how}; features differ by {error:.0e} of the largest"
    return _row(f"features of {name}, {device}", number / ours, number / theirs, note)


def loop(folder: Path, number: int) -> tuple[float, np.ndarray]:
    """Records per second, and features, of the plain loop for ECGFounder: read, filter as its code does, one by one."""
    import wfdb

    network = PlainNet1d(zoo.load("ecgfounder", weights="dummy").encoder)
    paths = [str(path.with_suffix("")) for path in sorted(folder.rglob("*.hea"))[:number]]

    def features(path):
        x, facts = wfdb.rdsamp(path)
        x = x.T
        fs = facts["fs"]
        for b, a in (signal.iirnotch(50, 30, fs), signal.butter(4, (0.67, 40), "bandpass", fs=fs)):
            x = signal.filtfilt(b, a, x)
        x = x - np.stack([signal.medfilt(lead, 201) for lead in x])
        x = (x - x.mean()) / (x.std() + 1e-8)
        with torch.no_grad():
            return network(torch.from_numpy(x[None].astype(np.float32))).numpy()[0]

    took, z = timed(lambda: np.stack([features(path) for path in paths]))
    return len(paths) / took, z


def folder_of_records(root: Path) -> dict:
    """`embed` over real recordings, and its memory for the folder once and ten times."""
    folder, results = root / WHERE, []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "features.parquet"
        for times in (10, 1):
            words = [sys.executable, "-c", CHILD, str(out), *[str(folder)] * times]
            environment = os.environ | ENVIRONMENT  # that of the command
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            results.append(json.loads(done.stdout))
        z = embed.read(out)[1]
    often, once = results
    slow, wanted = loop(folder, LOOP)
    alike = np.corrcoef(z[:LOOP].ravel(), wanted.ravel())[0, 1]
    assert alike > 0.99, alike  # the filters treat the edges of a recording in another way
    fast = often["records_per_s"]
    note = f"{once['records']} records of {WHERE}: reading, signal chain, network; against wfdb.rdsamp, the published "
    note += f"filters in scipy and the plain module, one record at a time (timed on {LOOP}; features correlate at "
    note += f"{alike:.4f}); peak memory {once['mib']:.0f} MiB, of the folder given ten times {often['mib']:.0f} MiB"
    return _row("embed a folder, ecgfounder", fast, slow, note)


def _row(name: str, ours: float, theirs: float, note: str) -> dict:
    return dict(name=name, ours=ours, theirs=theirs, ratio=ours / theirs, unit="records/s", note=note)


def run() -> list[dict]:
    names = [card.name for card in zoo.cards() if not (card.only_card or card.unproven)]
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = [throughput(name, device) for device in devices for name in names]
    root = Path(os.environ.get(REAL) or os.devnull)
    if (root / WHERE).is_dir():
        return [*rows, folder_of_records(root)]
    note = f"not measured: {REAL} names no folder with {WHERE}"
    return [*rows, _row("embed a folder", float("nan"), float("nan"), note)]


if __name__ == "__main__":
    for row in run():
        print(row)
