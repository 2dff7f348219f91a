"""The house: which package may import which, sizes, names that are used. Each rule is also shown to catch a breach."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A package imports those before it; two of one line do not know each other.
ORDER = [
    ["ecglib"],
    ["ecglib.data"],
    ["ecglib.datasets", "ecglib.models"],
    ["ecglib.training"],
    ["ecglib.objectives"],
    ["ecglib.evaluation"],
    ["ecglib.rhythm", "ecglib.waves"],
    ["ecglib.zoo", "ecglib.reporting"],
    ["ecglib.pipeline"],
    ["ecglib.__main__"],
]
RANK = {package: rank for rank, packages in enumerate(ORDER) for package in packages}
PLUGINS = {  # folder of plugins -> plugins that may import another one, with the reason
    "ecglib.datasets": {},
    "ecglib.models.encoders": {},
    "ecglib.objectives": {
        "ecglib.objectives.multitask": ["ecglib.objectives.supervised"],  # the same loss of statements
    },
    "ecglib.zoo.families": {},
}
ON_TOP, IN_A_PACKAGE = 13, 30  # entries of ecglib; files of a package, beside its folder of plugins
LINES, FUNCTION, PARAMETERS = 700, 40, 10

NUMERIC = {"numpy", "pandas", "scipy", "torch"}
ONLY = {  # third-party library -> packages (or single files) that may import it
    "wfdb": {"ecglib.data.wfdb_io", "ecglib.datasets"},
    "sleepecg": {"ecglib.data.rpeaks", "ecglib.rhythm.detectors"},
    "ecgdatakit": {"ecglib.data.device_formats"},
    "pydicom": {"ecglib.data.device_formats"},
    "defusedxml": {"ecglib.data.device_formats"},
    "h5py": {"ecglib.datasets"},
    "pyarrow": {"ecglib.data", "ecglib.evaluation.predictions", "ecglib.zoo.embed", "ecglib.zoo.predict"},
    "dask": {"ecglib.pipeline.command_help"},
    "joblib": {"ecglib.data.packing", "ecglib.zoo.array_jobs", "ecgsim.hospitals"},
    "sklearn": {"ecglib.evaluation", "ecglib.rhythm"},
    "safetensors": {"ecglib.models", "ecglib.training.checkpoint", "ecglib.zoo"},
    "lightning_fabric": {"ecglib.training.train"},
    "tqdm": {"ecglib.data.notebook", "ecglib.pipeline"},
    "matplotlib": {"ecglib.reporting"},
    "seaborn": {"ecglib.reporting"},
    "itables": {"ecglib.reporting.report"},
    "PIL": {"ecglib.pipeline.publish"},
    "requests": {"ecglib.data.download"},
    "filelock": {"ecglib.data.files", "ecglib.data.download"},
    "urllib3": {"ecglib.data.download"},
    "huggingface_hub": {"ecglib.data.download"},
    "onnx": {"ecglib.zoo.onnx_export"},
    "onnxruntime": {"ecglib.zoo.onnx_export"},
    "onnxscript": {"ecglib.zoo.onnx_export"},
    "click": {"ecglib.pipeline.cli", "ecglib.pipeline.model_cli", "ecglib.pipeline.command_help"},
    "dvc": {"ecglib.pipeline"},
    "yaml": {"ecglib.pipeline", "ecglib.zoo.card"},
    "papermill": {"ecglib.pipeline.notebooks"},
    "nbconvert": {"ecglib.pipeline.notebooks"},
    "nbformat": {"ecglib.pipeline.notebooks", "ecglib.pipeline.lab"},
    "nbstripout": {"ecglib.pipeline.lab"},
    "ipywidgets": {"ecglib.reporting.one_ecg"},
    "jupyter_server": {"ecglib.pipeline.lab"},
    "pygments": {"ecglib.pipeline.notebooks"},
    "traitlets": {"ecglib.pipeline.notebooks"},
    "jupyter_client": {"ecglib.pipeline.notebooks"},
    "ipykernel": {"ecglib.pipeline.warm"},
    "neurokit2": {"ecglib.waves.peers"},
    "openecg": {"ecglib.waves.peers"},
}
UNSAFE = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
LEAN = [  # what a GPU node needs: no reading of formats, no drawing, no notebooks
    "ecglib.data.cohort", "ecglib.training.train", "ecglib.evaluation.probing", "ecglib.evaluation.metrics",
]  # fmt: skip

# Public names that nothing outside tests mentions, and why they stay.
UNUSED = {}
# Files with one importer, and why they are files of their own.
ONE_IMPORTER = {
    "ecglib.data.packing": "how a cohort is written, apart from how one is read",
    "ecglib.evaluation.self_training": "what a teacher says of unlabelled records, a method of its own",
    "ecglib.evaluation.invariance": "learners of what does not change, with sources of their own",
    "ecglib.evaluation.rocket": "random convolutions, a baseline of its own",
    "ecglib.pipeline.tune": "a command",
    "ecgsim.outcomes": "what else is known of a simulated patient, apart from the files that are written",
    "ecglib.pipeline.publish": "two commands",
    "ecglib.reporting.literature": "the works of others, a table of its own",
    "ecglib.reporting.hero": "the first picture, drawn from signals, which no other figure is",
    "ecglib.pipeline.own_study": "a command",
    "ecglib.pipeline.reproduce": "a command",
    "ecglib.pipeline.benchmark": "a command",
    "ecglib.pipeline.model_cli": "the commands on models",
    "ecglib.pipeline.model_commands": "three commands",
    "ecglib.pipeline.corpora": "commands",
    "ecglib.pipeline.croissant": "a command",
    "ecglib.pipeline.long_recordings": "a command",
    "ecglib.evaluation.agreement": "a table of its own",
    "ecglib.pipeline.lab": "what JupyterLab is configured with, which it imports by name",
    "ecglib.zoo.safe_load": "what makes untrusted checkpoints safe to read, in one place",
    "ecglib.zoo.array_jobs": "shares of a run, apart from how records become numbers",
    "ecglib.zoo.lora": "a method with a source of its own",
    "ecglib.models.text": "text encoders, which only objectives with reports need",
    "ecglib.training.report_terms": "a table of words with its look-up",
    "ecglib.training.policy": "a way to augment with a source of its own",
    "ecglib.models.fusion": "age and sex beside signals, with a source of its own",
}


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of the library and the simulator."""
    files = [p for package in ("ecglib", "ecgsim") for p in sorted((root / package).rglob("*.py"))]
    names = (".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for p in files)
    return dict(zip(names, files, strict=True))


def imported(name: str, path: Path, known) -> dict[str, set[str]]:
    """Module that a file imports -> names taken from it; of this house by module, of others by their first part."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    targets = defaultdict(set)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                targets[alias.name].add("")
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                targets[inner if inner in known else base].add("" if inner in known else alias.name)
    return targets


def package_of(name: str) -> str:
    """The package of the order that a module belongs to."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and ".".join(parts[:2]) in RANK else parts[0]


def plugin_folder(name: str) -> str | None:
    """The folder of plugins that a module is a plugin of."""
    parent = name.rpartition(".")[0]
    return parent if parent in PLUGINS else None


def misdirected(root: Path) -> list[str]:
    """Imports against the order of packages, between neighbours, between plugins, and of the simulator."""
    known, wrong = modules(root), []
    for name, path in known.items():
        for target in imported(name, path, known):
            if target.split(".")[0] not in ("ecglib", "ecgsim"):
                continue
            here, there = package_of(name), package_of(target)
            if here == "ecgsim" or there == "ecgsim":
                fine = (
                    here == there
                    or (there, here) == ("ecgsim", "ecglib.pipeline")
                    or there in ("ecglib", "ecglib.data")
                )
            elif here == there:
                same = plugin_folder(name) == plugin_folder(target) is not None
                fine = not same or target in PLUGINS[plugin_folder(name)].get(name, ())
            else:
                fine = RANK[there] < RANK[here]
            if not fine:
                wrong.append(f"{name} imports {target}")
    return wrong


def circular(root: Path) -> list[str]:
    """Circles of imports between files."""
    known = modules(root)
    graph = {n: {t for t in imported(n, p, known) if t in known and t != n} for n, p in known.items()}
    for package in [n for n, p in known.items() if p.name == "__init__.py"]:  # plugins are looked up, not imported
        graph[package] -= {n for n in graph[package] if n.startswith(f"{package}.") and package in graph[n]}
    left = dict(graph)
    while ends := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in ends}
    return sorted(left)


