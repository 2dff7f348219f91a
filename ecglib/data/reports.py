"""What a report in free text says of the common labels: present, absent, possible, or nothing.

Rules for English reports of machines and cardiologists, for the German of PTB-XL, and for Swedish, in
`vocabulary/reports.csv`: kind, pattern (a regular expression over `normalise`d text), meaning. A kind is

`finding`     one or several labels, `label` or `label=state` joined by `;`; none: a finding outside the vocabulary
`infarct`     a word for infarction, which takes the places before it; meaning "possible": never more than that
`place`       the infarction label of a part of the heart
`age`         of an infarction; a denied acute one says nothing of an old one
`not_before, not_after, doubt_before, doubt_after, doubt`  what denies or doubts the findings after or before it
`joint`       between findings: and, or (makes both possible), with, but, due, suggests (makes the right side possible),
              replaced (denies the right side), replaced_by (the left)
`history, past`  findings after or before it belong to an earlier tracing
`request`     the sentence is a question to the reader
`text`        words that say nothing of a finding

The longest pattern wins, and each stretch of text is used once. A denial or doubt covers the list that its next (or
last) finding is in: up to a full stop, a semicolon, a comma before a new finding, or a connective other than and/or.
Parents hold by definition only (`vocabulary/harmonised.csv`): fibrillation is no tachycardia, a scar no ischaemia.

The task and many of the faults avoided here are those of the labeler published with ECG-FM (bowang-lab/ECG-FM, MIT);
rules, words and code are not.
"""

import re
from collections import Counter
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecglib.data.labels import ABSENT, POSSIBLE, PRESENT, STATES, UNKNOWN, label_set, vocabulary

REACH = 4  # words without meaning that may stand between a denial or doubt and its finding
_FOLDED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "å": "a", "é": "e", "(": " , ", ")": " , "})
# Short forms whose full stop ends no sentence, and endings in brackets.
_SHORT = re.compile(
    r"\b(unspez|intraventr|moegl|unbest|veraend|path|chron|pos|neg|supraventr|ventr|inkompl|kompl|unvollst|evtl|typ|vs|ca)\."
)
_ENDINGS = re.compile(r"(?<=\w)\((?:s|n|er|a|es|e|t)\)")
_SENTENCE = re.compile(r"[.;!?]+(?=\s|$)|\n+|\r+")
_RANK = {ABSENT: 0, POSSIBLE: 1, PRESENT: 2}  # of mentions of one label in one report, the highest counts
_RATES = ("sinus_bradycardia", "sinus_tachycardia", "sinus_arrhythmia")  # what sinus rhythm at a normal rate excludes


class Item(NamedTuple):
    """A stretch (start, end) of a sentence with a meaning."""

    kind: str
    meaning: str
    start: int
    end: int


class Reading(NamedTuple):
    """What one report says: states by label; labels both stated and denied; the words that no rule knows, of how many
    words."""

    states: dict[str, int]
    conflicts: tuple[str, ...]
    unread: tuple[str, ...]
    n_words: int


@cache
def _rules() -> list[tuple[str, str, re.Pattern, list[re.Pattern]]]:
    """Kind and meaning of every rule, its whole pattern (is it there at all?), and each alternative by itself."""
    bounded = "(?<![a-z0-9])(?:{})(?![a-z0-9])".format
    return [
        (row.kind, row.meaning, re.compile(bounded(row.pattern)), [re.compile(bounded(one)) for one in alternatives])
        for row in vocabulary("reports").itertuples()
        if (alternatives := _alternatives(row.pattern))
    ]


def _alternatives(pattern: str) -> list[str]:
    """What | separates outside brackets: each is tried by itself, so that a short one does not hide a long one."""
    out, depth = [""], 0
    for sign in pattern:
        depth += (sign in "([") - (sign in ")]")
        if sign == "|" and not depth:
            out.append("")
        else:
            out[-1] += sign
    return out


