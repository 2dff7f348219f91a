"""What a million ECGs would need: rates and sizes measured here, multiplied. `python -m benchmarks scale`.

Measured on this machine, in seconds of one core whatever else runs there: how many recordings a core packs a second,
the bytes that a recording takes raw, packed and as features, how many a second one core trains with each objective at
the size of the study, and how many floating-point operations a training step takes per recording. Not measured here is
a GPU: its hours follow from the operations and from the one published rate of a network that is also here, ECGFounder
on an A100. The sheet of docs/scale.md is written anew; no other row of the benchmarks changes.
"""

import re
import tempfile
import time
from pathlib import Path

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.predicting import NUMBER, folder_of_records
from ecglib import datasets, models, objectives
from ecglib.data import cohort
from ecglib.data.files import write_atomic
from ecglib.training import batches, train
from ecgsim import hospitals

ONLY_BY_NAME = True
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/scale.md"
FIRST, LAST = "<!-- sheet: python -m benchmarks scale -->", "<!-- end of the sheet -->"
SIZES, CORES, EPOCHS = (10**6, 10**7), (16, 64, 256), 10
A100_ECGS_PER_S = 2256  # ECGFounder, 12 leads of 10 s at 500 Hz, forward (published, not measured here)
ROUNDS, BATCH, FEW = 2, 64, 4


def packing(scratch: Path) -> dict:
    """Recordings a second of one core, and bytes of a recording before and after."""
    raw, best = folder_of_records(scratch / "raw"), 0.0
    for k in range(2):
        start = time.process_time()
        cohort.pack("bench", datasets.get("folder"), raw, scratch / f"packed{k}", workers=1)
        best = max(best, NUMBER / (time.process_time() - start))
    sizes = {name: sum(f.stat().st_size for f in folder.iterdir()) / NUMBER for name, folder in folders(scratch, raw)}
    return {"packed_per_s": best, **sizes}


def folders(scratch: Path, raw: Path) -> list[tuple[str, Path]]:
    return [("raw", raw), ("packed", scratch / "packed0")]


def training_data(scratch: Path):
    """A few recordings of the simulated hospital A."""
    hospitals.generate(scratch / "data", hospitals=("A",), workers=1, scale=0.05)
    options = dict(workers=1, options={"hospital": "A"})
    return cohort.pack("A", datasets.get("simulated"), scratch / "data", scratch / "A", **options)


def made(name: str, home, spec: dict, size: str, scratch: Path):
    """(objective, data) as notebook 02 makes them."""
    meta, normal = objectives.trait(name, "META"), objectives.trait(name, "ROWS") == "normal"
    wanted = dict(meta=meta, normal=normal, measured=objectives.trait(name, "MEASURED"), leads=home.leads)
    rows = home.rows("pretrain")
    present = [n for n in home.labels if (home.states([n], rows) == 1).sum() >= 3]
    data = batches.pooled([home], [["pretrain"]], **wanted, labels=present)
    net = models.build(objectives.module(name).ENCODER, size, n_leads=len(home.leads), seed=0, fs=float(data.fs))
    offered = objectives.from_data(name, data) | dict(first=str(scratch / "heartlang_vq"), noise="", steps=10)
    chosen = objectives.accepted(name, **offered, fs=float(data.fs), lead_views=False) | spec.get("options", {})
    return objectives.build(name, net, seed=0, **chosen), data


def flops(objective, batch) -> float:
    """Floating-point operations of a training step per recording."""
    with FlopCounterMode(display=False) as counter:
        objective(batch)[0].backward()
    return counter.get_total_flops() / len(batch.x)


def cpu_rate(objective, data) -> float:
    """Recordings a second of one core, the fastest round of forward and backward."""
    batch, best = data.batch(torch.arange(min(BATCH, len(data))).numpy()), 0.0
    for _ in range(ROUNDS):
        start = time.process_time()
        objective(batch)[0].backward()
        best = max(best, len(batch.x) / (time.process_time() - start))
    return best


