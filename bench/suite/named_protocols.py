"""Protocols by name, `HOW/WHAT`: a paper's way of measuring applied to a target (bench/assets/protocols.yaml)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import UserError, unknown

FILE = Path(__file__).parents[1] / "assets" / "protocols.yaml"
Settings = dict[str, Any]


def named_protocol(name: str, *, where: str = "") -> Settings:
    """Settings of a named protocol: the paper's general ones, those of its role, the target's. Raises UserError."""
    how, slash, what = name.partition("/")
    if not slash:
        raise UserError(
            f"protocol '{name}' has no '/'", where=where, hint="a named protocol is HOW/WHAT: mote/k400-4x3"
        )
    hows, whats = _file()["how"], _file()["what"]
    if how not in hows:
        raise unknown("way of measuring", how, hows, where=where)
    if what not in whats:
        raise unknown("target", what, whats, where=where)
    paper, target = hows[how], whats[what]
    settings = merged(merged(paper["always"], paper.get(target["role"], {})), target)
    labels = paper.get("labels", {}).get(target["dataset"], "")
    return merged({**settings, **({"labels": labels} if labels else {})}, paper.get(what, {}))


def named_protocols() -> Iterator[tuple[str, str]]:
    """Lines of `list protocols`: every way of measuring, then every target."""
    for how, paper in _file()["how"].items():
        yield f"{how}/...", paper["about"]
    for what, target in _file()["what"].items():
        yield f".../{what}", ", ".join(_described(target))


def _described(target: Settings) -> Iterator[str]:
    parts = ["/".join(part.values()) for part in target.get("over", [])]
    place = f"{target['dataset']}/{target['split']}" if "split" in target else target["dataset"]
    yield f"{target['role']} on {place}"
    if parts:
        yield f"mean over {', '.join(parts)}"
    if "half" in target:
        yield "mean over ten draws of half of the classes"
    if "views" in target:
        yield "{clips}x{crops} views".format(**target["views"])
    if "vocabulary" in target:
        yield f"among the classes of {' and '.join(target['vocabulary'])} too"


def merged(base: Settings, over: Settings) -> Settings:
    """`over` on top of `base`, mappings merged key by key. Mappings in `over` are copied."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below if isinstance(below, dict) else {}, value) if isinstance(value, dict) else value
    return result


@cache
def _file() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found
