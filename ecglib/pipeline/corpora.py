"""Commands on corpora: reports read as labels, leaks, fetching, the table of what there is."""

from pathlib import Path

import pandas as pd

from ecglib import EcgError, datasets
from ecglib.data import fetch, files, labels, leaks, reports
from ecglib.evaluation import agreement

READ = "report_read"  # the last column of a label file: share of the words of the report that a rule knows
_CELL = {labels.PRESENT: "1", labels.ABSENT: "0", labels.POSSIBLE: "possible", labels.UNKNOWN: ""}


def label_reports(source: Path, columns: list[str], out: Path) -> str:
    """Read the reports of a CSV table and write it again with a column per label; what was read, in lines.

    source: table; columns: those that hold the report, joined (MIMIC-IV-ECG has 18). out: a table that the corpus
    `folder` takes for labels: 1 present, 0 absent, possible, empty where nothing is said; labels that no report names
    have no column. Raises EcgError for an unreadable table, a missing column, a column that a label is named like, and
    a file `out` that is not from this command.
    """
    out = files.output_file(out, lambda path: path.read_text("utf-8").split("\n", 1)[0].endswith(f",{READ}"))
    table = datasets.text_table(source, columns)
    texts = table[columns].agg("\n".join, axis=1)
    states = reports.read_all(texts)
    named = [name for name in states if (states[name] != labels.UNKNOWN).any()]
    if taken := [name for name in (*named, READ) if name in table]:
        raise EcgError(f"the table has a column {taken[0]} already", file=source, field=taken[0], fix="rename it")
    if not named:
        fix = "reports in English, German or Swedish are read; name their column by --column"
        raise EcgError("no report names a finding", file=source, field=columns[0], fix=fix)
    cells = states[named].replace(_CELL).astype(str)
    share = [f"{_share(text):.2f}" if text.strip() else "" for text in texts]
    files.write_csv(pd.concat([table, cells], axis=1).assign(**{READ: share}), out)
    return f"{_counts(states[named])}\n\n{summary(states.attrs['reading'])}"


def _share(text: str) -> float:
    reading = reports.read(text)
    lost = sum(len(run.split()) for run in reading.unread)
    return 1 - lost / reading.n_words if reading.n_words else 1.0


def _counts(states: pd.DataFrame) -> str:
    counts = pd.DataFrame(labels.counts(states)).T.rename_axis("label").reset_index()
    return counts.drop(columns="unknown").sort_values("present", ascending=False, kind="stable").to_string(index=False)


def summary(reading: dict) -> str:
    """What `reports.read_all` says of its reading, in lines."""
    unread = ", ".join(f"{run} ({count})" for run, count in list(reading["unread"].items())[:10])
    lines = [
        f"{reading['n_reports']:,} reports, {reading['n_silent']:,} without any label; {reading['read']:.1%} of "
        f"{reading['words']:,} words are known to a rule",
        f"commonest words that are not: {unread or 'none'}",
    ]
    if reading["conflicts"]:
        said = ", ".join(f"{key} ({count})" for key, count in reading["conflicts"].items())
        lines.append(f"stated and denied in one report (counted as present): {said}")
    return "\n".join(lines)


def report_agreement(module, root: Path, **options) -> tuple[pd.DataFrame, dict]:
    """How far the reports of a corpus agree with its own statements: table (`agreement.agreement`), and the reading.

    module: a dataset; root: its folder; options: of the dataset. Raises EcgError for a corpus without reports, and as
    the dataset does.
    """
    records = module.records(root, **options)
    if not (records.report.fillna("") != "").any():
        raise EcgError(f"{module.CORPUS or 'the corpus'} has no reports", file=root, field="report")
    truth = module.labels(root, records, **options)
    said = reports.read_all(records.set_index("record_id").report)
    return agreement.agreement(said, truth, records.patient_id), said.attrs["reading"]


def write_readers(module, root: Path, out: Path) -> str:
    """Write who called what in a corpus that several people have read, as `agreement.load_readers` takes it; in words.

    module: a dataset with a function `readers`; root: its folder. The labels are those of the common vocabulary.
    Raises EcgError for another dataset, as the dataset does, and for a file `out` that is not from this command.
    """
    if not hasattr(module, "readers"):
        able = [name for name in datasets.names() if hasattr(datasets.get(name), "readers")]
        reason = f"{module.__name__.rpartition('.')[2]} says nothing of several readers"
        raise EcgError(reason, field="dataset", fix=f"a dataset that does: {', '.join(able)}")
    columns = ",".join(agreement.COLUMNS)
    out = files.output_file(out, lambda path: path.read_text("utf-8").split("\n", 1)[0] == columns)
    table = module.readers(root)
    files.write_csv(table[list(agreement.COLUMNS)], out)
    present = table.groupby(["reader", "label"], sort=False).call.sum().unstack("label")
    lines = [f"{out}: {table.record_id.nunique()} recordings; present by reader and label:", present.to_string()]
    return "\n".join([*lines, "beside a model: notebook 06, parameter readers_csv"])


