"""Bring your own ECGs: any folder of WFDB records plus one CSV with a row per record.

    record,patient,split,age,sex,report,NORM,MI            or            record,patient,labels
    ward/0001,17,train,64,F,sinus rhythm,1,0                             ward/0001,17,NORM
    ward/0002,18,test,,,,0,                                              ward/0002,18,MI|LVH?

`record` is the path of the record inside the folder (extension optional). One column per label: 1 or True present, 0 or
False absent, 2 or `possible`, -1, NA or empty unknown. One column of names: `|` between them, `?` behind a doubtful
one, `none` where nothing was found, empty where nobody looked (then every label is unknown).
Without a patient (column or cell; NA, nan and None name nobody) a record counts as its own patient; without a split
column one is dealt by patient; both are noted. age, sex and report are used where they are there; the other columns
travel along as metadata.

Nothing is guessed: the columns of the first line are found in any capitals, and any other that looks like one of them
(`patient_id`, `fold`, `gender`, or cells such as train and test alone) stops until an option says what it is. Without
the option `labels` a column that could be a label or a code stops too: numbers beside 0 and 1, a 2 in a column whose
name no vocabulary has. What was taken for what is in `attrs["read_as"]` of the records.
"""

import ast
import json
import os
import re
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pandas as pd

from ecglib import EcgError, datasets, require_known
from ecglib.data import labels as vocabulary
from ecglib.data import splits
from ecglib.data.recording import LEADS as LEADS
from ecglib.data.recording import Recording, canonical, record_path

URL = ""
VERSION = ""
LICENCE = "that of the recordings"
CITATION = "that of the recordings"
N_RECORDS = None
FS = None
VOCABULARY = None
CORPUS = ""
FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
OPTIONS = {
    "csv": "records.csv",  # the table, inside the folder
    "separator": ",",  # between its cells
    "record": "record",  # column: path of the record
    "patient": "patient",  # column: patient; None: no column names one
    "split": "split",  # column: split; or a split name ("external") for all records; None: deal one
    "age": "age",  # column: age in years; None: no column has it, as for the next two
    "sex": "sex",  # column: sex
    "report": "report",  # column: report
    "id": None,  # column: record id (default: the record path)
    "labels": None,  # columns ["NORM", "MI"], or one column of names (default: "labels", else every column of 0 and 1)
    "label_separator": None,  # between names in a cell (default "|")
    "labels_format": "names",  # of a cell: names, or in Python's or JSON's way a list, states {"MI": 1}, or likelihoods
    "lead_names": None,  # name in the files -> standard name, "" to leave a channel out: {"MLII": "II", "resp": ""}
    "sex_codes": None,  # cell -> sex where it is not a word: {"0": "male", "1": "female"}
    "vocabulary": None,  # what the label names mean: a source of `labels.match`, such as "scp"; None: nothing known
    "corpus": None,  # public corpus that these recordings are from, "own" if none: published models may have seen it
    "extra": None,  # another CSV with more columns (path from the folder), joined on the column `id`
    "where": None,  # column -> the cells of the rows to use: {"split": ["train"]}; the others are left out
    "drop": None,  # columns to leave out
}
# likelihoods: {"MI": 15.0} in percent as in PTB-XL, where a statement is made whatever stands beside it.
FORMATS = ("names", "list", "states", "likelihoods")
_ROLES = ("record", "id", "patient", "split", "age", "sex", "report")
# Other words for the columns, without capitals, digits and signs.
_ID = "(?:id|ids|identifier|ident|no|nr|num|number|nummer|code|key|name|hash|uid|uuid|guid|index)"
_PATIENT = (
    "pa[tc]ien(?:t|ts|te|ten|tes)|subjects?|sujeto?|persons?|participants?|individuals?|volunteers?|probands?|mrn"
)
_MADE = "(?:id|anon[a-z]*|pseudo[a-z]*|de?ident[a-z]*|deid|hash(?:ed)?|encrypted|uni(?:que|versal)|study)"
_SHORT = "(?:(?:pat|pt|subj|sub)(?:id|no|nr|num|number|uid|uuid)|p(?:id|no|nr))"
_CASE = "(?:case|chart)(?:id|no|nr|num|number)|(?:hospital|nhs)(?:no|nr|num|number)|empi"
_SETS = "splits?|folds?|subset|partition|trainset|testset|train|training|val|validation|test|holdout|heldout"
_HOW = "(?:data|set|cv|k|strat[a-z]*|official|recommended|random|is|ml)"
_ALIKE = {
    "patient": f"{_MADE}{{0,3}}(?:{_PATIENT}){_ID}{{0,2}}|{_SHORT}|{_CASE}",
    "split": f"{_HOW}{{0,4}}(?:{_SETS}){{1,4}}(?:set|{_ID})?|set",
    "age": "(?:patient)?age(?:in)?(?:years?|yrs?|y)?(?:at[a-z]*)?",
    "sex": "(?:patient)?(?:sex|gender)(?:code)?",
    "report": "(?:ecg)?reports?(?:text)?",
}
# Cells that name parts of a study, without signs and digits: a column of them is a split, whatever its name.
_PARTS = re.compile("train(ing)?(set)?|val(id(ation)?)?(set)?|dev(elopment)?(set)?|test(ing)?(set)?|h[oe]ldout(set)?")
# Words in the names of columns that hold 0 and 1 and are no finding of an ECG.
_NO_LABEL = set(
    "site visit device center centre hospital clinic ward department icu inpatient outpatient nurse operator reader "
    "study arm group batch cluster month year day date time hour index idx id unnamed count fold row age sex gender "
    "male female ethnicity race smoking smoker smoke diabetes diabetic hypertension pregnant alcohol height weight bmi "
    "systolic diastolic bp cholesterol hdl ldl creatinine death dead deceased died mortality alive follow followup "
    "validated validation checked included excluded".split()
)
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male"}
_SURE = {"1": 1, "1.0": 1, "true": 1, "present": 1, "0": 0, "0.0": 0, "false": 0, "absent": 0, "possible": 2}
_CELL = _SURE | {"2": 2, "2.0": 2, "-1": -1, "-1.0": -1}
_CELL |= dict.fromkeys(datasets.UNKNOWN - {"none"}, vocabulary.UNKNOWN)  # "none" could mean that nothing was found
_CODES = "for the number of a class write its name, or a column of 0 and 1 for each class"
_STATES = f"1 or True, 0 or False, possible, NA or empty; {_CODES}"
_NONE = "none where nothing was found, empty where nobody looked"
_SEPARATOR = 'label_separator=";" (or "|", ...) says what is between names'


