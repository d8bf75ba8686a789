"""CLIP weights by name: which file holds them, what identifies them, and how they reach machines without a network.

Weights enter identities by their content, or as declared where there is no file to hash. Planning reads this module,
so it imports neither torch nor open_clip before a tag is looked up.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError, unknown
from bench.models.backbones import backbone

BUILTIN_FILE = Path(__file__).parents[1] / "assets" / "glyph_clip.safetensors"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
RANDOM = "random:"
TAGGED = re.compile(r"([\w-]+)@(/.+)")  # open_clip's tags are of letters, digits, `_` and `-`


def random_seed(pretrained: str) -> int | None:
    """The seed of `random:<seed>`, None for other weights. Raises UserError where the seed is no number."""
    if not pretrained.startswith(RANDOM):
        return None
    seed = pretrained.removeprefix(RANDOM)
    if not seed.isdecimal():
        raise UserError(f"'{pretrained}' needs a whole number after the colon, such as random:0", where="pretrained")
    return int(seed)


def tagged(pretrained: str) -> tuple[str, Path | None]:
    """The two parts of `<tag>@<absolute path>`, an open_clip tag and the file that holds its weights here.

    Any other value is the first part. A relative path into a folder such as `a@` needs a leading `./`.
    """
    match = TAGGED.fullmatch(pretrained)
    return (match[1], Path(match[2])) if match else (pretrained, None)


def weights_file(name: str, pretrained: str) -> Path | None:
    """The local file of `builtin` or a path; None where the weights are open_clip's or random.

    A value with a suffix or a separator is a path, anything else is one of open_clip's tags, with or without its file.
    Raises UserError where the file of a path is missing.
    """
    if pretrained == "builtin":
        if name != "glyph-vit":
            raise UserError(f"no weights of '{name}' are built in", where="pretrained", hint="use a file or a tag")
        return _existing(BUILTIN_FILE)
    if random_seed(pretrained) is not None or tagged(pretrained)[1] is not None:
        return None
    looks_like_path = "/" in pretrained or "\\" in pretrained or Path(pretrained).suffix in {".pt", ".safetensors"}
    return _existing(Path(pretrained).expanduser()) if looks_like_path else None


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise UserError("the weights file does not exist", where=str(file))
    return file


def weights_identity(name: str, pretrained: str) -> str:
    """What identifies a backbone's weights: a file's sha256, or the declaration where there is no file to hash.

    open_clip's tags are declared, `open_clip:<name>/<tag>`, wherever their file lies: planning downloads nothing, so
    weights that the publisher replaces under the same tag would not be noticed. `random:<seed>` is declared too; it
    depends on torch's generator.
    """
    backbone(name)
    file = weights_file(name, pretrained)
    if file is not None:
        return f"sha256:{file_sha256(file)}"
    if random_seed(pretrained) is not None:
        return f"{name}/{pretrained}"
    return f"open_clip:{name}/{tagged(pretrained)[0]}"


def file_sha256(file: Path) -> str:
    """The hash of a file's content, computed once for as long as its size and time stay."""
    status = file.stat()
    return _sha256(file.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _sha256(file: Path, size: int, modified_ns: int) -> str:
    """Size and time are arguments only to be part of the cache's key: a changed file is hashed anew."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- open_clip's tags -------------------------------------------------------------------------------------------------


def check_tag(name: str, pretrained: str) -> None:
    """Raises UserError for weights that are neither a file nor random nor a tag that open_clip knows for the model."""
    import open_clip

    allowed, tag = open_clip.list_pretrained_tags_by_model(name), tagged(pretrained)[0]
    if weights_file(name, pretrained) is None and random_seed(pretrained) is None and tag not in allowed:
        raise unknown(f"weights of '{name}'", tag, [*allowed, "random:<seed>"], where="pretrained")


def tag_file(name: str, pretrained: str) -> Path:
    """The weights file of `<tag>` or `<tag>@<file>`; that of a tag alone is fetched where the hub's cache lacks it.

    Raises UserError for unknown tags, for a file that is not there, and where fetching fails.
    """
    check_tag(name, pretrained)
    tag, file = tagged(pretrained)
    file = file or _cached(name, tag) or _fetched(name, tag)
    if not file.is_file():
        hint = "every machine that runs stages must see the hub's cache (HF_HOME) under the same path"
        raise UserError(f"the weights of '{name}' by the tag '{tag}' are not there", where=str(file), hint=hint)
    return file


def _cached(name: str, tag: str) -> Path | None:
    """The file that open_clip would fetch, from the hub's cache. open_clip itself asks the hub for a newer one first,
    which takes half a minute where there is no network."""
    import huggingface_hub
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, stated = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "").rpartition("/")
    names = (stated,) if stated else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    found = (huggingface_hub.try_to_load_from_cache(repository, each) for each in names if repository)
    return next((Path(file) for file in found if isinstance(file, str)), None)


def _fetched(name: str, tag: str) -> Path:
    import open_clip

    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag)))
    except Exception as error:  # whatever network, hub and disk are up to
        reason = str(error).rpartition("Last error: ")[2].strip() or type(error).__name__
        fetch = f"open_clip.download_pretrained(open_clip.get_pretrained_cfg('{name}', '{tag}'))"
        raise UserError(
            f"the weights of '{name}' by the tag '{tag}' are not in the cache and cannot be fetched: "
            + reason.splitlines()[0],
            where="pretrained",
            hint=f'run this once where there is a network, with the same HF_HOME: python -c "import open_clip; {fetch}"'
            "; or give a local file as recipe.pretrained",
        ) from error


# --- jobs without a network -------------------------------------------------------------------------------------------


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
    file = tag_file(backbone, pretrained).absolute()
    return Resolved(f"{tagged(pretrained)[0]}@{file}", file_sha256(file))


def offline() -> None:
    """From here on this process, and those that it starts, never reach for a hub; its cache may still be read.

    The hub's library reads the environment when it is imported: called before that, nothing else is needed.
    """
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
