"""Recordings with marked waves: readers, spans without an unmarked beat, masks of training."""

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecglib import EcgError
from ecglib.data import annotations, wfdb_io
from ecglib.waves import delineation_net, marked
from ecgsim import hospitals


def write_marks(folder, name, ending, samples, signs):
    """An annotation file; the wfdb package writes no ending with a digit."""
    wfdb.wrann(name, "marks", np.array(samples), signs, write_dir=str(folder))
    (folder / f"{name}.marks").rename(folder / f"{name}.{ending}")


def test_signs_become_waves_and_a_boundary_that_nobody_set_is_unknown(tmp_path):
    signs, at = ["(", "p", ")", "(", "N", ")", "t", ")", "u", ")", "N"], np.arange(10, 120, 10)
    write_marks(tmp_path, "a", "q1c", at, signs)
    waves = marked.read_waves(annotations.read(tmp_path / "a.q1c"))
    np.testing.assert_array_equal(waves["P"], [[10, 20, 30]])
    np.testing.assert_array_equal(waves["QRS"], [[40, 50, 60], [np.nan, 110, np.nan]])
    np.testing.assert_array_equal(waves["T"], [[np.nan, 70, 80]])


def test_a_beat_that_nobody_marked_parts_the_spans():
    qrs = np.array([[95.0, 100, 105], [295, 300, 305], [695, 700, 705]])
    waves = {"P": np.zeros((0, 3)), "QRS": qrs, "T": qrs + 40}
    assert marked.runs_of_beats(waves, np.array([101, 299, 500, 702])) == [(95.0, 345.0), (695.0, 745.0)]
    assert marked.runs_of_beats(waves, np.array([101, 299, 702])) == [(95.0, 745.0)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    hospitals.generate(folder, hospitals=("A",), workers=1, scale=0.01)
    return folder


def test_simulated_marks_are_those_of_the_beats_at_250_hz(root):
    beats = pd.read_csv(root / "A/beats.csv", dtype={"record_id": str})
    found = list(marked.recordings("simulated", root, limit=5))
    assert len(found) == 5 and len({one.record_id for one in found}) == 5
    for one in found:
        mine = beats[beats.record_id == one.record_id]
        known = mine.qrs_off[mine.qrs_off >= 0].to_numpy()
        assert (
            one.waves[0]["QRS"][:, 2][~np.isnan(one.waves[0]["QRS"][:, 2])].tolist() == known.tolist()
        )  # A has 250 Hz
        assert one.signal.shape == (12, 2500) and not one.per_lead
        x, masks, valid = delineation_net.lead_masks(one, 2600)
        (first, last), qrs = one.spans[0][0], one.waves[0]["QRS"]
        whole = ~np.isnan(qrs).any(axis=1)
        assert masks[3, 1].sum() == (qrs[whole, 2] - qrs[whole, 0] + 1).sum()
        assert (
            not valid[:, 0, : int(first)].any() and not valid[:, 0, int(last) + 1 :].any() and not x[..., 2500:].any()
        )


def bell(time, centre, width):
    return np.exp(-0.5 * ((time - centre) / width) ** 2)


def test_a_lead_has_its_wave_where_its_own_bell_curve_passes_a_share_of_its_height():
    """A bell curve of width s is at a share q of its height at s sqrt(2 ln(1 / q)) to each side of its centre."""
    random, time, beats = np.random.default_rng(0), np.arange(2500), np.arange(150, 2400, 230)
    kinds = np.where(np.arange(len(beats)) % 5 == 2, "V", "N")
    x, spread = 0.01 * random.normal(size=(3, 2500)), np.sqrt(2 * np.log(1 / 0.1))
    x += 0.2 * np.sin(2 * np.pi * 0.2 * time / marked.FS)  # wander
    for at, kind in zip(beats, kinds, strict=True):
        shift = 8 if kind == "V" else 0  # beats of another kind have another shape
        x[0] += 0.4 * bell(time, at + shift, 12)
        x[1] -= 0.2 * bell(time, at - 6, 8)  # earlier, narrower and upside down; the third lead sees nothing
    waves = {"T": np.stack([beats - 45.0, np.full(len(beats), np.nan), beats + 45.0], axis=1)}
    found = marked.of_leads(x.astype(np.float32), waves, {"T": kinds}, share={"T": 0.1})
    shift = np.where(kinds == "V", 8, 0)
    truth = [(beats + shift, 12), (beats - 6, 8)]
    for lead, (centre, width) in enumerate(truth):
        np.testing.assert_allclose(found[lead]["T"][:, 0], centre - width * spread, atol=3)
        np.testing.assert_allclose(found[lead]["T"][:, 2], centre + width * spread, atol=3)
    quiet = marked.of_leads(np.zeros((1, 2500), np.float32), waves, {"T": kinds}, share={"T": 0.1})
    assert np.isnan(quiet[0]["T"][:, [0, 2]]).all() and quiet[0]["T"][:, 1].tolist() == beats.tolist()


def test_simulated_marks_of_single_leads_lie_within_those_of_all_leads(root):
    together = list(marked.recordings("simulated", root, limit=5))
    apart = list(marked.recordings("simulated", root, limit=5, marks="each lead"))
    shorter = 0
    for one, other in zip(together, apart, strict=True):
        assert other.per_lead and other.spans == one.spans
        for lead in range(12):
            np.testing.assert_array_equal(other.waves[lead]["QRS"], one.waves[lead]["QRS"])
            (on, _, off), (a, _, b) = one.waves[lead]["T"].T, other.waves[lead]["T"].T
            known = ~np.isnan(a)
            assert (a[known] >= on[known]).all() and (b[known] <= off[known]).all()
            shorter += int(((b - a)[known] < (off - on)[known]).sum())
    assert shorter > 200
    with pytest.raises(EcgError, match="each lead"):
        list(marked.recordings("simulated", root, marks="each leda"))


def test_qtdb_is_cut_around_its_marks_and_keeps_the_second_reader(tmp_path):
    counts = (np.tile(np.arange(9000) % 50, (2, 1))).astype(int)
    wfdb_io.write(tmp_path, "sel1", counts, 250, ["MLII", "CM5"], 200, fmt="212")
    write_marks(tmp_path, "sel1", "q1c", [4000, 4010, 4020, 4100, 4120], ["(", "N", ")", "t", ")"])
    write_marks(tmp_path, "sel1", "q2c", [4002, 4010, 4024], ["(", "N", ")"])
    (one,) = marked.recordings("qtdb", tmp_path)
    assert one.signal.shape == (2, 5120) and one.leads == ("MLII", "CM5")
    assert one.waves[0]["QRS"].tolist() == [[2500, 2510, 2520]] and one.second["QRS"].tolist() == [[2502, 2510, 2524]]
    assert one.spans[0] == [(2500.0, 2620.0)]
    with pytest.raises(EcgError, match="limt"):
        list(marked.recordings("qtdb", tmp_path, limt=3))


def test_real_marks_are_whole(real_data):
    (first,) = marked.recordings("ludb", real_data / "ludb", limit=1)
    lead = first.leads.index("II")
    assert first.waves[lead]["QRS"][0].tolist() == [322, 331, 341] and first.per_lead
    splits = {split: list(marked.recordings("ludb", real_data / "ludb", splits=[split])) for split in ("val", "test")}
    assert [one.record_id for one in splits["val"]] == [str(k) for k in range(131, 161)] and len(splits["test"]) == 40
    records = {one.record_id: one for one in marked.recordings("qtdb", real_data / "qtdb")}
    assert len(records) == 11 and sum(one.second is not None for one in records.values()) == 9
    assert len(records["sel103"].waves[0]["P"]) == 30 and not len(records["sel103"].second["P"])
    assert len(records["sel213"].spans[0]) > 20  # marked beats stand apart there