def records(root, **options) -> pd.DataFrame:
    """List the records of the CSV; options and their defaults: `OPTIONS`.

    Raises EcgError for an unknown option, a missing table or column, an empty table, a record listed twice, a patient
    in two splits or two spellings, an unknown split or sex, an age that is none, a column that looks like one that is
    used, and labels that `labels` refuses.
    """
    table, path, use = _open(root, options)
    label_columns, is_list = _label_columns(table, use, path)
    states = _states(table, label_columns, is_list, use, path)
    ids = table[use.id or use.record]
    datasets.refuse(ids[datasets.is_unknown(ids)], path, "{} names no record", "fill the cell, or remove the row")
    out = pd.DataFrame({"record_id": ids.to_numpy(str)})
    out["patient_id"] = _patients(table, use, path)
    out["path"] = _paths(table[use.record], root, path)
    out["split"] = use.split or ""
    out["age"] = datasets.numbers(table, use.age, path, (0, 120), "age in years") if use.age else np.nan
    out["sex"] = _sexes(table[use.sex], use.sex_codes or {}, path) if use.sex else ""
    out["report"] = table[use.report].to_numpy() if use.report else ""
    if use.lead_names:
        out["lead_names"] = json.dumps(use.lead_names, sort_keys=True)
    read_as = {"patients": f"column {use.patient}" if use.patient else "no column"}
    if use.split in table:
        wrong = table[use.split][~table[use.split].isin(["", *splits.SPLITS])]
        datasets.refuse(wrong, path, "unknown split {}", f"use one of {', '.join(splits.SPLITS)}")
        out["split"], read_as["splits"] = table[use.split].to_numpy(), f"column {use.split}"
    elif use.split:
        read_as["splits"] = f"{use.split} for all"
    else:
        out["split"], read_as["splits"] = splits.assign(out, FRACTIONS, 0, states).to_numpy(), "dealt by patient"
        use.notes.append("the table has no split: dealt by patient, 70 % train, 10 % val, 20 % test")
    try:
        splits.check(out)
    except EcgError as error:
        raise EcgError(error.reason, file=path, field=error.field, fix=error.fix) from error
    read_as["labels"] = f"names in column {label_columns[0]}" if is_list else "columns"
    return _with_metadata(out, table, use, read_as, {*(getattr(use, role) for role in _ROLES), *label_columns})


