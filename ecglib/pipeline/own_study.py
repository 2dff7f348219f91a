"""A study on one's own ECGs: a short YAML file becomes a dvc.yaml in studies/NAME, run as the example study is.

The file says which cohorts there are, the first one being home, and which methods are compared:

    cohorts:
      clinic: {root: my_ecgs, options: {labels: [AFIB, LVH]}}    # a folder of WFDB records with records.csv
      other: {root: their_ecgs, options: {labels: [AFIB, LVH]}}  # other hospitals, none or several
    methods: [random, features, scratch, zoo:merl]               # or {byol: folder of its encoder}
    probe: {fractions: [0.1, 1.0]}                               # parameters of a notebook, if others than below
    one_ecg: {model: my/model}                                   # a kept model, shown beside the methods
"""

import os
import re
import shlex
from pathlib import Path

import yaml

from ecglib import EcgError, datasets, require_known, zoo
from ecglib.data.files import write_atomic
from ecglib.evaluation.predictions import BASELINES, is_baseline

KEPT = ["ecglib/models", "ecglib/training", "ecglib/objectives/__init__.py", "ecglib/zoo"]  # what a kept model loads
FIRST_LINE = "# Written by `ecglib study {}`: edit that file and call it again."
DEFAULTS = {  # what differs from params.yaml, since one's own cohorts are small
    "pack": {},
    "explore": {"gallery": [], "min_positives": 5},
    "probe": {"fractions": [0.1, 1.0], "seeds": 3, "min_positives": 5},
    "external": {},
    "one_ecg": {},
    "figures": {"min_positives": 5},
}
PACKAGES = {  # what the notebooks load of this library
    "explore": ["data", "evaluation", "reporting"],
    "probe": ["data", "models", "training", "objectives/__init__.py", "objectives/supervised.py", "evaluation"],
    "external": ["data", "evaluation", "reporting"],
    "one_ecg": ["data", "datasets", "evaluation", "reporting"],
    "figures": ["data", "evaluation", "reporting"],
    "report": ["data", "evaluation", "reporting"],
}


def write(file, root: Path) -> Path:
    """Write studies/NAME/dvc.yaml and params.yaml for the study in `file` (NAME.yaml); returns the dvc.yaml.

    root: the repository. Raises EcgError for a file, key, dataset, folder or method that cannot be, and where the
    folder holds a dvc.yaml or params.yaml that this command did not write.
    """
    asked = _read(Path(file))
    name, first_line = Path(file).stem, FIRST_LINE.format(Path(file).name)
    folder = root / "studies" / name
    target = folder / "dvc.yaml"
    require_written([folder / "params.yaml", target], FIRST_LINE.split("{")[0], "name the file otherwise")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {section: values | asked.get(section, {}) for section, values in DEFAULTS.items()}
    home, *others = asked["cohorts"]
    settings["explore"]["cohorts"] = [home, *others]
    settings["figures"]["tasks"] = {name: {"internal": home, "external": others}}
    settings["cohorts"] = {key: {"options": cohort.get("options", {})} for key, cohort in asked["cohorts"].items()}
    stages = _Stages(f"studies/{name}", name, asked).all()
    for path, content in ((folder / "params.yaml", settings), (target, {"stages": stages})):
        write_atomic(path, f"{first_line}\n{yaml.safe_dump(content, sort_keys=False, width=120)}")
    return target


def require_written(paths, first_line: str, fix: str) -> None:
    """EcgError where something is at one of the paths that does not begin with the line by which a command knows its
    own."""
    for path in paths:
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes().startswith(first_line.encode())):
            raise EcgError("is there already and was not written by this command", file=path, fix=fix)


def _read(file: Path) -> dict:
    """What is asked for, checked before anything is written."""
    try:
        asked = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EcgError(f"cannot be read as YAML: {error}", file=file, fix="see `ecglib study --help`") from error
    if not isinstance(asked, dict) or not isinstance(asked.get("cohorts"), dict):
        raise EcgError("names no cohort", file=file, field="cohorts", fix="cohorts: {clinic: {root: FOLDER}}")
    require_known("key", asked, ["cohorts", "methods", *DEFAULTS], "study", file)
    for section in DEFAULTS.keys() & asked:
        if not isinstance(asked[section], dict):
            raise EcgError("holds no parameters", file=file, field=section, fix=f"{section}: {{name: value}}")
    for name, cohort in asked["cohorts"].items():
        _check_cohort(name, cohort, file)
    if model := asked.get("one_ecg", {}).get("model"):
        asked["one_ecg"]["model"] = model = str((file.parent / Path(model).expanduser()).resolve())
        if not (Path(model) / "model.json").is_file():
            raise EcgError(f"no kept model in {model}", file=file, field="one_ecg.model", fix="name a folder of `fit`")
    asked["methods"] = _methods(asked.get("methods", list(BASELINES)), file)
    return asked


