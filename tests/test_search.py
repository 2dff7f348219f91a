"""The search gives every method the same number of trials."""

import pandas as pd
import yaml

from ecglib import objectives, pipeline, search

PARAMS = yaml.safe_load((pipeline.ROOT / "params.yaml").read_text())


def test_every_method_has_three_trials_around_its_learning_rate():
    found = pd.DataFrame(search.trials(objectives.names(), PARAMS).values())
    counts = found.groupby("method").size()
    assert counts.pop("heartbeats") == 1  # where another method begins: chosen by that one
    assert set(counts) == {3} and len(counts) == len(objectives.names()) - 1
    lr = found[found.method == "clef"].lr.tolist()
    base = PARAMS["methods"]["clef"]["lr"]
    assert lr[1] == base and lr[0] < base < lr[2]


def test_the_chosen_learning_rates_are_the_best_of_the_table():
    table = pd.read_csv(search.TABLE)
    for method, part in table.groupby("method"):
        best = part[part.lr > 0].set_index("lr").validation.idxmax()
        assert PARAMS["methods"][method]["lr"] == best, method
