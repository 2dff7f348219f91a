"""One look per method: known ones differ, a name alone decides, what is added to a name says so by the line."""

import itertools

from ecglib import objectives, zoo
from ecglib.evaluation.predictions import BASELINES
from ecglib.reporting import figures, methods

from test_figures import score_table  # isort: skip


def test_no_two_methods_of_this_repository_look_alike():
    names = {*methods.LOOKS, *objectives.names(), *BASELINES, *(f"zoo:{name}" for name in zoo.names())}
    looks = {name: methods.look(name) for name in names}
    assert [pair for pair in itertools.combinations(names, 2) if looks[pair[0]] == looks[pair[1]]] == []


def test_a_method_looks_the_same_in_a_figure_of_some_and_of_all():
    table = score_table()
    for shown in (table, table[table.encoder != "random"]):
        (bars,) = [bars for bars in figures.label_efficiency(shown).containers if bars.get_label() == "supervised"]
        assert (bars[0].get_color(), bars[0].get_marker()) == methods.LOOKS["supervised"]
        whole = figures.comparison(shown)
        colours = {bars[0].get_color() for bars in whole.axes[0].containers}
        assert methods.LOOKS["supervised"][0] in colours


def test_what_is_added_to_a_name_keeps_the_colour_and_dots_the_line():
    assert (
        methods.look("clef+finetune")
        == methods.look("clef, finetune")
        == methods.look("clef †")
        == methods.look("clef")
    )
    assert methods.drawn("clef")["linestyle"] == "-" and methods.drawn("clef+finetune")["linestyle"] != "-"
    assert methods.drawn("clef", "finetune")["linestyle"] != "-"
    seen = methods.drawn("zoo:ecgfm †")
    assert seen["colour"] == methods.MARKED and seen["markerfacecolor"] == "white"
    assert methods.look("my own 1") == methods.look("my own 1") != methods.look("my own 2")


def test_kinds_are_told_by_name():
    expected = {"clef": "signals", "supervised+finetune": "labels", "melp": "signals + reports", "zoo:x": "published"}
    expected |= {"features": "baseline", "random:vit1d": "baseline", "multirocket": "baseline"}
    expected |= {"scratch:imle_net": "baseline"}
    assert {name: methods.kind(name) for name in expected} == expected


def test_a_network_that_is_named_is_named_in_the_tables():
    assert methods.title("random:vit1d:small_plain") == "random vit1d small_plain, linear probe"
    assert methods.title("scratch:imle_net", "supervised") == "imle_net, supervised from scratch"
    assert methods.look("scratch:imle_net") != methods.look("scratch")
    assert methods.look("scratch:imle_net")[0] == methods.look("scratch")[0]
