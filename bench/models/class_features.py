"""Class features from a file in the place of CLIP's text tower's, such as a language model's (Text4Vis, Section 3).

A file is .safetensors with one tensor `classes` [C, D] and, in its metadata, `names`: a JSON list of C class names, in
the same order. It may know more classes than are asked for. ~ and $VARIABLES in its path work.

Legend: C classes, D joint CLIP width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from os.path import expanduser, expandvars
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bench.core.errors import UserError
from bench.core.files import unset_variable


def missing(source: str) -> str | None:
    """Why a file cannot be read, None if it is there or none is named: planning goes on without it."""
    if variable := unset_variable(source):
        return f"class features: environment variable {variable} is not set"
    return None if not source or _path(source).is_file() else f"class features are not there: {_path(source)}"


def class_features(source: str, names: Sequence[str], width: int) -> NDArray[np.float32]:
    """Unit features [C, D] of the classes of these names.

    Raises UserError for a file of another form or width, and names the classes that it does not have.
    """
    file = str(_path(source))
    try:
        with safe_open(file, framework="np") as opened:
            known, rows_CD = json.loads((opened.metadata() or {})["names"]), opened.get_tensor("classes")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        hint = "a tensor `classes` [C, D] and metadata `names`, a JSON list of C names"
        raise UserError(f"no file of class features: {error}", where=file, hint=hint) from error
    if rows_CD.shape != (len(known), width):
        shape = " x ".join(map(str, rows_CD.shape))
        raise UserError(
            f"`classes` is {shape}, needed for {len(known)} names: {len(known)} x {width}",
            where=file,
            hint="the backbone's joint space is that wide; project other features, or take another backbone",
        )
    place = {name: row for row, name in enumerate(known)}
    if len(place) < len(known):
        raise UserError("`names` has a name twice", where=file)
    if absent := [name for name in names if name not in place]:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise UserError(f"has no features of {', '.join(map(repr, absent[:3]))}{more}", where=file)
    chosen_CD = rows_CD[[place[name] for name in names]].astype(np.float32)
    norms_C1 = np.linalg.norm(chosen_CD, axis=1, keepdims=True)
    if not (np.isfinite(norms_C1) & (norms_C1 > 0)).all():
        raise UserError("has features that are 0 or no numbers", where=file)
    unit_CD: NDArray[np.float32] = chosen_CD / norms_C1
    return unit_CD


def content(features_CD: NDArray[np.float32]) -> str:
    """What tells features apart, whatever file they come from."""
    return hashlib.sha256(features_CD.tobytes()).hexdigest()


def _path(source: str) -> Path:
    return Path(expanduser(expandvars(source)))
