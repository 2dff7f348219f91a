"""JupyterLab for exploring: it opens at copies of the notebooks, and saving a committed one leaves no trace of a run.

The copies lie in results/scratch/notebooks, where parameters, outputs and autosave touch nothing of the study; their
kernels start in notebooks/, so that the paths in the cells mean the same. A notebook of notebooks/ may be edited as
well: it is saved without outputs and with the metadata that the repository holds, so only its text can change.
"""

import hashlib
import json
import os
from pathlib import Path

import nbformat
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from nbstripout import strip_output

from ecglib.data.files import write_atomic
from ecglib.data.notebook import OPENED

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
COPIES = Path("results/scratch/notebooks")
ORIGIN = "copy_of"  # key in the metadata of a copy: checksum of the notebook that it was made from


def words(root: Path, options) -> list[str]:
    """The command line of JupyterLab on the repository `root`, opened at the copies; `options` are Jupyter's own."""
    here = f"{__name__}."
    return [
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{COPIES.as_posix()}",
        f"--FileContentsManager.pre_save_hook={here}as_committed",
        f"--ServerApp.kernel_manager_class={here}Kernels",
        *options,
    ]


def refresh_copies(root: Path) -> list[str]:
    """Copy the notebooks that have no copy yet, and those whose copy was never edited; returns the edited ones left."""
    (root / COPIES).mkdir(parents=True, exist_ok=True)
    edited = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        copy = root / COPIES / path.name
        notebook = nbformat.read(path, nbformat.NO_CONVERT)
        checksum = _checksum(notebook)
        if copy.exists():
            present = nbformat.read(copy, nbformat.NO_CONVERT)
            origin = present.metadata.get(ORIGIN)
            if origin == checksum:
                continue
            if origin != _checksum(present):
                edited.append(copy.name)
                continue
        notebook.metadata[ORIGIN] = checksum
        write_atomic(copy, nbformat.writes(notebook, nbformat.NO_CONVERT) + "\n")
    return edited


def as_committed(model: dict, path: str, **_) -> None:
    """Before Jupyter saves: strip a notebook of the folder notebooks/ of outputs, counts and what Lab adds to it."""
    if model["type"] == "notebook" and os.path.dirname(path.strip("/")) == "notebooks":
        notebook = nbformat.from_dict(model["content"])
        model["content"] = _stripped(notebook)


def _stripped(notebook):
    strip_output(notebook, keep_output=False, keep_count=False, keep_id=True)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in ("tags",) if key in cell.metadata})
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def _checksum(notebook) -> str:
    """Of what a reader can edit: kind, text and tags of the cells."""
    content = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Kernels(AsyncMappingKernelManager):
    """Starts the kernel of a copy where its original lies, so that relative paths mean the same.

    The kernel is told where the notebook lies that is open, from which links go out.
    """

    def cwd_for_path(self, path, **kwargs):
        if isinstance(kwargs.get("env"), dict):  # what the kernel that is being started will get
            kwargs["env"][OPENED] = str(Path(self.root_dir, path.strip("/")))
        if Path(path.strip("/")).is_relative_to(COPIES):
            path = "notebooks"
        return super().cwd_for_path(path, **kwargs)
