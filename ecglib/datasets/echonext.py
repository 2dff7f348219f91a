"""EchoNext: 100,000 12-lead ECGs of 10 s at 250 Hz of a centre in New York, each with findings of an echocardiogram.

echonext_metadata_100k.csv names ECG, patient, split and findings; the tracings are the rows of four arrays,
EchoNext_SPLIT_waveforms.npy (record, 1, 2500, 12): the rows of a split, in the order of the table. Their leads are in
the standard order, by which the equations of Einthoven and Goldberger hold. They are published filtered, clipped and
standardised over the whole corpus, and nothing says by what: the numbers stand where millivolts would, so that what
measures a voltage must not be asked about them.

Every finding is written as 1 or 0, and 0 stands for "not measured", too: where the measurement that it was made from is
missing, it is UNKNOWN here. `shd_moderate_or_greater_flag`, any of them, is as published. The ECGs of "no_split" are
earlier ones of the patients of val and test, so that no model may learn from them: they have no split here.
Source: Poterucha et al. (2025), Nature, doi:10.1038/s41586-025-09227-0; the corpus is given by agreement.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets
from ecglib.data import labels as vocabulary
from ecglib.data.recording import LEADS as LEADS
from ecglib.data.recording import Recording, varies

URL = "https://physionet.org/content/echonext/1.1.0/"
VERSION = "1.1.0"
LICENCE = "PhysioNet Restricted Health Data License 1.5.0"
CITATION = (
    "Poterucha et al. (2025), Detecting structural heart disease from electrocardiograms using AI, Nature, "
    "doi:10.1038/s41586-025-09227-0"
)
N_RECORDS = 100000
FS = 250
N_TIMES = 2500
VOCABULARY = None  # findings of the echocardiogram, not of the ECG
CORPUS = ""  # on no card of a published model
TABLE = "echonext_metadata_100k.csv"
SPLITS = {"train": "train", "val": "val", "test": "test", "no_split": ""}  # as written -> as understood
FINDINGS = {  # finding -> the measurements that it was made from
    "lvef_lte_45_flag": ("lvef_value",),
    "lvwt_gte_13_flag": ("ivs_measurement", "lvpw_measurement"),
    "aortic_stenosis_moderate_or_greater_flag": ("aortic_stenosis_value",),
    "aortic_regurgitation_moderate_or_greater_flag": ("aortic_regurgitation_value",),
    "mitral_regurgitation_moderate_or_greater_flag": ("mitral_regurgitation_value",),
    "tricuspid_regurgitation_moderate_or_greater_flag": ("tricuspid_regurgitation_value",),
    "pulmonary_regurgitation_moderate_or_greater_flag": ("pulmonary_regurgitation_value",),
    "rv_systolic_dysfunction_moderate_or_greater_flag": ("rv_systolic_function_value",),
    "pericardial_effusion_moderate_large_flag": ("pericardial_effusion_value",),
    "pasp_gte_45_flag": ("pasp_value",),
    "tr_max_gte_32_flag": ("tr_max_velocity_value",),
}
ANY = "shd_moderate_or_greater_flag"
MEASURED = ("ventricular_rate", "atrial_rate", "pr_interval", "qrs_duration", "qt_corrected")  # by the ECG machine
NOTE = "tracings are standardised, not in millivolt; a finding whose measurement is missing is unknown"


def records(root) -> pd.DataFrame:
    """List the ECGs of the table whose arrays are there, with the published split ("no_split": none).

    Metadata: array_row, the row in the array of the split; location_setting; what the ECG machine measured.
    Raises EcgError for an array with another number of rows than the table has for its split.
    """
    path = Path(root) / TABLE
    needs = ("ecg_key", "patient_key", "split", "age_at_ecg", "sex", "location_setting", *MEASURED)
    table = datasets.text_table(path, needs)
    datasets.refuse(table.ecg_key[table.ecg_key.duplicated()], path, "ECG {} stands there twice", "remove one row")
    datasets.refuse(table.split[~table.split.isin(list(SPLITS))], path, "{} is no split", "fetch the table again")
    out = pd.DataFrame({"record_id": table.ecg_key.to_numpy(str), "patient_id": table.patient_key.to_numpy(str)})
    folder = Path(root).resolve()
    out["path"] = [str(folder / f"EchoNext_{name}_waveforms") for name in table.split]
    out["split"] = table.split.map(SPLITS).to_numpy(str)
    out["age"] = datasets.numbers(table, "age_at_ecg", path, (0, 150), "age in years")
    sexes = table.sex.str.lower()
    wrong = ~sexes.isin(["male", "female"]) & ~datasets.is_unknown(sexes)
    datasets.refuse(table.sex[wrong], path, "{} is no sex", "fetch the table again")
    out["sex"] = sexes.where(sexes.isin(["male", "female"]), "").to_numpy(str)
    out["report"] = ""
    out["array_row"] = table.groupby("split").cumcount().to_numpy()
    out["location_setting"] = table.location_setting.to_numpy(str)
    for name in MEASURED:
        out[name] = datasets.numbers(table, name, path)
    out.attrs["notes"] = [NOTE]
    there = {name: _checked(Path(f"{name}.npy"), int(n)) for name, n in out.path.value_counts().items()}
    return datasets.with_files(out, path, out.path.map(there), ".npy")


def labels(root, records: pd.DataFrame) -> pd.DataFrame:
    """The findings of FINDINGS, and ANY: present, absent, or UNKNOWN where a 0 was never measured."""
    path = Path(root) / TABLE
    needs = ("ecg_key", *FINDINGS, ANY, *(name for names in FINDINGS.values() for name in names))
    table = datasets.text_table(path, needs)
    states = pd.DataFrame(index=pd.Index(table.ecg_key, name="record_id"))
    for finding, sources in {**FINDINGS, ANY: ()}.items():
        number = pd.to_numeric(table[finding], errors="coerce")
        datasets.refuse(table[finding][~number.isin([0, 1])], path, "{} is no finding", "1 or 0")
        missing = np.zeros(len(table), bool)
        for name in sources:
            missing |= datasets.is_unknown(table[name]).to_numpy()
        absent = np.where(missing, vocabulary.UNKNOWN, vocabulary.ABSENT)
        states[finding] = np.where(number == 1, vocabulary.PRESENT, absent).astype(np.int8)
    return states.loc[list(records.record_id)]


def read(row) -> Recording:
    """Read one ECG of `records`: standardised numbers, of no unit, stand where millivolts would."""
    file, number = Path(f"{datasets.cell(row, 'path')}.npy"), int(datasets.cell(row, "array_row"))
    array = _array(file)
    if number >= len(array):
        raise EcgError(f"no row {number} among {len(array)}", file=file, field="array_row", fix="fetch it again")
    signal = np.ascontiguousarray(array[number, 0].T, np.float32)
    record_id, patient_id = (str(datasets.cell(row, name)) for name in ("record_id", "patient_id"))
    return Recording(signal, float(FS), LEADS, varies(signal), record_id, patient_id)


def _array(file: Path) -> np.ndarray:
    """An array of tracings, left on the disk; EcgError where it is none."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EcgError(f"no array of tracings: {error}", file=file, field="waveforms", fix="fetch it again") from error
    if array.ndim != 4 or array.shape[1:] != (1, N_TIMES, len(LEADS)):
        reason = f"samples of shape {array.shape}, not (record, 1, {N_TIMES}, {len(LEADS)})"
        raise EcgError(reason, file=file, field="waveforms", fix="fetch it again")
    return array


def _checked(file: Path, n: int) -> bool:
    """Whether an array is there; EcgError where it has not the n rows that its table has."""
    if not file.is_file():
        return False
    if len(array := _array(file)) != n:
        reason = f"{len(array)} tracings, {n} lines of its split in {TABLE}: rows belong together by their order"
        raise EcgError(reason, file=file, field="waveforms", fix="take table and arrays as published")
    return True
