"""CLIP weights by name: their file, their identity, and their download before jobs run without a network.

Weights enter identities by the hash of their file, or by name if there is no file. Planning uses this module, so it
does not import torch, and open_clip only to look up a tag.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError, unknown
from bench.core.files import ASSETS, expanded, file_sha256, not_found
from bench.models.backbones import backbone

BUILTIN_FILE = ASSETS / "glyph_clip.safetensors"
BUILTIN_FILES = {"glyph-vit": BUILTIN_FILE, "glyph-video": ASSETS / "glyph_viclip.safetensors"}  # by backbone
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
RANDOM = "random:"
TAGGED = re.compile(r"([\w-]+)@(/.+)")  # open_clip's tags consist of letters, digits, `_` and `-`


def random_seed(pretrained: str) -> int | None:
    """The seed of `random:<seed>`, None for other weights. Raises UserError if the seed is not a number."""
    if not pretrained.startswith(RANDOM):
        return None
    seed = pretrained.removeprefix(RANDOM)
    if not re.fullmatch(r"\d{1,18}", seed):
        what = f"'{pretrained}' needs a whole number of up to 18 digits after the colon, such as random:0"
        raise UserError(what, where="pretrained")
    return int(seed)


def tagged(pretrained: str) -> tuple[str, Path | None]:
    """The parts of `<tag>@<absolute path>`: an open_clip tag and the file with its weights; (value, None) for others.

    A relative path into a folder such as `a@` needs a leading `./`.
    """
    match = TAGGED.fullmatch(pretrained)
    return (match[1], Path(match[2])) if match else (pretrained, None)


def weights_file(name: str, pretrained: str) -> Path | None:
    """The local file of `builtin` or a path; None for open_clip's tags and random weights.

    A value with a suffix or a separator is a path; any other is an open_clip tag, with or without its file.
    Raises UserError if the file of a path does not exist.
    """
    if pretrained == "builtin":
        if name not in BUILTIN_FILES:
            raise UserError(f"'{name}' has no built-in weights", where="pretrained", hint="use a file or a tag")
        return BUILTIN_FILES[name]
    if random_seed(pretrained) is not None or tagged(pretrained)[1] is not None:
        return None
    own = re.search(r"[/\\]|^\$", pretrained) or Path(pretrained).suffix in {".pt", ".pth", ".safetensors"}
    return regular_file("the weights file", expanded(pretrained)) if own else None


def missing_weights(pretrained: str) -> str | None:
    """Reason why a file below a $VARIABLE, where data are, cannot be used; None for others. Planning goes on."""
    return not_found("weights", expanded(pretrained)) if pretrained.startswith("$") else None


def regular_file(what: str, file: Path) -> Path:
    """The file. Raises UserError unless it can be read to its end, which a pipe or a device may not have."""
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{what} does not exist", where=str(file)) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what} cannot be opened: {getattr(error, 'strerror', error)}", where=ascii(file)) from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        raise UserError(f"{what} is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file", where=str(file))
    if not os.access(file, os.R_OK):
        raise UserError(f"{what} may not be read", where=str(file))
    return file


def weights_identity(name: str, pretrained: str) -> str:
    """Identity of a backbone's weights: the sha256 of a file, or the name of weights without a file.

    open_clip's tags are identified by name, `open_clip:<name>/<tag>`, because planning downloads nothing; weights that
    the publisher replaces under the same tag go unnoticed. `random:<seed>` depends on torch's generator.
    """
    backbone(name)
    if missing_weights(pretrained):
        return f"missing: {pretrained}"  # which no record has
    file = weights_file(name, pretrained)
    if file is not None:
        return f"sha256:{weights_sha256(file)}"
    if random_seed(pretrained) is not None:
        return f"{name}/{RANDOM}{random_seed(pretrained)}"
    return f"open_clip:{name}/{tagged(pretrained)[0]}"


def weights_sha256(file: Path) -> str:
    """SHA-256 of a file, computed again only after its size or modification time has changed."""
    status = file.stat()
    return _sha256(file.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _sha256(file: Path, size: int, modified_ns: int) -> str:
    return file_sha256(file)  # size and time are only part of the cache key


# --- open_clip's tags -------------------------------------------------------------------------------------------------


def check_tag(name: str, pretrained: str) -> None:
    """Raises UserError unless the weights are a file, random, or a tag that open_clip has for the model."""
    import open_clip

    allowed, tag = open_clip.list_pretrained_tags_by_model(name), tagged(pretrained)[0]
    if weights_file(name, pretrained) is None and random_seed(pretrained) is None and tag not in allowed:
        raise unknown(f"weights of '{name}'", tag, [*allowed, "random:<seed>"], where="pretrained")


def tag_file(name: str, pretrained: str) -> Path:
    """The weights file of `<tag>` or `<tag>@<file>`; a tag's file is downloaded if the hub's cache does not have it.

    Raises UserError for unknown tags, a missing file, and a failed download.
    """
    check_tag(name, pretrained)
    tag, file = tagged(pretrained)
    file = file or _cached(name, tag) or _downloaded(name, tag)
    if not file.is_file():
        hint = "every machine that runs stages must see the hub's cache (HF_HOME) under the same path"
        raise UserError(f"no weights file of '{name}' with the tag '{tag}'", where=str(file), hint=hint)
    return file


def _cached(name: str, tag: str) -> Path | None:
    """The file that open_clip would download, if the hub's cache has it.

    open_clip itself first asks the hub for a newer file, which takes half a minute without a network.
    """
    import huggingface_hub
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, stated = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "").rpartition("/")
    names = (stated,) if stated else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    found = (huggingface_hub.try_to_load_from_cache(repository, each) for each in names if repository)
    return next((Path(file) for file in found if isinstance(file, str)), None)


def _downloaded(name: str, tag: str) -> Path:
    import open_clip

    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag)))
    except Exception as error:  # network, hub and disk can raise anything
        reason = str(error).rpartition("Last error: ")[2].strip() or type(error).__name__
        call = f"open_clip.download_pretrained(open_clip.get_pretrained_cfg('{name}', '{tag}'))"
        raise UserError(
            f"the weights of '{name}' with the tag '{tag}' are not in the cache and cannot be downloaded: "
            + reason.splitlines()[0],
            where="pretrained",
            hint=f'run this once with a network connection and the same HF_HOME: python -c "import open_clip; {call}"'
            "; or give a local file as recipe.pretrained",
        ) from error


# --- jobs without a network -------------------------------------------------------------------------------------------


class Resolved(NamedTuple):
    """Weights that need no network: `value` replaces the recipe's `pretrained`."""

    value: str  # builtin, random:<seed>, an absolute path, or <tag>@<absolute path>
    sha256: str | None  # of the file; None for random weights


def resolved(backbone: str, pretrained: str) -> Resolved:
    """Weights as a job gets them; those of a tag are downloaded into open_clip's cache if it does not have them.

    A download can take minutes. Raises UserError for unknown tags, missing files, and a failed download.
    """
    if random_seed(pretrained) is not None:
        return Resolved(pretrained, None)
    if (file := weights_file(backbone, pretrained)) is not None:
        return Resolved(pretrained if pretrained == "builtin" else str(file.absolute()), weights_sha256(file))
    file = tag_file(backbone, pretrained).absolute()
    return Resolved(f"{tagged(pretrained)[0]}@{file}", weights_sha256(file))


def offline() -> None:
    """Keep this process and its children from contacting a model hub. They can still read its cache.

    The hub's library reads the environment at import; if it is imported already, its constant is set as well.
    """
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
