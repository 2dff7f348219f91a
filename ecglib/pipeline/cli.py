"""The command line: `ecglib COMMAND` or `python -m ecglib COMMAND`. Every stage of dvc.yaml is one of these commands.

Libraries are imported inside the commands, so that none waits for what another needs.
"""

import inspect
import os
import shutil
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class, shell_complete

from ecglib import EcgError, __version__, plugin_names, require_known, require_type
from ecglib.data.files import FULL
from ecglib.pipeline import command_help, model_cli
from ecglib.pipeline.command_help import Assignments, names_of
from ecglib.pipeline.stages import ROOT

PARAMS = ROOT / "params.yaml"
RESULTS = {"report": "report/index.html", "figures": "figures", "result table": "report/results.csv"}
RESULTS |= {"provenance": "provenance.html"}
STOPPED = 130  # exit status of a command that Ctrl-C has ended
COMPLETE = "_ECGLIB_COMPLETE"  # environment variable, set by a shell that asks for completions


def _section_options(command):
    """The options --params SECTION and -p NAME=VALUE, which together give the parameters of a command."""
    command = click.option("-p", "given", multiple=True, type=Assignments(), help="one parameter, its value in YAML")(
        command
    )
    about = "section of params.yaml, such as pretrain or objectives.clef, or of another FILE"
    return click.option("--params", "sections", multiple=True, metavar="[FILE:]SECTION", help=about)(command)


def _parameters(sections, given) -> dict:
    """The parameters of the sections in order, then the single ones."""
    from ecglib.pipeline import stages

    values = {}
    for section in sections:
        file, _, name = section.rpartition(":")
        values |= stages.section(Path(file or PARAMS), name)
    return stages.without_absent(values | dict(given))


def _datasets() -> list[str]:
    return plugin_names([str(ROOT / "ecglib/datasets")])  # without loading what reads them


GROUPS = {  # of the help; a test sees that every command is in one
    "The study": ["data", "repro", "real", "lab", "run", "where", "readme", "site"],
    "Your own ECGs": [
        "convert",
        "view",
        "pack",
        "fit",
        "predict",
        "explain",
        "quality",
        "holter",
        "evaluate",
        "study",
        "reports",
    ],
    "Published models": ["zoo", "reproduce", "benchmark", "embed", "merge", "export"],
    "Corpora": ["datasets", "fetch", "leaks", "croissant", "readers"],
    "What there is": ["objectives", "encoders", "search", "generate", "completion"],
}


class _Grouped(click.Group):
    """A group of commands whose help lists them by subject."""

    def format_commands(self, ctx, formatter):
        for title, names in GROUPS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(120)) for name, command in commands if command])


@click.group(cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="ecglib")
@click.option("-q", "--quiet", is_flag=True, help="results and errors only, no lines of progress")
@click.option("-v", "--verbose", is_flag=True, help="all that stages print, and what the library logs")
def cli(quiet, verbose):
    """ECG foundation models, reproducibly."""
    if verbose:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        os.environ["V"] = "1"


@cli.command()
@click.option("--out", default="data", show_default=True, metavar="FOLDER", help="folder to write")
@_section_options
def generate(out, sections, given):
    """Write the simulated hospitals."""
    import ecgsim

    values = _parameters(sections, given)
    valid = [name for name in inspect.signature(ecgsim.generate).parameters if name not in ("out", "progress")]
    if unknown := [name for name in values if name not in valid]:
        raise EcgError(f"no parameter {', '.join(unknown)}", field="simulate", fix=f"use one of: {', '.join(valid)}")
    ecgsim.generate(Path(out), progress=command_help.tenths("generate"), **values)


