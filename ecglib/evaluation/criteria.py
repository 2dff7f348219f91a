"""Published criteria of ECG diagnoses over stored measurements: words, source, what each reads, and when it holds.

Nothing is learned here. A rule reads the median beat and the rhythm as `ecglib.data.handmade` measures them, age and
sex. What a criterion asks for and the measurements do not hold is in NOT_MEASURED: it is left out, and never guessed.
Deflections below zero are negative numbers; a wave smaller than half a millimetre of paper counts as absent.

Criteria: the statements of AHA, ACCF and HRS on conduction (Surawicz et al. 2009), repolarisation (Rautaharju et al.
2009) and hypertrophy (Hancock et al. 2009), the fourth universal definition of infarction (Thygesen et al. 2018), the
Minnesota Code (Prineas, Crow and Zhang 2010), and the papers that the voltage criteria are named after.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ecglib.data.recording import LEADS

SMALL = 0.05  # mV: a wave below half a millimetre of paper is absent
P_WAVE = 0.3  # correlation of single P waves with their median, from which on there are P waves (`data.handmade`)
CONTIGUOUS = (("aVL", "I"), ("II", "aVF"), ("aVF", "III"), *((f"V{i}", f"V{i + 1}") for i in range(1, 6)))
NOT_MEASURED = {  # what criteria ask for, and our measurements do not hold
    "duration of a Q wave": "infarction asks for 30 ms; here the depth, a quarter of R, or a QS complex",
    "duration of an S wave": "right bundle branch block asks for 40 ms in I and V6; here that there is one",
    "slur of the first part of QRS": "pre-excitation asks for a delta wave; here the late peak of R",
    "terminal force of P in V1": "left atrial enlargement; here the duration of P alone",
    "P waves without a QRS": "second and third degree AV block have no rule",
    "flutter waves, pacemaker spikes": "atrial flutter and paced rhythm have no rule",
    "duration of R in V1 and V2": "posterior infarction has no rule",
}

SURAWICZ = "Surawicz et al. 2009, doi:10.1016/j.jacc.2008.12.013"
RAUTAHARJU = "Rautaharju et al. 2009, doi:10.1016/j.jacc.2008.12.014"
HANCOCK = "Hancock et al. 2009, doi:10.1016/j.jacc.2008.12.015"
THYGESEN = "Thygesen et al. 2018, doi:10.1016/j.jacc.2018.08.1038"
KUSUMOTO = "Kusumoto et al. 2019, doi:10.1161/CIR.0000000000000628"
PAGE = "Page et al. 2016, doi:10.1161/CIR.0000000000000311"
MINNESOTA = "Minnesota Code (Prineas, Crow and Zhang 2010)"
CORRADO = "Corrado et al. 2005, Eur Heart J 26:516"
CHOU = "Surawicz and Knilans 2008, Chou's Electrocardiography"
ANTERIOR, INFERIOR = ("ASMI", "AMI", "ALMI"), ("IMI", "ILMI", "IPMI", "IPLMI")
LATERAL, HYPERTROPHY = ("LMI", "ALMI", "ILMI", "IPLMI"), ("LVH", "VCLVH")


@dataclass(frozen=True)
class Rule:
    """One criterion."""

    name: str
    statements: tuple  # SCP statements that it is a sign of; none: no statement says this
    group: str  # superclass of PTB-XL, or "" of rhythm and axis
    words: str  # the criterion as it is read out
    source: str
    needs: tuple  # names of the measurements that it reads
    holds: Callable  # measurements by name, arrays (record,) -> bool (record,)


def _of(waves: str, *leads: str) -> tuple:
    """Names of measurements: ("q r", "V1", "V2") -> V1_q_mv, V1_r_mv, V2_q_mv, V2_r_mv."""
    return tuple(f"{lead}_{wave}_mv" for lead in leads for wave in waves.split())


def _by_sex(m, men: float, women: float) -> np.ndarray:
    return np.where(m["male"] == 1, men, women)


def _sinus(m):
    return (m["p_consistency"] >= P_WAVE) & (m["II_p_mv"] > 0)


def _between(values, low: float, high: float):
    """From `low` up to, and not including, `high`."""
    return (values >= low) & (values < high)


def _pairs(flags: dict):
    """Where a flag (lead -> bool (record,)) holds in two neighbouring leads."""
    return np.any([flags[a] & flags[b] for a, b in CONTIGUOUS if a in flags and b in flags], axis=0)


def _left_block(m):
    """Late R in V5 and V6 and no septal Q in I, V5 and V6."""
    late = (m["V5_r_time_ms"] > 60) & (m["V6_r_time_ms"] > 60)
    return late & np.all([m[name] > -SMALL for name in _of("q", "I", "V5", "V6")], axis=0)


def _right_block(m):
    """A second R in V1 or V2, or a late one in V1; S in I and V6."""
    second = (m["V1_r2_mv"] > SMALL) | (m["V2_r2_mv"] > SMALL) | (m["V1_r_time_ms"] > 50)
    return second & (m["I_s_mv"] < -SMALL) & (m["V6_s_mv"] < -SMALL)


LEFT_NEEDS = ("qrs_ms", "V5_r_time_ms", "V6_r_time_ms", *_of("q", "I", "V5", "V6"))
RIGHT_NEEDS = ("qrs_ms", "V1_r_time_ms", *_of("r2", "V1", "V2"), *_of("s", "I", "V6"))
SINUS_NEEDS = ("rate", "p_consistency", "II_p_mv")
RHYTHM = (
    Rule(
        "sinus rhythm",
        ("SR",),
        "",
        "P waves, upright in II, rate 50 to 100/min",
        KUSUMOTO,
        SINUS_NEEDS,
        lambda m: _sinus(m) & (m["rate"] >= 50) & (m["rate"] <= 100),
    ),
    Rule(
        "sinus tachycardia",
        ("STACH",),
        "",
        "P waves, upright in II, rate above 100/min",
        PAGE,
        SINUS_NEEDS,
        lambda m: _sinus(m) & (m["rate"] > 100),
    ),
    Rule(
        "sinus bradycardia",
        ("SBRAD",),
        "",
        "P waves, upright in II, rate below 50/min",
        KUSUMOTO,
        SINUS_NEEDS,
        lambda m: _sinus(m) & (m["rate"] < 50),
    ),
    Rule(
        "sinus arrhythmia",
        ("SARRH",),
        "",
        "P waves, no premature beat, longest minus shortest RR above 120 ms",
        CHOU,
        ("p_consistency", "II_p_mv", "premature", "hr_min", "hr_max"),
        lambda m: _sinus(m) & (m["premature"] == 0) & (60000 / m["hr_min"] - 60000 / m["hr_max"] > 120),
    ),
    Rule(
        "atrial fibrillation",
        ("AFIB",),
        "",
        "RMSSD above 0.1 of the mean RR, and no P wave that repeats",
        "Dash et al. 2009, Ann Biomed Eng 37:1701, the first of its three tests",
        ("cvsd", "p_consistency"),
        lambda m: (m["cvsd"] > 0.1) & (m["p_consistency"] < P_WAVE),
    ),
    Rule(
        "premature wide beats",
        ("PVC",),
        "",
        "a tenth of the beats early and of another form",
        f"{MINNESOTA} 8-1-2",
        ("ventricular_share",),
        lambda m: m["ventricular_share"] >= 0.1,
    ),
    Rule(
        "premature narrow beats",
        ("PAC",),
        "",
        "a tenth of the beats early and of the same form",
        f"{MINNESOTA} 8-1-1",
        ("atrial_share",),
        lambda m: m["atrial_share"] >= 0.1,
    ),
)
CONDUCTION = (
    Rule("PR above 200 ms", ("1AVB",), "CD", "PR above 200 ms", KUSUMOTO, ("pr_ms",), lambda m: m["pr_ms"] > 200),
    Rule(
        "pre-excitation",
        ("WPW",),
        "CD",
        "PR below 120 ms, QRS from 120 ms, peak of R from 60 ms in a left lead",
        f"{MINNESOTA} 6-4-1",
        ("pr_ms", "qrs_ms", *(f"{k}_r_time_ms" for k in ("I", "II", "aVL", "V4", "V5", "V6"))),
        lambda m: (
            (m["pr_ms"] < 120)
            & (m["qrs_ms"] >= 120)
            & np.any([m[f"{k}_r_time_ms"] >= 60 for k in ("I", "II", "aVL", "V4", "V5", "V6")], axis=0)
        ),
    ),
    Rule(
        "LBBB",
        ("CLBBB",),
        "CD",
        "QRS from 120 ms, peak of R after 60 ms in V5 and V6, no Q in I, V5, V6",
        SURAWICZ,
        LEFT_NEEDS,
        lambda m: (m["qrs_ms"] >= 120) & _left_block(m),
    ),
    Rule(
        "LBBB, strict",
        ("CLBBB",),
        "CD",
        "QRS from 140 ms (men) or 130 ms (women), QS or rS in V1, notches in two of I, aVL, V1, V2, V5, V6",
        "Strauss et al. 2011, doi:10.1016/j.amjcard.2010.11.010",
        ("male", "qrs_ms", *_of("r s", "V1"), *(f"{k}_notches" for k in ("I", "aVL", "V1", "V2", "V5", "V6"))),
        lambda m: (
            (m["qrs_ms"] >= _by_sex(m, 140, 130))
            & (-m["V1_s_mv"] > m["V1_r_mv"])
            & (np.sum([m[f"{k}_notches"] >= 3 for k in ("I", "aVL", "V1", "V2", "V5", "V6")], axis=0) >= 2)
        ),
    ),
    Rule(
        "incomplete LBBB",
        ("ILBBB",),
        "CD",
        "QRS 110 to 119 ms, else as LBBB",
        SURAWICZ,
        LEFT_NEEDS,
        lambda m: _between(m["qrs_ms"], 110, 120) & _left_block(m),
    ),
    Rule(
        "RBBB",
        ("CRBBB",),
        "CD",
        "QRS from 120 ms, second or late R in V1 or V2, S in I and V6",
        SURAWICZ,
        RIGHT_NEEDS,
        lambda m: (m["qrs_ms"] >= 120) & _right_block(m),
    ),
    Rule(
        "incomplete RBBB",
        ("IRBBB",),
        "CD",
        "QRS 110 to 119 ms, else as RBBB",
        SURAWICZ,
        RIGHT_NEEDS,
        lambda m: _between(m["qrs_ms"], 110, 120) & _right_block(m),
    ),
    Rule(
        "left anterior fascicular block",
        ("LAFB",),
        "CD",
        "axis -45 to -90, qR in aVL with the peak of R from 45 ms, QRS below 120 ms",
        SURAWICZ,
        ("qrs_axis_deg", "qrs_ms", "aVL_r_time_ms", *_of("q r s", "aVL")),
        lambda m: (
            (m["qrs_axis_deg"] <= -45)
            & (m["qrs_axis_deg"] >= -90)
            & (m["qrs_ms"] < 120)
            & (m["aVL_q_mv"] < -SMALL)
            & (m["aVL_r_mv"] > -m["aVL_s_mv"])
            & (m["aVL_r_time_ms"] >= 45)
        ),
    ),
    Rule(
        "left posterior fascicular block",
        ("LPFB",),
        "CD",
        "axis 90 to 180, rS in I and aVL, qR in III and aVF, QRS below 120 ms",
        SURAWICZ,
        ("qrs_axis_deg", "qrs_ms", *_of("r s", "I", "aVL"), *_of("q r s", "III", "aVF")),
        lambda m: (
            (m["qrs_axis_deg"] >= 90)
            & (m["qrs_ms"] < 120)
            & np.all([-m[f"{k}_s_mv"] > m[f"{k}_r_mv"] for k in ("I", "aVL")], axis=0)
            & np.all([(m[f"{k}_q_mv"] < -SMALL) & (m[f"{k}_r_mv"] > -m[f"{k}_s_mv"]) for k in ("III", "aVF")], axis=0)
        ),
    ),
    Rule(
        "unspecific conduction delay",
        ("IVCD",),
        "CD",
        "QRS above 110 ms, neither the form of LBBB nor of RBBB",
        SURAWICZ,
        (*LEFT_NEEDS, *RIGHT_NEEDS[1:]),
        lambda m: (m["qrs_ms"] > 110) & ~_left_block(m) & ~_right_block(m),
    ),
    Rule(
        "left axis",
        (),
        "",
        "QRS axis below -30, to -90",
        SURAWICZ,
        ("qrs_axis_deg",),
        lambda m: (m["qrs_axis_deg"] < -30) & (m["qrs_axis_deg"] >= -90),
    ),
    Rule("right axis", (), "", "QRS axis above 90", SURAWICZ, ("qrs_axis_deg",), lambda m: m["qrs_axis_deg"] > 90),
)
VOLTAGE = (
    Rule(
        "Sokolow-Lyon",
        HYPERTROPHY,
        "HYP",
        "S V1 + the larger R of V5 and V6 from 3.5 mV",
        "Sokolow and Lyon 1949, Am Heart J 37:161",
        ("sokolow_lyon_mv",),
        lambda m: m["sokolow_lyon_mv"] >= 3.5,
    ),
    Rule(
        "R in aVL",
        HYPERTROPHY,
        "HYP",
        "R aVL above 1.1 mV",
        "Sokolow and Lyon 1949, Am Heart J 37:161",
        _of("r", "aVL"),
        lambda m: m["aVL_r_mv"] > 1.1,
    ),
    Rule(
        "Cornell",
        HYPERTROPHY,
        "HYP",
        "R aVL + S V3 above 2.8 mV (men), 2.0 mV (women)",
        "Casale et al. 1987, Circulation 75:565",
        ("cornell_mv", "male"),
        lambda m: m["cornell_mv"] > _by_sex(m, 2.8, 2.0),
    ),
    Rule(
        "Cornell product",
        HYPERTROPHY,
        "HYP",
        "(R aVL + S V3, in women + 0.6 mV) x QRS above 244 mV ms",
        "Okin et al. 1995, J Am Coll Cardiol 25:417; women as Dahlöf et al. 1998, Hypertension 32:989",
        ("cornell_mv", "qrs_ms", "male"),
        lambda m: (m["cornell_mv"] + _by_sex(m, 0, 0.6)) * m["qrs_ms"] > 244,
    ),
    Rule(
        "Gubner-Ungerleider",
        HYPERTROPHY,
        "HYP",
        "R I + S III from 2.5 mV",
        "Gubner and Ungerleider 1943, Arch Intern Med 72:196",
        (*_of("r", "I"), *_of("s", "III")),
        lambda m: m["I_r_mv"] - m["III_s_mv"] >= 2.5,
    ),
    Rule(
        "Peguero-Lo Presti",
        HYPERTROPHY,
        "HYP",
        "deepest S of all leads + S V4 from 2.8 mV (men), 2.3 mV (women)",
        "Peguero et al. 2017, doi:10.1016/j.jacc.2017.01.037",
        ("male", *_of("s", *LEADS)),
        lambda m: -np.min([m[k] for k in _of("s", *LEADS)], axis=0) - m["V4_s_mv"] >= _by_sex(m, 2.8, 2.3),
    ),
    Rule(
        "right Sokolow-Lyon",
        ("RVH",),
        "HYP",
        "R V1 + the deeper S of V5 and V6 from 1.05 mV",
        "Sokolow and Lyon 1949, Am Heart J 38:273",
        ("right_sokolow_mv",),
        lambda m: m["right_sokolow_mv"] >= 1.05,
    ),
    Rule(
        "tall R in V1",
        ("RVH",),
        "HYP",
        "R V1 above 0.6 mV and larger than S V1",
        HANCOCK,
        _of("r s", "V1"),
        lambda m: (m["V1_r_mv"] > 0.6) & (m["V1_r_mv"] > -m["V1_s_mv"]),
    ),
    Rule("wide P", ("LAO/LAE",), "HYP", "P from 120 ms", HANCOCK, ("p_ms",), lambda m: m["p_ms"] >= 120),
    Rule(
        "tall P",
        ("RAO/RAE",),
        "HYP",
        "P in II above 0.25 mV",
        HANCOCK,
        ("p_consistency", "II_p_mv"),
        lambda m: (m["p_consistency"] >= P_WAVE) & (m["II_p_mv"] > 0.25),
    ),
    Rule(
        "low voltage",
        ("LVOLT",),
        "",
        "QRS below 0.5 mV in I, II, III, or below 1 mV in all of V1 to V6",
        f"{MINNESOTA} 9-1",
        ("limb_low_mv", "chest_low_mv"),
        lambda m: (m["limb_low_mv"] < 0.5) | (m["chest_low_mv"] < 1.0),
    ),
)


def _elevation_limit(m, lead: str) -> np.ndarray:
    """mV at J: in V2 and V3 by sex, and in men by age; elsewhere 0.1."""
    if lead not in ("V2", "V3"):
        return np.full(len(m["male"]), 0.1)
    return np.where(m["male"] == 1, np.where(m["age"] < 40, 0.25, 0.2), 0.15)


ST_LEADS = tuple(name for name in LEADS if name != "aVR")
LOW_T_LEADS = ("I", "II", "V4", "V5", "V6")


def _low_t(m, lead: str) -> np.ndarray:
    t, r = m[f"{lead}_t_mv"], m[f"{lead}_r_mv"]
    return (r > 0.5) & (np.abs(t) < 0.1 * r)


def _corrected_qt(name: str, formula: str, source: str, measurement: str) -> Rule:
    """Long QT by one formula, with the limits of Rautaharju et al. 2009; a wide QRS lengthens QT, and is left out."""
    words = f"QT corrected by {formula} from 450 ms (men), 460 ms (women), QRS below 120 ms"
    return Rule(
        f"long QT, {name}",
        ("LNGQT",),
        "STTC",
        words,
        f"{source}; limits: {RAUTAHARJU}",
        (measurement, "qrs_ms", "male"),
        lambda m: (m[measurement] >= _by_sex(m, 450, 460)) & (m["qrs_ms"] < 120),
    )


REPOLARISATION = (
    _corrected_qt("Bazett", "QT / RR^1/2", "Bazett 1920, Heart 7:353", "qtc_bazett_ms"),
    _corrected_qt("Fridericia", "QT / RR^1/3", "Fridericia 1920, Acta Med Scand 53:469", "qtc_fridericia_ms"),
    _corrected_qt("Framingham", "QT + 154 (1 - RR)", "Sagie et al. 1992, Am J Cardiol 70:797", "qtc_framingham_ms"),
    _corrected_qt("Hodges", "QT + 1.75 (rate - 60)", "Hodges et al. 1983, J Am Coll Cardiol 1:694", "qtc_hodges_ms"),
    Rule(
        "short QT",
        (),
        "",
        "QT corrected by QT + 154 (1 - RR) up to 390 ms",
        RAUTAHARJU,
        ("qtc_framingham_ms",),
        lambda m: m["qtc_framingham_ms"] <= 390,
    ),
    Rule(
        "ST elevation",
        ("STE_",),
        "STTC",
        "J from 0.1 mV in two neighbours; V2, V3: 0.15 (women), 0.2 (men), 0.25 mV (men below 40)",
        THYGESEN,
        ("male", "age", *_of("j", *ST_LEADS)),
        lambda m: _pairs({k: m[f"{k}_j_mv"] >= _elevation_limit(m, k) for k in ST_LEADS}),
    ),
    Rule(
        "ST depression",
        ("STD_",),
        "STTC",
        "J and the point 80 ms on at -0.05 mV or below in two neighbours",
        THYGESEN,
        _of("j st80", *ST_LEADS),
        lambda m: _pairs({k: (m[f"{k}_j_mv"] <= -0.05) & (m[f"{k}_st80_mv"] <= -0.05) for k in ST_LEADS}),
    ),
    Rule(
        "T inversion",
        ("INVT",),
        "STTC",
        "T below -0.1 mV in two neighbours whose R is larger than S",
        THYGESEN,
        _of("t r s", *ST_LEADS),
        lambda m: _pairs({k: (m[f"{k}_t_mv"] < -0.1) & (m[f"{k}_r_mv"] > -m[f"{k}_s_mv"]) for k in ST_LEADS}),
    ),
    Rule(
        "low T",
        ("LOWT",),
        "STTC",
        "T below a tenth of R (R above 0.5 mV) in two of I, II, V4, V5, V6",
        RAUTAHARJU,
        _of("t r", *LOW_T_LEADS),
        lambda m: np.sum([_low_t(m, k) for k in LOW_T_LEADS], axis=0) >= 2,
    ),
)


def _q(m, lead: str) -> np.ndarray:
    """A Q of 0.1 mV and a quarter of R, or a QS complex of 0.1 mV."""
    q, r, s = (m[name] for name in _of("q r s", lead))
    return ((q <= -0.1) & (-q >= r / 4)) | ((r < SMALL) & (s <= -0.1))


def _q_or_qs(m, lead: str) -> np.ndarray:
    q, r, s = (m[name] for name in _of("q r s", lead))
    return (q < -SMALL) | ((r < SMALL) & (s <= -0.1))


LATERAL_LEADS = ("I", "aVL", "V5", "V6")
INFARCTION = (
    Rule(
        "inferior Q",
        INFERIOR,
        "MI",
        "Q of 0.1 mV and a quarter of R, or QS, in two neighbours of II, aVF, III",
        CORRADO,
        _of("q r s", "II", "III", "aVF"),
        lambda m: _pairs({k: _q(m, k) for k in ("II", "III", "aVF")}),
    ),
    Rule(
        "anterior Q",
        ANTERIOR,
        "MI",
        "Q or QS in V2 and V3",
        THYGESEN,
        _of("q r s", "V2", "V3"),
        lambda m: _q_or_qs(m, "V2") & _q_or_qs(m, "V3"),
    ),
    Rule(
        "lateral Q",
        LATERAL,
        "MI",
        "Q of 0.1 mV and a quarter of R, or QS, in I and aVL, or in V5 and V6",
        CORRADO,
        _of("q r s", *LATERAL_LEADS),
        lambda m: _pairs({k: _q(m, k) for k in LATERAL_LEADS}),
    ),
    Rule(
        "poor R progression",
        ANTERIOR,
        "MI",
        "R in V3 up to 0.3 mV",
        "DePace et al. 1983, J Am Coll Cardiol 2:1073",
        ("V3_r_mv",),
        lambda m: m["V3_r_mv"] <= 0.3,
    ),
)
RULES = (*RHYTHM, *CONDUCTION, *VOLTAGE, *REPOLARISATION, *INFARCTION)
