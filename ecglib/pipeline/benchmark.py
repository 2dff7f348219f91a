"""`ecglib benchmark`: the tasks of published benchmarks beside what this study has, and which corpora are missing.

Tasks, their protocols, where our numbers stand and what differs are data (docs/benchmark_tasks.yaml), and so are the
published numbers (docs/published_benchmarks.csv). Finished results are read; a probe is run only where it is asked for
by the name of its encoder, and a packed cohort is there.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ecglib import EcgError, require_known
from ecglib.data import fetch, files, splits
from ecglib.evaluation import bootstrap, predictions
from ecglib.evaluation.predictions import BASELINES
from ecglib.pipeline import notebooks
from ecglib.reporting import tables

TASKS, NUMBERS = Path("docs/benchmark_tasks.yaml"), Path("docs/published_benchmarks.csv")
ROW = ["method", "trained", "score", "low", "high", "n"]  # n: records of the test set
COLUMNS = ["protocol", "task", "metric", *ROW]
TEST_SET = ["label_set", "version", "n_test"]  # of a published number; "": not stated
NUMBER_COLUMNS = ["protocol", "task", *TEST_SET, "system", "how", "metric", "score", "low", "high", "source"]
PROBE = {"fractions": [1.0], "seeds": 1, "whole_seeds": 1, "folds": 0, "min_positives": 10}
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}  # of the patients of a corpus that comes without a split
LEAST = 200  # records of such a corpus: fewer leave no test set worth a number
FIRST_LINE = "# Published benchmarks, and how far they are filled here"


@dataclass
class Task:
    """One task of a benchmark; ours: where our result is, of which kind (KINDS)."""

    protocol: str
    name: str
    corpora: list
    metric: str
    protocol_text: str = ""
    n_test: int = 0
    ours: dict = field(default_factory=dict)
    differences: list = field(default_factory=list)


def read_tasks(path, protocol: str = "") -> tuple[dict, dict, list[Task]]:
    """(protocol -> what the file says of it, corpus -> where it is had, tasks) of docs/benchmark_tasks.yaml.

    protocol: only of this one. Raises EcgError for an unknown protocol, kind of result or field of a task.
    """
    content = yaml.safe_load(Path(path).read_text("utf-8"))
    require_known("protocol", [protocol] if protocol else [], list(content["protocols"]), "--protocol")
    chosen = {name: value for name, value in content["protocols"].items() if protocol in ("", name)}
    tasks = []
    for name, about in chosen.items():
        for fields in about["tasks"]:
            fields = {"protocol_text" if key == "protocol" else key: value for key, value in fields.items()}
            try:
                tasks.append(Task(protocol=name, **fields))
            except TypeError as error:
                raise EcgError(str(error), file=path, field=fields.get("name"), fix="see pipeline.benchmark") from error
            require_known("kind", [k for k in [tasks[-1].ours.get("kind")] if k], KINDS, fields["name"], path)
    return chosen, content["corpora"], tasks


def read_numbers(path) -> pd.DataFrame:
    """The published numbers of benchmarks, one a row (NUMBER_COLUMNS).

    Raises EcgError for a lacking column or source, a number on PTB-XL without its test set (TEST_SET), and two test
    sets for one task.
    """
    numbers = pd.read_csv(path, dtype={name: str for name in NUMBER_COLUMNS if name not in ("score", "low", "high")})
    for name in NUMBER_COLUMNS:
        lacking = name not in numbers
        if not lacking and name in TEST_SET:
            lacking = numbers[name].isna() & numbers["task"].str.startswith("PTB-XL")
        elif not lacking and name not in ("low", "high"):
            lacking = numbers[name].isna()
        if np.any(lacking):
            reason = f"a row without {name}" if name in numbers else f"no column {name}"
            raise EcgError(reason, file=path, field=name, fix=f"give {', '.join(NUMBER_COLUMNS)}")
    numbers = numbers.fillna(dict.fromkeys(TEST_SET, ""))
    several = numbers.groupby(["protocol", "task"])[TEST_SET].nunique().max(axis=1) > 1
    if several.any():
        fix = "give each test set a task of its own"
        raise EcgError(f"several test sets of {several.idxmax()[1]}", file=path, field="n_test", fix=fix)
    return numbers


def _probe(task: Task, results: Path, root: Path, out: Path) -> pd.DataFrame:
    """Macro AUROC on the test patients, of probes with all labels: finished ones of the study, and those of `run`."""
    ours = task.ours
    folders = [*results.glob(f"probe/{ours['task']}-*"), *out.glob(f"probe/{ours['cohort']}-*")]
    return _probed(sorted(folders), ours.get("label_set", ""))


def _study(task: Task, results: Path, root: Path, out: Path) -> pd.DataFrame:
    """The same of the studies that `ecglib reproduce` has run."""
    label_set = task.ours["label_set"]
    return _probed(sorted(root.glob(f"studies/reproduce-*-{label_set}/results/probe/*")), label_set)


def _probed(folders, label_set: str) -> pd.DataFrame:
    found = [folder / "predictions.parquet" for folder in folders if not files.is_passing(Path(folder.name))]
    found = [file for file in found if file.is_file()]
    if not found:
        return pd.DataFrame(columns=ROW)
    table = predictions.load(found)
    stated = table["label_set"].astype(str) if "label_set" in table else pd.Series("", table.index)
    mine = (table["split"] == "test") & (table["fraction"] == 1.0) & (stated.str.startswith(label_set) | (stated == ""))
    table = predictions.compared(table[mine])
    if table.empty:
        return pd.DataFrame(columns=ROW)
    scored = tables.scores(table, ("auroc",))
    macro = scored[scored["label"] == tables.MACRO]
    columns = {"method": "encoder", "trained": "mode", "score": "point", "low": "low", "high": "high", "n": "n_records"}
    return pd.DataFrame({ours: macro[theirs].to_numpy() for ours, theirs in columns.items()})


def _table(task: Task, results: Path, root: Path, out: Path) -> pd.DataFrame:
    """Rows of a table of scores with intervals, such as those of notebook 06."""
    rows = _rows(task, results)
    columns = {"method": "encoder", "trained": "mode", "score": "point", "low": "low", "high": "high", "n": "n"}
    return pd.DataFrame({ours: rows[theirs].to_numpy() for ours, theirs in columns.items()}, columns=ROW)


def _beats(task: Task, results: Path, root: Path, out: Path) -> pd.DataFrame:
    """Mean F1 of the classes of beats, from counts of each record; intervals over patients."""
    rows, classes = _rows(task, results), task.ours["classes"]
    if rows.empty:
        return pd.DataFrame(columns=ROW)
    counts = rows.pivot_table(index=["record_id", "patient_id"], columns="class", values=["true", "called", "both"])
    wanted = [(what, name) for name in classes for what in ("both", "true", "called")]
    counts = counts.reindex(columns=wanted, fill_value=0).fillna(0)
    patients = counts.index.get_level_values("patient_id").astype(str).to_numpy()
    result = bootstrap.of_sums(counts.to_numpy(), patients, mean_f1)["f1"]
    n = int(rows.drop_duplicates("record_id")["beats"].sum())
    return pd.DataFrame(
        [["the model that notebook 08 chose", "supervised", result.point, result.low, result.high, n]], columns=ROW
    )


def mean_f1(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Mean over classes of 2 both / (true + called): sums (replicate, 3 x class) -> f1; a class that neither occurs nor
    is called has none."""
    both, true, called = (sums[:, i::3] for i in range(3))
    with np.errstate(invalid="ignore"):
        each = 2 * both / (true + called)
    known = np.isfinite(each)
    return {"f1": np.where(known, each, 0).sum(1) / np.maximum(known.sum(1), 1)}


