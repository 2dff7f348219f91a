"""Windows cut from the recordings again: equal to a cohort packed at that rate, rows and repairs kept."""

import copy

import numpy as np
import pytest
from crude_corpus import corpus, crude_ecg, pack

from ecglib import EcgError, datasets
from ecglib.data import cohort, profiles, wfdb_io
from ecglib.data.profiles import Profile
from ecglib.data.recording import LEADS
from ecglib.training.batches import CohortData


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = corpus(tmp_path_factory.mktemp("raw") / "corpus", fs=500)
    short = crude_ecg(9, fs=500, seconds=6)
    short[3] = 0
    wfdb_io.write(root, "r2", short, 500, LEADS, 1000)
    return root


def test_equals_a_cohort_packed_at_that_rate(folder, tmp_path):
    slow, fast = pack(folder, tmp_path / "slow"), pack(folder, tmp_path / "fast", fs=500)
    again = datasets.Recordings(slow, folder, 500)
    rows = np.array([3, 0, 2])
    assert again.fs == 500 and len(again) == len(slow) and again.name == slow.name
    np.testing.assert_array_equal(again.batch(rows), fast.batch(rows))
    np.testing.assert_array_equal(again.batch(rows, ("V2", "aVL")), fast.batch(rows, ("V2", "aVL")))
    np.testing.assert_array_equal(again.valid(rows), fast.valid(rows))
    assert again.valid(rows).tolist() == [5000, 5000, 3000]
    np.testing.assert_array_equal(again.lead_mask(rows), fast.lead_mask(rows))
    np.testing.assert_array_equal(again.rows("train"), slow.rows("train"))
    assert abs(again.peaks(0) - fast.peaks(0)).max() <= 5  # samples of 2 ms: the packed peaks, to 10 ms


def test_every_window_of_a_long_recording(folder, tmp_path):
    slow = pack(folder, tmp_path / "slow", seconds=4, windows="all")
    fast = pack(folder, tmp_path / "fast", seconds=4, windows="all", fs=250)
    rows = np.arange(len(slow))
    np.testing.assert_array_equal(datasets.Recordings(slow, folder, 250).batch(rows), fast.batch(rows))


def test_a_sample_too_few_at_the_higher_rate_is_padding(tmp_path):
    """9,998 samples at 500 Hz are two windows of 10 s at 100 Hz, to the nearest sample."""
    root = corpus(tmp_path / "corpus", fs=500)
    wfdb_io.write(root, "r0", crude_ecg(0, fs=500, seconds=19.996), 500, LEADS, 1000)
    packed = pack(root, tmp_path / "toy", windows="all")
    again = datasets.Recordings(packed, root, 500)
    rows = np.flatnonzero(packed.records["record_id"] == packed.records["record_id"][0])
    assert len(rows) == 2 and again.batch(rows).shape == (2, 12, 5000)
    assert (again.batch(rows)[1, :, -2:] == 0).all() and again.batch(rows)[1, :, :-2].any()
    assert copy.copy(again).fs == 500


def test_the_fastest_recordings_of_a_corpus_are_read(real_data, tmp_path, capsys):
    """PTB-XL is packed from its 100 Hz copies unless told otherwise; a model at 500 Hz gets the others."""
    root = tmp_path / "three"
    root.mkdir()
    lines = (real_data / "ptb-xl/ptbxl_database.csv").read_text().splitlines(keepends=True)
    (root / "ptbxl_database.csv").write_text("".join(lines[:4]))
    for rate in (100, 500):
        (root / f"records{rate}").symlink_to(real_data / f"ptb-xl/records{rate}")
    packed = cohort.pack("ptb", datasets.get("ptbxl"), root, tmp_path / "ptb", workers=1, labels=["NORM"])
    fast = datasets.Recordings(packed, root, 500)
    assert packed.info["read_as"]["labels"].startswith("super-2158 1.0.3, likelihood published: NORM (train ")
    assert fast.recorded_fs == 500 and len(fast) == 3 and "3 of 3 records packed" in capsys.readouterr().out
    spectrum = np.abs(np.fft.rfft(fast.batch([0])[0, 0])) ** 2
    assert spectrum[600:1000].sum() > 1e-6 * spectrum.sum(), "there is something above 60 Hz"
    (root / "records500").unlink()
    slow = datasets.Recordings(packed, root, 500)
    assert slow.recorded_fs == 100 and "the recordings that were packed are read" in capsys.readouterr().out
    np.testing.assert_allclose(slow.batch([0])[..., ::5], packed.batch([0]), atol=0.002)


def test_the_folder_of_another_corpus_is_refused(folder, tmp_path):
    packed = pack(folder, tmp_path / "toy")
    other = corpus(tmp_path / "other", n=4)
    with pytest.raises(EcgError, match="2 of its records are not there, such as r4"):
        datasets.Recordings(packed, other, 500)


def test_its_content_changes_with_rate_and_recordings(folder, tmp_path):
    root = corpus(tmp_path / "corpus", fs=500)
    packed = pack(root, tmp_path / "toy")
    contents = [
        packed.content,
        datasets.Recordings(packed, root, 500).content,
        datasets.Recordings(packed, root, 250).content,
    ]
    wfdb_io.write(root, "r0", crude_ecg(77, fs=500), 500, LEADS, 1000)
    contents.append(datasets.Recordings(packed, root, 500).content)
    assert len(set(contents)) == 4
    assert datasets.Recordings(packed, root, 500).content == contents[-1]


def test_zeros_behind_a_short_recording_do_not_count_for_its_scale(folder, tmp_path):
    packed = pack(folder, tmp_path / "toy", fs=500)
    for name in ("ecgjepa-kim", "heartlang"):  # neither scaled by the signal: the filter must stop there too
        chain = profiles.profile(name)
        found = CohortData(packed, np.array([2]), profile=chain).signals(np.arange(1)).numpy()[0]
        end = round(6 * chain.fs)
        expected = chain.apply(packed.batch([2])[..., :3000], 500)[0]
        there = packed.lead_mask([2])[0]
        np.testing.assert_array_equal(found[there], expected[there])
        assert (found[:, end:] == 0).all()
    profile = Profile("toy", "1", 500, 10, normalise="record")
    x = CohortData(packed, np.array([0, 2]), profile=profile).signals(np.arange(2)).numpy()
    alone = packed.batch([2])[0, :, :3000]
    expected = (alone - alone.mean()) / alone.std()
    there = packed.lead_mask([2])[0]
    np.testing.assert_allclose(x[1, there, :3000], expected[there], atol=1e-4)
    assert (x[1, :, 3000:] == 0).all() and (x[1, ~there] == 0).all() and not there.all()
    whole = packed.batch([0])[0]
    np.testing.assert_allclose(x[0], (whole - whole.mean()) / whole.std(), atol=1e-4)