def _check_cohort(name: str, cohort: dict, file: Path) -> None:
    """Raise EcgError where a cohort cannot be packed; makes its folder an absolute path."""
    field = f"cohorts.{name}"
    if not re.fullmatch(r"[\w-]+", str(name)):
        raise EcgError("is no name of a folder", file=file, field=field, fix="letters, digits, - and _")
    if not isinstance(cohort, dict) or not cohort.get("root"):
        raise EcgError("has no folder", file=file, field=field, fix="give it root: FOLDER")
    require_known("key", cohort, ["root", "dataset", "options"], field, file)
    require_known("dataset", [cohort.get("dataset", "folder")], datasets.names(), field, file)
    cohort["root"] = str((file.parent / Path(cohort["root"]).expanduser()).resolve())
    if not Path(cohort["root"]).is_dir():
        raise EcgError(f"no folder {cohort['root']}", file=file, field=f"{field}.root", fix="mend the path")


def _methods(entries, file: Path) -> dict[str, str]:
    """Method -> folder of its encoder, "" where it needs none; EcgError where two would have the same results."""
    if not isinstance(entries, list) or not entries:
        fix = "methods: [random, features, scratch], or leave it out"
        raise EcgError("is no list of methods", file=file, field="methods", fix=fix)
    methods, keys = {}, {}
    for entry in entries:
        name, encoder = _method(entry, file)
        if key(name) in keys:
            reason = f"{keys[key(name)]} and {name} would have the same folder of results"
            raise EcgError(reason, file=file, field="methods", fix="name each method once, by a name of its own")
        methods[name], keys[key(name)] = encoder, name
    return methods


def _method(entry, file: Path) -> tuple[str, str]:
    """Name of a method and folder of its encoder, "" where it needs none."""
    named = list(entry.items()) if isinstance(entry, dict) else [(entry, None)]
    name, encoder = named[0] if len(named) == 1 else ("", None)
    words = [name, encoder] if isinstance(entry, dict) else [name]
    if not all(isinstance(word, str) and word for word in words) or not re.fullmatch(r"[\w.:@+-]+", name):
        fix = "write a name, or {NAME: FOLDER of an encoder}, one a line; names of letters, digits and _.:@+-"
        raise EcgError(f"{entry!r} is no method", file=file, field="methods", fix=fix)
    if encoder:
        encoder = str((file.parent / Path(encoder).expanduser()).resolve())
        if not (Path(encoder) / "encoder.json").is_file():
            raise EcgError(f"no encoder in {encoder}", file=file, field=f"methods.{name}", fix="name its folder")
    elif name.startswith(zoo.PREFIX):
        try:
            zoo.card(name.partition("+")[0])
        except EcgError as error:
            raise EcgError(error.reason, file=file, field="methods", fix=error.fix) from error
    else:
        known = [*BASELINES, "random:ARCHITECTURE", "scratch:ARCHITECTURE", "zoo:NAME", "{NAME: FOLDER of an encoder}"]
        require_known("method", [] if is_baseline(name) else [name], known, "methods", file)
    return name, encoder or ""