@cache
def _parents() -> dict[str, tuple[str, ...]]:
    table = vocabulary("harmonised")
    return {row.key: tuple(p for p in row.parents.split("|") if p) for row in table.itertuples()}


def normalise(report: str) -> list[str]:
    """Sentences of a report: small letters, umlauts written out, hyphens as blanks, codes that came later left out."""
    text = re.split("Edit:|consensus label derived", report)[0].lower()
    text = re.sub(r"#(?=\w)", "ue", text)  # an umlaut that was lost on the way
    text = _ENDINGS.sub("", text).translate(_FOLDED)
    text = re.sub(r"(?<=[a-z0-9])[-–](?=[a-z0-9])|(?<=/)[-–]", " ", text)
    text = re.sub(r"\s[-–]+\s|:(?=\s)", lambda m: " , " if m[0].strip() != ":" else ": ", text)
    text = re.sub(r"\bv\. ?a\.", "verdacht auf", text)
    pieces = _SENTENCE.split(_SHORT.sub(r"\1", text))
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]


def _items(sentence: str) -> list[Item]:
    """The meaningful stretches of a sentence in its order: of all matches the longest, each stretch used once."""
    found = [
        Item(kind, meaning, *match.span())
        for kind, meaning, whole, alternatives in _rules()
        if whole.search(sentence)
        for one in alternatives
        for match in one.finditer(sentence)
    ]
    found += [Item("joint", "comma", m.start(), m.end()) for m in re.finditer("[,:]", sentence)]
    taken, kept = np.zeros(len(sentence), bool), []
    for item in sorted(found, key=lambda item: (item.start - item.end, item.start)):
        if item.end > item.start and not taken[item.start : item.end].any():
            taken[item.start : item.end] = True
            kept.append(item)
    return sorted(kept, key=lambda item: item.start)


def _placed(items: list[Item]) -> list[Item]:
    """The items with every infarction as a finding that has the labels of its places; places and ages are gone."""
    out, waiting, acute = [], [], False
    for number, item in enumerate(items):
        if item.kind == "place":
            waiting.append(item.meaning)
        elif item.kind == "age":
            acute = item.meaning == "acute"
        elif item.kind == "infarct":
            places = waiting or _behind(items[number + 1 :])
            labels = [label for place in places for label in place.split(";") if label] or ["mi_any"]
            state = f"={item.meaning}" if item.meaning else ""
            meaning = ";".join(f"{label}{state}" for label in dict.fromkeys(labels))
            out.append(Item("acute" if acute else "finding", meaning, item.start, item.end))
            waiting, acute = [], False
        else:
            joins = item.kind == "joint" and item.meaning in ("and", "or", "comma") or item.kind == "text"
            if joins and waiting:
                continue  # inferior and lateral infarct
            waiting, acute = [], acute and not item.kind == "finding"
            out.append(item)
    return out


def _behind(items: list[Item]) -> list[str]:
    """Places right behind an infarction ("infarct, inferior"), unless another finding owns them."""
    places = []
    for item in items:
        if item.kind == "place":
            places.append(item.meaning)
        elif item.kind in ("finding", "infarct"):
            return []
        elif item.kind not in ("joint", "text", "age") or item.kind == "joint" and item.meaning not in ("and", "comma"):
            break
    return places


