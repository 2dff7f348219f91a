"""The commands on published models: `zoo`, `embed`, `export`. They compute what people ask for, no stage's result."""

import argparse
import sys
from pathlib import Path

from ecglib.signals import EcgError

PACKS = Path(__file__).resolve().parent.parent / "tests/packs"


def add_to(command) -> None:
    """Describe the commands; command(name, help) gives the parser of one."""
    sub = command("zoo", "published checkpoints: list them, read a card, fetch one, prove ours computes the same")
    sub.add_argument("action", nargs="?", default="list", choices=("list", "card", "fetch", "verify"))
    sub.add_argument("names", nargs="*", help="models (verify: default all)")
    sub.add_argument("--packs", default=str(PACKS), help="verify: folder of conformance packs")
    sub.add_argument("--out", default="results/zoo", help="fetch: folder for model.safetensors and card.json")
    loading(sub)
    sub = command("embed", "features of a published model for every WFDB record below some folders")
    sub.add_argument("model", help="a published model, see `zoo`")
    sub.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of WFDB records, at any depth")
    sub.add_argument("--out", required=True, metavar="FILE.parquet", help="table to write")
    sub.add_argument("--batch", type=int, default=16, help="crops that the network reads at a time")
    sub.add_argument("--head", action="store_true", help="the probabilities of the model's own statements too")
    sub.add_argument("--records", default="**/*.hea", metavar="GLOB", help="which headers (default: all)")
    loading(sub)
    sub = command("export", "a published model as ONNX, with its signal chain inside")
    sub.add_argument("model", help="a published model, see `zoo`")
    sub.add_argument("--out", required=True, metavar="FILE.onnx", help="file to write")
    loading(sub)


def loading(sub: argparse.ArgumentParser) -> None:
    """The options on where weights come from."""
    sub.add_argument("--weights", default="published", choices=("published", "recipe"), help="recipe: without meaning")
    sub.add_argument("--file", default=None, metavar="CHECKPOINT", help="weights that are here already")
    sub.add_argument("--accept", default="", metavar="LICENCE", help="a licence that is not free for every use")


def loaded(name: str, args, progress):
    """The model that a command asks for; that its weights mean nothing is said in capital letters."""
    from ecglib import zoo

    model = zoo.load(name, args.weights, file=args.file, accept=args.accept, progress=progress(f"fetch {name}"))
    if model.weights == "recipe":
        print(zoo.RECIPE.upper(), flush=True)
    return model


def zoo(args, progress) -> None:
    from ecglib import zoo

    if args.action == "list":
        print(zoo.table().to_string(index=False))
    elif args.action == "verify":
        verify(args)
    elif not args.names:
        raise EcgError(
            f"zoo {args.action} of which model?", field="names", fix=f"name some of {', '.join(zoo.names())}"
        )
    for name in args.names if args.action in ("card", "fetch") else ():
        if args.action == "card":
            print(*(f"{key}: {value}" for key, value in zoo.facts(name).items()), "", sep="\n")
        else:
            print(zoo.save(loaded(name, args, progress), Path(args.out) / zoo.card(name).name))


def verify(args) -> None:
    """Print the relative error of every output; EcgError where one is above its limit."""
    from ecglib import conformance

    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731 - the table alone goes to stdout
    table = conformance.verify(Path(args.packs), args.names, progress=say)
    shown = table.assign(error=[f"{e:.1e}" for e in table.error], limit=[f"{e:.0e}" if e else "0" for e in table.limit])
    shown = shown.assign(passed=table.passed.map({True: "ok", False: "FAILED"}))
    print(shown.drop(columns="model").to_string(index=False))
    if not table.passed.all():
        failed = table[~table.passed]
        reason = f"{len(failed)} of {len(table)} comparisons failed"
        raise EcgError(reason, file=failed.pack.iloc[0], field=failed.what.iloc[0], fix="mend the encoder or the card")


def embed(args, progress) -> None:
    from ecglib import embed

    options = {"batch": args.batch, "head": args.head, "pattern": args.records}
    model = loaded(args.model, args, progress)
    done = embed.run(model, args.folders, args.out, progress=lambda line: print(line, flush=True), **options)
    took = ", ".join(f"{step.removesuffix('_s')} {done[step]:.1f} s" for step in embed.STEPS)
    print(f"{took}\n{args.out}: {done['records']:,} records, {done['refused']:,} refused")


def export(args, progress) -> None:
    from ecglib import onnx_export

    model = loaded(args.model, args, progress)
    done = onnx_export.export_model(model, args.out)
    print(f"{args.out}: {done['bytes']:,} bytes, opset {done['opset']}, differs from PyTorch by {done['error']:.1e}")