def _with_metadata(out: pd.DataFrame, table, use: SimpleNamespace, read_as: dict, used: set) -> pd.DataFrame:
    """The records with the columns of the table that nothing else used, and what was taken for what."""
    lost = [c for c in table if c not in used and c in out] + use.drop
    metadata = table[[c for c in table if c not in used and c not in out]].reset_index(drop=True)
    out = pd.concat([out, metadata.apply(_numbers_if_all, notes=use.notes)], axis=1)
    told = [f"{role} (column {getattr(use, role)})" for role in ("age", "sex", "report") if getattr(use, role)]
    read_as["metadata"] = ", ".join([*told, *metadata]) or "none"
    if lost:
        read_as["columns left out"] = ", ".join(lost)
    out.attrs |= {"notes": use.notes, "read_as": read_as}
    return out


def labels(root, records: pd.DataFrame, **options) -> pd.DataFrame:
    """Return the label states of `records`. Raises EcgError for a missing label column and a cell that is no state."""
    table, path, use = _open(root, options)
    states = _states(table, *_label_columns(table, use, path), use, path)
    states.index = pd.Index(table[use.id or use.record].to_numpy(str), name="record_id")
    return states.loc[list(records.record_id)]


def read(row) -> Recording:
    """Read one record of `records`; its leads must have standard names, if need be through the option `lead_names`."""
    names = datasets.cell(row, "lead_names")
    return datasets.load(row, json.loads(names) if isinstance(names, str) else None)


def _open(root, options: dict) -> tuple[pd.DataFrame, Path, SimpleNamespace]:
    """The rows to use as text, the path of the table, and all options with the columns that are there."""
    require_known("option", options, OPTIONS, "options")
    use = SimpleNamespace(**(OPTIONS | options))
    require_known("corpus", [use.corpus] if use.corpus else [], datasets.CORPORA)
    require_known("vocabulary", [use.vocabulary] if use.vocabulary else [], vocabulary.SOURCES)
    require_known("labels_format", [use.labels_format], FORMATS)
    for name in ("lead_names", "sex_codes", "where"):
        if not isinstance(getattr(use, name) or {}, dict):
            raise EcgError(f"{getattr(use, name)!r} is no table of names", field=name, fix=f"write {name}={{a: b}}")
    for name in (*_ROLES, "csv", "extra", "label_separator"):
        if not isinstance(getattr(use, name), str | (str if name == "csv" else None)):
            raise EcgError(f"{getattr(use, name)!r} is no text", field=name, fix="write one name, a number in quotes")
    path = Path(root) / use.csv
    for name in ("labels", "drop"):
        _require_columns_named(name, getattr(use, name), path)
    for name, lead in (use.lead_names or {}).items():
        canonical(lead or "I", file=f"lead_names: {name}")
    use.drop = [use.drop] if isinstance(use.drop, str) else list(use.drop or ())
    if not path.is_file():
        fix = f"put it into {root}, or say where it lies as seen from there: --option csv=../records.csv"
        raise EcgError("no such table", file=path, field="csv", fix=fix)
    table = datasets.text_table(path, separator=use.separator)
    use.notes = []
    if use.extra:
        table = _joined(table, Path(root) / use.extra, use, path)
    datasets.require_columns(table, use.drop, path)
    table = table.drop(columns=use.drop)
    datasets.require_columns(table, use.where or {}, path)
    _find_columns(table, use, options, path)
    if table.empty:
        raise EcgError("no records in the table", file=path, fix="add a row per record")
    return _chosen(table, use.where or {}, path), path, use


def _require_columns_named(option: str, value, path: Path) -> None:
    """EcgError where an option of names of columns is neither None, nor a text, nor a list of some texts."""
    names = [value] if isinstance(value, str) else value
    if not (names is None or (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names))):
        fix = f"write {option}=[A, B], a number or a word such as NO or true in quotes"
        raise EcgError(f"{value!r} is no list of columns", file=path, field=option, fix=fix)
    if option == "labels" and value == "":
        fix = "name the columns, labels=[A, B]; labels=[] takes none, without the option they are found"
        raise EcgError("no column is named", file=path, field=option, fix=fix)