class _Stages:
    """The stages of a study in the words of DVC; paths are relative to the repository."""

    def __init__(self, folder: str, task: str, asked: dict):
        self.folder, self.task, self.asked, self.out = folder, task, asked, f"{folder}/results"
        self.home, *self.others = asked["cohorts"]

    def all(self) -> dict:
        stages = {f"pack-{name}": self._pack(name, cohort) for name, cohort in self.asked["cohorts"].items()}
        cohorts = [f"{self.out}/cohorts/{name}" for name in self.asked["cohorts"]]
        stages["explore"] = self._run("01_data_exploration", "explore", cohorts, cohorts_dir=self._up("cohorts"))
        for method, encoder in self.asked["methods"].items():
            stages[f"probe-{key(method)}"] = self._probe(method, encoder, cohorts)
        probes = [f"{self.out}/probe/{self.task}-{key(method)}" for method in self.asked["methods"]]
        for name in self.others:
            given = dict(task=self.task, internal=self.home, external=name, cohorts_dir=self._up("cohorts"))
            out, deps = f"external/{self.task}-{name}", [*probes, *cohorts]
            stages[f"external-{name}"] = self._run(
                "04_external_evaluation", "external", deps, out, probes=self._up("probe"), **given
            )
        home = self.asked["cohorts"][self.home]
        given = dict(task=self.task, cohort_dir=self._up(f"cohorts/{self.home}"), probes=self._up("probe"))
        model = self.asked.get("one_ecg", {}).get("model")
        deps = [*probes, cohorts[0], home["root"], *([*KEPT, model] if model else [])]
        stages["one_ecg"] = self._run("07_one_ecg", "one_ecg", deps, recordings=home["root"], **given)
        stages["figures"] = self._run("20_paper_figures", "figures", probes, probes=self._up("probe"))
        made = [f"{self.out}/{out}" for out in ("explore", "one_ecg", "figures")]
        made += [f"{self.out}/external/{self.task}-{name}" for name in self.others]
        stages["report"] = self._run("21_report", "report", [*cohorts, *probes, *made], results=f"../{self.out}")
        return stages

    def _pack(self, name: str, cohort: dict) -> dict:
        dataset, root, out = cohort.get("dataset", "folder"), cohort["root"], f"{self.out}/cohorts/{name}"
        words = ["pack", name, "--dataset", dataset, "--root", root, "--out", out, "--params", "pack"]
        params = f"{self.folder}/params.yaml"
        words += ["--params", f"{params}:pack", "--params", f"{params}:cohorts.{name}"]
        deps = ["ecglib/data", "ecglib/datasets/__init__.py", f"ecglib/datasets/{dataset}.py", root]
        return self._stage(words, deps, out, ["pack", {params: ["pack", f"cohorts.{name}"]}])

    def _probe(self, method: str, encoder: str, cohorts: list[str]) -> dict:
        given = dict(task="twelve", method=method, cohort_dir=f"../{cohorts[0]}")
        given["externals"] = [f"../{cohort}" for cohort in cohorts[1:]]
        deps = list(cohorts)
        if encoder:
            given["pretrained"] = encoder
            deps.append(encoder)
        elif method.startswith(zoo.PREFIX):
            given["recordings"] = [cohort["root"] for cohort in self.asked["cohorts"].values()]
            deps += ["ecglib/zoo", "ecglib/datasets", *given["recordings"]]
        return self._run("03_linear_probing", "probe", deps, f"probe/{self.task}-{key(method)}", **given)

    def _run(self, notebook: str, section: str, deps: list, out: str = "", **given) -> dict:
        """A stage that executes a notebook into the folder `out` of the results (none: the one of its section)."""
        path, out = f"notebooks/{notebook}.ipynb", f"{self.out}/{out or section}"
        words, params = ["run", path], []
        if section in DEFAULTS:
            file = f"{self.folder}/params.yaml"
            words += ["--params", section, "--params", f"{file}:{section}"]
            params = [section, {file: [section]}]
        for name, value in given.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
            words += ["-p", f"{name}={text}"]
        words += ["--page", "index.html"] if section == "report" else []
        return self._stage(
            [*words, "--out", out], [path, *(f"ecglib/{p}" for p in PACKAGES[section]), *deps], out, params
        )

    def _stage(self, words: list[str], deps: list[str], out: str, params: list) -> dict:
        stage = {"wdir": "../..", "cmd": shlex.join(["python", "-m", "ecglib", *words]), "deps": deps}
        return stage | ({"params": params} if params else {}) | {"outs": [out]}

    def _up(self, path: str) -> str:
        """A path of the results as a notebook sees it."""
        return f"../{self.out}/{path}"


def key(method: str) -> str:
    """A method in the name of a folder or a stage: "zoo:merl@2.5+sgd-linear" -> "zoo-merl-2.5-sgd-linear".

    In the name of a stage "@" and ":" mean something else to DVC.
    """
    return method.translate(str.maketrans(":@+", "---"))
