"""Lead names, lead algebra and the Recording contract."""

import copy

import numpy as np
import pytest
from einthoven import einthoven_residual

from ecglib import EcgError
from ecglib.data.recording import LEADS, Recording, canonical, limb, record_path, varies


def twelve(seed=0, n_times=500):
    """Einthoven-consistent random leads, (12, time) mV."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(0, 0.3, (12, n_times))
    signal[2:6] = list(limb(signal[0], signal[1]).values())
    return signal.astype(np.float32)


def recording(leads=LEADS, **changes):
    signal = twelve()[[LEADS.index(canonical(name)) for name in leads]]
    fields = dict(signal=signal, fs=100.0, leads=tuple(leads), lead_mask=np.ones(len(leads), bool), record_id="r")
    return Recording(**{**fields, **changes})


@pytest.mark.parametrize(
    "name, expected",
    [("AVR", "aVR"), ("avl", "aVL"), ("i", "I"), ("ecg_i", "I"), ("Lead II", "II"), ("v6", "V6"), ("ECG aVF", "aVF")]
    + [(name, name) for name in LEADS],
)
def test_spellings(name, expected):
    assert canonical(name) == expected


@pytest.mark.parametrize("name", ["MLII", "-aVR", "ECG", "V7", "", "noise1", "IV", "V"])
def test_doubtful_names_are_refused(name):
    with pytest.raises(EcgError, match="unknown lead name"):
        canonical(name)


def test_select_maps_by_name_never_by_position():
    shuffled = [LEADS[i] for i in np.random.default_rng(1).permutation(12)]
    again = recording(shuffled).select(LEADS)
    assert again.leads == LEADS and again.lead_mask.all()
    np.testing.assert_array_equal(again.signal, twelve())


def test_select_derives_limb_leads_and_masks_the_rest():
    chosen = recording(("II", "I", "V2")).select(("aVR", "III", "V1", "V2"))
    np.testing.assert_array_equal(chosen.lead_mask, [True, True, False, True])
    np.testing.assert_allclose(chosen.signal[:2], twelve()[[3, 2]], atol=1e-6)
    assert (chosen.signal[2] == 0).all() and chosen.signal.dtype == np.float32
    flat = recording(("I", "II"), lead_mask=np.array([True, False])).select(("III",))
    assert not flat.lead_mask.any()


def test_select_refuses_a_lead_that_is_there_twice_and_unknown_names():
    with pytest.raises(EcgError, match="lead I appears twice"):
        recording(("I", "i")).select(("I",))
    with pytest.raises(EcgError, match="unknown lead name"):
        recording().select(("MLII",))


def test_shapes_must_agree():
    with pytest.raises(EcgError, match="leads do not fit"):
        recording(leads=("I", "II"), lead_mask=np.ones(3, bool))


def test_limb_against_the_electrode_potentials():
    """Oracle: leads from potentials of right arm, left arm and left leg (Wilson's terminal for Goldberger)."""
    ra, la, ll = np.random.default_rng(2).normal(size=(3, 50))
    derived = limb(la - ra, ll - ra)
    np.testing.assert_allclose(derived["III"], ll - la)
    np.testing.assert_allclose(derived["aVR"], ra - (la + ll) / 2)
    np.testing.assert_allclose(derived["aVL"], la - (ra + ll) / 2)
    np.testing.assert_allclose(derived["aVF"], ll - (ra + la) / 2)


@pytest.mark.parametrize("a", range(6))
def test_einthoven_residual_shows_every_swap_of_two_limb_leads(a):
    assert einthoven_residual(twelve()) < 1e-6
    for b in range(a + 1, 6):
        swapped = twelve()
        swapped[[a, b]] = swapped[[b, a]]
        assert einthoven_residual(swapped) > 0.05


def test_error_names_file_field_and_fix_and_survives_copying():
    error = EcgError("zero length", file="a.hea", field="record line", fix="fetch it again")
    assert str(error) == "a.hea: [record line] zero length -> fetch it again"
    again = copy.copy(error)
    assert (again.file, again.field, again.fix, str(again)) == (error.file, error.field, error.fix, str(error))
    assert isinstance(error, ValueError)


def test_record_path_drops_only_record_extensions():
    assert [record_path(f"d/{n}").name for n in ("a", "a.hea", "a.dat", "a.mat", "a.v2")] == [
        "a",
        "a",
        "a",
        "a",
        "a.v2",
    ]


@pytest.mark.parametrize(
    "lead, moves",
    [
        ([1, 2, 1], True),
        ([1, 1, 1], False),
        ([np.nan, 1, 2], True),
        ([np.nan, 1, 1], False),
        ([np.nan] * 3, False),
        ([np.inf, 1, 1], False),
        ([-np.inf, np.inf, 1], False),
        ([-np.inf, 2, 1], True),
        ([], False),
    ],
)
def test_a_lead_varies_where_two_finite_values_differ(lead, moves):
    lead = np.array(lead, np.float32)
    assert varies(lead[None]).tolist() == [moves]
    assert varies(np.stack([lead, np.arange(len(lead))])).tolist() == [moves, len(lead) > 1]