def _peaks(task: Task, results: Path, root: Path, out: Path) -> pd.DataFrame:
    """F1 of R peaks of each detector, from counts of each record; intervals over patients."""
    rows = []
    for name, counts in _rows(task, results).groupby("detector", sort=False):
        patients = counts["patient_id"].astype(str).to_numpy()
        triples = np.stack([counts["tp"], counts["tp"] + counts["fn"], counts["tp"] + counts["fp"]], 1)
        result = bootstrap.of_sums(triples, patients, mean_f1)["f1"]
        rows.append([name, "not learned", result.point, result.low, result.high, int(triples[:, 1].sum())])
    return pd.DataFrame(rows, columns=ROW)


KINDS = {"probe": _probe, "study": _study, "table": _table, "beats": _beats, "peaks": _peaks}


def _rows(task: Task, results: Path) -> pd.DataFrame:
    """The rows of a table of the results that the task is about; none where there is no such file."""
    path = results / task.ours["file"]
    if not path.is_file():
        return pd.DataFrame(columns=["encoder", "mode", "point", "low", "high", "n", "detector"])
    rows = pd.read_csv(path)
    for name, value in task.ours.get("where", {}).items():
        if name not in rows:
            raise EcgError(f"no column {name}", file=path, field=name, fix="run its notebook again")
        rows = rows[rows[name] == value]
    return rows


