"""Published numbers again, on a corpus that is on disk: `ecglib reproduce MODEL --on ptb-xl --data FOLDER`.

One label set is one study in studies/reproduce-..., which DVC runs as it runs the example study: pack, a probe of each
baseline, two probes of the model's features. So what has been computed is computed once, for whichever model is asked.
The numbers to compare with are those of docs/published.csv, each with the test set that it was computed on.
"""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from ecglib import EcgError, datasets, require_known, zoo
from ecglib.data import files
from ecglib.data import labels as vocabulary
from ecglib.evaluation import predictions
from ecglib.evaluation.predictions import BASELINES
from ecglib.pipeline.own_study import PACKAGES, key, require_written
from ecglib.reporting import tables

CORPORA = {"ptb-xl": "ptbxl"}  # name -> file of ecglib/datasets
LABELS = {"super": "", "diag": "diagnostic"}  # other names of label sets; "super" depends on the version of the corpus
LABELS |= {name: name for name in (*vocabulary.PTBXL_SUPER, "sub", "all", "form", "rhythm")}
SYSTEMS = {"ecgfounder": "ECGFounder", "ecgjepa_kim": "ECG-JEPA", "stmem": "ST-MEM", "merl": "MERL", "ecgfm": "ECG-FM"}
SYSTEMS |= {"scratch": "Net1D"}  # a network of the same kind, trained on the labels alone
AS_PUBLISHED = "sgd-linear"  # as `probing.SGD_LINEAR`
TRAINED = {"linear": "one layer, settings by validation", AS_PUBLISHED: "one layer, as published"}
TRAINED |= {"boosting": "trees", "supervised": "whole network"}
FIRST_LINE = "# Written by `ecglib reproduce`: call it again.\n"
PROBE = {"fractions": [1.0], "seeds": 3, "whole_seeds": 1, "min_positives": 1}  # what differs from params.yaml
WHOLE = {"1.0.1": 2203, "1.0.3": 2198}  # test records of a version of PTB-XL
REPRODUCED, CLOSE = 0.005, 0.010  # largest differences that are called so
COLUMNS = ["method", "trained", "published", "here", "verdict"]


@dataclass(frozen=True)
class Corpus:
    """What of a corpus is on disk, for one label set."""

    name: str
    root: Path
    version: str
    options: dict  # of its dataset
    labels: tuple  # those that somebody here has
    n_labels: int  # of the label set
    fastest: bool  # whether every recording is there at the highest rate too


@dataclass(frozen=True)
class Plan:
    """What is run, and what it is compared with."""

    corpus: Corpus
    model: str  # a published model, or a baseline
    methods: tuple  # of notebook 03
    numbers: pd.DataFrame  # published, on this label set
    weights: str = "published"
    checkpoint: str = ""
    content: str = ""  # fingerprint of the weights
    lacking: str = ""  # why the published model is not run

    @property
    def folder(self) -> str:
        return f"studies/reproduce-{self.corpus.name}-{self.corpus.options['label_set']}"


def listing(numbers: pd.DataFrame, model: str = "") -> pd.DataFrame:
    """What can be compared with a published number: a row for each of `published.read`, of one model or of all.

    Raises EcgError for an unknown model, and for one without a published number.
    """
    require_known("model", [model] if model else [], [*zoo.names(), *BASELINES], "MODEL")
    if model and model not in SYSTEMS:
        fix = f"with --on and --data it is run beside the baselines; there are numbers of {', '.join(SYSTEMS)}"
        raise EcgError(f"no number of {model} is published", file="docs/published.csv", field="system", fix=fix)
    names = {system: name for name, system in SYSTEMS.items()}
    rows = numbers[numbers["system"].isin(names) & numbers["task"].str.startswith("PTB-XL")]
    rows = rows.assign(model=rows["system"].map(names))
    rows = rows[rows["model"].eq(model)] if model else rows
    score = [_interval(row) for row in rows.itertuples()]
    shown = {"model": rows["model"], "--labels": rows["label_set"].replace({v: k for k, v in LABELS.items()})}
    shown |= {"version": rows["version"], "test records": rows["n_test"], "published AUROC": score}
    cards = {card.name: "only a card" if card.only_card else zoo.HUBS[card.hub] for card in zoo.cards()}
    shown |= {"crop": rows["crop_s"] + " s", "source": rows["source"].str.split(",").str[0]}
    return pd.DataFrame(shown | {"weights": rows["model"].map(cards).fillna("none needed")})


