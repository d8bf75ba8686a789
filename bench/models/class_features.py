"""Class features from a file instead of CLIP's text tower, for example of a language model (Text4Vis, Section 3).

The file is .safetensors with one tensor `classes` [C, D] and the metadata `names`, a JSON list of the C class names in
the same order. It may hold more classes than are needed. Its path may contain ~ and $VARIABLES.

Legend: C classes, D joint CLIP width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bench.core.errors import UserError
from bench.core.files import expanded, not_found


def missing(source: str) -> str | None:
    """Reason why a file cannot be read; None if it exists or `source` is empty. Planning goes on without the file."""
    return not_found("class features", expanded(source)) if source else None


def class_features(source: str, names: Sequence[str], width: int) -> NDArray[np.float32]:
    """Features [C, D] of unit length for these class names.

    Raises UserError for a file of another form or width and for classes that the file does not have.
    """
    file = str(expanded(source))
    try:
        with safe_open(file, framework="np") as opened:
            known, rows_CD = json.loads((opened.metadata() or {})["names"]), opened.get_tensor("classes")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        hint = "a tensor `classes` [C, D] and metadata `names`, a JSON list of C names"
        raise UserError(f"not a file of class features: {error}", where=file, hint=hint) from error
    if rows_CD.shape != (len(known), width):
        shape = " x ".join(map(str, rows_CD.shape))
        hint = "D is the width of the backbone's joint space; project the features to it, or use another backbone"
        raise UserError(
            f"`classes` is {shape}, expected for {len(known)} names: {len(known)} x {width}", where=file, hint=hint
        )
    place = {name: row for row, name in enumerate(known)}
    if len(place) < len(known):
        raise UserError("`names` contains a name twice", where=file)
    if absent := [name for name in names if name not in place]:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise UserError(f"has no features of {', '.join(map(repr, absent[:3]))}{more}", where=file)
    chosen_CD = rows_CD[[place[name] for name in names]].astype(np.float32)
    norms_C1 = np.linalg.norm(chosen_CD, axis=1, keepdims=True)
    if broken := [name for name, norm in zip(names, norms_C1[:, 0], strict=True) if not (np.isfinite(norm) and norm)]:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise UserError(f"features of {', '.join(map(repr, broken[:3]))}{more} are zero or not finite", where=file)
    unit_CD: NDArray[np.float32] = chosen_CD / norms_C1
    return unit_CD


def content(features_CD: NDArray[np.float32]) -> str:
    """Hash of the features, which does not depend on the file that holds them."""
    return hashlib.sha256(features_CD.tobytes()).hexdigest()
