"""The command line: `python -m ecglib COMMAND`. Every stage of dvc.yaml is one of these commands."""

import argparse
import inspect
import os
import sys
from pathlib import Path

from ecglib import commands as commands_on_models
from ecglib import execute, pipeline
from ecglib.signals import EcgError

PARAMS = pipeline.ROOT / "params.yaml"
PLACES = {"report": "report/index.html", "figures": "figures", "result table": "report/results.csv"}


def pairs(words: list[str]) -> dict[str, str]:
    """["a=1", "b=x"] -> {"a": "1", "b": "x"}; raises EcgError for a word without "="."""
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise EcgError(f"{wrong[0]!r} is no name=value", fix="write it like -p steps=100")
    return dict(word.split("=", 1) for word in words)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="python -m ecglib", description="ECG foundation models, reproducibly")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, does, out=None, sections=False):
        sub = commands.add_parser(name, help=does, description=does)
        if out is not None:
            sub.add_argument("--out", required=out == "", default=out or None, help="folder to write")
        if sections:
            sub.add_argument("--params", action="append", default=[], metavar="SECTION", help="section of params.yaml")
            sub.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="one parameter")
        return sub

    command("generate", "write the simulated hospitals", out="data", sections=True)
    pack = command("pack", "pack a corpus into arrays and tables", out="", sections=True)
    pack.add_argument("name", help="name of the cohort")
    pack.add_argument("--dataset", required=True, help="a file of ecglib/datasets")
    pack.add_argument("--root", required=True, help="folder of the corpus")
    pack.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="option of the dataset")
    pack.add_argument("--workers", type=int, default=2, help="processes (no effect on the result)")
    run = command("run", "execute a notebook", out="", sections=True)
    run.add_argument("notebook", type=Path)
    report = command("report", "write the overview page and the scores", out="results/report")
    report.add_argument("--results", default="results", help="folder with the results of the stages")
    command("repro", "run all stages that have changed, several side by side")
    command("real", "the same study on real recordings").add_argument("--data", required=True, type=Path)
    deps = command("deps", "the files that each stage of dvc.yaml must list")
    deps.add_argument("--write", action="store_true", help="put them into dvc.yaml")
    command("readme", "put the results into README.md and docs/")
    command("where", "where report, figures and result table are").add_argument("--results", default="results")
    command("lab", "open JupyterLab in the environment of the study").add_argument("options", nargs="*")
    listed = command("objectives", "list the pretraining methods: paper, encoder, size, memory, records/s here")
    listed.add_argument("names", nargs="*", help="some of them (default: all)")
    search = command("search", "three learning rates for each method, compared on validation patients")
    search.add_argument("names", nargs="*", help="some of the methods (default: all)")
    commands_on_models.add_to(command)
    for wing in ("datasets", "encoders"):
        command(wing, f"list the {wing}")
    return top


def arguments(words: list[str]) -> argparse.Namespace:
    """Parsed command; `given` holds the parameters: the sections of params.yaml in order, then each -p."""
    args = parser().parse_args(words)
    given = {}
    for name in getattr(args, "params", []):
        given |= pipeline.section(PARAMS, name)
    args.given = given | pairs(getattr(args, "p", []))
    return args


def scalars(values: dict) -> dict:
    """Texts of the command line as YAML scalars: "100" -> 100, "true" -> True."""
    import yaml

    return {name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in values.items()}


def counter(what: str):
    """Function of (done, total) that prints a line at each new tenth; nothing where the total is not known (None)."""
    shown = [0]

    def progress(done, total):
        if total and done * 10 // max(total, 1) > shown[0]:
            shown[0] = done * 10 // total
            print(f"[{what}] {100 * done // total} %", flush=True)

    return progress