def plan(
    model: str,
    corpus: str,
    folder,
    label_set: str,
    *,
    numbers,
    weights: str = "published",
    checkpoint="",
    progress=None,
) -> Plan:
    """What to run for `model`, a published model or a baseline, after all that can be refused has been.

    corpus: of CORPORA; folder: where it lies; label_set: of LABELS; numbers: of `published.read`.
    weights: "published" or "dummy"; checkpoint: a file of the published ones; progress: as of `zoo.load`.
    """
    require_known("model", [model], [*zoo.names(), *BASELINES], "MODEL")
    require_known("corpus", [corpus], CORPORA, "--on")
    require_known("label set", [label_set], LABELS, "--labels")
    if checkpoint and (model in BASELINES or weights == "dummy"):
        raise EcgError(
            "a checkpoint, and nothing that it is for", file=checkpoint, field="--checkpoint", fix="leave it out"
        )
    here = _open(corpus, _root(corpus, folder), label_set)
    stated = (here.options["label_set"], here.version)
    numbers = numbers[[(row.label_set, row.version) == stated for row in numbers.itertuples()]]
    if model in BASELINES:
        return Plan(here, model, (model,), numbers)
    card, known = zoo.card(model), numbers[(numbers["system"] == SYSTEMS.get(model)) & (numbers["how"] == "linear")]
    crop = f"@{known['crop_s'].iloc[0]}" if known["crop_s"].any() else ""
    content, lacking = _weights(card, weights, checkpoint, progress)
    probes = (f"zoo:{model}{crop}+{AS_PUBLISHED}", f"zoo:{model}{crop}")
    methods = (*(() if lacking else probes), *BASELINES)
    return Plan(
        here, model, methods, numbers, weights, str(checkpoint and Path(checkpoint).resolve()), content, lacking
    )


def _root(corpus: str, folder) -> Path:
    """The folder of the corpus: `folder`, or the only one in it that holds its table."""
    folder, name = Path(folder), datasets.get(CORPORA[corpus]).TABLE
    found = [folder] if (folder / name).is_file() else [path.parent for path in sorted(folder.glob(f"*/{name}"))]
    if len(found) != 1:
        reason = f"holds {name} in {', '.join(path.name for path in found)}" if found else f"holds no {name}"
        fix = f"name the folder of {corpus} as published, with {name} in it"
        raise EcgError(reason, file=folder, field="--data", fix=fix)
    return found[0].resolve()


def _open(name: str, root: Path, label_set: str) -> Corpus:
    """The corpus with the rate at which most recordings are there, and the labels that somebody has."""
    dataset, counts = datasets.get(CORPORA[name]), {}
    n_rows = len(datasets.text_table(root / dataset.TABLE, ["ecg_id"]))
    usual = {version: name for name, (version, _) in reversed(vocabulary.PTBXL_SUPER.items())}
    label_set = LABELS[label_set] or usual[dataset.VERSIONS.get(n_rows, dataset.VERSION)]
    for rate in (100, 500):
        try:
            counts[rate] = dataset.records(root, rate=rate, label_set=label_set, likelihood="published")
        except EcgError as error:
            if error.field != "path":  # the recordings alone may be missing at one rate
                raise
            last = error
    if not counts:
        raise last
    rate = max(counts, key=lambda fs: (len(counts[fs]), -fs))
    options = {"rate": rate, "label_set": label_set, "likelihood": "published"}
    states = dataset.labels(root, counts[rate], **options)
    labels = tuple(states.columns[(states == vocabulary.PRESENT).any()])
    fastest = 500 in counts and set(counts[rate].record_id) <= set(counts[500].record_id)
    return Corpus(name, root, states.attrs["label_set"]["version"], options, labels, states.shape[1], fastest)


def _weights(card, weights: str, checkpoint, progress) -> tuple[str, str]:
    """(fingerprint of the weights, why there are none)."""
    from ecglib.zoo import evaluate

    if card.only_card:
        return "", f"only a card: {card.only_card}"
    try:
        return zoo.load(card.name, weights, file=checkpoint or None, progress=progress).content, ""
    except EcgError as error:
        if checkpoint or error.field not in evaluate.UNREACHED:
            raise
        return "", str(error)


def no_weights(plan: Plan) -> str:
    """Why a model is not run, and where its weights are had, under which licence, and how they are handed over."""
    card = zoo.card(plan.model)
    lines = [f"No weights of {card.title}: {plan.lacking}"]
    if not card.only_card:
        lines += [f"Where they are: {zoo.facts(card.name)['weights']}; licence: {card.licence}"]
        lines += ["Give the file by --checkpoint FILE, or put it into the folder that ECGLIB_WEIGHTS names."]
    return "\n".join([*lines, "The baselines are run; the row of the model stays empty."])


