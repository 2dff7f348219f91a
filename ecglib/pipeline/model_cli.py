"""Commands on models: zoo, embed, reproduce, benchmark, export of published ones; fit, predict, explain, evaluate.

As in `cli`, which takes them up, libraries are imported inside the commands.
"""

import sys
from functools import partial
from pathlib import Path

import click

from ecglib import EcgError
from ecglib.pipeline import command_help
from ecglib.pipeline.command_help import DASK, PART, WORKERS, Assignments, names_of
from ecglib.pipeline.stages import ROOT

PACKS = ROOT / "tests/packs"
REPRODUCE = "ecglib reproduce ecgfounder --on ptb-xl"


def _weight_options(command):
    """The options on where the weights of a published model come from."""
    choice = click.Choice(["published", "dummy"])
    command = click.option("--weights", default="published", type=choice, help="dummy: values without meaning")(command)
    command = click.option("--file", default=None, metavar="CHECKPOINT", help="weights that are here already")(command)
    return click.option("--accept", default="", metavar="LICENCE", help="a licence that is not free for every use")(
        command
    )


_LEAD_NAMES = click.option(
    "--lead-names", multiple=True, type=Assignments(), help="name in the files=standard name, `name=` for none"
)


_FS_TOLERANCE = click.option(
    "--fs-tolerance", default=0.0, show_default=True, help="part by which a rate (249.89 Hz) may be off a simple ratio"
)


def _models() -> list[str]:
    from ecglib import zoo

    return zoo.names()


def _published(name: str, weights: str, file, accept: str):
    """The model that a command asks for; that its weights mean nothing is said in capital letters."""
    from ecglib import zoo

    model = zoo.load(name, weights, file=file, accept=accept, progress=command_help.tenths(f"fetch {name}", "MB", 1e6))
    if model.weights == "dummy":
        print(zoo.DUMMY_WARNING.upper(), flush=True)
    return model


@click.command()
@click.argument("action", default="list", type=click.Choice(["list", "card", "fetch", "verify"]))
@click.argument("names", nargs=-1, shell_complete=names_of(_models))
@click.option("--packs", default=str(PACKS), metavar="FOLDER", help="verify: folder of conformance packs")
@click.option("--out", default="results/zoo", metavar="FOLDER", help="fetch: for model.safetensors and card.json")
@_weight_options
def zoo(action, names, packs, out, weights, file, accept):
    """Published checkpoints: list them, read a card, fetch one, prove that ours computes the same."""
    from ecglib import zoo

    if action == "list":
        print(command_help.narrowed(zoo.table(), wide=not sys.stdout.isatty()))
    elif action == "verify":
        _verify(packs, names)
    elif not names:
        raise EcgError(f"zoo {action} of which model?", field="names", fix=f"name some of {', '.join(zoo.names())}")
    elif action == "card":
        for name in names:
            print(command_help.wrapped(zoo.facts(name)), "", sep="\n")
    else:
        for name in names:
            print(zoo.save(_published(name, weights, file, accept), Path(out) / zoo.card(name).name))


def _verify(packs, names) -> None:
    """Print the relative error of every output; EcgError where one is above its limit."""
    from ecglib.zoo import conformance

    table = conformance.verify(Path(packs), names, progress=lambda line: click.echo(line, err=True))
    shown = table.assign(error=[f"{e:.1e}" for e in table.error], limit=[f"{e:.0e}" if e else "0" for e in table.limit])
    shown = shown.assign(passed=table.passed.map({True: "ok", False: "FAILED"}))
    print(shown.drop(columns="model").to_string(index=False))
    if not table.passed.all():
        failed = table[~table.passed]
        reason = f"{len(failed)} of {len(table)} comparisons failed"
        raise EcgError(reason, file=failed.pack.iloc[0], field=failed.what.iloc[0], fix="mend the encoder or the card")