@cli.command()
@click.argument("name")
@click.option("--dataset", required=True, shell_complete=names_of(_datasets), help="one of `ecglib datasets`")
@click.option("--root", required=True, metavar="FOLDER", help="folder of the corpus")
@click.option(
    "--option", "options", multiple=True, type=Assignments(), help="of the dataset: see `ecglib datasets NAME`"
)
@click.option("--workers", default=2, type=click.IntRange(1), show_default=True, help="processes (same result)")
@click.option(
    "--detector", default="", metavar="FILE", help="also say whether each is noisy: detector.json of notebook 14"
)
@click.option("--out", required=True, metavar="FOLDER", help="folder to write")
@command_help.PART
@command_help.DASK
@_section_options
def pack(name, dataset, root, options, workers, detector, out, sections, given, **where):
    """Pack a corpus into arrays and tables; NAME is the name of the cohort."""
    from ecglib import datasets
    from ecglib.data import cohort, packing_shares
    from ecglib.pipeline import stages

    part, dask = where["part"], where["dask"]
    settings = {"options": {}, **_parameters(sections, given), "workers": workers}
    require_type("options", settings["options"], dict, "mapping")
    settings["options"] = settings["options"] | dict(options)
    if detector and part:
        fix = "leave --detector out, and write the same flags as a table: ecglib quality"
        raise EcgError("a part does not judge noise: every job would judge all recordings", field="detector", fix=fix)
    settings |= {"backend": "dask"} if dask else {}
    with stages.guarded(), command_help.cluster(dask, part):
        corpus = datasets.get(dataset)
        if detector:
            from ecglib.pipeline import quality

            corpus = quality.Judged(corpus, detector, workers, command_help.tenths(f"noise {name}"))
        progress = command_help.tenths(f"pack {name}", size=2)
        if part:
            number = packing_shares.pack_part(name, corpus, root, out, part, progress=progress, **settings)
            print(command_help.part_done(part, number, out))
        else:
            cohort.pack(name, corpus, root, out, progress=progress, **settings)


@cli.command()
@click.argument("notebook", type=Path)
@click.option("--out", required=True, metavar="FOLDER", help="folder to write")
@click.option("--page", default="", metavar="NAME.html", help="name of its page (default: the notebook's)")
@_section_options
def run(notebook, out, page, sections, given):
    """Execute a notebook with parameters into a folder."""
    from ecglib.pipeline import notebooks, stages

    with stages.guarded():
        notebooks.execute(notebook, out, _parameters(sections, given), page)


def _generate_missing() -> None:
    """Simulate the hospitals where there is no folder data/."""
    if not (ROOT / "data").exists():
        generate.callback(ROOT / "data", ["simulate"], [])


@cli.command()
def data():
    """Simulate the hospitals of data/ where they are missing, and check that they are what data.dvc pins."""
    from ecglib.pipeline import schedule

    _generate_missing()
    schedule.Study(ROOT).check_data()


@cli.command()
def repro():
    """Run all stages of dvc.yaml that have changed, several side by side."""
    from ecglib.pipeline import schedule

    workers = schedule.workers()
    _generate_missing()
    schedule.repro(ROOT, "dvc.yaml", workers, say=command_help.say)


@cli.command()
@click.option("--data", "folder", required=True, metavar="FOLDER", help="folder that holds the corpora")
def real(folder):
    """Run all stages of real/dvc.yaml that have changed; stages of corpora that are not in FOLDER are left out."""
    from ecglib.pipeline import schedule, stages

    workers = schedule.workers()
    _generate_missing()  # encoders for real recordings learn from a simulated hospital too
    stages.link_data(ROOT / "real/data", folder)
    schedule.repro(ROOT, "real/dvc.yaml", workers, "real/data", say=command_help.say)


