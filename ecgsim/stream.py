"""Records of a simulated hospital that are drawn when they are asked for and written nowhere."""

import numpy as np

from ecglib import require_known, require_type
from ecgsim import arithmetic, hospitals, patients, records, reports

MOST = 100_000  # patients: their numbers are a hospital's own
MEASURES = ("hr", "rr_sd", "pr", "p_ms", "qrs", "qt", "qtcf", "axis_qrs", "axis_t", "axis_p")  # per minute, ms, degrees
NONE = {"pr": -1.0, "p_ms": -1.0, "axis_p": -999.0}  # what stands for no P wave


class Stream:
    """Patients of hospital A or B as `generate` would write them, as many as wanted.

    hospital: "A" or "B"; n_patients: how many (some of them come back, so that there are more records); seed: of the
    whole hospital (another one: other patients). `fs` in Hz; `meta`: what is known of each record, name -> (record,).
    """

    def __init__(self, hospital: str, n_patients: int, seed: int):
        require_known("hospital", [hospital], ("A", "B"))
        require_type("n_patients", n_patients, int, "number of patients", least=1)
        require_known("n_patients", [n_patients], range(1, MOST + 1))
        site = patients.site_row(hospital)
        self.hospital, self.fs, self._gain = hospital, int(site["fs"]), float(site["gain"])
        self._plan, self.meta = patients.cohort(hospital, seed, n_patients=n_patients)

    def __len__(self) -> int:
        return len(self._plan)

    def draw(self, index: np.ndarray) -> tuple[np.ndarray, dict, dict]:
        """Draw the records `index`: signals float32 (record, 12 leads, time) in mV, what was reported of them (label ->
        int8 states), and the truth (name of MEASURES -> float32, NaN where there is none)."""
        plan = self._plan.take(np.asarray(index))
        batch, counts, _, _ = hospitals.recorded(self.hospital, plan)
        doubt = arithmetic.Draws(reports.SLOTS, plan.seed, records.REPORT, plan.ids)
        truth = {name: np.asarray(batch.truth[name], np.float32) for name in MEASURES}
        truth = {name: np.where(values == NONE.get(name), np.nan, values) for name, values in truth.items()}
        return (counts / self._gain).astype(np.float32), reports.states(batch.labels, doubt), truth
