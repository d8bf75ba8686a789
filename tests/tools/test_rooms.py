"""The import contracts see every room: one that no layer names would be free to import anything."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_room_has_a_layer() -> None:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter")
    layers = set(re.split(r"[\s|]+", parser["importlinter:contract:rooms"]["layers"]))
    rooms = {f"bench.{each.stem}" for each in (ROOT / "bench").iterdir() if (each / "__init__.py").is_file()}
    assert len(rooms) > 10 and rooms <= layers
    assert not [each for each in (ROOT / "bench").glob("*.py") if each.name != "__init__.py"]