@cli.command()
@click.argument("file", metavar="STUDY.yaml", type=Path)
def study(file):
    """A whole study on your own ECGs, from packing to the report, into studies/STUDY.

    \b
    STUDY.yaml names cohorts, the first one being home, and methods:
      cohorts:
        clinic: {root: my_ecgs, options: {labels: [AFIB, LVH]}}
      methods: [random, features, scratch]
    """
    from ecglib.pipeline import own_study, publish, schedule

    pipeline = own_study.write(file, ROOT)
    schedule.repro(ROOT, str(pipeline.relative_to(ROOT)), schedule.workers(), pinned=False, say=command_help.say)
    from ecglib.reporting import site  # loads what stages shall not find loaded

    results = pipeline.parent / "results"
    publish.provenance(ROOT, results)
    if left_out := site.nobody(results, file.stem):
        print(left_out)
    print(f"report: {(results / 'report/index.html').relative_to(ROOT)}")


@cli.command()
@click.option("--results", default="results", show_default=True, metavar="FOLDER")
def where(results):
    """Say where report, figures and result table are, and note how they came about."""
    from ecglib.pipeline import publish

    if (Path(results) / "report").is_dir():
        publish.provenance(ROOT, Path(results).resolve())
    for what, place in RESULTS.items():
        path = Path(results) / place
        print(f"{what + ':':<14}{path}{'' if path.exists() else '  (not there yet)'}")


@cli.command()
@click.option(
    "--out", default=ROOT / "docs/site", type=Path, metavar="FOLDER", help="folder to write  [default: docs/site]"
)
def site(out):
    """Write the reports and the executed notebooks as one static folder, for a web server or GitHub Pages."""
    from ecglib.pipeline import publish

    size = publish.site(ROOT, out)
    print(f"{os.path.relpath(out)}: {size / 1e6:.1f} MB; open {os.path.relpath(out / 'index.html')}")


@cli.command()
def readme():
    """Put the results into README.md and docs/."""
    from ecglib import zoo
    from ecglib.reporting import site

    for path in site.update(ROOT / "results", ROOT, zoo.table):
        print(path.relative_to(ROOT))


@cli.command()
@click.argument("record")
@click.option("--out", default="", metavar="FILE", help="sheet to write, .svg, .pdf or .png  [default: NAME.svg here]")
@click.option("--start", default=0.0, show_default=True, help="second of the recording where the sheet begins")
@click.option(
    "--lead", "lead_names", multiple=True, type=Assignments(), help="NAME=LEAD: what a name in the file means"
)
def view(record, out, start, lead_names):
    """Draw one ECG on clinical paper, and say what is in it; RECORD: WFDB, or a file that `convert` reads."""
    from ecglib.data import device_formats, wfdb_io
    from ecglib.data.recording import record_path
    from ecglib.reporting import one_ecg, style

    path, names = record_path(record), dict(lead_names)
    recording = (device_formats if device_formats.is_device_file(record) else wfdb_io).read(path, names)
    unused = [name for name, lead in names.items() if lead and lead not in recording.leads]
    require_known("lead", unused, recording.leads, "lead", path)
    style.use()
    print(one_ecg.facts(recording))
    print(f"sheet: {one_ecg.write(one_ecg.sheet(recording, start), Path(out or f'{path.name}.svg'))}")


@cli.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="folder to write: a WFDB record a file, and records.csv")
@click.option("--lead-names", multiple=True, type=Assignments(), help="NAME=LEAD; NAME= leaves the lead out")
@click.option(
    "--keep", multiple=True, help="age, sex, date, statements or patient; nothing of the person is kept unasked"
)
@click.option("--number", is_flag=True, help="name the records ecg00001, ... where file names say who it is")
def convert(files, out, lead_names, keep, number):
    """Write DICOM, SCP-ECG, HL7 aECG, MUSE, Philips, Schiller, EDF or ISHNE FILES (or folders of them) as WFDB."""
    from ecglib.data import device_formats

    done, refused = device_formats.convert_all(
        files, out, dict(lead_names), keep, number, command_help.tenths("convert")
    )
    for error in refused:
        print(error, file=sys.stderr)
    print(f"{len(done)} records in {out}, {len(refused)} files refused; the list is records.csv")
    if hidden := done.attrs["hidden"]:
        print(f"{hidden} hidden files (.name, as macOS leaves them) are no recordings and are left out")
    if refused:
        raise SystemExit(1)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1)
