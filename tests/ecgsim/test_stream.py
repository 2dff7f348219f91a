"""Records that are drawn when they are learned from: the same as those of the packed hospital, to a microvolt."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecglib import EcgError, datasets
from ecglib.data import cohort
from ecglib.training import batches
from ecgsim import hospitals, patients
from ecgsim.stream import MEASURES, Stream

N, SCALE = 1680, 0.01


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    hospitals.generate(folder / "data", hospitals=("A",), workers=1, scale=SCALE)
    return cohort.pack(
        "A", datasets.get("simulated"), folder / "data", folder / "A", workers=1, options={"hospital": "A"}
    )


def test_a_stream_of_the_same_patients_gives_what_was_packed(packed):
    stream = Stream("A", N, hospitals.SEED)
    names = list(packed.labels)
    ours = batches.StreamData(stream, packed.fs, labels=names, meta=("age", "sex"))
    theirs = batches.CohortData(packed, np.arange(len(packed)), labels=names, meta=("age", "sex"))
    index = np.array([3, 0, len(packed) - 1])
    one, other = ours.batch(index), theirs.batch(index)
    assert ours.record_ids[index].tolist() == theirs.record_ids[index].tolist()
    assert (
        one.x - other.x
    ).abs().max() < 2 * 0.001 / 0.2 and one.x.dtype == other.x.dtype  # 1 uV in the profile's unit
    assert (one.x - other.x).abs().mean() < 1e-5
    assert (one.labels == other.labels).all() and one.lead_mask.all()
    for name in ("age", "sex"):
        assert one.meta[name].tolist() == other.meta[name].tolist()
    assert (one.patient_id == other.patient_id).all()


def test_another_seed_is_other_patients_and_the_same_seed_the_same(packed):
    stream, again, other = (Stream("A", 200, seed) for seed in (7, 7, 8))
    x, states, truth = stream.draw(np.array([5, 2]))
    y, again_states, _ = again.draw(np.array([2, 5]))
    assert np.array_equal(x, y[::-1]) and all(np.array_equal(states[k], again_states[k][::-1]) for k in states)
    assert not np.array_equal(x, other.draw(np.array([5, 2]))[0])
    assert set(truth) == set(MEASURES) and not np.isnan(truth["qt"]).any()
    assert len({*stream.meta["patient_id"]}) == 200 and len(stream) > 250


def test_the_truth_is_that_of_the_table_and_no_p_wave_has_no_interval(packed, tmp_path_factory):
    table = pd.read_csv(Path(packed.path).parent / "data/A/truth.csv").set_index("record_id")
    stream, index = Stream("A", N, hospitals.SEED), np.arange(len(table))
    _, states, truth = stream.draw(index)
    for name in MEASURES:
        theirs = table[name].to_numpy(float)
        missing = theirs == {"axis_p": -999.0}.get(name, -1.0)
        assert (np.isnan(truth[name]) == missing).all(), name
        np.testing.assert_allclose(truth[name][~missing], theirs[~missing], rtol=1e-6)
    assert np.isnan(truth["pr"][states["AFIB"] == 1]).all()


def test_what_is_drawn_is_as_frequent_as_in_the_hospital():
    stream = Stream("A", 3000, 7)
    plan, _ = patients.cohort("A", hospitals.SEED)
    for name in ("AFIB", "NORM", "CLBBB"):
        own, its = (some.want[name].mean() for some in (stream._plan, plan))
        assert abs(own - its) < 4 * np.sqrt(its / len(stream))


@pytest.mark.parametrize("hospital, n", [("C", 10), ("A", 0), ("A", 100_001), ("A", 1.5), ("Z", 10)])
def test_no_such_stream(hospital, n):
    with pytest.raises(EcgError):
        Stream(hospital, n, 1)
