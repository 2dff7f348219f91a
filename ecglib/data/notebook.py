"""What surrounds a notebook: a person who has it open in Jupyter, or a stage that executes it into a page.

`ecglib run` and `ecglib lab` say by environment variables which it is, and where the notebook lies that is open: links
in it are relative to that place, those of a page to the folder of the page.
"""

import os
import sys
from html import escape
from pathlib import Path
from urllib.parse import quote

from ecglib import EcgError

RUN = "ECGLIB_RUN"  # set by `ecglib run`: a notebook is being executed into a page
OPENED = "ECGLIB_OPENED"  # set by `ecglib lab`: the folder of the notebook that is open
QUIET_S = 2.0  # seconds that a loop may last without a bar


def attended() -> bool:
    """Whether a person has this notebook open in Jupyter, so that bars and buttons work."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return RUN not in os.environ and hasattr(shell, "kernel")


def bar(what: str, total: int, unit: str = "it", **options):
    """A progress bar that updates in place: done, rate, time left; `options` are tqdm's own.

    A widget where a person has the notebook open, else a line on stderr, which executed pages leave out.
    """
    if attended():
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm(desc=what, total=total, unit=unit, mininterval=0.5, **options)


def track(items, what: str, unit: str = "it"):
    """The items of a list one by one, under a `bar` that shows where they take longer than QUIET_S and goes at the end.

    what: name of the bar; unit: of an item.
    """
    with bar(what, len(items), unit, delay=QUIET_S, leave=False) as shown:
        for item in items:
            yield item
            shown.update()


def output_folder(out_dir: str, **names: str) -> Path:
    """The folder that `out_dir` names, made where it is missing; {name} in it stands for one of `names`.

    Signs that no file name should have become "-": "zoo:merl@2.5" -> "zoo-merl@2.5". Raises EcgError where a file is
    in the way.
    """
    for name, value in names.items():
        text = "".join(sign if sign.isalnum() or sign in "-_.@" else "-" for sign in value)
        out_dir = out_dir.replace(f"{{{name}}}", text)
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise EcgError("is a file, not a folder", file=folder, field="out_dir", fix="name another folder") from error
    return folder


def links_from(page_dir) -> Path:
    """The folder that links in a notebook are relative to: `page_dir`, where its executed page will lie; where a
    person has it open, the folder of the open notebook."""
    return Path(os.environ.get(OPENED, ".") if attended() else page_dir).resolve()


def written(folder) -> str:
    """Markdown: what a notebook wrote into a folder, as links from the notebook; one name with all its formats.

    Left out: hidden files, what a run leaves to go on from, and the notebook's own page.
    """
    base, kinds = links_from(folder), {}
    for path in sorted(Path(folder).iterdir()):
        hidden = path.name.startswith((".", "checkpoint."))
        if path.is_file() and not hidden and path.suffix not in (".ipynb", ".html"):
            link = f"[{path.suffix[1:]}]({quote(os.path.relpath(path.resolve(), base))})"
            kinds.setdefault(path.stem, []).append(link)
    return "What this notebook wrote: " + (
        " · ".join(f"{escape(stem)} {' '.join(links)}" for stem, links in kinds.items()) or "nothing"
    )


def plain_table(table, name: str, otherwise: str = ""):
    """A DataFrame as a table without its index, three digits behind the point; `name` makes its page reproducible.

    otherwise: the sentence that is printed in place of a table without rows; then None is returned.
    """
    if not len(table):
        print(otherwise)
        return None
    return table.style.hide(axis="index").set_uuid(name).format(precision=3, na_rep="-", escape="html")