def lab(options):
    """Open JupyterLab at copies of the notebooks, to explore; OPTIONS are Jupyter's own, such as --no-browser."""
    from ecglib.pipeline import lab

    for name in lab.refresh_copies(ROOT):
        print(f"{lab.COPIES}/{name} was edited, so it is kept; the notebook in notebooks/ has changed since")
    os.execv(sys.executable, [sys.executable, *lab.words(ROOT, options)])


@cli.command()
@click.argument("names", nargs=-1)
def objectives(names):
    """List the pretraining methods (or NAMES of them): paper, encoder, size, memory, records/s here."""
    from ecglib.pipeline import stages, summary

    print(summary.table(stages.section(PARAMS, "objectives"), names).to_string(index=False))


@cli.command()
@click.argument("names", nargs=-1)
def search(names):
    """Compare three learning rates for each method (or NAMES of them) on validation patients."""
    import yaml

    from ecglib.pipeline import tune

    print(tune.run(names, yaml.safe_load(PARAMS.read_text())).to_string(index=False))


@cli.command()
def encoders():
    """List the encoders."""
    from ecglib import models

    print(*models.names(), sep="\n")


@cli.command()
@click.argument("name", default="", shell_complete=names_of(_datasets))
def datasets(name):
    """Public corpora: records, leads, rate, licence, access, models that saw them; NAME: options of a reader."""
    from ecglib import datasets
    from ecglib.pipeline import corpora

    if name:
        print(command_help.dataset(datasets.get(name)))
    else:
        print(corpora.table().to_string(index=False))
        print(f"\nReaders, each with its options: ecglib datasets {'|'.join(datasets.names())}")


@cli.command()
@click.argument("name")
@click.option("--from", "source", default="", metavar="SOURCE", help="folder, archive, address, s3://...")
@click.option("--out", default=None, type=Path, metavar="FOLDER", help="to put it into  [default: corpora/NAME]")
@click.option("--only", multiple=True, metavar="GLOB", help='files to fetch, such as "records100/*"; tables too')
@click.option("--workers", default=8, type=click.IntRange(1, 64), show_default=True, help="files at a time")
def fetch(name, source, out, only, workers):
    """Fetch the public corpus NAME (`ecglib datasets`), every file verified; called again, it goes on."""
    from ecglib.pipeline import corpora

    progress = command_help.tenths(f"fetch {name}", "MB", 1e6)
    print(corpora.fetch_corpus(name, out or Path("corpora") / name, source, only, workers, progress))


@cli.command()
@click.argument("source", type=Path)
@click.option("--column", "columns", multiple=True, help="that holds the report; several are joined  [default: report]")
@click.option("--out", default=None, type=Path, metavar="FILE.csv", help="table to write, with a column per label")
@click.option("--dataset", default="", help="compare with the statements of this corpus instead; SOURCE is its folder")
@click.option("--option", "options", multiple=True, type=Assignments(), help="option of the dataset, its value in YAML")
def reports(source, columns, out, dataset, options):
    """Reports in free text (English, German, Swedish) as labels: present, absent, possible, or nothing said."""
    from ecglib import datasets
    from ecglib.evaluation import agreement
    from ecglib.pipeline import corpora

    if bool(dataset) == bool(out):
        raise EcgError("reports of a table or of a corpus?", field="out", fix="give --out FILE.csv, or --dataset NAME")
    if out:
        print(corpora.label_reports(source, list(columns) or ["report"], out))
        return
    module = datasets.get(dataset)
    chosen = {"label_set": "harmonised"} if module.VOCABULARY == "scp" else {}
    table, reading = corpora.report_agreement(module, source, **chosen | dict(options))
    print(f"{agreement.spelled(table).to_string(index=False)}\n\n{corpora.summary(reading)}")