def learning(home, scratch: Path) -> list[dict]:
    """Per objective: parameters, operations and recordings a second at the size of the study, operations at medium."""
    specs = yaml.safe_load((ROOT / "params.yaml").read_text())["objectives"]
    rows = []
    for name in sorted(specs, key=lambda name: (objectives.trait(name, "FIRST") != "", name)):
        size = specs[name].get("size", "small")
        objective, data = made(name, home, specs[name], size, scratch)
        if name == "heartlang_vq":  # its words are what heartlang starts from
            train.fit(objective, data, scratch / name, settings=train.Settings(1, 8))
            objective, data = made(name, home, specs[name], size, scratch)
        few = data.batch(torch.arange(FEW).numpy())
        row = dict(
            name=name, encoder=objectives.module(name).ENCODER, parameters=models.n_parameters(objective.encoder)
        )
        rows.append(row | dict(flops=flops(objective, few), rate=cpu_rate(objective, data)))
        print(f"  {name}: {rows[-1]['rate']:,.0f} records/s, {rows[-1]['flops'] / 1e9:.2f} GFLOP", flush=True)
    return rows


def gpu_speed() -> tuple[float, float]:
    """(operations a second that the published rate amounts to, operations of ECGFounder's forward per ECG)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        models.build("net1d", "ecgfounder", n_leads=12).eval()(torch.zeros(1, 12, 5000))
    return counter.get_total_flops() * A100_ECGS_PER_S, counter.get_total_flops()


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *lines])


def hours(seconds: float) -> str:
    value = seconds / 3600
    return f"{value:,.0f} h" if value >= 10 else f"{value:.1f} h" if value >= 0.1 else f"{60 * value:.1f} min"


def sheet(packed: dict, rows: list[dict]) -> str:
    """Markdown: storage, hours of packing, hours of training."""
    speed, founder = gpu_speed()
    names = [f"{n // 10**6} M ECGs" for n in SIZES]
    stored = {"raw, 500 Hz, 16 bit": packed["raw"], "packed, 100 Hz": packed["packed"], "features, 128 numbers": 512}
    lines = [[what, f"{b / 1e3:.1f} kB", *(f"{b * n / 1e9:,.1f} GB" for n in SIZES)] for what, b in stored.items()]
    parts = [table(["storage", "one ECG", *names], lines)]
    rate = packed["packed_per_s"]
    lines = [[f"{c} cores", f"{rate * c:,.0f} ECGs/s", *(hours(n / rate / c) for n in SIZES)] for c in CORES]
    parts.append(table([f"packing ({rate:,.0f} ECGs/s a core, measured)", "rate", *names], lines))
    lines = []
    for row in rows:
        core = [hours(n * EPOCHS / row["rate"]) for n in SIZES[:1]]
        gpu = [hours(n * EPOCHS * row["flops"] / speed) for n in SIZES]
        size = f"{row['encoder']}, {row['parameters'] / 1e6:.2f} M"
        lines.append([row["name"], size, f"{row['flops'] / 1e9:.2f}", f"{row['rate']:,.0f}", *core, *gpu])
    named = f"ECGFounder's network at 500 Hz, {3 * founder / 1e9:.1f} GFLOP a step"
    gpu = [hours(n * EPOCHS * 3 * founder / speed) for n in SIZES]
    lines.append(["supervised", named, f"{3 * founder / 1e9:.2f}", "-", "-", *gpu])
    head = ["objective", "encoder", "GFLOP an ECG", "ECGs/s a core", f"one core, {names[0]}"]
    parts.append(table(head + [f"one GPU, {name}" for name in names], lines))
    note = f"Training: {EPOCHS} passes. A GPU is taken to do {speed / 1e12:.1f} TFLOP/s, which is what "
    note += f"{A100_ECGS_PER_S:,} ECGs/s of ECGFounder on an A100 (published, not measured here) amount to; a network "
    note += "as small as the study's keeps a GPU less busy, so that its hours are a lower bound."
    return "\n\n".join([*parts, note])


def run() -> list[dict]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        packed, rows = packing(scratch), learning(training_data(scratch), scratch)
    text = PAGE.read_text()
    found = re.search(f"{re.escape(FIRST)}.*{re.escape(LAST)}", text, re.DOTALL)
    written = f"{text[: found.start()]}{FIRST}\n\n{sheet(packed, rows)}\n\n{LAST}{text[found.end() :]}"
    write_atomic(PAGE, written.encode())
    return []