class _Sentence:
    """The findings of one sentence, what joins them, and the state that each gets."""

    def __init__(self, text: str):
        items = _items(text)
        self.text, self.rest = text, text  # what no rule knows, other stretches as |
        for item in items:
            self.rest = self.rest[: item.start] + "|" * (item.end - item.start) + self.rest[item.end :]
        self.items = [item for item in _placed(items) if item.kind != "text"]
        self.at = [i for i, item in enumerate(self.items) if item.kind in ("finding", "acute")]
        self.denied, self.doubted, self.past = set(), set(), set()

    def joints(self, first: int, second: int) -> set[str]:
        """Meanings of what stands between the findings number `first` and `second`."""
        between = self.items[self.at[first] + 1 : self.at[second]]
        return {item.meaning if item.kind == "joint" else "cue" for item in between}

    def chain(self, number: int, step: int) -> list[int]:
        """The findings of the list that begins (step 1) or ends (step -1) with finding `number`."""
        out, current = [number], number
        while 0 <= current + step < len(self.at):
            joints = self.joints(*sorted((current, current + step)))
            listed = joints <= {"and", "or", "comma"} and joints & {"and", "or"}
            if not listed and not (joints == {"comma"} and self._ends_with_or(max(current, current + step))):
                break
            current += step
            out.append(current)
        return out

    def _ends_with_or(self, number: int) -> bool:
        """Whether the list that goes on at finding `number` is one of commas and ends with or ("no A, B, or C")."""
        while number + 1 < len(self.at):
            joints = self.joints(number, number + 1)
            if "or" in joints and joints <= {"or", "comma"}:
                return True
            if joints != {"comma"}:
                return False
            number += 1
        return False

    def _near(self, start: int, end: int) -> bool:
        """Whether few words without meaning lie in a stretch of the text."""
        return len(re.findall(r"\w+", self.rest[start:end])) <= REACH

    def following(self, index: int) -> int | None:
        """Number of the finding that a denial or doubt at `index` stands before; None: of no one."""
        for number, at in enumerate(self.at):
            if at > index:
                stops = {item.meaning for item in self.items[index + 1 : at] if item.kind == "joint"} - {"and", "or"}
                near = self._near(self.items[index].end, self.items[at].start)
                return number if near and not stops & {"comma", "but", "suggests", "replaced", "replaced_by"} else None
        return None

    def preceding(self, index: int) -> int | None:
        """Number of the finding that a denial or doubt at `index` stands behind; None: of no one."""
        for number, at in reversed(list(enumerate(self.at))):
            if at < index:
                stops = {item.meaning for item in self.items[at + 1 : index] if item.kind == "joint"}
                near = self._near(self.items[at].end, self.items[index].start)
                return number if near and not stops & {"but", "suggests", "replaced", "replaced_by"} else None
        return None

    def judge(self) -> None:
        """Find out which findings are denied, doubted or past."""
        for index, item in enumerate(self.items):
            self._cue(index, item)
            if item.kind == "joint" and self.at:
                self._connective(index, item.meaning)

    def _cue(self, index: int, item: Item) -> None:
        kind, _, side = item.kind.partition("_")
        if kind in ("not", "doubt"):
            after = self.following(index) if side != "after" else None
            before = self.preceding(index) if side != "before" and after is None else None
            found = self.chain(after, 1) if after is not None else self.chain(before, -1) if before is not None else []
            (self.denied if kind == "not" else self.doubted).update(found)
        elif kind == "history":
            self.past.update(n for n, at in enumerate(self.at) if at > index)
        elif kind == "past" and (before := self.preceding(index)) is not None:
            self.past.update(self.chain(before, -1))

    def _connective(self, index: int, meaning: str) -> None:
        right = next((n for n, at in enumerate(self.at) if at > index), None)
        left = next((n for n, at in reversed(list(enumerate(self.at))) if at < index), None)
        if meaning == "or" and None not in (left, right) and "but" not in self.joints(left, right):
            self.doubted.update((left, right))
        elif meaning == "suggests" and right is not None:
            self.doubted.update(self.chain(right, 1))
        elif meaning == "replaced" and right is not None:
            self.denied.update(self.chain(right, 1))
        elif meaning == "replaced_by" and left is not None:
            self.denied.update(self.chain(left, -1))

    def mentions(self) -> list[tuple[str, int]]:
        """(label, state) of every finding that the sentence says something of."""
        if any(item.kind == "request" for item in self.items):
            return []
        self.judge()
        out = []
        for number, at in enumerate(self.at):
            item = self.items[at]
            if number in self.past or (number in self.denied and item.kind == "acute"):
                continue
            for key, _, word in (part.partition("=") for part in item.meaning.split(";") if part):
                state = STATES[word or "present"]
                if number in self.denied:
                    state = UNKNOWN if state == ABSENT else ABSENT
                elif number in self.doubted:
                    state = UNKNOWN if state == ABSENT else POSSIBLE
                out += [(key, state)] if state != UNKNOWN else []
        return out

    def unread(self) -> list[str]:
        """Runs of words that no rule knows."""
        return [run for run in (" ".join(re.findall(r"\w+", part)) for part in self.rest.split("|")) if run]