def fill(tasks: list[Task], results: Path, root: Path, out: Path) -> pd.DataFrame:
    """Our numbers, a row (COLUMNS) per task and method; tasks without any have none."""
    found, kept = [], {}
    for task in tasks:
        if not task.ours:
            continue
        key = json.dumps(task.ours, sort_keys=True)
        kept[key] = kept[key] if key in kept else KINDS[task.ours["kind"]](task, results, root, out)
        metric = task.ours.get("metric", task.metric)
        found.append(kept[key].assign(protocol=task.protocol, task=task.name, metric=metric))
    found = [table for table in found if len(table)]
    return pd.concat(found, ignore_index=True)[COLUMNS] if found else pd.DataFrame(columns=COLUMNS)


def packed(results: Path, name: str) -> dict[str, int]:
    """Split -> records of a packed cohort of the results; empty where it is not packed."""
    path = results / "cohorts" / name / "cohort.json"
    return json.loads(path.read_text("utf-8"))["counts"]["rows_by_split"] if path.is_file() else {}


def has_split(rows: dict[str, int]) -> bool:
    return set(SHARES) <= set(rows)


def enough(rows: dict[str, int]) -> bool:
    """Whether a probe can learn from a cohort and be tested on it, as it is split or after `dealt`."""
    return has_split(rows) or sum(rows.values()) >= LEAST


def dealt(source: Path, target: Path) -> Path:
    """The cohort `source`, all of it for external testing, with its patients dealt into SHARES; returns `target`.

    Signals are linked, not copied; patients are spread evenly by the rarest label that they have. EcgError where
    `target` holds anything but an earlier one.
    """
    with files.new_folder(target, _of_dealt, [source]) as part:
        for path in source.iterdir():
            if path.name in ("records.parquet", "cohort.json") or not path.is_file():
                continue
            try:
                os.link(path, part / path.name)
            except OSError:  # another file system
                shutil.copyfile(path, part / path.name)
        records = pd.read_parquet(source / "records.parquet")
        states = pd.read_parquet(source / "labels.parquet").drop_duplicates("record_id").set_index("record_id")
        records["split"] = splits.assign(records, SHARES, labels=states.loc[records["record_id"]])
        records.to_parquet(part / "records.parquet", index=False)
        info = json.loads((source / "cohort.json").read_text("utf-8"))
        info["counts"]["rows_by_split"] = {name: int(n) for name, n in records["split"].value_counts().items()}
        written = sorted({"cohort.json", *(path.name for path in part.iterdir())} - {files.KEY})
        info |= {"dealt": SHARES, "files": written}
        files.write_atomic(part / "cohort.json", json.dumps(info, indent=1) + "\n")
    return target


def _of_dealt(folder: Path) -> list[str]:
    """The files of a cohort that `dealt` wrote; none for any other."""
    info = json.loads((folder / "cohort.json").read_text("utf-8"))
    return info["files"] if "dealt" in info else []


def missing(task: Task, results: Path, elsewhere: dict) -> str:
    """What stands between a task and a number of ours: corpora and where they are had, or the command to run."""
    kind, cohort = task.ours.get("kind"), task.ours.get("cohort", "")
    rows = packed(results, cohort) if kind == "probe" else {}
    if rows and enough(rows):
        return f"{cohort} is packed: add --probe NAME of an encoder or baseline"
    if rows:
        return f"{cohort} is packed, but its {sum(rows.values())} records are too few to train and to test on"
    if kind == "study":
        return f"ecglib reproduce features --on ptb-xl --data FOLDER --labels {task.ours['label_set']}"
    if kind == "probe":
        return f"cohort {cohort} is not packed; {'; '.join(map(partial(_had, elsewhere), task.corpora))}"
    return "; ".join(map(partial(_had, elsewhere), task.corpora))


