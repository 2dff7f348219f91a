"""`ecglib benchmark` on tiny results: what is filled, what is missing and where it is had, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from ecglib import EcgError
from ecglib.evaluation import predictions
from ecglib.pipeline import benchmark, cli
from ecglib.pipeline.stages import ROOT
from ecglib.reporting import tables

LABELS = ["NORM", "MI"]
SET = "super-2198 of 1.0.3"


def predicted(encoder: str, mode: str, seed: int, label_set: str = SET) -> pd.DataFrame:
    """Predictions of 40 patients at all and at a tenth of the labels, on test and validation records."""
    draw = np.random.default_rng(seed)
    rows = []
    for split in ("test", "val"):
        for fraction in (0.1, 1.0):
            for i in range(40):
                for k, label in enumerate(LABELS):
                    truth = (i + k) % 2 if i % 3 else i % 2
                    p = np.clip(0.3 + 0.3 * truth + 0.2 * draw.standard_normal(), 0, 1)
                    rows.append([str(i), str(i // 2), "ptb-xl", split, label, truth, p, encoder, mode, fraction])
    names = ["record_id", "patient_id", "cohort", "split", "label", "truth", "probability", "encoder", "mode"]
    return pd.DataFrame(rows, columns=[*names, "fraction"]).assign(seed=0, label_set=label_set)


def write(table: pd.DataFrame, folder) -> None:
    folder.mkdir(parents=True)
    predictions.write(table.astype({"probability": "float32"}), folder / "predictions.parquet")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A study with two probes of PTB-XL, counts of peaks and beats, ages, and two packed cohorts."""
    folder = tmp_path_factory.mktemp("results")
    write(predicted("random", "linear", 0), folder / "probe/ptbxl-random")
    write(predicted("mae", "linear", 1), folder / "probe/ptbxl-mae")
    rhythm = folder / "rhythm_and_beats"
    rhythm.mkdir()
    peaks = [["house", "100", "100", "MIT-BIH", 90, 10, 5], ["house", "200", "200", "MIT-BIH", 50, 0, 0]]
    peaks += [["house", "1", "1", "QTDB", 1, 9, 9]]
    columns = ["detector", "record_id", "patient_id", "corpus", "tp", "fn", "fp"]
    pd.DataFrame(peaks, columns=columns).to_csv(rhythm / "rpeaks_per_record.csv", index=False)
    beats = [
        ["100", "100", "N", 80, 84, 78, 90],
        ["100", "100", "V", 10, 6, 4, 90],
        ["200", "200", "N", 50, 50, 50, 50],
    ]
    columns = ["record_id", "patient_id", "class", "true", "called", "both", "beats"]
    pd.DataFrame(beats, columns=columns).to_csv(rhythm / "beats_per_record.csv", index=False)
    for name, splits in (("cpsc2018", {"train": 20, "val": 5, "test": 5}), ("georgia", {"external": 20})):
        (folder / "cohorts" / name).mkdir(parents=True)
        content = json.dumps({"counts": {"rows_by_split": splits}})
        (folder / "cohorts" / name / "cohort.json").write_text(content)
    (folder / "pretrain/ptbxl-mae").mkdir(parents=True)
    (folder / "pretrain/ptbxl-mae/encoder.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def filled(results, tmp_path_factory):
    """(overview, our numbers, text of the page)."""
    out = tmp_path_factory.mktemp("out")
    overview = benchmark.report("", results, ROOT, out).set_index(["protocol", "task"])
    return overview, pd.read_csv(out / "benchmark_tables.csv"), (out / "benchmark_tables.md").read_text("utf-8")


def test_probes_of_the_study_are_read_with_all_labels_on_test_patients(filled):
    _, ours, _ = filled
    row = ours[(ours.protocol == "eight-models") & (ours.task == "PTB-XL, super") & (ours.method == "mae")].iloc[0]
    table = predicted("mae", "linear", 1).query("split == 'test' and fraction == 1.0")
    each = [roc_auc_score(part.truth, part.probability.astype("float32")) for _, part in table.groupby("label")]
    assert row.score == pytest.approx(np.mean(each), abs=1e-6) and row.low < row.score < row.high and row.n == 40


def test_counts_of_peaks_and_beats_are_f1_over_patients(filled):
    _, ours, _ = filled
    peaks = ours[ours.task == "MIT-BIH, R peaks"].iloc[0]
    assert peaks.score == pytest.approx(2 * 140 / (2 * 140 + 10 + 5), abs=1e-6) and peaks.n == 150
    beats = ours[ours.task == "MIT-BIH, beats"].iloc[0]
    assert beats.score == pytest.approx((2 * 128 / (130 + 134) + 2 * 4 / 16) / 2, abs=1e-6)  # S, V, F, Q: only V occurs
    assert beats.n == 140 and beats.low <= beats.score <= beats.high


def test_what_is_missing_is_named_with_the_way_to_get_it(filled):
    overview, _, page = filled
    lacking = overview.lacking
    assert "physionet.org/content/apnea-ecg" in lacking["benchecg", "Sleep apnea"]
    assert lacking["eight-models", "CODE-15, all"].startswith("cohort code-15 is not packed")
    assert "`ecglib fetch code-15`" in lacking["eight-models", "CODE-15, all"]
    assert "sign" in lacking["eight-models", "MIMIC-IV-ECG, sex"]
    assert lacking["eight-models", "PTB-XL, all"].endswith("--labels all")
    assert lacking["eight-models", "CPSC2018, all"] == "cpsc2018 is packed: add --probe NAME of an encoder or baseline"
    assert "its 20 records are too few to train and to test on" in lacking["eight-models", "Georgia, all"]
    assert lacking["eight-models", "PTB-XL, super"] == "" and overview.random["eight-models", "PTB-XL, super"] != "-"
    assert "3 of 10 tasks have a number here" in page and "1 of 28 tasks" in page


def test_published_numbers_stand_beside_and_differences_are_said(filled):
    _, _, page = filled
    numbers = benchmark.read_numbers(ROOT / benchmark.NUMBERS)
    row = numbers.query("task == 'PTB-XL, super' and system == 'ECGFounder' and how == 'linear'").iloc[0]
    section = page.partition("### PTB-XL, super\n")[2].partition("\n### ")[0]
    assert f"| ECGFounder, linear   | {tables.with_interval(row.score, row.low, row.high)} |" in section
    assert "40 test records here, 2,198 there: the numbers are not to be compared" in section
    assert row.source in section and "xECG, finetune, 0.838" in page
    head = "Published: label set `super-2198`, version 1.0.3, 2,198 test records.\n\n| published "
    assert head in section and page.count("Published: ") == page.count("| published ") == 1


def test_a_published_table_is_headed_by_its_test_set_or_says_that_it_is_not_known():
    _, _, tasks = benchmark.read_tasks(ROOT / benchmark.TASKS)
    numbers = benchmark.read_numbers(ROOT / benchmark.NUMBERS)
    ours = pd.DataFrame([["mae", "linear", 0.8, 0.7, 0.9, 182]], columns=benchmark.ROW)
    for task in tasks:
        mine = benchmark._of(numbers, task)
        if len(mine):
            text = "\n\n".join(benchmark._section(task, ours, mine))
            if task.name.startswith("PTB-XL"):  # nothing is published for BenchECG
                label_set = task.ours["label_set"]
                assert f"Published: label set `{label_set}`, version 1.0.3, {task.n_test:,} test records.\n" in text
            else:
                assert "version not stated, number of test records not stated.\n\n| published " in text


def test_a_number_on_ptbxl_without_its_test_set_and_two_test_sets_in_one_table_are_refused(tmp_path):
    given = pd.read_csv(ROOT / benchmark.NUMBERS, dtype=str, keep_default_na=False)
    row = given.index[given.task == "PTB-XL, form"][3]
    for name in benchmark.TEST_SET:
        for value, said in (("", f"a row without {name}"), ("2158", "several test sets of PTB-XL, form")):
            changed = given.copy()
            changed.loc[row, name] = value
            changed.to_csv(tmp_path / "numbers.csv", index=False)
            with pytest.raises(EcgError, match=said):
                benchmark.read_numbers(tmp_path / "numbers.csv")


def test_published_numbers_agree_with_those_of_the_other_lists():
    ours = benchmark.read_numbers(ROOT / benchmark.NUMBERS)
    old = pd.read_csv(ROOT / "docs/published.csv").query("source == 'arXiv 2509.25095' and label_set == 'super-2198'")
    ours = ours[ours.task == "PTB-XL, super"].set_index(["system", "how"]).score
    assert len(old) > 5 and all(ours[row.system, row.how] == pytest.approx(row.score) for row in old.itertuples())


def test_every_task_of_the_list_can_be_had_or_says_where():
    chosen, elsewhere, tasks = benchmark.read_tasks(ROOT / benchmark.TASKS)
    assert {name: sum(task.protocol == name for task in tasks) for name in chosen} == {
        "benchecg": 10,
        "eight-models": 28,
    }
    told = set(benchmark.read_numbers(ROOT / benchmark.NUMBERS).task)
    assert {task.name for task in tasks if task.protocol == "eight-models"} == told - {"BenchECG score"}
    for task in tasks:
        text = benchmark.missing(task, ROOT / "nothing", elsewhere)
        assert text and "not in `ecglib datasets`" not in text, task.name
        assert not task.ours or task.differences, task.name


def test_probes_are_run_where_an_encoder_and_a_cohort_are_there(results, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark.notebooks, "execute", lambda *call: asked.append(call))
    _, _, tasks = benchmark.read_tasks(ROOT / benchmark.TASKS)
    benchmark.run(["ptbxl-mae", "features"], tasks, results, ROOT, tmp_path, say=lambda text: None)
    assert [folder.name for _, folder, _ in asked] == ["cpsc2018-mae", "cpsc2018-features"]
    mae, features = (given for _, _, given in asked)
    assert (
        mae["method"] == "mae" and (ROOT / "notebooks" / mae["pretrained"]).resolve() == results / "pretrain/ptbxl-mae"
    )
    assert "pretrained" not in features and features["fractions"] == [1.0] and features["externals"] == []
    with pytest.raises(EcgError, match="unknown encoder 'bert'"):
        benchmark.run(["bert"], tasks, results, ROOT, tmp_path)


def test_a_corpus_without_a_split_is_dealt_by_patient(tmp_path):
    source, n = tmp_path / "source", 600
    source.mkdir()
    ids = [f"r{i}" for i in range(n)]
    records = pd.DataFrame({"record_id": ids, "patient_id": [f"p{i // 2}" for i in range(n)], "split": "external"})
    records.to_parquet(source / "records.parquet", index=False)
    states = {"record_id": ids, "AFIB": [int(i < 100) for i in range(n)]}
    pd.DataFrame(states).astype({"AFIB": "int8"}).to_parquet(source / "labels.parquet", index=False)
    np.save(source / "signals.npy", np.zeros((n, 1, 2), np.int16))
    (source / "cohort.json").write_text(json.dumps({"counts": {"rows_by_split": {"external": n}, "packed": n}}))
    target = benchmark.dealt(source, tmp_path / "target")
    assert benchmark.dealt(source, target) == target, "again, into what it wrote"
    found = pd.read_parquet(target / "records.parquet")
    assert found.groupby("patient_id").split.nunique().max() == 1 and list(found.record_id) == ids
    shares = found.split.value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx(benchmark.SHARES, abs=0.02)
    assert found.split[:100].value_counts()["test"] == pytest.approx(10, abs=2), "spread by the rarest label"
    counts = json.loads((target / "cohort.json").read_text())["counts"]
    assert counts["rows_by_split"] == found.split.value_counts().to_dict() and counts["packed"] == n
    assert (target / "signals.npy").read_bytes() == (source / "signals.npy").read_bytes()
    assert set(pd.read_parquet(source / "records.parquet").split) == {"external"}
    (target / "notes.txt").write_text("keep")
    with pytest.raises(EcgError, match="notes.txt"):
        benchmark.dealt(source, target)
    assert (target / "notes.txt").read_text() == "keep"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(EcgError, match="mine"):
        benchmark.dealt(source, tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_what_cannot_be_is_refused_before_any_work(results, tmp_path):
    with pytest.raises(EcgError, match="no results here.*make real"):
        benchmark.report("", tmp_path / "nowhere", ROOT)
    with pytest.raises(EcgError, match="unknown protocol 'bench'.*benchecg"):
        benchmark.report("bench", results, ROOT, tmp_path)
    (tmp_path / "benchmark_tables.md").write_text("my notes")
    with pytest.raises(EcgError, match="not from this command"):
        benchmark.report("", results, ROOT, tmp_path)
    content = yaml.safe_load((ROOT / benchmark.TASKS).read_text("utf-8"))
    content["protocols"]["benchecg"]["tasks"][0]["ours"]["kind"] = "guess"
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(EcgError, match="unknown kind 'guess'"):
        benchmark.read_tasks(tmp_path / "tasks.yaml")
    (tmp_path / "numbers.csv").write_text("protocol,task\nbenchecg,x\n")
    with pytest.raises(EcgError, match="no column label_set"):
        benchmark.read_numbers(tmp_path / "numbers.csv")


def test_the_command_says_all_of_it_without_any_result(tmp_path):
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(cli.cli, ["benchmark", "--protocol", "benchecg", "--results", str(tmp_path / "empty")])
    assert done.exit_code == 0 and done.output.count("benchecg, ") == 10 and "benchmark_tables.md" in done.output
    assert "0 of 10 tasks" in (tmp_path / "empty/benchmark/benchmark_tables.md").read_text("utf-8")
