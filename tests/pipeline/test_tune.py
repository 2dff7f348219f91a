"""The search gives every method the same number of trials."""

import pandas as pd
import yaml

from ecglib import objectives
from ecglib.pipeline import stages, tune

PARAMS = yaml.safe_load((stages.ROOT / "params.yaml").read_text())


def test_every_method_has_three_trials_around_its_learning_rate():
    trials = pd.DataFrame(tune.trials(objectives.names(), PARAMS).values())
    counts = trials.groupby("method").size()
    assert counts.pop("heartlang_vq") == 1  # where another method begins: chosen by that one
    assert set(counts) == {3} and len(counts) == len(objectives.names()) - 1
    lr = trials[trials.method == "clef"].lr.tolist()
    base = PARAMS["objectives"]["clef"]["lr"]
    assert lr[1] == base and lr[0] < base < lr[2]


def test_the_chosen_learning_rates_are_the_best_of_the_table():
    table = pd.read_csv(tune.TABLE)
    for method, part in table.groupby("method"):
        best = part[part.lr > 0].set_index("lr").validation.idxmax()
        assert PARAMS["objectives"][method]["lr"] == best, method