def _had(elsewhere: dict, corpus: str) -> str:
    """Where a corpus is had."""
    if corpus in elsewhere:
        return f"{corpus}: {elsewhere[corpus]}"
    table = fetch.corpora()
    rows = table[(table["name"] == corpus) | table["holds"].str.split("|").map(lambda names: corpus in names)]
    if rows.empty:
        return f"{corpus}: not in `ecglib datasets`"
    row = rows.iloc[0]
    how = f"`ecglib fetch {row['name']}`" if row["access"] == "open" else row["source"]
    return f"{corpus}: {row['licence']}, {row['access']}, {how}"


def run(names, tasks: list[Task], results: Path, root: Path, out: Path, say=print) -> None:
    """Run linear probes of kept encoders (folders of results/pretrain) or baselines `names` on every packed cohort of
    a task that has no number yet, by notebook 03 into out/probe. A cohort without training patients is `dealt`.
    EcgError for a name that is neither."""
    kept = {path.parent.name: path.parent for path in sorted(results.glob("pretrain/*/encoder.json"))}
    require_known("encoder", names, [*kept, *BASELINES], "--probe")
    wanted = {task.ours["cohort"]: task for task in tasks if names and task.ours.get("kind") == "probe"}
    notebook = root / "notebooks/03_linear_probing.ipynb"
    near = partial(os.path.relpath, start=notebook.parent)
    for cohort, task in wanted.items():
        rows = packed(results, cohort)
        if not enough(rows) or any(results.glob(f"probe/{task.ours['task']}-*/predictions.parquet")):
            continue
        home = results / "cohorts" / cohort
        home = home if has_split(rows) else dealt(home, out / "cohorts" / cohort)
        for name in names:
            method = name.rpartition("-")[2]
            folder = out / "probe" / f"{cohort}-{method}"
            if (folder / "predictions.parquet").is_file():
                continue
            say(f"probe of {name} on {cohort}")
            given = PROBE | {"cohort_dir": near(home), "externals": [], "method": method}
            notebooks.execute(notebook, folder, given | ({"pretrained": near(kept[name])} if name in kept else {}))


def overview(tasks: list[Task], ours: pd.DataFrame, results: Path, elsewhere: dict) -> pd.DataFrame:
    """A row per task: metric, how many of our methods, baselines with intervals, range of the others, what lacks."""
    rows = []
    for task in tasks:
        mine = ours[(ours["protocol"] == task.protocol) & (ours["task"] == task.name)]
        row = {"task": task.name, "metric": task.metric}
        for name in ("random", "features", "scratch"):
            cells = [_interval(line) for line in mine[mine["method"] == name].itertuples()]
            row[name] = cells[0] if cells else "-"
        rest = mine[np.array([not predictions.is_baseline(method) for method in mine["method"]], bool)]
        row["others, lowest to highest"] = _range(rest["score"], len(rest))
        row["lacking"] = "" if len(mine) else missing(task, results, elsewhere)
        if len(mine) and task.ours.get("part"):
            row["lacking"] = f"only {task.ours['part']}, {task.ours['metric']}"
        rows.append(row)
    return pd.DataFrame(rows)


def told(lacking: pd.DataFrame) -> dict[str, str]:
    """The overview in words: task -> our numbers, or what is missing."""
    lines = {}
    for row in lacking.to_dict("records"):
        scores = [f"{name} {row[name]}" for name in ("random", "features", "scratch") if row[name] != "-"]
        others = row["others, lowest to highest"]
        scores += [f"others {others}"] if others != "-" else []
        said = [f"{row['metric']}: {', '.join(scores)}"] if scores else []
        lines[f"{row['protocol']}, {row['task']}"] = "; ".join([*said, *([row["lacking"]] if row["lacking"] else [])])
    return lines


def _range(scores, number: int) -> str:
    if number < 2:
        return f"{scores.iloc[0]:.3f}" if number else "-"
    return f"{min(scores):.3f} to {max(scores):.3f} ({number})"


def _interval(row) -> str:
    return f"{row.score:.3f}" if np.isnan(row.low) else tables.with_interval(row.score, row.low, row.high)


