"""What the commands say beside their results: examples in each help, progress, datasets in words, narrow terminals."""

import contextlib
import inspect
import re
import shutil
import textwrap
import time
from datetime import timedelta
from pathlib import Path

import click

from ecglib import EcgError

EXAMPLES = {  # below the help of a command; a test sees that each has some and that their options are there
    "generate": ["ecglib generate --params simulate --out data", "ecglib generate -p 'hospitals=[C]' -p scale=0.1"],
    "pack": [
        "ecglib pack clinic --dataset folder --root my_ecgs --option 'labels=[AFIB, LVH]' --out results/cohorts/clinic",
        "ecglib pack ptb-xl --dataset ptbxl --root ptb-xl --option label_set=super-2198 --params pack --out cohort",
        "ecglib pack ward --dataset folder --root my_ecgs --detector results/noise/detector.json --out cohort",
        "ecglib pack clinic --dataset folder --root my_ecgs --out cohort --part 2/8    (second of eight jobs)",
        "ecglib pack clinic --dataset folder --root my_ecgs --out cohort --workers 64 --dask scheduler.json",
    ],
    "run": ["ecglib run notebooks/01_data_exploration.ipynb --params explore --out results/scratch/explore"],
    "data": ["ecglib data"],
    "repro": ["ecglib repro", "JOBS=4 ecglib -v repro    (four stages at a time, and all that they print)"],
    "real": ["ecglib real --data /data/physionet"],
    "study": ["ecglib study my.yaml", "JOBS=4 ecglib study my.yaml"],
    "where": ["ecglib where", "ecglib where --results studies/my/results"],
    "readme": ["ecglib readme"],
    "view": ["ecglib view ward/0001", "ecglib view rec_17 --start 5 --out sheet.pdf --lead MLII=II"],
    "convert": ["ecglib convert export/*.xml --out my_ecgs", "ecglib convert *.dcm --number --out my_ecgs"],
    "fit": [
        "ecglib fit results/cohorts/clinic --encoder results/pretrain/twelve-byol --labels AFIB,LVH --out model",
        "ecglib fit results/cohorts/clinic --encoder features --out model",
        "ecglib fit results/cohorts/clinic --encoder results/pretrain/twelve-byol --how lora --rank 4 --out model",
        "ecglib fit results/cohorts/A --encoder scratch --task age --out model    (a task of params.yaml)",
        "ecglib fit my --encoder scratch --task 'low={kind: binary, columns: lvef, positive: {at_most: 40}}' --out m",
    ],
    "predict": [
        "ecglib predict model ward/0001",
        "ecglib predict model my_ecgs --out predictions.csv",
        "ecglib predict model my_ecgs --out predictions.csv --detector results/noise/detector.json",
        "ecglib predict model my_ecgs --out predictions.csv --workers 8 --dask scheduler.json",
    ],
    "explain": ["ecglib explain model ward/0001 --statement AFIB --plot why.svg"],
    "holter": [
        "ecglib holter days/D002 --plot day.svg",
        "ecglib holter ltafdb/00 --beats atr --fs 128 --out episodes.csv",
    ],
    "evaluate": ["ecglib evaluate predictions.csv results/cohorts/clinic --split test --out scores.csv"],
    "fetch": ["ecglib fetch ludb", "ecglib fetch ptb-xl --only 'records100/*' --out corpora/ptb-xl"],
    "reports": ["ecglib reports reports.csv --column report --out labels.csv"],
    "quality": ["ecglib quality new_ecgs --out quality.csv", "ecglib quality record_01 record_02"],
    "readers": ["ecglib readers code_test corpora/code-test --out readers.csv"],
    "croissant": ["ecglib croissant results/cohorts/A --out A.croissant.json"],
    "leaks": ["ecglib leaks results/cohorts/A results/cohorts/B --out pairs.csv"],
    "site": ["ecglib site"],
    "lab": ["ecglib lab", "ecglib lab --no-browser --ip=0.0.0.0 --port=9999"],
    "objectives": ["ecglib objectives", "ecglib objectives byol clef"],
    "encoders": ["ecglib encoders"],
    "datasets": ["ecglib datasets", "ecglib datasets folder    (its options, and a sample of the CSV)"],
    "search": ["ecglib search byol simclr"],
    "zoo": [
        "ecglib zoo",
        "ecglib zoo card ecgfounder",
        "ecglib zoo fetch merl --file res18_best_encoder.pth",
        "ecglib zoo verify",
    ],
    "reproduce": [
        "ecglib reproduce    (what can be compared with a published number)",
        "ecglib reproduce ecgfounder --on ptb-xl --data ptb-xl",
        "ecglib reproduce merl --on ptb-xl --data ptb-xl --labels super-2158 --checkpoint res18_best_encoder.pth",
        "ecglib reproduce features --on ptb-xl --data ptb-xl --labels all",
    ],
    "benchmark": [
        "ecglib benchmark    (what of BenchECG and of the eight-model benchmark is filled by results/real)",
        "ecglib benchmark --protocol eight-models --probe ptbxl-measure --probe random",
    ],
    "embed": [
        "ecglib embed ecgfounder my_ecgs --out features.parquet",
        "ecglib embed merl a b --weights dummy --out z.parquet",
        "ecglib embed ecgfounder my_ecgs --out features.parquet --part 2/8    (the second of eight array jobs)",
    ],
    "merge": [
        "ecglib merge features.parquet    (after its parts 1/8 to 8/8)",
        "ecglib merge results/cohorts/clinic    (after the parts of `ecglib pack`)",
    ],
    "export": ["ecglib export ecgfounder --out ecgfounder.onnx"],
    "completion": [
        'eval "$(ecglib completion bash)"    (in ~/.bashrc)',
        "ecglib completion fish > ~/.config/fish/completions/ecglib.fish",
    ],
}
PART = click.option("--part", default="", metavar="I/N", help="one of N array jobs; `ecglib merge OUT` ends them")
DASK = click.option("--dask", default="", metavar="FILE", help="scheduler file of a Dask cluster that --workers run on")
WORKERS = click.option("--workers", default=2, type=click.IntRange(1), show_default=True, help="shares, with --dask")
WHERE = ("part", "dask", "workers")  # options of a run that may be shared
WAIT_S = 60  # for the workers of a cluster
SHOWN_S = 10.0  # between two lines of progress, at most
FIRST_DROPPED = (
    "head",
    "features",
    "pretrained on",
    "licence",
    "weights",
)  # columns that a narrow terminal does without