def scan(places: list[str], out: Path | None, progress=None) -> str:
    """Look for leaks within and between packed cohorts or folders of WFDB records; what was found, in lines.

    out: table of all pairs to write. Raises EcgError for a place that is neither, one that is named twice, and a file
    `out` that is not from this command.
    """
    if out:
        columns = ",".join(leaks.COLUMNS)
        out = files.output_file(out, lambda path: path.read_text("utf-8").startswith(columns))
    corpora = [leaks.open(place) for place in places]
    names = [tracings.name for tracings in corpora]
    if twice := [name for name in names if names.count(name) > 1]:
        raise EcgError(
            f"two of them are called {twice[0]!r}", field="places", fix="give folders with names of their own"
        )
    pairs = leaks.copies(corpora, progress=progress)
    lines = [tracings.note for tracings in corpora if tracings.note]
    lines += [leaks.summary(corpora, pairs).to_string(index=False)]
    for tracings in corpora:
        people = leaks.patients(tracings)
        lines += [f"one person, {tracings.name}: {row.records} {row.splits}".rstrip() for row in people.itertuples()][
            :10
        ]
    if len(pairs):
        lines += ["", pairs.head(20).to_string(index=False)]
    if len(pairs) > 20:
        lines.append(f"... and {len(pairs) - 20:,} more pairs" + ("" if out else "; --out FILE.csv has all"))
    if out:
        files.write_csv(pairs, out)
    return "\n".join(lines)


def table() -> pd.DataFrame:
    """What public corpora there are, and how this library reads them: a row per corpus.

    labels: how many labels of the common vocabulary the corpus states in full; pretrained models: published models
    that have seen it, or a part of it. Readers of no public corpus (`folder`, `simulated`) stand at the end.
    """
    from ecglib import zoo

    common = labels.vocabulary("harmonised")
    seen = {name: zoo.card(name).corpora for name in zoo.names()}
    public = fetch.corpora()
    public = public.assign(reader=[_reader(row) for row in public.itertuples()])
    rows = public[["name", "records", "patients", "leads", "fs", "licence", "access", "reader", "holds"]].to_dict(
        "records"
    )
    rows += [
        {"name": name, "licence": datasets.get(name).LICENCE, "reader": name}
        for name in datasets.names()
        if name not in set(public.reader)
    ]
    for row in rows:
        module = datasets.get(row["reader"]) if row["reader"] else None
        source = getattr(module, "VOCABULARY", None)
        usable = common[f"relation_{source}"].isin(labels.USABLE) if source else []
        if source == "cinc" and module.CORPUS:  # the codes of the Challenge do not mean the same in all of its corpora
            usable = common.key.isin(labels.challenge_keys(module.CORPUS))
        row["labels"] = str(int(sum(usable))) if module else ""
        held = {getattr(module, "CORPUS", "") or row["name"], *row.pop("holds", "").split("|")}
        row["pretrained models"] = ", ".join(model for model, corpora in seen.items() if held & set(corpora))
    parts = [part for row in rows if row["name"] == "cinc2021" for part in _parts(row, seen)]
    at = [row["name"] for row in rows].index("cinc2021") + 1
    rows = [*rows[:at], *parts, *rows[at:]]
    return pd.DataFrame(rows).fillna("").rename(columns={"fs": "rate (Hz)"})


def _reader(row) -> str:
    """The dataset that reads a corpus of the table: the one named there, or the file of its name (shdb-af: shdb_af)."""
    same = row.name.replace("-", "_")
    return row.reader or (same if same in datasets.names() else "")


def _parts(row: dict, seen: dict) -> list[dict]:
    """A row for each corpus of the Challenge: a label or a model that concerns one need not concern the others."""
    module = datasets.get(row["reader"])
    return [
        row
        | {"name": f"cinc2021/{corpus}", "records": str(n), "fs": rate, "patients": ""}
        | {"labels": str(len(labels.challenge_keys(corpus)))}
        | {"pretrained models": ", ".join(model for model, corpora in seen.items() if corpus in corpora)}
        for corpus, (n, rate) in module.PARTS.items()
    ]


def fetch_corpus(name: str, out: Path, source: str, only, workers: int, progress) -> str:
    """Fetch a corpus with `ecglib.data.fetch`; where it is and what to do with it, in lines."""
    done = fetch.fetch(name, out, source, only, workers, progress)
    lines = [
        f"{out}: {done.files:,} files, {done.came:,} of them now ({done.bytes / 1e6:,.1f} MB in {done.seconds:,.0f} s "
        f"from {done.source}), {done.verified:,} verified by their published checksums"
    ]
    reader = _reader(next(row for row in fetch.corpora().itertuples() if row.name == name))
    if reader:
        try:
            lines.append(f"{len(datasets.get(reader).records(out)):,} recordings are there for the reader {reader}")
        except EcgError as error:
            lines.append(f"the reader {reader} cannot use it yet: {error}")
    lines += [
        f"the study on real recordings: make real DATA={out.parent}",
        pinning(out),
        "to share them: dvc remote add -d team s3://BUCKET/FOLDER; dvc push; then the others: dvc pull",
    ]
    return "\n".join(lines)


def pinning(out: Path) -> str:
    """How DVC pins a fetched folder, and what becomes of data.dvc, which pins the simulated hospitals in data/."""
    if Path("data").resolve() in (folder := Path(out).resolve(), *folder.parents):
        return "data.dvc no longer says what is in data; to pin these bytes with the rest of it: dvc add data"
    return f"data.dvc is unchanged; to pin these bytes in a file of their own: dvc add {out}; git add {out}.dvc"