def write(plan: Plan, root: Path) -> Path:
    """Write dvc.yaml and params.yaml of a plan below the repository `root`; returns the first.

    Raises EcgError where the folder holds a dvc.yaml or params.yaml that this command did not write.
    """
    target = root / plan.folder / "dvc.yaml"
    require_written([target.with_name("params.yaml"), target], FIRST_LINE, "move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    settings = {"pack": {"options": plan.corpus.options, "labels": list(plan.corpus.labels)}, "probe": PROBE}
    settings["weights"] = {plan.model: plan.content}
    stages = {"pack": _pack(plan)} | {f"probe-{key(method)}": _probe(plan, method) for method in plan.methods}
    for path, content in ((target.with_name("params.yaml"), settings), (target, {"stages": stages})):
        files.write_atomic(path, FIRST_LINE + yaml.safe_dump(content, sort_keys=False, width=120))
    return target


def _pack(plan: Plan) -> dict:
    corpus, params = plan.corpus, f"{plan.folder}/params.yaml"
    dataset, out = CORPORA[corpus.name], f"{plan.folder}/results/cohort"
    words = ["pack", corpus.name, "--dataset", dataset, "--root", str(corpus.root), "--out", out, "--params", "pack"]
    deps = ["ecglib/data", "ecglib/datasets/__init__.py", f"ecglib/datasets/{dataset}.py", str(corpus.root)]
    return _stage([*words, "--params", f"{params}:pack"], deps, out, ["pack", {params: ["pack"]}])


def _probe(plan: Plan, method: str) -> dict:
    notebook, params, out = "notebooks/03_linear_probing.ipynb", f"{plan.folder}/params.yaml", _out(plan, method)
    cohort, own, deps = f"{plan.folder}/results/cohort", ["probe"], []
    given = {"task": "twelve", "method": method, "cohort_dir": f"../{cohort}", "externals": []}
    if method.startswith(zoo.PREFIX):
        given |= {"weights": plan.weights, "recordings": [str(plan.corpus.root)]}
        deps, own = ["ecglib/zoo", "ecglib/datasets", str(plan.corpus.root)], [*own, f"weights.{plan.model}"]
        if plan.checkpoint:
            given["checkpoint"] = plan.checkpoint
            deps.append(plan.checkpoint)
        if method != plan.methods[0]:  # whose features this one reads
            deps.append(_out(plan, plan.methods[0]))
    words = ["run", notebook, "--params", "probe", "--params", f"{params}:probe"]
    for name, value in given.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
        words += ["-p", f"{name}={text}"]
    deps = [notebook, *(f"ecglib/{package}" for package in PACKAGES["probe"]), cohort, *deps]
    return _stage(words, deps, out, ["probe", {params: own}])


def _stage(words: list[str], deps: list[str], out: str, params: list) -> dict:
    words = ["python", "-m", "ecglib", *words, *(["--out", out] if "--out" not in words else [])]
    return {"wdir": "../..", "cmd": shlex.join(words), "deps": deps, "params": params, "outs": [out]}


def _out(plan: Plan, method: str) -> str:
    return f"{plan.folder}/results/probe/{key(method)}"


def compare(plan: Plan, root: Path, n: int = 1000) -> pd.DataFrame:
    """A row per method: COLUMNS as text; point, low, high, n_test, n_labels of ours; reference: the published score.

    n: resamples of the patients. The test records that a verdict needs are those of the published number, all of them.
    """
    rows = []
    for method in plan.methods:
        found = predictions.load(root / _out(plan, method))
        dummy = bool((found["note"] == predictions.DUMMY).any())
        seen = bool((found["note"] == predictions.SEEN).any())
        tested = found[found["split"] == "test"].assign(note="")
        scored = tables.scores(tested, ("auroc",), n=n)
        macro = scored[scored["label"] == tables.MACRO].iloc[0]
        row = {"method": f"{method.partition('+')[0]}{' (has seen this corpus)' * seen}", "point": macro.point}
        row |= {
            "trained": TRAINED.get(macro["mode"], macro["mode"]),
            "low": macro.low,
            "high": macro.high,
            "n_test": macro.n_records,
        }
        row |= {"here": tables.with_interval(macro.point, macro.low, macro.high), "n_labels": int(macro.n_labels)}
        if dummy:
            row["here"] += " DUMMY WEIGHTS"
        rows.append(row | _judged(plan, method, row, dummy))
    if plan.lacking:
        name, reference = f"zoo:{plan.model}", _reference(plan, f"zoo:{plan.model}")
        row = {"method": name, "trained": TRAINED[AS_PUBLISHED], "here": "-", "verdict": "no weights here"}
        rows.insert(0, row | {"published": _published(reference)})
    return pd.DataFrame(rows)


def _reference(plan: Plan, method: str):
    """The published number of a method, None where there is none on this label set."""
    name = method.removeprefix(zoo.PREFIX).partition("+")[0].partition("@")[0]
    how = "linear" if method.startswith(zoo.PREFIX) else "supervised"
    rows = plan.numbers[(plan.numbers["system"] == SYSTEMS.get(name)) & (plan.numbers["how"] == how)]
    return next(rows.itertuples(), None)


def _published(reference) -> str:
    if reference is None:
        return "-"
    return f"{reference.system} {_interval(reference)}"


def _interval(number) -> str:
    """A published score as text, with its interval where one is published."""
    no_interval = math.isnan(number.low)
    return f"{number.score:.3f}" if no_interval else tables.with_interval(number.score, number.low, number.high)


def _judged(plan: Plan, method: str, row: dict, dummy: bool) -> dict:
    """The published number beside a row of ours, and what is to be said of the two."""
    reference = _reference(plan, method)
    if reference is None:
        return {"published": "-", "verdict": "no published number"}
    judged, gap = {"published": _published(reference), "reference": reference.score}, row["point"] - reference.score
    if dummy:
        verdict = "means nothing"
    elif (row["n_test"], row["n_labels"]) != (reference.n_test, plan.corpus.n_labels):
        verdict = f"{gap:+.3f}, on another test set"
    elif not method.startswith(zoo.PREFIX):
        verdict = f"{gap:+.3f}, a smaller network"
    else:
        size = abs(round(gap, 4))
        verdict = f"{gap:+.3f}: " + (
            "reproduced" if size <= REPRODUCED else "close" if size <= CLOSE else "deviates, explain"
        )
    return judged | {"verdict": verdict}


def differences(plan: Plan, table: pd.DataFrame) -> list[str]:
    """Where the protocol here is another than the published one, a sentence each."""
    corpus, lines = plan.corpus, []
    scored = table.dropna(subset=["point"])
    n_test, n_labels = int(scored["n_test"].iloc[0]), int(scored["n_labels"].max())
    name, whole = corpus.options["label_set"], WHOLE[corpus.version]
    of = plan.numbers["n_test"].iloc[0] if len(plan.numbers) else None
    if of and n_test != of:
        lines.append(f"test records: {n_test:,} here, {of:,} in the published test set {name}")
    elif not of:
        lines.append(f"no number is published on {name} of version {corpus.version} in docs/published.csv")
        lines += [f"test records: {n_test:,} here, of {whole:,} in fold 10"]
    if n_labels < corpus.n_labels:
        lines.append(f"labels: {n_labels} of {corpus.n_labels} are scored, the others have no example here")
    if plan.model in BASELINES:
        return lines
    card, reference = zoo.card(plan.model), _reference(plan, f"zoo:{plan.model}")
    if not corpus.fastest and card.chain.fs > corpus.options["rate"]:
        lines.append(
            f"{card.title} reads {card.chain.fs:g} Hz; here it is fed from {corpus.options['rate']} Hz recordings"
        )
    if reference is not None:
        recipe = reference.linear_recipe or "not stated"
        lines.append(f"probe: published, {recipe}; here AdamW, rate 1e-3, batch 128, validation loss says when to stop")
        lines.append(
            f"crops of {reference.crop_s} s, whose features are averaged here; the published way is not stated"
        )
        lines.append("interval: over patients, a label that a resample lacks is left out of its average")
    return lines


def report(plan: Plan, root: Path, out="") -> str:
    """Write reproduction.csv and .md into `out` ("": the results of the study); returns the text of the second."""
    folder = Path(out) if out else root / plan.folder / "results"
    csv, page = outputs(folder)
    table = compare(plan, root)
    corpus, title = plan.corpus, f"{plan.corpus.name} {plan.corpus.version}, {plan.corpus.options['label_set']}"
    title += f" ({corpus.n_labels} labels, macro AUROC on fold 10, 95 % interval)"
    parts = [title, table[COLUMNS].to_markdown(index=False, disable_numparse=True)]
    if plan.lacking:
        parts.append(no_weights(plan))
    if plan.weights == "dummy" and plan.model not in BASELINES:
        parts.append(zoo.DUMMY_WARNING.upper())
    parts.append("\n".join(["Differences of protocol:", *(f"- {line}" for line in differences(plan, table))]))
    text = "\n\n".join(parts)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_csv(table.drop(columns="here"), csv)
    files.write_atomic(page, f"{text}\n")
    return text


def outputs(folder: Path) -> tuple[Path, Path]:
    """The two files of `report`; EcgError where others of these names are there."""
    csv = files.output_file(Path(folder, "reproduction.csv"), lambda path: path.read_text().startswith("method,"))
    page = files.output_file(
        Path(folder, "reproduction.md"), lambda path: "macro AUROC on fold 10" in path.read_text().partition("\n")[0]
    )
    return csv, page
