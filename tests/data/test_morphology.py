"""Marks and amplitudes of median beats drawn by hand."""

import numpy as np
import pytest

from ecglib.data import handmade

STEP_MS = 1000 / handmade.FINE
TIMES = np.arange(500) * STEP_MS - 1000 * handmade.PRE_S  # ms from R


def drawn(shapes, leads=1):
    """Median beat (lead, 500) from (start, top, end, height): triangles in ms and mV."""
    beat = sum(np.interp(TIMES, [start, top, end], [0, height, 0]) for start, top, end, height in shapes)
    return np.repeat(beat[None], leads, axis=0)


BEAT = [(-200, -150, -100, 0.15), (-40, -25, -10, -0.2), (-10, 0, 12, 1.0), (12, 24, 40, -0.4), (200, 280, 340, 0.3)]


def measured(beat, leads, rr=0.8):
    return handmade.measure(beat, handmade.landmarks(beat, rr), leads, rr)


def test_marks_lie_where_the_waves_were_drawn():
    found = measured(drawn(BEAT), ("II",))
    expected = dict(pr_ms=160, p_ms=100, qrs_ms=80, qt_ms=380, t_peak_ms=320)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=16), name
    assert found["qtc_bazett_ms"] == pytest.approx(found["qt_ms"] / np.sqrt(0.8))
    assert found["qtc_fridericia_ms"] == pytest.approx(found["qt_ms"] / 0.8 ** (1 / 3))


def test_amplitudes_of_every_wave():
    found = measured(drawn(BEAT), ("II",))
    expected = dict(p_mv=0.15, q_mv=-0.2, r_mv=1.0, s_mv=-0.4, t_mv=0.3, qrs_mv=1.4, st60_mv=0.0, r_share=1 / 1.4)
    for name, value in expected.items():
        assert found[f"II_{name}"] == pytest.approx(value, abs=0.02), name
    assert found["II_r2_mv"] == pytest.approx(0, abs=0.02) and found["II_notches"] == 2 + 1
    area = -0.2 * 30 / 2 + 1.0 * 22 / 2 - 0.4 * 28 / 2
    assert found["II_qrs_mvms"] == pytest.approx(area, abs=0.5)
    upside_down = measured(-drawn(BEAT), ("II",))
    assert upside_down["II_t_mv"] == pytest.approx(-0.3, abs=0.02)
    assert upside_down["II_p_mv"] == pytest.approx(-0.15, abs=0.02)


def test_second_r_wave_of_a_right_bundle_branch_block():
    beat = drawn([(-40, -25, -10, 0.3), (-10, 6, 20, -0.5), (20, 50, 80, 0.8), (200, 280, 340, -0.2)])
    found = measured(beat, ("V1",))
    assert found["V1_r_mv"] == pytest.approx(0.8, abs=0.02) and found["V1_q_mv"] == pytest.approx(-0.5, abs=0.02)
    assert found["qrs_ms"] == pytest.approx(120, abs=14)


def test_axes_sums_and_regions():
    scale = dict(I=0.5, II=1.0, III=0.5, aVR=-0.75, aVL=0.0, aVF=0.75, V1=0.2, V2=0.3, V3=0.5, V4=1.0, V5=1.5, V6=1.2)
    beat = np.stack([factor * drawn(BEAT)[0] for factor in scale.values()])
    found = measured(beat, tuple(scale))
    assert tuple(sorted(found)) == tuple(sorted(handmade.interval_names(tuple(scale))))
    assert found["qrs_axis_deg"] == pytest.approx(60, abs=0.5)
    assert found["sokolow_lyon_mv"] == pytest.approx(1.5 + 0.4 * 0.2, abs=0.03)
    assert found["cornell_mv"] == pytest.approx(0.4 * 0.5, abs=0.03)
    assert found["limb_low_mv"] == pytest.approx(1.4, abs=0.03)
    assert found["chest_low_mv"] == pytest.approx(1.4 * 1.5, abs=0.05)
    assert found["inferior_t_mv"] == pytest.approx(0.3 * np.mean([1, 0.5, 0.75]), abs=0.01)


@pytest.mark.parametrize("rr", [0.3, 0.45, 0.6, 1.5])
@pytest.mark.parametrize("kind", ["noise", "flat", "drawn"])
def test_any_beat_gives_finite_marks_in_order(rr, kind):
    noise = np.random.default_rng(0).normal(size=(3, 500)) * 0.01
    beat = {"noise": noise, "flat": np.zeros((3, 500)), "drawn": drawn(BEAT, 3) + noise}[kind]
    marks = handmade.landmarks(beat, rr)
    assert 0 <= marks["p_on"] <= marks["on"] < marks["off"] < marks["t"] <= marks["t_end"] < 500
    found = handmade.measure(beat, marks, ("I", "II", "III"), rr)
    bad = {name for name, value in found.items() if not np.isfinite(value)}
    assert bad == ({f"{lead}_r_share" for lead in ("I", "II", "III")} if kind == "flat" else set())
