"""A packed cohort as Croissant 1.1 metadata: JSON-LD that catalogues and tools of machine learning can read.

Source: MLCommons, Croissant Format Specification 1.1 (http://mlcommons.org/croissant/1.1). The description stays
beside the cohort, not in it: what is packed keeps its bytes. Croissant has no reader for `.npy`, so the signals are a
file with a description of their shape, and every table is a record set whose fields are its columns.
"""

import json
import os
import re
from pathlib import Path

from ecglib import EcgError
from ecglib.data import cohort, files, handmade, labels

CONFORMS = "http://mlcommons.org/croissant/1.1"
LICENCES = {
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC BY-NC-SA 4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "ODC-By 1.0": "https://opendatacommons.org/licenses/by/1-0/",
    "ODbL 1.0": "https://opendatacommons.org/licenses/odbl/1-0/",
}
REQUIRED = ("name", "description", "url", "license", "creator", "datePublished")  # of a dataset, by the specification
# Terms of the specification, as its context maps them.
_CR = "citeAs column containedIn conformsTo equivalentProperty extract field fileObject fileProperty fileSet format"
_CR += " includes isArray arrayShape isLiveDataset jsonPath key md5 parentField path recordSet references regex"
_CR += " repeated replace samplingRate separator source subField transform"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    **{term: f"cr:{term}" for term in _CR.split()},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "description": {"@container": "@language"},
    "name": {"@container": "@language"},
}
_FORMATS = {".parquet": "application/x-parquet", ".csv": "text/csv", ".json": "application/json"}
_TYPES = {"i": "sc:Integer", "u": "sc:Integer", "f": "sc:Float", "b": "sc:Boolean"}  # numpy kind -> data type
_COLUMNS = {  # what a column of records.parquet holds, where its name does not say
    "row": "number of the window in signals.npy",
    "start_s": "start of the window in the recording, in seconds",
    "n_valid": "samples before the padding",
    "split": 'train, val, test, pretrain, external, or empty; "external" is another hospital than that of training',
    "age": "years; empty where unknown",
    "file": "recording in the folder of the corpus",
    "fs_recorded": "sampling rate of the recording in Hz",
    "lead_mask": "bit i is set where lead i has a signal",
    "gap_mask": "bit i is set where a gap of lead i was interpolated",
    "clipped_mask": "bit i is set where lead i was clipped at 32.767 mV",
    "noisy": "1 where a detector of noise calls the whole recording noisy, 0 where not; empty where it was not judged",
    "noise_probability": "probability of noise in the worst lead of the recording, by that detector",
    "noise_reason": "the worst lead, or why the recording was not judged",
}


def write(folder, out, creator: str = "", published: str = "") -> str:
    """Write the description of a packed cohort; what was written and what is missing, in lines.

    folder: of the cohort. out: file to write; its links are relative to it. creator: who made the corpus; published:
    the year or date; both are taken from the citation of the corpus where they are empty. Raises EcgError for a folder
    that is no cohort and a file `out` that is not from this command.
    """
    out = files.output_file(out, lambda path: json.loads(path.read_text("utf-8"))["conformsTo"] == CONFORMS)
    opened = cohort.open(folder)
    described = describe(opened, out, creator, published)
    files.write_atomic(out, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    sets = ", ".join(f"{one['@id']} ({len(one['field'])} fields)" for one in described["recordSet"])
    lines = [f"{out}: Croissant 1.1 of {opened.name}: {len(described['distribution'])} files; {sets}"]
    if missing := [name for name in REQUIRED if not described.get(name)]:
        lines.append(f"the specification wants {', '.join(missing)} too, which the corpus does not state")
    return "\n".join(lines)


def describe(opened, out, creator: str = "", published: str = "") -> dict:
    """The description of a cohort as JSON-LD; arguments as in `write`, `opened` an open cohort."""
    info, dataset = opened.info, opened.info["dataset"]
    cited = re.match(r"(.+?) \((\d{4})\)", dataset["citation"] or "")
    about = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": info["name"],
        "description": _description(info),
        "url": dataset["url"],
        "license": LICENCES.get(dataset["licence"], dataset["licence"]),
        "version": dataset["version"],
        "citeAs": dataset["citation"],
        "creator": _creator(creator or (cited[1] if cited else "")),
        "datePublished": published or (cited[2] if cited else ""),
        "keywords": ["electrocardiogram", "ECG", *([dataset["corpus"]] if dataset["corpus"] else [])],
        "distribution": _distribution(opened.path, Path(out).absolute().parent, info),
        "recordSet": [_states(), *_record_sets(opened)],
    }
    return {name: value for name, value in about.items() if value not in ("", None)}


