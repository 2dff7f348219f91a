"""Leafing through ECGs: the buttons show the records in the order that the menus name, and stop at both ends."""

import pytest
from test_one_ecg import predictions

from ecglib import EcgError
from ecglib.reporting import one_ecg
from ecglib.reporting.one_ecg import Leafing


@pytest.fixture
def said():
    rows = one_ecg.calls(predictions(), "A")
    return rows[rows.split == "test"]


def order(said, encoder: str, kind: str) -> list[str]:
    return list(one_ecg.ranked(said, encoder, kind).record_id)


def test_buttons_go_on_and_back_and_stop_at_the_ends(said):
    seen = []
    leaf = Leafing(said, seen.append, "clef")
    worst = order(said, "clef", "wrong")
    assert seen == worst[:1] and leaf.previous.disabled and leaf.where.value == f"1 of {len(worst)}"
    leaf.next.click()
    leaf.next.click()
    leaf.previous.click()
    assert seen == [worst[0], worst[1], worst[2], worst[1]]
    for _ in worst:
        leaf.next.click()
    assert seen[-1] == worst[-1] and leaf.next.disabled and not leaf.previous.disabled


def test_menus_begin_again_with_the_order_that_they_name(said):
    seen = []
    leaf = Leafing(said, seen.append, "clef")
    leaf.next.click()
    leaf.order.value = "sure"
    assert seen[-1] == order(said, "clef", "sure")[0] and leaf.at == 0
    leaf.judged.value = "random"
    leaf.next.click()
    assert seen[-1] == order(said, "random", "sure")[1]


def test_an_unknown_order_or_method_is_refused(said):
    for given in ({"judged": "clfe"}, {"judged": "clef", "order": "wrnog"}):
        with pytest.raises(EcgError, match="did you mean"):
            Leafing(said, print, **given)


def test_records_of_which_nothing_is_known_leave_a_sentence(said):
    seen = []
    leaf = Leafing(said.assign(truth=-1), seen.append, "clef")
    assert seen == [] and leaf.where.value == "no record with a known statement" and leaf.next.disabled
