"""Datasets of the embedded world, whose names start with `glyphs-`; `bench.data.datasets` imports this module."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from bench.core.errors import StageError
from bench.core.files import cache_dir
from bench.core.identity import digest
from bench.data.class_files import Classes
from bench.data.datasets import Dataset
from bench.data.lists import Entry, Listing, Split
from bench.data.manifest import FileProgress
from bench.glyphs import world
from bench.video.pool import Pool

HALVES = ("even", "odd")  # of the validation clips, for suites that choose on one half and measure on the other
SECONDS_TO_RENDER = 300.0  # limit for one video, which takes milliseconds


class Glyphs(Dataset):
    """A set of the embedded glyph world, built into the cache folder."""

    buildable = True

    root: str = ""
    classes: str = ""
    groups: str = "(.*)"  # each video is drawn on its own
    world: str
    subset: str

    def location(self) -> Path:
        return world.folder(self.world, cache_dir())

    def missing(self, split: str | None = None) -> str | None:
        return None if world.is_built(self.world, cache_dir()) else f"the videos of '{self.name}' are not built yet"

    def content(self, entries: Sequence[Entry], progress: FileProgress | None = None, split: str = "") -> str:
        """Hash of the entries and of the recipe that renders them, so that planning needs no videos."""
        return digest([world.recipe_digest(self.world), [entry[:3] for entry in entries]])

    def build(self, progress: Callable[[int, int], None], workers: int) -> Path:
        """Render all videos of the world, which its sets share. `progress(done, total)` counts videos."""
        return rendered(self.world, cache_dir(), progress, workers)

    def _absent(self, split: str) -> str | None:
        self._split(split)
        return None

    def _read_names(self, variant: str) -> Classes:
        return Classes(world.class_names(self.world, self.subset))

    def _read_listing(self, split: str, chosen: Split) -> Listing:
        whole, half, part = split.partition("-")
        entries = [Entry(*entry) for entry in world.entries(self.world, self.subset, whole)]
        return Listing(tuple(entries[HALVES.index(part) :: 2] if half else entries), ())


def rendered(name: str, folder: Path, progress: Callable[[int, int], None], workers: int) -> Path:
    """Render the videos of a world that are missing below a folder. An interrupted build resumes.

    The processes end with this one. With fewer than two, videos are rendered here.
    """
    target, sets = world.folder(name, folder), world.SPLITS.items()
    paths = [path for own, splits in sets for split in splits for path, _ in world.entries(name, own, split)]
    missing = [] if world.is_built(name, folder) else [path for path in paths if not (target / path).is_file()]
    for parent in {(target / path).parent for path in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    pool = Pool(workers if workers > 1 else 0, SECONDS_TO_RENDER)
    made = pool.run(_render, [(name, path, target / path) for path in missing], ordered=False)
    for done, (task, lost) in enumerate(made, start=len(paths) - len(missing) + 1):
        if lost is not None:
            raise StageError(f"{task[1]} cannot be rendered: {lost.reason}")
        progress(done, len(paths))
    return world.build(name, folder, progress, workers=0)  # which notes that all are there


def _render(task: tuple[str, str, Path]) -> None:
    name, path, file = task
    beside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:12]}")
    world.encode(world.render_entry(name, path), beside)
    beside.replace(file)


@cache
def datasets() -> dict[str, Glyphs]:
    """All sets of all worlds by name: `glyphs-WORLD` for the source, `glyphs-WORLD-SUBSET` for a target."""
    return {own.name: own for own in _sets()}


def _sets() -> Iterator[Glyphs]:
    for name in world.WORLDS:
        for subset, splits in world.SPLITS.items():
            halves = [f"validation-{half}" for half in HALVES if "validation" in splits]
            lists = {split: Split(list=(name,)) for split in (*splits, *halves)}
            full = f"glyphs-{name}" if subset == "source" else f"glyphs-{name}-{subset}"
            yield Glyphs(name=full, splits=lists, world=name, subset=subset)
