"""The model of a finished run for other programs: a SavedModel, or the Keras file.

export_model(Path("runs/housing/20261123-101500-3f9a1c"), to="saved-model", out=Path("served"))
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from dnnjob.config import DevicesConfig
from dnnjob.errors import JobError, MissingError
from dnnjob.image import is_lost, lost_reason, mount_hint
from dnnjob.imports import importing_tensorflow
from dnnjob.outputs import refuse_overwriting
from dnnjob.predict import open_finished
from dnnjob.runs import write_bytes
from dnnjob.tasks import configure_process

logger = logging.getLogger(__name__)

Format = Literal["saved-model", "keras"]
COLUMNS_FILE = "columns.json"
"""Beside the SavedModel: by what name its signature takes each column."""


def export_model(run: Path, *, to: Format, out: Path) -> None:
    """Writes the model of a finished run so that others than dnnjob can use it.

    Args:
        run: Its folder.
        to: `saved-model`, whose signature `serving_default` takes raw columns by name and gives
            `y_pred`; or `keras`, the file as the run has it.
        out: A new folder for a SavedModel; a `.keras` file, which is replaced.

    Raises:
        JobError: If the run has no model of its own, or `out` cannot be; nothing is written.
        MissingError: If `out` cannot be written.
    """
    paths = open_finished(run)
    if is_lost(out):
        raise JobError(
            f"--out must outlive the container, but {lost_reason(out.absolute())}. Mount a folder "
            f"for it.{mount_hint(out, to='write')}"
        )
    refuse_overwriting(out, option="--out", inputs=[paths.model], runs=[paths.root])
    match to:
        case "keras":
            if out.suffix != ".keras" or out.is_dir():
                raise JobError(
                    f"Keras reads files that end in .keras, but --out is {out}. Add that ending."
                )
            with _explaining(out):
                content = paths.model.read_bytes()
                write_bytes(out, content)
        case "saved-model":
            _refuse_present(out)
            with _explaining(out), _new_folder(out) as folder:
                _write_saved_model(paths.model, folder)
    logger.info("The model of %s takes raw columns and gives target units.", paths.run_id)


def _write_saved_model(model: Path, folder: Path) -> None:
    # Writing computes next to nothing, and no device of this machine is to be named.
    configure_process(DevicesConfig(kind="cpu"))
    with importing_tensorflow():
        from dnnjob.training.export import load_keras
        from dnnjob.training.saved_model import write_saved_model

    names = write_saved_model(folder, load_keras(model))
    text = json.dumps(names, ensure_ascii=False, indent=1) + "\n"
    (folder / COLUMNS_FILE).write_text(text, encoding="utf-8")
    if renamed := {name: mine for name, mine in names.items() if name != mine}:
        logger.info(
            "Names in the signature: %s.", ", ".join(f"{a} is {b}" for a, b in renamed.items())
        )


def _refuse_present(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise JobError(
            f"A SavedModel is a folder of its own, but --out {out} is there already. Choose "
            "another name, or remove it."
        )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name at the end, or is gone with an error."""
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        inside = beside / out.name
        # With the permissions that the umask gives, which those of mkdtemp are not.
        inside.mkdir()
        yield inside
        inside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _explaining(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MissingError(
            f"The model could not be written to {out} ({error.strerror or error}). Make the "
            "folder, make room, or choose another place with --out."
        ) from error
