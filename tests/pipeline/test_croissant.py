"""Croissant metadata of a packed cohort: what the specification requires, and what mlcroissant reads back from it."""

import json

import numpy as np
import pytest

from ecglib import datasets
from ecglib.data import cohort, files
from ecglib.pipeline import croissant
from ecglib.pipeline.cli import main
from ecgsim import generate


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("croissant")
    generate(root / "data", hospitals=["C"], scale=0.02, seed=1)
    cohort.pack("C", datasets.get("simulated"), root / "data", root / "C", workers=1, options={"hospital": "C"})
    return root / "C"


@pytest.fixture
def described(packed, tmp_path, capsys):
    out = packed.parent / "C.croissant.json"
    assert main(["croissant", str(packed), "--out", str(out)]) == 0
    assert "Croissant 1.1 of C: 7 files" in capsys.readouterr().out
    return json.loads(out.read_text("utf-8"))


def test_what_the_specification_requires_is_there(described, packed):
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.1" and described["@type"] == "sc:Dataset"
    assert all(described[name] for name in ("name", "description", "license", "url", "distribution", "recordSet"))
    every = {one["@id"] for one in described["distribution"]}
    for one in described["distribution"]:
        assert {"@type", "name", "contentUrl", "encodingFormat", "sha256"} <= set(one)
        assert files.sha256(packed.parent / one["contentUrl"]) == one["sha256"]
        assert one["contentSize"] == f"{(packed.parent / one['contentUrl']).stat().st_size} B"
    assert every == {path.name for path in packed.iterdir()}
    fields = {field["@id"] for one in described["recordSet"] for field in one["field"]}
    for one in described["recordSet"]:
        for field in one["field"]:
            assert {"@type", "@id", "name", "dataType"} <= set(field)
            assert one["@id"] == "states" or field["source"]["fileObject"]["@id"] in every
            assert field.get("references", {"field": {"@id": "records/row"}})["field"]["@id"] in fields


def test_every_column_is_a_field_of_its_kind(described, packed):
    opened = cohort.open(packed)
    sets = {one["@id"]: {field["name"]: field for field in one["field"]} for one in described["recordSet"]}
    assert list(sets["records"]) == list(opened.records) and list(sets["labels"])[1:] == list(opened.labels)
    assert list(sets["measurements"]) == list(opened.measurements) and list(sets["beats"]) == ["row", "sample"]
    kinds = {name: sets["records"][name]["dataType"] for name in ("row", "age", "record_id")}
    assert kinds == {"row": "sc:Integer", "age": "sc:Float", "record_id": "sc:Text"}


def test_mlcroissant_takes_it_and_reads_the_tables(described, packed):
    import mlcroissant as mlc

    dataset = mlc.Dataset(packed.parent / "C.croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    opened = cohort.open(packed)
    first = next(iter(dataset.records("records")))
    said = first["records/record_id"]
    assert (said.decode() if isinstance(said, bytes) else said) == opened.records.record_id[0]
    beats = [row["beats/sample"] for row in dataset.records("beats")]
    np.testing.assert_array_equal(beats, opened.beats["sample"])


def test_citations_give_who_and_when_and_others_are_asked(packed, capsys):
    opened = cohort.open(packed)
    opened.info["dataset"] |= {
        "citation": "Zheng et al. (2020), A database, Scientific Data 7:48",
        "licence": "CC BY 4.0",
    }
    about = croissant.describe(opened, packed.parent / "x.json")
    assert about["creator"]["name"] == "Zheng et al." and about["datePublished"] == "2020"
    assert about["license"] == "https://creativecommons.org/licenses/by/4.0/"
    opened.info["dataset"]["citation"] = ""
    assert not {"creator", "datePublished"} & set(croissant.describe(opened, packed.parent / "x.json"))
    about = croissant.describe(opened, packed.parent / "x.json", creator="A clinic", published="2026")
    assert about["creator"] == {"@type": "sc:Organization", "name": "A clinic"} and about["datePublished"] == "2026"
    other = packed.parent / "notes.json"
    other.write_text("{}")
    assert main(["croissant", str(packed), "--out", str(other)]) == 2
    assert "not from this command" in capsys.readouterr().err and other.read_text() == "{}"