def generate(args) -> None:
    from ecglib import simulate

    given = scalars(args.given)
    valid = [name for name in inspect.signature(simulate.generate).parameters if name not in ("out", "progress")]
    unknown = [name for name in given if name not in valid]
    if unknown:
        raise EcgError(f"no parameter {', '.join(unknown)}", field="simulate", fix=f"use one of: {', '.join(valid)}")
    if isinstance(given.get("hospitals"), str):
        given["hospitals"] = given["hospitals"].split(",")
    simulate.generate(Path(args.out), progress=counter("generate"), **given)


def pack(args) -> None:
    from ecglib import cohort, datasets

    given = scalars(args.given)
    given |= {name: given[name].split(",") for name in ("leads", "labels") if isinstance(given.get(name), str)}
    options = scalars(pairs(args.option))
    given |= {"options": options, "workers": args.workers, "progress": counter(f"pack {args.name}")}
    cohort.pack(args.name, datasets.get(args.dataset), args.root, args.out, **given)


def run(args) -> None:
    """The key lets an interrupted run continue only when code and inputs are still the same."""
    files = [pipeline.ROOT / name for name in pipeline.needs(args)]
    inputs = [path for path in pipeline.inputs(args) if path.exists()]
    key = [line for path in files for line in pipeline.fingerprint(path, content=True)]
    key += [line for path in inputs for line in pipeline.fingerprint(path, content=False)]
    execute.execute(args.notebook, args.out, args.given, key="\n".join(key))


def report(args) -> None:
    from ecglib import study

    study.build(Path(args.results), Path(args.out))


def repro(args) -> None:
    from ecglib import schedule

    schedule.repro(pipeline.ROOT, schedule.workers())


def objectives(args) -> None:
    import yaml

    from ecglib import overview

    methods = yaml.safe_load(PARAMS.read_text())["methods"]
    print(overview.table(methods, args.names).to_string(index=False))


def search(args) -> None:
    import yaml

    from ecglib import search

    print(search.run(args.names, yaml.safe_load(PARAMS.read_text())).to_string(index=False))


def real(args) -> None:
    from ecglib import readme, real, schedule

    real.run(args.data, PARAMS, arguments, schedule.workers())
    shown = [("ptbxl", readme.efficiency), ("ptbxl", readme.transfer), ("cinc2017", readme.efficiency)]
    tables = [(task, table(pipeline.ROOT / "results/real", task)) for task, table in shown]
    print("", *(f"{task}\n\n{text}\n" for task, text in tables if text), sep="\n")
    where(argparse.Namespace(results="results/real"))


def deps(args) -> None:
    if args.write:
        new = [f"method {name}" for name in pipeline.write_methods()]
        print("changed:", ", ".join(new + pipeline.write_stages(arguments)) or "nothing")
        return
    for stage, files in pipeline.stages(arguments).items():
        print(f"  {stage}:", "    deps:", *(f"      - {file}" for file in files), sep="\n")


def readme(args) -> None:
    from ecglib import readme

    for path in readme.update(pipeline.ROOT / "results", pipeline.ROOT):
        print(path.relative_to(pipeline.ROOT))


def where(args) -> None:
    for what, place in PLACES.items():
        path = Path(args.results) / place
        print(f"{what + ':':<14}{path}{'' if path.exists() else '  (not there yet)'}")


def lab(args) -> None:
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", "--notebook-dir=notebooks", *args.options])


def names(args) -> None:
    import importlib

    print(*importlib.import_module(f"ecglib.{args.command}").names(), sep="\n")


def main(words: list[str]) -> int:
    """Run one command, which is the function of that name; bad input prints one line and returns 2."""
    try:
        args = arguments(words)
        if hasattr(commands_on_models, args.command):
            getattr(commands_on_models, args.command)(args, counter)
        else:
            (names if args.command in ("datasets", "encoders") else globals()[args.command])(args)
    except EcgError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in execute.ENVIRONMENT.items()):
        os.environ.update(execute.ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # numpy has read the old values already
    sys.exit(main(sys.argv[1:]))