@click.command()
@click.argument("model", shell_complete=names_of(_models))
@click.argument("folders", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FILE.parquet", help="table to write")
@click.option("--batch", default=16, show_default=True, help="crops that the network reads at a time")
@click.option("--head", is_flag=True, help="the probabilities of the model's own statements too")
@click.option("--crop", default="", metavar="SECONDS", help="of one input, or `published` (default: as on the card)")
@_LEAD_NAMES
@_FS_TOLERANCE
@click.option("--records", default="**/*.hea", show_default=True, metavar="GLOB", help="which headers")
@PART
@DASK
@WORKERS
@_weight_options
def embed(model, folders, out, crop, lead_names, records, weights, file, accept, **options):
    """Features of a published MODEL for every WFDB record below some FOLDERS."""
    from ecglib.zoo import embed

    network = _published(f"{model}@{crop}" if crop else model, weights, file, accept)
    options |= {"pattern": records, "lead_names": {name: lead or "" for name, lead in lead_names}}
    where = {name: options.pop(name) for name in command_help.WHERE}
    done = command_help.spread(partial(embed.run, network, folders, out, **options), out, **where)
    print(", ".join(f"{step.removesuffix('_s')} {done[step]:.1f} s" for step in embed.STEPS))
    if where["part"]:
        print(command_help.part_done(where["part"], done["records"], out))
    else:
        print(f"{out}: {done['records']:,} records, {done['refused']:,} refused")


@click.command()
@click.argument("out", metavar="OUT")
def merge(out):
    """Put what array jobs (`embed`, `predict` or `pack` with --part) have made together to OUT, as one run would."""
    if Path(out).suffix not in (".parquet", ".csv"):
        from ecglib import datasets
        from ecglib.data import packing_shares
        from ecglib.pipeline import stages

        with stages.guarded():
            packing_shares.merge(out, datasets.get)
        return
    from ecglib.zoo import embed

    done = embed.merge(out, command_help.say)
    print(f"{out}: {done['records']:,} records, {done['refused']:,} refused")


@click.command()
@click.option("--protocol", default="", metavar="NAME", help="benchecg or eight-models  [default: both]")
@click.option("--results", default="results/real", show_default=True, metavar="FOLDER", help="of a finished study")
@click.option(
    "--probe", multiple=True, metavar="NAME", help="run it where a cohort is packed: an encoder, or a baseline"
)
@click.option(
    "--out", default="", metavar="FOLDER", help="for benchmark_tables.md and .csv  [default: RESULTS/benchmark]"
)
def benchmark(protocol, results, probe, out):
    """Fill the tasks of published benchmarks with what this study has, and say which corpora are missing."""
    from ecglib.pipeline import benchmark

    table = benchmark.report(protocol, results, ROOT, out, probe, command_help.say)
    print(command_help.wrapped(benchmark.told(table)))
    print(f"\ntables: {Path(out or f'{results}/benchmark') / 'benchmark_tables.md'}")


@click.command()
@click.argument("model", default="", shell_complete=names_of(_models))
@click.option("--on", "corpus", default="", metavar="CORPUS", help="corpus on disk: ptb-xl")
@click.option("--data", "folder", default="", metavar="FOLDER", help="where it lies, as published on PhysioNet")
@click.option("--labels", default="super", show_default=True, help="super, sub, all, diag, form, rhythm; or super-2158")
@click.option("--checkpoint", default="", metavar="FILE", help="weights that are here already")
@click.option("--weights", default="published", type=click.Choice(["published", "dummy"]), help="dummy: no meaning")
@click.option(
    "--out", default="", metavar="FOLDER", help="for reproduction.csv and .md  [default: the study's results]"
)
def reproduce(model, corpus, folder, labels, checkpoint, weights, out):
    """A published number again: MODEL and the baselines on a corpus that is on disk; alone it lists the numbers."""
    from ecglib.pipeline import reproduce, schedule
    from ecglib.reporting import published

    numbers = published.read(ROOT / "docs/published.csv")
    if not (corpus or folder):
        print(reproduce.listing(numbers, model).to_string(index=False))
        return
    if not (corpus and folder and model):
        raise EcgError("needs a model, a corpus and its folder", field="--data", fix=f"{REPRODUCE} --data FOLDER")
    reproduce.outputs(Path(out or "."))
    options = dict(
        numbers=numbers,
        weights=weights,
        checkpoint=checkpoint,
        progress=command_help.tenths(f"fetch {model}", "MB", 1e6),
    )
    plan = reproduce.plan(model, corpus, folder, labels, **options)
    if plan.lacking:
        command_help.say(reproduce.no_weights(plan))
    pipeline = reproduce.write(plan, ROOT)
    schedule.repro(ROOT, str(pipeline.relative_to(ROOT)), schedule.workers(), pinned=False, say=command_help.say)
    print(f"\n{reproduce.report(plan, ROOT, out)}")


@click.command()
@click.argument("model", shell_complete=names_of(_models))
@click.option("--out", required=True, metavar="FILE.onnx", help="file to write")
@_weight_options
def export(model, out, weights, file, accept):
    """A published MODEL as ONNX, with its signal chain inside."""
    from ecglib.zoo import onnx_export

    done = onnx_export.export_model(_published(model, weights, file, accept), out)
    print(f"{out}: {done['bytes']:,} bytes, opset {done['opset']}, differs from PyTorch by {done['error']:.1e}")


def _names(text: str) -> tuple:
    """The names in "AFIB, LVH"."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@click.command()
@click.argument("cohort", metavar="COHORT")
@click.option("--out", required=True, metavar="FOLDER", help="the model: tensors, facts, model card")
@click.option("--encoder", required=True, help="folder, name in results/pretrain, zoo:NAME, scratch, features")
@click.option("--labels", default="", metavar="A,B", help="statements to learn (default: all that are frequent enough)")
@click.option("--columns", default="", metavar="A,B", help="binary columns of the records instead: dead, sex=male")
@click.option("--task", default="", metavar="TASK", help="a number or rule instead: NAME={...}, or one of params.yaml")
@click.option("--how", default="", metavar="linear|finetune|lp-ft|lora", help="default: what fits the encoder")
@click.option("--recipe", default="", help="of fine-tuning: study, lora, two-rates, clef, ecgfounder, scratch")
@click.option("--rank", default=0, help="of low-rank adapters, --how lora  [default: 8]")
@click.option("--alpha", default=0.0, help="size of their correction, times rank  [default: twice the rank]")
@click.option("--min-positives", default=5, show_default=True, help="training records that a label needs")
@click.option("--leads", default="", metavar="A,B", help="without pretraining: the leads to read")
@click.option("--recordings", default="", metavar="FOLDER", help="zoo:NAME reads these, not the packed signals")
@click.option("--rule", default="youden", metavar="youden|f1", show_default=True, help="of the thresholds")
@click.option("--seed", default=0, show_default=True)
@click.option("--name", default="", help="of the model (default: the folder's)")
@_weight_options
def fit(cohort, out, task, **options):
    """Fit a classifier, or a regression, to a packed COHORT and keep it: thresholds, calibration, scores, card."""
    from ecglib.pipeline import model_commands

    options["task"] = model_commands.task(task, ROOT / "params.yaml")
    options |= {name: _names(options[name]) for name in ("labels", "columns", "leads")}
    model_commands.fitted(cohort, out, options, command_help.say)


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("paths", nargs=-1, required=True, metavar="RECORD|FOLDER ...")
@click.option("--out", default="", metavar="FILE", help=".csv or .parquet: a row per record")
@click.option(
    "--plot", default="", metavar="FILE", help="of one record: clinical sheet with the calls, .svg, .pdf, .png"
)
@click.option("--batch", default=16, show_default=True, help="windows that the network reads at a time")
@click.option("--records", default="**/*.hea", show_default=True, metavar="GLOB", help="which headers in folders")
@click.option(
    "--detector", default="", metavar="FILE", help="also say whether each is noisy: detector.json of notebook 14"
)
@PART
@DASK
@WORKERS
@_LEAD_NAMES
@_FS_TOLERANCE
@_weight_options
def predict(model, paths, out, plot, records, detector, lead_names, fs_tolerance, **more):
    """What a MODEL (a folder of `fit`, or zoo:ecgfounder) says of WFDB records: a table, or one record in words."""
    from ecglib import zoo
    from ecglib.pipeline import model_commands

    batch, published = more.pop("batch"), more
    names = {name: lead or "" for name, lead in lead_names}
    if not out and (len(paths) > 1 or Path(paths[0]).is_dir()):
        raise EcgError("several records need a table", field="out", fix="add --out scores.csv")
    where = {name: published.pop(name) for name in command_help.WHERE}
    if (where["part"] or where["dask"]) and not out:
        name = "part" if where["part"] else "dask"
        raise EcgError("a part is of a table", field=name, fix=f"add --out scores.csv, or leave --{name} out")
    if plot and out:
        raise EcgError("a sheet is of one record, a table of many", field="plot", fix="leave out --out or --plot")
    zoo.require_published(model, published)
    asked = model_commands.model(model, lambda name: _published(name, **published))
    if out:
        options = {"batch": batch, "pattern": records, "lead_names": names, "detector": detector}
        options["fs_tolerance"] = fs_tolerance
        model_commands.predicted(asked, paths, out, options, where)
    else:
        model_commands.told(asked, paths[0], plot, names, detector, fs_tolerance)


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("record")
@click.option("--statement", required=True, metavar="NAME", help="what is explained, one of the model's statements")
@click.option("--plot", required=True, metavar="FILE", help="clinical sheet with the map, .svg, .pdf, .png")
@click.option("--method", default="integrated", show_default=True, help="gradient, integrated, occlusion, rollout")
@_LEAD_NAMES
def explain(model, record, statement, plot, method, lead_names):
    """Which part of a RECORD makes a MODEL (a folder of `fit`) say a statement: a map over the clinical sheet."""
    from ecglib.pipeline import model_commands
    from ecglib.zoo import kept

    names = {name: lead or "" for name, lead in lead_names}
    model_commands.explained(kept.load(model), record, statement, method, plot, names)


@click.command()
@click.argument("scores")
@click.argument("truth", metavar="TRUTH.csv|COHORT")
@click.option("--out", default="", metavar="FILE.csv", help="every number")
@click.option("--split", default="", help="of the truth table: only these records (default: all)")
@click.option("--min-positives", default=1, show_default=True, help="of a label in the macro averages")
@click.option("--option", "options", multiple=True, type=Assignments(), help="how TRUTH.csv is read, as of `pack`")
def evaluate(scores, truth, out, split, min_positives, options):
    """Judge anyone's SCORES (.csv, .parquet) by a table of truth or a packed cohort, with intervals over patients."""
    from ecglib.pipeline import model_commands

    model_commands.evaluated(scores, truth, out, split, min_positives, dict(options))


@click.command()
@click.argument("record")
@click.option("--model", default="", metavar="FILE", help="af_model.json of notebook 13  [default: entropy]")
@click.option("--beats", default="", metavar="ENDING", help="take the beats of RECORD.ENDING, not the signal")
@click.option("--fs", default=0.0, help="Hz of the beats, where no header says it")
@click.option("--out", default="", metavar="FILE.csv", help="every episode, in seconds")
@click.option("--plot", default="", metavar="FILE", help="the timeline, .svg, .pdf or .png")
@_LEAD_NAMES
def holter(record, model, beats, fs, out, plot, lead_names):
    """How much of a long RECORD (WFDB) was atrial fibrillation: episodes, burden, timeline."""
    from ecglib.pipeline import long_recordings

    long_recordings.outputs(out, plot)
    names = {name: lead or "" for name, lead in lead_names}
    finding = long_recordings.judged(record, model, beats, fs, names, command_help.tenths("holter", "min", 60))
    print(long_recordings.told(finding))
    if out:
        long_recordings.written(finding, out)
    if plot:
        long_recordings.drawn(finding, plot)


COMMANDS = (zoo, embed, merge, reproduce, benchmark, export, fit, predict, explain, evaluate, holter)