def epilog(name: str) -> str:
    """The examples of a command as click shows them, each on its line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[name])]) if name in EXAMPLES else ""


class Assignments(click.ParamType):
    """Options given as NAME=VALUE, where VALUE is YAML: "a=1" -> ("a", 1), "b=[x, y]" -> ("b", ["x", "y"])."""

    name = "NAME=VALUE"

    def convert(self, value, param, ctx):
        import yaml

        name, sign, text = value.partition("=")
        if not sign or not name:
            raise EcgError(f"{value!r} is no name=value", fix="write it like -p steps=100")
        try:
            return name, yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise EcgError(
                f"{text!r} is no YAML value", field=name, fix="write a list like [a, b], text in quotes"
            ) from error


def _quiet() -> bool:
    """Whether the command line was told to show results only."""
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().params.get("quiet"))


@contextlib.contextmanager
def cluster(scheduler: str, part: str = ""):
    """A client of the Dask cluster that a scheduler file names is open in the block; "": none is asked for.

    Raises EcgError without Dask, for a file that is not there, for a part of a run beside a cluster, and where no two
    workers have come in WAIT_S: with one alone, joblib would compute all in this process.
    """
    if not scheduler:
        yield
        return
    if part:
        raise EcgError("a cluster makes all parts", field="part", fix="leave --part or --dask out")
    if not Path(scheduler).is_file():
        fix = f"start it: dask scheduler --scheduler-file {scheduler}"
        raise EcgError("no scheduler file", file=scheduler, field="dask", fix=fix)
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise EcgError("Dask is not installed", field="dask", fix="pip install 'dask[distributed]'") from error
    with Client(scheduler_file=scheduler) as client:
        try:
            client.wait_for_workers(2, timeout=WAIT_S)
        except TimeoutError as error:
            fix = f"start them: dask worker --scheduler-file {scheduler}"
            raise EcgError("fewer than two workers on this cluster", file=scheduler, field="dask", fix=fix) from error
        yield


def spread(job, out, part: str, dask: str, workers: int) -> dict:
    """Run a job that writes `out`, here or as `workers` shares on a cluster; returns what it says.

    job: as of `embed.shared`; part: as of `embed.run`; dask: as of `cluster`.
    """
    from ecglib.zoo import embed

    with cluster(dask, part):
        return embed.shared(job, out, workers, progress=say) if dask else job(part=part, progress=say)


def part_done(part: str, records: int, out) -> str:
    """What a command says at the end of one of its array jobs."""
    return f"part {part}: {records:,} records; when all parts are done: ecglib merge {out}"


def say(text: str) -> None:
    """Print a line about what goes on, unless only results are shown."""
    if not _quiet():
        print(text, flush=True)


def names_of(complete):
    """Completion of an argument in a shell: those of the names that `complete` gives which begin as what is typed."""
    return lambda context, parameter, typed: [name for name in complete() if name.startswith(typed)]


def tenths(what: str, unit: str = "records", size: float = 1):
    """Function of (done, total) that prints a line at each new tenth, and every SHOWN_S: share, rate, time left.

    unit: what is counted, `size` of (done, total) each; where no total is known (None), how many are done. Nothing is
    printed where only results are shown.
    """
    if _quiet():
        return lambda done, total: None
    began = time.monotonic()
    shown = {"tenth": 0, "at": began}

    def progress(done, total):
        now = time.monotonic()
        tenth = done * 10 // total if total else 0
        if tenth <= shown["tenth"] and now - shown["at"] < SHOWN_S:
            return
        shown.update(tenth=max(tenth, shown["tenth"]), at=now)
        rate = max(done, 1) / max(now - began, 1e-3)
        share = f"{100 * done // total} %" if total else f"{done / size:,.0f} {unit}"
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if total else ""
        print(f"[{what}] {share}, {rate / size:,.3g} {unit}/s{left}", flush=True)

    return progress


def wrapped(facts: dict[str, str]) -> str:
    """Facts, one a paragraph, as wide as the terminal, what follows the first line indented."""
    width = shutil.get_terminal_size((100, 24)).columns
    lines = [f"{name}: {text}" for name, text in facts.items()]
    return "\n".join(
        textwrap.fill(line, max(40, width), subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    )


def narrowed(table, wide: bool) -> str:
    """A table as text, without the columns FIRST_DROPPED that the terminal has no room for; wide: with all of them."""
    width = shutil.get_terminal_size((200, 24)).columns
    dropped = [name for name in FIRST_DROPPED if name in table]
    text = table.to_string(index=False)
    while not wide and dropped and len(text.partition("\n")[0]) > width:
        table = table.drop(columns=dropped.pop(0))
        text = table.to_string(index=False)
    return text


def dataset(module) -> str:
    """What a dataset is, where it comes from, its options with their defaults, and for `folder` a sample of the CSV."""
    name = module.__name__.rpartition(".")[2]
    about = inspect.getdoc(module)
    source = ", ".join(part for part in (module.URL, module.VERSION and f"version {module.VERSION}") if part)
    parts = [f"{name}: {about}"]
    parts += [f"source: {source}\nlicence: {module.LICENCE}\nto cite: {module.CITATION}"] if source else []
    options = _options(module)
    size = max(map(len, options), default=0)
    lines = [f"  {option:<{size}}  {text}" for option, text in options.items()] or ["  none"]
    parts.append("\n".join(["options (--option NAME=VALUE), with their defaults:", *lines]))
    if said := _said(module):
        parts.append(said)
    if name == "folder":
        parts.append(f"a sample of records.csv:\n\n{_sample(about)}")
    return "\n\n".join(parts)


def _options(module) -> dict[str, str]:
    """Option -> its default, and what stands beside it."""
    if hasattr(module, "OPTIONS"):
        source = inspect.getsource(module)
        beside = dict(re.findall(r'^    "(\w+)": [^#\n]*,  # (.*)$', source, re.M))
        return {name: f"{_yaml(value):<12} {beside.get(name, '')}".rstrip() for name, value in module.OPTIONS.items()}
    parameters = inspect.signature(module.records).parameters.values()
    return {
        p.name: "required" if p.default is p.empty else _yaml(p.default) for p in parameters if p.kind is p.KEYWORD_ONLY
    }


def _yaml(value) -> str:
    return "null" if value is None else str(value)


def _said(module) -> str:
    """What the functions of a dataset say of its options."""
    if hasattr(module, "OPTIONS"):
        return ""
    texts = [inspect.getdoc(function) or "" for function in (module.records, module.labels)]
    return "\n".join(text.partition("\n")[2].strip() for text in texts if "\n" in text).strip()


def _sample(about: str) -> str:
    """The lines of a table in the text about `folder`, where two stand side by side."""
    lines = [line.strip() for line in about.splitlines() if line.startswith("    ")]
    return "\n".join(re.split(r"\s{6,}", line)[0] for line in lines)