def _creator(name: str) -> dict | str:
    return {"@type": "sc:Organization", "name": name} if name else ""


def _description(info: dict) -> str:
    counts, leads = info["counts"], ", ".join(info["leads"])
    kept = f"{counts['packed']} ECG recordings of {counts['patients']} patients as {counts['rows']} windows of "
    kept += f"{info['seconds']:g} s at {info['fs']:g} Hz, leads {leads}; {counts['rejected']} recordings were refused."
    signals = f" signals.npy: int16 microvolt (window, lead, time) in {counts['rows']} x {len(info['leads'])} x "
    signals += f"{round(info['seconds'] * info['fs'])}, in the order of records.parquet, read with numpy.load."
    notes = "".join(f" {note}." for note in info["dataset"]["notes"])
    return kept + signals + notes


def _distribution(folder: Path, place: Path, info: dict) -> list[dict]:
    """The files of a cohort, with their checksums."""
    sums = {**info["sha256"], "cohort.json": files.sha256(folder / "cohort.json")}
    out = []
    for name, checksum in sums.items():
        path = folder / name
        if not path.is_file():
            raise EcgError("a file of the cohort is not there", file=path, field=name, fix="pack again")
        out.append(
            {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                "contentUrl": Path(os.path.relpath(path.absolute(), place)).as_posix(),
                "contentSize": f"{path.stat().st_size} B",
                "encodingFormat": _FORMATS.get(path.suffix, "application/octet-stream"),
                "sha256": checksum,
            }
        )
    return out


def _states() -> dict:
    """What the numbers in labels.parquet mean."""
    fields = [("state", "sc:Integer", "number of a state"), ("meaning", "sc:Text", "what it says of a label")]
    return {
        "@type": "cr:RecordSet",
        "@id": "states",
        "name": "states",
        "dataType": "sc:Enumeration",
        "key": {"@id": "states/state"},
        "field": [
            {"@type": "cr:Field", "@id": f"states/{name}", "name": name, "description": text, "dataType": kind}
            for name, kind, text in fields
        ],
        "data": [{"states/state": state, "states/meaning": name} for name, state in labels.STATES.items()],
    }


def _record_sets(opened) -> list[dict]:
    """A record set for every table, with a field for every column."""
    stated = opened.labels.reset_index()
    sets = [_record_set("records", opened.records, _COLUMNS), _record_set("labels", stated, {})]
    for field in sets[1]["field"][1:]:
        field["description"] = f"state of {field['name']}: present 1, absent 0, possible 2, unknown -1"
        field["references"] = {"field": {"@id": "states/state"}}
    sets.append(_record_set("beats", opened.beats, {"sample": f"R peak, in samples at {opened.fs:g} Hz"}))
    sets.append(_record_set("measurements", opened.measurements, {"row": _COLUMNS["row"]}))
    for field in sets[3]["field"][2:]:
        field["description"] = f"{field['name']}, unit {handmade.unit(field['name']) or 'none'}"
    for one in sets[2:]:
        one["field"][0]["references"] = {"field": {"@id": "records/row"}}
    sets[0]["key"], sets[1]["key"] = {"@id": "records/row"}, {"@id": "labels/record_id"}
    return sets


def _record_set(name: str, table, said: dict[str, str]) -> dict:
    file = f"{name}.parquet"
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{column}",
            "name": str(column),
            "description": said.get(column, str(column).replace("_", " ")),
            "dataType": _TYPES.get(table[column].dtype.kind, "sc:Text"),
            "source": {"fileObject": {"@id": file}, "extract": {"column": str(column)}},
        }
        for column in table
    ]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}