@cli.command()
@click.argument("dataset", shell_complete=names_of(_datasets))
@click.argument("root", type=Path)
@click.option("--out", required=True, type=Path, metavar="FILE.csv", help="table to write: a line per call")
def readers(dataset, root, out):
    """Who called what in a corpus that several people have read, such as CODE-test in ROOT: to set beside a model."""
    from ecglib import datasets
    from ecglib.pipeline import corpora

    print(corpora.write_readers(datasets.get(dataset), root, out))


@cli.command()
@click.argument("places", nargs=-1, required=True)
@click.option("--out", default=None, type=Path, metavar="FILE.csv", help="table of all pairs to write")
def leaks(places, out):
    """Patients in two splits and copies of tracings, within and between PLACES: packed cohorts or WFDB folders."""
    from ecglib.pipeline import corpora

    print(corpora.scan(places, out, command_help.tenths("leaks")))


@cli.command()
@click.argument("folder", metavar="COHORT", type=Path)
@click.option("--out", required=True, type=Path, metavar="FILE.json", help="file to write, beside the cohort")
@click.option("--creator", default="", metavar="NAME", help="who made the corpus  [default: as it is cited]")
@click.option("--published", default="", metavar="YEAR", help="year or date  [default: as it is cited]")
def croissant(folder, out, creator, published):
    """Describe a packed cohort for catalogues and tools: Croissant 1.1 metadata (JSON-LD) of its files and tables."""
    from ecglib.pipeline import croissant as metadata

    print(metadata.write(folder, out, creator, published))


@cli.command()
@click.argument("places", nargs=-1, required=True)
@click.option("--detector", default=Path("results/noise/detector.json"), type=Path, show_default=True, help="to ask")
@click.option("--out", default=None, type=Path, metavar="FILE.csv", help="table to write")
def quality(places, detector, out):
    """Which recordings are good enough to be read: PLACES, recordings or folders of them, good or noisy."""
    from ecglib.pipeline import quality as flags

    print(flags.report(places, detector, out))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell):
    """Print what completes the words of `ecglib` in a SHELL."""
    print(get_completion_class(shell)(cli, {}, "ecglib", COMPLETE).source())


for command in model_cli.COMMANDS:
    cli.add_command(command)
for command in cli.commands.values():
    command.epilog = command_help.epilog(command.name)


def main(words: list[str]) -> int:
    """Run one command; bad input and files that cannot be read or written print one line and return 2, Ctrl-C 130."""
    if asked := os.environ.get(COMPLETE):  # by what `completion` has printed
        return shell_complete(cli, {}, "ecglib", COMPLETE, asked)
    try:
        with cli.make_context("ecglib", words) as context:
            cli.invoke(context)
        print(end="", flush=True)
    except click.exceptions.Exit as done:  # after --help
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _told(error.format_message())
    except EcgError as error:
        return _told(error)
    except KeyboardInterrupt:
        return _told("stopped by Ctrl-C", STOPPED)
    except BrokenPipeError:
        return _told("", 141)  # as a command that SIGPIPE has ended
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        return _told(f"{error.filename or 'output'}: {os.strerror(error.errno)}{_free(error)}")
    return 0


def _told(text, status: int = 2) -> int:
    """Print a line about what ended the command, if any, and return its exit status."""
    try:
        print(end="", flush=True)
    except OSError:  # whoever read it is gone, or the disk is full: nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if text:
        print(f"error: {text}", file=sys.stderr, flush=True)
    return status


def _free(error: OSError) -> str:
    """How much room there is, and what to do, where an error is about that."""
    if error.errno not in FULL or not error.filename:
        return ""
    above = next((path for path in Path(error.filename).absolute().parents if path.exists()), Path("/"))
    return f", {shutil.disk_usage(above).free / 1e6:,.1f} MB are free -> make room, or write to another disk"