def _joined(table: pd.DataFrame, extra: Path, use: SimpleNamespace, path: Path) -> pd.DataFrame:
    """The table with the new columns of another one; EcgError where keys are there twice or in another spelling."""
    if use.id is None:
        raise EcgError("the option extra needs the option id", field="id", fix="name the column to join on")
    datasets.require_columns(table, [use.id], path)
    more = datasets.text_table(extra, [use.id], use.separator)
    keys = more[use.id]
    datasets.refuse(keys[keys.duplicated()], extra, "{} is there twice", "keep one row of each")
    lacking = table[use.id][~table[use.id].isin(keys)]
    known = {datasets.spelling(key): key for key in keys}
    alike = lacking[[datasets.spelling(key) in known for key in lacking]]
    if len(alike):
        known = known[datasets.spelling(alike.iloc[0])]
        datasets.refuse(alike[:1], path, f"{{}} is {known!r} in {extra.name}", "write keys in one way in both tables")
    if len(lacking) == len(table):
        reason = f"{{}} is not in {extra.name}, nor is any other"
        datasets.refuse(lacking[:1], path, reason, "name the column of keys: id=...")
    if len(lacking):
        note = f"{len(lacking)} of {len(table)} records are not in {extra.name}, such as {lacking.iloc[0]}"
        use.notes.append(note)
    if both := [c for c in more if c in table and c != use.id]:
        use.notes.append(f"columns {', '.join(both)} are those of {path.name}, not of {extra.name}")
    new = more.set_index(use.id)[[c for c in more if c not in table]]
    return table.join(new.reindex(table[use.id]).set_axis(table.index).fillna(""))


def _find_columns(table: pd.DataFrame, use: SimpleNamespace, options: dict, path: Path) -> None:
    """Put the columns that are there into `use`: those that the options name, else the usual names in any capitals.

    Raises EcgError where a named column is missing, and where an unused one looks like one that is used.
    """
    for role in _ROLES:
        given = getattr(use, role)
        if role not in options and given not in table:
            found = [c for c in table if given and datasets.spelling(c) == given]
            setattr(use, role, found[0] if len(found) == 1 else given if role == "record" else None)
        elif given is not None and not (role == "split" and given in splits.SPLITS):
            datasets.require_columns(table, [given], path)
    datasets.require_columns(table, [use.record], path)
    labels = [use.labels] if isinstance(use.labels, str) else list(use.labels or ())
    taken = {*(getattr(use, role) for role in _ROLES), *labels, *(use.where or {})}
    for role in _ALIKE:
        alike = [c for c in table if c not in taken and _looks_like(c, role)]
        if role == "split":
            alike += [c for c in table if c not in {*taken, *alike} and _names_parts(table[c])]
        if alike and role not in options and (role in ("patient", "split") or not getattr(use, role)):
            ways = [f"{role}={c}" for c in (getattr(use, role), *alike) if c]
            fix = f"say which it is: {', '.join(ways)}, or {role}=null for none"
            raise EcgError(f"this column looks like the {role} and is not used", file=path, field=alike[0], fix=fix)


def _looks_like(name: str, role: str) -> bool:
    return bool(re.fullmatch(_ALIKE[role], re.sub("[^a-z]", "", name.lower())))


def _names_parts(cells: pd.Series) -> bool:
    """Whether all cells that are known name a part of a study, such as train, valid and test."""
    known = cells[~datasets.is_unknown(cells)].unique()
    return len(known) > 0 and all(_PARTS.fullmatch(re.sub(r"[\W\d_]", "", cell.lower())) for cell in known)


def _chosen(table: pd.DataFrame, where: dict, path: Path) -> pd.DataFrame:
    for column, cells in where.items():
        cells = [str(c) for c in (cells if isinstance(cells, list) else [cells])]
        if absent := [c for c in cells if c not in set(table[column])]:
            fix = "name cells that are in the table"
            raise EcgError(f"no row has {absent[0]!r} in column {column}", file=path, field="where", fix=fix)
        table = table[table[column].isin(cells)]
    if table.empty:
        raise EcgError(f"no row has {where}", file=path, field="where", fix="name cells that are in the table")
    return table