def page(chosen: dict, tasks: list[Task], ours: pd.DataFrame, numbers: pd.DataFrame, lacking: pd.DataFrame) -> str:
    """The text of benchmark_tables.md."""
    parts = [FIRST_LINE]
    for name, about in chosen.items():
        mine = [task for task in tasks if task.protocol == name]
        filled = [task for task in mine if len(_of(ours, task))]
        parts += [f"## {about['title']}", f"{about['paper']}. {about['about']} Source: {about['source']}."]
        parts += [f"{len(filled)} of {len(mine)} tasks have a number here."]
        parts += [lacking[[task.protocol == name for task in tasks]].to_markdown(index=False, disable_numparse=True)]
        if about["published"]:
            whole = numbers[(numbers["protocol"] == name) & ~numbers["task"].isin([task.name for task in mine])]
            lines = [f"- {r.task}: {r.system}, {r.how}, {_interval(r)} ({r.source})" for r in whole.itertuples()]
            parts += [about["published"], "\n".join(lines)]
        for task in filled:
            parts += _section(task, _of(ours, task), _of(numbers, task))
    return "\n\n".join(parts) + "\n"


def _of(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    return table[(table["protocol"] == task.protocol) & (table["task"] == task.name)]


def _section(task: Task, ours: pd.DataFrame, numbers: pd.DataFrame) -> list[str]:
    """Ours and the published numbers of one task, each in a table of its own, and what differs."""
    metric = task.ours.get("metric", task.metric)
    ours = ours.sort_values(["trained", "score"], ascending=[True, metric.startswith("mean absolute")])
    table = {"here": ours["method"] + ", " + ours["trained"], metric: [_interval(row) for row in ours.itertuples()]}
    parts = [f"### {task.name}", *([f"Protocol: {task.protocol_text}."] if task.protocol_text else [])]
    parts += [pd.DataFrame(table | {"n": ours["n"]}).to_markdown(index=False, disable_numparse=True)]
    if len(numbers):
        table = {
            "published": numbers["system"] + ", " + numbers["how"],
            task.metric: [_interval(row) for row in numbers.itertuples()],
        }
        parts += [_stated(numbers.iloc[0]), pd.DataFrame(table).to_markdown(index=False, disable_numparse=True)]
        parts += [f"Source: {'; '.join(dict.fromkeys(numbers['source']))}."]
    n, lines = int(ours["n"].max()), list(task.differences)
    if task.n_test and n != task.n_test:
        lines.insert(0, f"{n:,} test records here, {task.n_test:,} there: the numbers are not to be compared")
    return [*parts, "What differs:", "\n".join(f"- {line}" for line in lines)]


def _stated(number) -> str:
    """The line above published numbers: on which label set, version and number of records they were computed."""
    label_set, version, n = (number[name] for name in TEST_SET)
    facts = [f"label set `{label_set}`" if label_set else "label set not stated"]
    facts += [f"version {version}" if version else "version not stated"]
    facts += [f"{int(n):,} test records" if n else "number of test records not stated"]
    return f"Published: {', '.join(facts)}."


def outputs(out: Path) -> tuple[Path, Path]:
    """benchmark_tables.csv and .md in `out`; EcgError where others of these names are there."""
    csv = files.output_file(out / "benchmark_tables.csv", lambda path: path.read_text().startswith("protocol,task,"))
    text = files.output_file(out / "benchmark_tables.md", lambda path: path.read_text("utf-8").startswith(FIRST_LINE))
    return csv, text


def report(protocol: str, results, root: Path, out="", probe=(), say=print) -> pd.DataFrame:
    """Fill the tasks of a protocol ("": of all), write benchmark_tables.csv and .md into `out`, return the overview.

    results: folder of a study, such as results/real; out: "" for RESULTS/benchmark; probe: see `run`.
    Raises EcgError where there is no such folder, and for an unknown protocol, before any work.
    """
    results = Path(results)
    if not results.is_dir():
        fix = "run `make real DATA=FOLDER` first, or name another study by --results"
        raise EcgError("no results here", file=results, field="--results", fix=fix)
    chosen, elsewhere, tasks = read_tasks(root / TASKS, protocol)
    numbers, out = read_numbers(root / NUMBERS), Path(out or results / "benchmark")
    csv, text = outputs(out)
    run(probe, tasks, results, root, results / "benchmark", say)
    ours = fill(tasks, results, root, results / "benchmark")
    lacking = overview(tasks, ours, results, elsewhere)
    out.mkdir(parents=True, exist_ok=True)
    files.write_csv(ours, csv, float_format="%.6f")
    files.write_atomic(text, page(chosen, tasks, ours, numbers, lacking))
    return lacking.assign(protocol=[task.protocol for task in tasks])
