"""Files of checkpoints: written whole, checked when they are read, and set aside if they are damaged.

The format of torch.save is a zip archive, whose checksums torch itself does not compare when it reads.
"""

from __future__ import annotations

import errno
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import ZipFile

import torch

from bench.core.errors import StageError
from bench.core.files import replacing
from bench.store.provenance import decisive_versions, other_versions

if TYPE_CHECKING:
    from bench.stages.work import Work

Value = TypeVar("Value")

log = logging.getLogger(__name__)


class OtherVersions(StageError):
    """A checkpoint is of another version of a package that numbers depend on."""


class DamagedCheckpoint(StageError):
    """A file of a checkpoint is not what was saved. The next attempt sets it aside."""

    final = False


def save(file: Path, state: object) -> None:
    """Save a state: a crash leaves the old or the new one. The folder above the stage's own has to be there."""
    file.parent.mkdir(exist_ok=True)
    with replacing(file) as partial:
        torch.save({"file": _name(file), "versions": decisive_versions(), "state": state}, partial)


def load(file: Path, use: Callable[[Any], Value]) -> Value | None:
    """What `use` makes of the state in a file; None if there is no file.

    Raises DamagedCheckpoint if it is not what was saved for this stage, or `use` fails, and OtherVersions if it was
    saved by other versions; older files do not say theirs. What may be no damage, such as a lack of memory or
    permission, is raised as it is.
    """
    if not os.path.lexists(file):
        return None
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        with ZipFile(file) as archive:
            if changed := archive.testzip():
                raise ValueError(f"the bytes of '{changed}' in it were changed")
        saved = torch.load(file, map_location="cpu", weights_only=True)
        if saved["file"] != _name(file):
            raise ValueError(f"it is {saved['file']}")
        if differing := other_versions(saved.get("versions", {})):
            again = "install those versions again, or delete the folder of the checkpoint to start anew"
            raise OtherVersions(f"{file}: cannot be resumed from: {differing}\n  hint: {again}")
        return use(saved["state"])
    except OtherVersions:
        raise
    except Exception as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if short or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedCheckpoint(f"{file}: cannot be resumed from: {reason}") from error


def set_aside(work: Work, file: Path, damage: str) -> None:
    """Move a damaged file out of the way; the stage then does again what the file would have spared."""
    aside = file.with_name(f"{file.name}.damaged-{uuid.uuid4().hex[:8]}")
    os.rename(file, aside)
    text = f"{damage}\n  moved to {aside.name}; what it held is done again"
    work.note(text)
    log.warning("%s", text)


def _name(file: Path) -> str:
    """A file's place, which tells the stage that it belongs to."""
    return "/".join(file.parts[-3:])