def foreign(root: Path) -> list[str]:
    """Imports of a third-party library by a package that has no business with it."""
    known, wrong = modules(root), []
    for name, path in known.items():
        for target in (
            {t.split(".")[0] for t in imported(name, path, known)} - sys.stdlib_module_names - {"ecglib", "ecgsim"}
        ):
            allowed = ONLY.get(target, () if target not in NUMERIC else RANK.keys() | {"ecgsim"})
            if target in UNSAFE or not any(name == place or name.startswith(f"{place}.") for place in allowed):
                wrong.append(f"{name} imports {target}")
    return wrong


def oversized(root: Path) -> list[str]:
    """Too many entries, files, lines, parameters or nested functions."""
    wrong, folder = [], root / "ecglib"
    entries = [p for p in folder.iterdir() if p.name != "__pycache__"]
    wrong += [f"ecglib: {len(entries)} entries"] if len(entries) > ON_TOP else []
    for package in [*folder.iterdir(), root / "ecgsim"]:
        files = list(package.glob("*.py"))
        if len(files) > IN_A_PACKAGE and package.name not in ("objectives", "datasets"):  # folders of plugins
            wrong.append(f"{package.name}: {len(files)} files")
    for path in [*modules(root).values(), *(root / "benchmarks").glob("*.py")]:
        text, where = path.read_text(), path.relative_to(root)
        wrong += [f"{where}: {text.count(chr(10))} lines"] if text.count("\n") > LINES else []
        wrong += [f"{where}: formatting switched off"] if "# fmt: " in text else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                wrong += [f"{where}: {node.name}: {what}" for what in too_much(node)]
    return wrong


