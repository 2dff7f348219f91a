"""Knowledge for reports: what the ECG terms in a report mean, in plain words written beside them.

After the cardiac feature retrieval of TolerantECG (arXiv 2507.09887), with our own glossary (`vocabulary/glossary.csv`:
term, synonyms separated by |, description; English, with the German and Swedish words of common reports) and exact
terms in place of a sentence embedding: a finding that is denied or past is found by its words, and is not described.
"""

import re
from functools import cache, lru_cache
from typing import NamedTuple

from ecglib.data.labels import vocabulary

# What joins two findings. "and", "or" pass a denial on ("no A or B"); the others end it.
_JOINT = re.compile(
    r"\s*(?:,\s*)?\b(?P<word>and|or|nor|und|oder|och|eller|with|but|mit|aber)\b\s*|\s*[,;:]\s*|\s+[-–]\s+"
)
_PASSING, _ANY = {"and", "or", "nor", "und", "oder", "och", "eller"}, {"or", "nor", "oder", "eller"}
_BEFORE = re.compile(
    r"\b(?:no(?! longer)|without|negative for|absence of|not(?! excluded| ruled| be)|kein\w*|ohne|ingen|inget|utan)\b"
)
_AFTER = re.compile(r"\b(?:not (?:seen|present|found|evident)|absent|no longer|resolved)\b")
_BOTH = re.compile(r"(?<!be )(?<!not )\bruled out\b|\bpreviously\b")
_LEFT_OUT = re.compile(r"\b(?:warning|summary)\b", re.IGNORECASE)  # remarks of the machine about itself


class Term(NamedTuple):
    """A glossary term found in a text: its name, where it stands (start, end), and whether the text denies it."""

    name: str
    start: int
    end: int
    denied: bool


@cache
def descriptions() -> dict[str, str]:
    """Description of every term, in the order of the glossary."""
    table = vocabulary("glossary")
    return dict(zip(table.term, table.description, strict=True))


@cache
def _names() -> dict[str, str]:
    """Term of every name and synonym, keyed as `_key` spells it."""
    table = vocabulary("glossary")
    return {_key(name): row.term for row in table.itertuples() for name in (row.term, *row.synonyms.split("|")) if name}


@cache
def _pattern() -> re.Pattern:
    """One pattern of all names, longest first; blanks and hyphens are the same, a plural s or es may follow."""
    names = (re.escape(n).replace(r"\ ", r"[\s-]+") for n in sorted(_names(), key=len, reverse=True))
    return re.compile(rf"(?<!\w)({'|'.join(names)})(?:e?s)?(?!\w)", re.IGNORECASE)


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", " ", name.lower()).strip()


def statements(report: str) -> list[str]:
    """Sentences and lines of a report, without what the machine says about itself (Warning, Summary)."""
    stripped = (piece.strip(" .") for piece in re.split(r"\.\s+|\n", report))
    return [statement for statement in stripped if statement and not _LEFT_OUT.search(statement)]


def terms(statement: str) -> list[Term]:
    """Glossary terms of one statement, in its order: the longest name at every position, never two over one another. A
    denial reaches over its fragment, between with, but, commas, colons and dashes, and over and/or ("no A, B, or
    C")."""
    matches = [(m.start(), m.end(), _names()[_key(m[1])]) for m in _pattern().finditer(statement)]
    rest = list(statement.lower())
    for start, end, _ in matches:  # words within a term ("no P waves found", "ST and T") are neither joints nor denials
        rest[start:end] = "\0" * (end - start)
    rest = "".join(rest)
    joints = [(m.start(), m.end(), m["word"] or ",") for m in _JOINT.finditer(rest)]
    for i in reversed(range(len(joints) - 1)):  # in a list, what joins the last two joins all
        if joints[i][2] == "," and joints[i + 1][2] in _ANY:
            joints[i] = (*joints[i][:2], joints[i + 1][2])
    edges = [0, *(edge for start, end, _ in joints for edge in (start, end)), len(rest)]
    fragments = list(zip(edges[::2], edges[1::2], strict=True))
    denied = _denied([rest[a:b] for a, b in fragments], [word for _, _, word in joints])
    out = []
    for start, end, name in matches:
        number = max(i for i, (a, _) in enumerate(fragments) if a <= start)
        first, last = denied[number]
        out.append(Term(name, start, end, first <= start - fragments[number][0] < last))
    return out


def _denied(fragments: list[str], joints: list[str]) -> list[tuple[int, int]]:
    """The part (start, end) of each fragment that is denied; joints: the words between them."""
    spans = []
    for i, text in enumerate(fragments):
        before, after = _BEFORE.search(text), _AFTER.search(text)
        if _BOTH.search(text):
            span = (0, len(text))
        elif after:
            span = (0, after.start())
        elif i and joints[i - 1] in _PASSING and spans[-1][1] == len(fragments[i - 1]) > 0:
            span = (0, len(text))
        else:
            span = (before.end(), len(text)) if before else (0, 0)
        spans.append(span)
    for i in reversed(range(len(joints))):  # "A or B not seen"
        if joints[i] in _ANY and _AFTER.search(fragments[i + 1]):
            spans[i] = (0, len(fragments[i]))
    return spans


@lru_cache(maxsize=2**17)  # every report comes back in every epoch
def knowledge(report: str) -> str:
    """The statements of a report, then "term: description." of each of its terms once; "" for an empty report."""
    kept = statements(report)
    meant = dict.fromkeys(term.name for statement in kept for term in terms(statement) if not term.denied)
    return " ".join(f"{line}." for line in (*kept, *(f"{name}: {descriptions()[name]}" for name in meant)))


def enrich(report: str, age=None, sex=None) -> str:
    """The knowledge-enriched report: who the person is, what was written, what that means; "" for an empty report. age
    in years, sex 1 male and 0 female; None or NaN where unknown."""
    text = knowledge(report)
    if not text:
        return ""
    known_age, known_sex = age is not None and age == age, sex is not None and sex == sex
    noun = ("male" if sex else "female") if known_sex else "patient"
    pronoun = ("He" if sex else "She") if known_sex else "This patient"
    person = f"This person is a {noun}{f' of age {age:.0f}' if known_age else ''}. " if known_age or known_sex else ""
    return f"{person}{pronoun} is having {text}"