def _paths(cells: pd.Series, root, path: Path) -> list[str]:
    """Path of every record; EcgError where two rows are one recording, whatever the spelling or link."""
    paths, first = [], {}
    datasets.refuse(cells[datasets.is_unknown(cells)], path, "{} names no record", "fill the cell, or remove the row")
    for row, cell in cells.items():
        paths.append(str(Path(root).resolve() / record_path(PurePosixPath(cell))))
        header = f"{paths[-1]}.hea"
        place = os.path.normpath(header)
        if os.path.isfile(header):
            place = os.stat(header).st_dev, os.stat(header).st_ino
        other = first.setdefault(place, row)
        if other != row:
            reason = f"{{}} is the record of row {other}, {cells[other]!r}"
            datasets.refuse(cells.loc[[row]], path, reason, "keep one row per record")
    return paths


def _label_columns(table: pd.DataFrame, use: SimpleNamespace, path: Path) -> tuple[list[str], bool]:
    """The label columns, and whether it is one column of names."""
    if use.labels is None:
        listed = [c for c in table if datasets.spelling(c) == "labels"]
        return (listed[:1], True) if listed else (_columns_of_states(table, use, path), False)
    names = [use.labels] if isinstance(use.labels, str) else list(use.labels)
    datasets.require_columns(table, names, path)
    for name in names:
        if re.fullmatch("labels?|class(es)?|targets?|y|diagnos[ie]s|categor(y|ies)|codes?|rhythms?", name.lower()):
            codes = table[name][table[name].isin(["2", "2.0"])]
            datasets.refuse(codes, path, "{} looks like the number of a class", _CODES)
    return names, len(names) == 1 and not table[names[0]].str.lower().isin(_CELL.keys() - datasets.UNKNOWN).any()


def _columns_of_states(table: pd.DataFrame, use: SimpleNamespace, path: Path) -> list[str]:
    """The columns of 0 and 1; EcgError where one could be of something else, or has a wrong cell."""
    sets = vocabulary.label_sets()
    known = set().union(*(sets[name] for name in ("ptbxl_super", "ptbxl_sub", "ptbxl_all", "harmonised")))
    taken = {getattr(use, role) for role in _ROLES}
    names, doubts = [], []
    for name in [c for c in table if c not in taken]:
        words = {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}
        cells = table[name][~table[name].str.lower().isin([w for w, s in _CELL.items() if s == vocabulary.UNKNOWN])]
        sure = cells.str.lower().isin(_SURE)
        other = _NO_LABEL & words or any(_looks_like(name, role) for role in _ALIKE)
        if name not in known and (other or sure.mean() < 1 / 3):
            continue
        strange = cells[~sure & ~(cells.str.lower().isin(_CELL) & (name in known))]
        if len(strange):
            doubts.append(strange)
        elif len(cells):
            names.append(name)
    if doubts:
        reason = "{} is no label state, in a column that could be a label"
        fix = f"say which columns are labels, labels=[{', '.join(names) or '...'}], or correct it; {_STATES}"
        datasets.refuse(doubts[0], path, reason, fix)
    if not names:
        fix = f"name it (labels=...); columns: {', '.join(table)}"
        raise EcgError("no label column", file=path, field="labels", fix=fix)
    return names


def _states(table: pd.DataFrame, columns: list[str], is_list: bool, use: SimpleNamespace, path: Path) -> pd.DataFrame:
    if is_list:
        return _listed(table[columns[0]], use, path)
    out = {}
    for name in columns:
        states = table[name].str.lower().map(_CELL)
        datasets.refuse(table[name][states.isna()], path, "{} is no label state", _STATES)
        out[name] = states.to_numpy(np.int8)
    return pd.DataFrame(out)


def _listed(cells: pd.Series, use: SimpleNamespace, path: Path) -> pd.DataFrame:
    """States from one column of names; a record without a cell is UNKNOWN in every label."""
    looked = ~cells.str.lower().isin(datasets.UNKNOWN - {"none"})
    datasets.refuse(cells[(cells.str.lower() == "none") & (cells != "none")], path, "{} can mean two things", _NONE)
    made = {}
    for row, cell in cells[looked].items():
        made[row] = {} if cell == "none" else _names(cell, use)
        if isinstance(made[row], str):
            datasets.refuse(cells.loc[[row]], path, *f"{{}} {made[row]}".split(" -> "))
    every = [(row, name) for row, found in made.items() for name in found]
    at = pd.Series([name for _, name in every], index=[row for row, _ in every], name=cells.name, dtype=str)
    names = sorted(set(at))
    if not names:
        raise EcgError("no record has a label", file=path, field=str(cells.name), fix="fill the column")
    datasets.require_one_spelling(at, path, "label")
    if use.label_separator is None and use.labels_format == "names":
        joined = [len(p := re.split(r"[\s/+&]+", name)) > 1 and set(p) <= set(names) for name in at]
        datasets.refuse(at[joined], path, "{} could be several labels", _SEPARATOR)
    states = np.zeros((len(cells), len(names)), np.int8)
    states[~looked.to_numpy()] = vocabulary.UNKNOWN
    for i, row in enumerate(cells.index):
        for name, state in made.get(row, {}).items():
            states[i, names.index(name)] = state
    return pd.DataFrame(states, columns=names)