@lru_cache(maxsize=2**17)  # reports of machines are made of the same sentences
def _judged(sentence: str) -> tuple[list[tuple[str, int]], list[str], int]:
    """(label, state) of a sentence, its runs of words that no rule knows, and how many words it has."""
    parts = _Sentence(sentence)
    return parts.mentions(), parts.unread(), len(re.findall(r"\w+", sentence))


def read(report: str) -> Reading:
    """Read one report (English, German or Swedish). Labels that nothing is said of have no state."""
    said, unread, n_words = {}, [], 0
    for mentions, unknown, n in map(_judged, normalise(report)):
        for label, state in mentions:
            said.setdefault(label, set()).add(state)
        unread += unknown
        n_words += n
    conflicts = tuple(sorted(label for label, states in said.items() if {ABSENT, PRESENT} <= states))
    states = {label: max(values, key=_RANK.get) for label, values in said.items()}
    return Reading(_with_family(states), conflicts, tuple(unread), n_words)


def _with_family(states: dict[str, int]) -> dict[str, int]:
    """Add parents of what is present or possible, and children of what is absent, where nothing more was said."""
    if any(states.get(label) == PRESENT for label in _RATES) and states.get("sinus_rhythm", ABSENT) != ABSENT:
        states = {label: state for label, state in states.items() if label != "sinus_rhythm"}
    out = dict(states)
    for label, state in states.items():
        above = list(_parents()[label])
        while state != ABSENT and above:
            parent = above.pop()
            above += _parents()[parent]
            if parent not in states or _RANK[out[parent]] < _RANK[state]:
                out[parent] = max(state, out.get(parent, state), key=_RANK.get)
    denied = {label for label, state in states.items() if state == ABSENT and out[label] == ABSENT}
    for label, parents in _parents().items():
        if label not in out and denied & set(parents):
            out[label] = ABSENT
    return out


def read_all(reports: pd.Series) -> pd.DataFrame:
    """States of the common labels in every report: int8 (report, label), UNKNOWN where a report says nothing.

    reports: text; empty where there is none. `attrs["reading"]`: {n_reports, n_silent: without any label, words: how
    many there are, read: share of them that a rule knows, unread: the 20 commonest runs of others, conflicts: labels
    that a report both states and denies, with how many reports; there, present wins}.
    """
    texts = reports.fillna("").astype(str)
    known = {text: read(text) for text in texts.unique()}
    readings = [known[text] for text in texts]
    keys = label_set("harmonised")
    states = np.full((len(readings), len(keys)), UNKNOWN, np.int8)
    column = {key: i for i, key in enumerate(keys)}
    for row, reading in enumerate(readings):
        for key, state in reading.states.items():
            states[row, column[key]] = state
    words = sum(reading.n_words for reading in readings)
    unread = Counter(piece for reading in readings for piece in reading.unread)
    lost = sum(len(piece.split()) * count for piece, count in unread.items())
    out = pd.DataFrame(states, index=reports.index, columns=list(keys))
    out.attrs["reading"] = {
        "n_reports": len(readings),
        "n_silent": sum(not reading.states for reading in readings),
        "words": words,
        "read": 1 - lost / words if words else 0.0,
        "unread": dict(unread.most_common(20)),
        "conflicts": dict(Counter(key for reading in readings for key in reading.conflicts)),
    }
    return out
