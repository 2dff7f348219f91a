"""PhysioNet/CinC Challenge 2021 (and 2020): eight corpora of 12-lead ECGs in one form, diagnoses as SNOMED CT codes.

Every corpus is chosen by its name (option `corpus`), since a code does not mean the same in all of them: `SOURCES`
has the letters that the names of its records begin with. Which labels of the common vocabulary a corpus states in full
says `vocabulary/harmonised.csv` (`cinc_partitions`): left bundle branch block, for one, is not stated by the Chapman
part, whose code pools it with the left anterior fascicular block. PTB-XL is one of the eight: same recordings, without
patients and folds.

Headers of the Challenge 2020 misstate the gain where the counts are microvolt: Georgia ("E00009.mat" for a record name,
4880/mV) and PTB-XL (200/mV). They are read with 1000/mV, and a note counts them.

Two records of Georgia are one tracing, sample by sample (SAME_TRACING): they count as one person. Others may be;
`ecglib leaks` finds them.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import io

from ecglib import EcgError, datasets, require_known
from ecglib.data import files
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS
from ecglib.data.recording import Recording, canonical, varies

URL = "https://physionet.org/content/challenge-2021/1.0.3/"
VERSION = "1.0.3"
LICENCE = "CC BY 4.0"
CITATION = "Reyna et al. (2021), Will two do? Varying dimensions in electrocardiography, Computing in Cardiology 48"
N_RECORDS = 88253
FS = None  # 257 Hz in incart, 500 or 1000 in ptb, 500 elsewhere
VOCABULARY = "cinc"
CORPUS = ""  # the option `corpus` says which
SOURCES = {"cpsc2018": "A", "cpsc-extra": "Q", "incart": "I", "ptb": "S", "ptb-xl": "HR", "georgia": "E"}
SOURCES |= {"chapman": "JS", "ningbo": "JS"}
PARTS = {"cpsc2018": (6877, "500"), "cpsc-extra": (3453, "500"), "incart": (74, "257"), "ptb": (516, "500 or 1000")}
PARTS |= {"ptb-xl": (21837, "500"), "georgia": (10344, "500"), "chapman": (10247, "500"), "ningbo": (34905, "500")}
LAST_OF_CHAPMAN = 10646  # JS00001 to JS10646 are Chapman-Shaoxing, the others Ningbo
SAME_TRACING = {"E07510": "E07509"}
LABEL_SETS = ("harmonised", "challenge")
NOTE = "no patient ids are published: every record counts as its own patient"
SEVERAL = {"incart": "its 74 half hours are of 32 people", "ptb": "its records are of 268 people"}
MISSTATED = {"E": "4880", "HR": "200"}  # gains in headers of 2020 whose counts are microvolt
_NAME = re.compile(r"([A-Z]+)(\d+)")
_INVALID = -(2**15)


def records(root, *, corpus: str | None = None, label_set: str = "harmonised") -> pd.DataFrame:
    """List the records of one corpus below `root`, all "external": those in files RECORDS, and all other headers.

    corpus: one of SOURCES; needed. label_set: see `labels`. Metadata: `codes`, the diagnoses as they stand there, and
    `age_over_89` = 1 where the age says no more than that (90).
    """
    require_known("label set", [label_set], LABEL_SETS, "label_set")
    root = Path(root).resolve()
    listed = _listed(root)
    _require_corpus(corpus, listed, root)
    names = sorted(name for name in listed if _corpus_of(name) == corpus)
    people = [SAME_TRACING.get(name, name) for name in names]
    out = pd.DataFrame({"record_id": names, "patient_id": people, "path": [str(listed[name]) for name in names]})
    out = out.assign(split="external", age=np.nan, sex="", report="", codes="")
    notes = [NOTE + (f", although {SEVERAL[corpus]}" if corpus in SEVERAL else "")]
    out.attrs["notes"] = notes
    present = [bool(files.beside(path, ".hea") and files.beside(path, ".mat")) for path in out.path]
    out = datasets.with_files(out, root, present)
    said = [datasets.header_comments(path) for path in out.path]
    people = [datasets.person(one.get("age", ""), one.get("sex", "")) for one in said]
    out["age"], out["sex"] = [age for age, _ in people], [sex for _, sex in people]
    out["age_over_89"] = np.array([one.get("age", "") == "300" for one in said], np.int8)
    out["codes"] = ["|".join(_codes(one.get("dx", ""))) for one in said]
    if wrong := sum(_misstated(path) for path in out.path):
        out.attrs["notes"].append(f"{wrong} headers misstate the gain: read as microvolt")
    if silent := int((out.codes == "").sum()):
        out.attrs["notes"].append(f"{silent} records name no diagnosis: unknown for every label")
    return out


def labels(root, records: pd.DataFrame, *, corpus: str | None = None, label_set: str = "harmonised") -> pd.DataFrame:
    """States of the keys of the common vocabulary that the corpus states in full ("harmonised"), or of its codes.

    "challenge": a column per diagnosis that occurs, named by its abbreviation in the list of the Challenge (NSR, AF),
    or by its code where the list has none. Raises EcgError for a corpus of which no common label is evaluated.
    """
    codes = [cell.split("|") if cell else [] for cell in records.codes]
    made = sorted({code for row in codes for code in row})
    index = pd.Index(records.record_id, name="record_id")
    tokens = pd.DataFrame([[code in row for code in made] for row in codes], index, made, dtype=np.int8)
    silent = [not row for row in codes]
    if label_set == "challenge":
        table = vocabulary.vocabulary("snomed")
        states = tokens.rename(columns=dict(zip(table.code, table.abbreviation, strict=True)))
    else:
        states = vocabulary.harmonise(_marked(tokens, corpus), "cinc", vocabulary.challenge_keys(corpus))
        states = states.loc[:, (states == vocabulary.PRESENT).any()]
    if not len(states.columns):
        reason = f"no record of {corpus} has a label that is stated in full"
        raise EcgError(reason, file=root, field="label_set", fix="use label_set=challenge")
    states[silent] = vocabulary.UNKNOWN
    return states


def read(row) -> Recording:
    """Read one record of `records`; one whose header misstates the gain in microvolt. EcgError where it cannot be."""
    path = datasets.cell(row, "path")
    return _in_microvolt(row, path) if _misstated(path) else datasets.load(row)


def _listed(root: Path) -> dict[str, Path]:
    """Name of every record named in a file RECORDS or by a header or signal file -> its path without extension."""
    if not root.is_dir():
        raise EcgError("no such folder", file=root, fix="give the folder of the corpus")
    found = {}
    for path in files.walk(root):
        if path.suffix.lower() in (".hea", ".mat"):
            found.setdefault(path.stem, path.with_suffix(""))
        elif path.name == "RECORDS":
            for line in path.read_text("utf-8").split():
                if _NAME.fullmatch(Path(line).name):
                    found.setdefault(Path(line).name, path.parent / line)
    return found


def _require_corpus(corpus: str | None, listed: dict, root: Path) -> None:
    there = Counter(_corpus_of(name) for name in listed)
    counts = ", ".join(f"{name} ({there[name]})" for name in SOURCES if there[name])
    if not counts:
        raise EcgError("no record of the Challenge is here", file=root, fix="give the folder that holds its headers")
    if not corpus:
        reason = "several corpora are read one at a time, since their codes differ in meaning"
        raise EcgError(reason, file=root, field="corpus", fix=f"option corpus=NAME, here of {counts}")
    require_known("corpus of the Challenge", [corpus], SOURCES, "corpus", root)
    if not there[corpus]:
        raise EcgError(f"no record of {corpus} is here", file=root, field="corpus", fix=f"corpora here: {counts}")


def _corpus_of(name: str) -> str:
    """Corpus of a record by its name; "" for a name of none."""
    match = _NAME.fullmatch(name)
    if match and match[1] == "JS":
        return "chapman" if int(match[2]) <= LAST_OF_CHAPMAN else "ningbo"
    return next((corpus for corpus, letters in SOURCES.items() if match and letters == match[1]), "")


def _codes(text: str) -> list[str]:
    """The codes of a line "Dx: 426783006,164889003", each once; none for Unknown."""
    words = [word.strip() for word in text.split(",")]
    return list(dict.fromkeys(word for word in words if datasets.spelling(word) not in datasets.UNKNOWN))


def _marked(tokens: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """Codes with what the common vocabulary asks beside them: no_rhythm_code, and each as "corpus:code"."""
    common = vocabulary.vocabulary("harmonised")
    rhythm = {code for cell in common.cinc[common.category == "rhythm"] for code in cell.split("|")}
    heard = tokens[[code for code in tokens if code in rhythm]].any(axis=1)
    tokens = tokens.assign(no_rhythm_code=(~heard).astype(np.int8))
    own = tokens.add_prefix(f"{corpus}:")
    if corpus == "ptb-xl":  # there 63593006 stands for SVARR, which is no premature beat
        tokens = tokens.drop(columns="63593006", errors="ignore")
    return pd.concat([tokens, own], axis=1)


def _misstated(path) -> bool:
    """Whether the header of a record is one of those of 2020 that give a gain to counts in microvolt."""
    match = _NAME.fullmatch(Path(path).name)
    if not match or match[1] not in MISSTATED or not (header := files.beside(path, ".hea")):
        return False
    lines = header.read_text("latin-1").splitlines()[1:2]
    return bool(lines) and lines[0].split()[2:3] == [f"{MISSTATED[match[1]]}/mV"]


def _in_microvolt(row, path: str) -> Recording:
    """A record of 2020 with the leads and the rate that its header names, its counts taken as microvolt."""
    header, signals = files.beside(path, ".hea"), files.beside(path, ".mat") or f"{path}.mat"
    lines = [line.split() for line in header.read_text("latin-1").splitlines() if line.strip()]
    leads = [line[-1] for line in lines[1:] if not line[0].startswith("#")]
    try:
        counts = io.loadmat(signals)["val"]
        fs, n_times = float(lines[0][2]), int(lines[0][3])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise EcgError(f"not a record of the Challenge: {error}", file=header, fix="fetch it again") from error
    if counts.shape != (len(leads), n_times):
        reason = f"{counts.shape} samples, the header says {(len(leads), n_times)}"
        raise EcgError(reason, file=header, field="length", fix="fetch it again")
    signal = np.where(counts == _INVALID, np.nan, counts / 1000).astype(np.float32)
    names = tuple(canonical(name, header) for name in leads)
    name = str(datasets.cell(row, "record_id"))
    comments = tuple(" ".join(line).strip("# ") for line in lines if line[0].startswith("#"))
    return Recording(signal, fs, names, varies(signal), name, str(datasets.cell(row, "patient_id")), comments)