def too_much(node: ast.FunctionDef) -> list[str]:
    lines = node.end_lineno - node.lineno + 1
    parameters = len(node.args.args) + len(node.args.kwonlyargs)
    nested = sum(isinstance(inner, ast.FunctionDef) for inner in ast.walk(node)) - 1
    wrong = [f"{lines} lines"] if lines > FUNCTION else []
    wrong += [f"{parameters} parameters"] if parameters > PARAMETERS and node.name != "__init__" else []
    return wrong + ([f"{nested} nested functions"] if nested > 1 else [])


def pickles(path: Path) -> list[str]:
    """Every torch.load that is not a call with weights_only=True."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    safe = {
        node.func
        for node in nodes
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "weights_only" and isinstance(word.value, ast.Constant) and word.value.value is True
    }
    loads = [node for node in nodes if isinstance(node, ast.Attribute) and node not in safe]
    names = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "torch"]
    return [n for n in map(ast.unparse, loads) if n == "torch.load"] + [
        "torch.load" for n in names for alias in n.names if alias.name == "load"
    ]


def unsafe(root: Path) -> list[str]:
    """Pickled data, swallowed errors, and paths of one machine."""
    wrong = []
    files = [
        *modules(root).values(),
        *sorted((root / "notebooks").glob("*.ipynb")),
        *(root / "benchmarks").glob("*.py"),
    ]
    for path in files:
        text = path.read_text()
        breaches = re.findall(r"/(?:home|root|Users|work|tmp)/\w*", text) + re.findall(r"allow_pickle\s*=\s*True", text)
        breaches += re.findall(r"except\s*:|except (?:Base)?Exception[^:]*:\s*pass", text)
        breaches += re.findall(rf"^\s*(?:import|from) (?:{'|'.join(UNSAFE)})\b", text, re.MULTILINE)
        breaches += pickles(path) if path.suffix == ".py" else re.findall(r"\btorch\.load\b", text)
        wrong += [f"{path.relative_to(root)}: {breach}" for breach in breaches]
    return wrong


def users(root: Path) -> str:
    """The text of notebooks and benchmarks, which use the library."""
    files = [*(root / "notebooks").glob("*.ipynb"), *(root / "benchmarks").glob("*.py")]
    return "\n".join(path.read_text() for path in files)


def unused(root: Path) -> list[str]:
    """Public names that only their own definition, or nothing but tests, mentions."""
    texts = {n: p.read_text() for n, p in modules(root).items()}
    counts = defaultdict(int)
    for word in re.findall(r"[A-Za-z_]\w+", "\n".join([*texts.values(), users(root)])):
        counts[word] += 1
    defined = [
        node.name
        for text in texts.values()
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not any(ast.unparse(decorator).startswith("cli.") for decorator in node.decorator_list)  # commands
    ]
    lonely = [name for name in defined if counts[name] < 2]
    return sorted(set(lonely) - UNUSED.keys()) + [
        f"{n}: used, or gone" for n in UNUSED if n not in lonely and root == ROOT
    ]


def one_importer(root: Path) -> list[str]:
    """Files that only one other file of their package imports, and nobody else: they belong into it."""
    known = modules(root)
    importers = defaultdict(set)
    for name, path in known.items():
        for target in imported(name, path, known):
            importers[target].add(name)
    outside = users(root)
    wrong = []
    for name, path in known.items():
        alone = len(importers[name]) == 1 and package_of(next(iter(importers[name]))) == package_of(name)
        mentioned = path.name == "__init__.py" or plugin_folder(name) or re.search(rf"\b{path.stem}\b", outside)
        if alone and not mentioned and name not in ONE_IMPORTER:
            wrong.append(f"{name}: only {next(iter(importers[name]))} imports it")
    return wrong


RULES = [misdirected, circular, foreign, oversized, unsafe, unused, one_importer]


@pytest.mark.parametrize("rule", RULES)
def test_the_library_keeps_the_rule(rule):
    assert rule(ROOT) == []


def test_every_package_has_its_place_in_the_order():
    packages = {package_of(name) for name in modules(ROOT)} - {"ecgsim"}
    assert packages == RANK.keys()
    assert set().union(*ONLY.values()) - modules(ROOT).keys() == set(), "no such package or file"


BREACHES = {
    ("ecglib/training/other.py", "from ecglib import evaluation"): misdirected,
    ("ecglib/training/other.py", "import ecglib.objectives.supervised"): misdirected,
    ("ecglib/training/other.py", "def _late():\n    from ecglib.evaluation import probing"): misdirected,
    ("ecglib/training/other.py", "import ecgsim"): misdirected,
    ("ecglib/reporting/other.py", "from ecglib.zoo import card"): misdirected,
    ("ecglib/models/encoders/other.py", "from ecglib.models.encoders import net1d"): misdirected,
    ("ecglib/models/encoders/other.py", "from .net1d import Encoder"): misdirected,
    ("ecgsim/other.py", "from ecglib.training import train"): misdirected,
    ("ecglib/training/other.py", "from ecglib.training import train\n"): None,
    ("ecglib/training/other.py", "import matplotlib.pyplot as plt"): foreign,
    ("ecglib/training/other.py", "import tensorflow"): foreign,
    ("ecglib/training/other.py", "import pickle"): unsafe,
    ("ecglib/training/other.py", "x = torch.load(path)"): unsafe,
    ("ecglib/training/other.py", "x = torch.load(path, weights_only=False)"): unsafe,
    ("ecglib/training/other.py", "from torch import load"): unsafe,
    ("ecglib/training/other.py", "data = np.load(path, allow_pickle=True)"): unsafe,
    ("ecglib/training/other.py", "path = '/home/me/data'"): unsafe,
    ("ecglib/training/other.py", "try:\n    x = 1\nexcept:\n    x = 2"): unsafe,
    ("ecglib/training/other.py", "x = 1\n" * 701): oversized,
    ("ecglib/training/other.py", "x = 1  # fmt: skip"): oversized,
    ("ecglib/training/other.py", "def _long():\n" + "    x = 1\n" * 40): oversized,
    ("ecglib/training/other.py", "def _wide(a, b, c, d, e, f, g, h, i, j, k):\n    pass"): oversized,
    ("ecglib/training/other.py", "def _deep():\n    def a():\n        pass\n    def b():\n        pass"): oversized,
    ("ecglib/training/other.py", "def lonely():\n    pass"): unused,
    ("ecglib/training/other.py", "@torch.no_grad()\ndef lonely():\n    pass"): unused,
    ("ecglib/training/train.py", "from ecglib.training import other"): circular,
    ("ecglib/training/train.py", "from ecglib.training import single"): one_importer,
}


@pytest.mark.parametrize(("place", "code", "rule"), [(*k, v) for k, v in BREACHES.items()], ids=range(len(BREACHES)))
def test_a_breach_is_found(tmp_path, place, code, rule):
    files = ["objectives/supervised.py", "models/encoders/net1d.py", "evaluation/probing.py", "zoo/card.py"]
    files += ["training/train.py", "training/other.py", "reporting/tables.py"]
    packages = ["", "models/", *(f"{Path(file).parent}/" for file in files)]
    for name in [f"ecglib/{file}" for file in [*files, *(f"{package}__init__.py" for package in packages)]]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "ecgsim").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/demo.ipynb").write_text("other, train, net1d, supervised, probing, card, tables")
    assert [r for r in RULES if r(tmp_path)] == []
    (tmp_path / "ecglib/training/single.py").write_text("")
    if rule is circular:
        (tmp_path / "ecglib/training/other.py").write_text("from ecglib.training import train")
    (tmp_path / place).write_text(code)
    assert [r for r in RULES if r(tmp_path)] == [rule] * (rule is not None)


def test_many_entries_and_many_files_are_found(tmp_path):
    for number in range(IN_A_PACKAGE + 1):
        path = tmp_path / f"ecglib/data/module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        (tmp_path / f"ecglib/package_{number}").mkdir()
    (tmp_path / "ecgsim").mkdir()
    assert [line.split(":")[0] for line in oversized(tmp_path)] == ["ecglib", "data"]


def test_training_needs_no_package_for_reading_drawing_or_notebooks():
    """Imports what a GPU node needs in a process where every other package is missing."""
    lean = {"pyarrow", "joblib", "sklearn", "safetensors", "lightning_fabric", "tqdm", "yaml"}
    absent = sorted({*ONLY, "IPython", "ipykernel", "seaborn", "dask"} - lean)
    names = LEAN + [n for n in modules(ROOT) if plugin_folder(n) in ("ecglib.models.encoders", "ecglib.objectives")]
    code = f"import sys, importlib\nfor name in {absent}: sys.modules[name] = None\n"
    code += f"for name in {names}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
