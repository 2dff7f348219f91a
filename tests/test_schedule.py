"""Jobs side by side: order, limits, failures."""

import sys

import pytest

from ecglib import schedule
from ecglib.signals import EcgError

NEEDS = {"a": set(), "b": {"a"}, "c": {"a", "elsewhere"}, "d": {"b", "c"}, "e": set()}


def trace(needs, workers, broken=(), lasts=2):
    """(events, most jobs at once) of a run in which every job takes `lasts` looks."""
    events, alive, most = [], set(), [0]

    def begin(name):
        events.append(f"+{name}")
        alive.add(name)
        most[0] = max(most[0], len(alive))
        left = [lasts]

        def status():
            left[0] -= 1
            if left[0] > 0:
                return None
            events.append(f"-{name}")
            alive.discard(name)
            return int(name in broken)

        return status

    schedule.run(needs, begin, workers)
    return events, most[0]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_job_starts_after_those_it_needs_and_no_more_run_than_there_are_workers(workers):
    events, most = trace(NEEDS, workers)
    assert sorted(events) == sorted(f"{sign}{name}" for name in NEEDS for sign in "+-")
    for name, before in NEEDS.items():
        assert all(events.index(f"-{b}") < events.index(f"+{name}") for b in before & NEEDS.keys())
    assert most <= workers and (workers == 1 or most >= 2)


def test_after_a_failure_nothing_starts_and_the_job_is_named():
    seen = []
    with pytest.raises(EcgError, match="stage a failed"):
        schedule.run(NEEDS, lambda name: seen.append(name) or (lambda: int(name == "a")), 2)
    assert seen == ["a", "e"]


def test_a_job_with_nothing_to_do_frees_those_behind_it():
    seen = []
    schedule.run(NEEDS, lambda name: seen.append(name), 2)
    assert sorted(seen) == sorted(NEEDS) and seen.index("d") == 4


def test_jobs_that_wait_for_each_other_are_named():
    with pytest.raises(EcgError, match="wait for each other: a, b"):
        schedule.run({"a": {"b"}, "b": {"a"}}, lambda name: None)


def test_a_command_is_started_and_its_status_found(tmp_path, capsys):
    jobs = {"good": 0, "bad": 3}
    codes = {}
    for name, code in jobs.items():
        job = schedule.start([sys.executable, "-c", f"raise SystemExit({code})"], tmp_path, name)
        while (found := job()) is None:
            pass
        codes[name] = found
    assert codes == jobs
    assert "--> good" in capsys.readouterr().out
