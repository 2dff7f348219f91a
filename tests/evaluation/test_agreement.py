"""Reports against statements: counts on a small table by hand."""

import re

import pandas as pd
import pytest

from ecglib.data.labels import ABSENT, POSSIBLE, PRESENT, UNKNOWN
from ecglib.evaluation.agreement import agreement, spelled


def test_precision_and_recall_by_hand():
    truth = [PRESENT, PRESENT, PRESENT, ABSENT, ABSENT, UNKNOWN, POSSIBLE, PRESENT]
    said = [PRESENT, POSSIBLE, UNKNOWN, PRESENT, ABSENT, PRESENT, PRESENT, PRESENT]
    frame = pd.DataFrame({"pvc": truth, "wpw": ABSENT}, dtype="int8")
    table = agreement(pd.DataFrame({"pvc": said, "pac": PRESENT}, dtype="int8"), frame, list("abcdefgh"), n=200)
    row = table.iloc[0]
    assert list(table.label) == ["pvc"], "a label that nobody has, or that is not in both, is not compared"
    assert (row.stated, row.said, row.possible) == (4, 5, 1)
    assert row.precision.point == pytest.approx(2 / 3), "of three positive readings with a known truth, two are right"
    assert row.recall.point == pytest.approx(2 / 4) and row.recall_possible.point == pytest.approx(3 / 4)
    for score in (row.precision, row.recall, row.recall_possible):
        assert 0 <= score.low < score.point < score.high <= 1
    assert re.fullmatch(r"0\.67 \(0\.\d\d to 1\.00\)", spelled(table).precision[0])