def _names(cell: str, use: SimpleNamespace) -> dict[str, int] | str:
    """State by name of one cell, or what is wrong with it -> and what to do."""
    if use.labels_format == "names":
        values = {name: "1" for name in cell.split(use.label_separator or "|") if name.strip()}
    else:
        values = _literal(cell, use.labels_format)
    if not isinstance(values, dict):
        return f"is no {use.labels_format} -> write it as Python or JSON does, labels_format={use.labels_format}"
    out = {}
    for name, state in values.items():
        plain = name.strip().removesuffix("?").rstrip()
        if re.fullmatch(r"[-+]?(\d{1,3}|\d*\.\d*)", plain):
            return f"looks like the number of a class -> {_CODES}"
        if re.match(r"""[\[({'"]""", plain):
            return f"looks like a list -> labels_format={' or '.join(FORMATS[1:])}"
        if re.search("[,;|\n\t]", plain) and use.label_separator is None:
            return f"could be several labels -> {_SEPARATOR}"
        if plain.lower() in datasets.UNKNOWN or plain.endswith("?"):
            return f"has {plain!r} among its names -> {_NONE}"
        if state not in _CELL or plain in out:
            return f"has no clear state of {plain} -> {_STATES}, each name once"
        out[plain] = vocabulary.POSSIBLE if name.strip().endswith("?") else _CELL[state]
    return out


def _literal(cell: str, form: str) -> dict | None:
    """Name -> state as in a table, of a list or dict in Python's or JSON's way; None where it is none."""
    if re.search(r"""[^\s,:[{(]['"]\s*['"][^\s,:\]})]""", cell):  # Python would join 'MI' 'SR' to one name
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell)
            break
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    if not isinstance(value, list if form == "list" else dict) or not all(isinstance(name, str) for name in value):
        return None
    if form == "list":
        return dict.fromkeys(value, "1") if len(set(value)) == len(value) else None
    if form == "states":
        return {name: "" if state is None else str(state).lower() for name, state in value.items()}
    numbers = all(isinstance(v, int | float) and 0 <= v <= 100 for v in value.values())
    return dict.fromkeys(value, "1") if numbers else None


def _patients(table: pd.DataFrame, use: SimpleNamespace, path: Path) -> np.ndarray:
    given = table[use.patient] if use.patient else pd.Series("", index=table.index)
    alone = datasets.is_unknown(given)
    datasets.require_one_spelling(given[~alone], path, "patient")
    if alone.any():
        use.notes.append(f"{alone.sum()} of {len(table)} records name no patient: each counts as its own patient")
    return np.where(alone, "record " + table[use.id or use.record], given)


def _numbers_if_all(column: pd.Series, notes: list) -> pd.Series:
    """A column of metadata as numbers where all that is known is one, empty as NaN; a note where most of it is."""
    known = column.where(~datasets.is_unknown(column))
    exact = ~known.str.contains(r"^[-+]?0\d|\d{16}", na=False)  # 007 and long numbers are names
    numbers = pd.to_numeric(known, errors="coerce").where(exact)
    if (numbers.notna() == known.notna()).all():
        return numbers
    if exact.all() and numbers.notna().sum() >= known.notna().sum() / 2:
        odd = known[numbers.isna()].dropna().iloc[0]
        notes.append(f"column {column.name} is kept as text, not numbers, because of {odd!r}")
    return column.replace("", np.nan)


def _sexes(cells: pd.Series, codes: dict, path: Path) -> np.ndarray:
    words = cells.replace({str(k): v for k, v in codes.items()}).str.lower()
    unknown = datasets.is_unknown(words)
    wrong = cells[~words.isin(_SEX) & ~unknown]
    datasets.refuse(wrong, path, "{} is no sex", "female, male, F, M, empty, or the option sex_codes")
    return words.map(_SEX).where(~unknown, "").to_numpy()
