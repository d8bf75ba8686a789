"""Weights for jobs without a network: who submits them turns open_clip's tags into files, jobs never ask a hub.

Identities don't change by this, see bench.models.backbones.weights_identity.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from bench.models.backbones import file_sha256, random_seed, tagged, weights_file

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class Resolved(NamedTuple):
    """Weights that need no network: `value` takes the place of what the recipe calls `pretrained`."""

    value: str  # builtin, random:<seed>, an absolute path, or <tag>@<absolute path>
    sha256: str | None  # of the file; None for random weights


def resolved(backbone: str, pretrained: str) -> Resolved:
    """Weights as a job gets them; a tag's are fetched into open_clip's cache where it lacks them.

    Fetching a model takes minutes: the caller shows what is under way. Raises UserError for unknown tags, missing files
    and where fetching fails.
    """
    if random_seed(pretrained) is not None:
        return Resolved(pretrained, None)
    if (file := weights_file(backbone, pretrained)) is not None:
        return Resolved(pretrained if pretrained == "builtin" else str(file.absolute()), file_sha256(file))
    from bench.models.clip import tag_file

    file = tag_file(backbone, pretrained).absolute()
    return Resolved(f"{tagged(pretrained)[0]}@{file}", file_sha256(file))


def offline() -> None:
    """From here on this process, and those that it starts, never reach for a hub; its cache may still be read.

    The hub's library reads the environment when it is imported: called before that, nothing else is needed.
    """
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
