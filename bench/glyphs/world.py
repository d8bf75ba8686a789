"""The embedded glyph world: named Unicode symbols moving over textured backgrounds, a video benchmark without download.

A class is an object with a verb (`skull rising`); colours and backgrounds vary at random. Two worlds share objects,
verbs and rendering. `narrow` teaches 4 of the 58 objects, `broad` 32. Each has a source set and three unseen target
sets:

    objects  new objects x source verbs   (A, replaces UCF-101: in `narrow` almost a pure object test)
    verbs    source objects x new verbs   (B, replaces HMDB-51: in `narrow` needs the motion)
    both     new objects x new verbs      (C, replaces Kinetics-600: in `narrow` almost a pure object test)

Planning needs only names, entries and the recipe's digest; numpy and image libraries are imported when a clip is
rendered. All randomness comes from `seed_for`, so a clip does not depend on the worker or the order of rendering.

Legend: T frames, H height, W width. Lengths are fractions of the frame's side, angles are in radians (positive is
clockwise on the screen), times are fractions of the clip, y points down.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from bench.core.errors import UserError, unknown
from bench.core.seeds import seed_for

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Item = TypeVar("Item", str, tuple[str, str])

# --- objects, colours, verbs ------------------------------------------------------------------------------------------

# Code points of DejaVuSans, which matplotlib ships. The order matters: the first 4 are the source objects of the narrow
# world, the first 32 those of the broad one. Symbols that are too thin or too similar at 64 pixels are left out.
OBJECTS: dict[str, int] = {
    "die": 0x2684, "caduceus": 0x2624, "flag": 0x2691, "king": 0x265A, "flower": 0x2698, "sun": 0x2600,
    "knight": 0x265E, "keyboard": 0x2328, "scales": 0x2696, "lightning": 0x26A1, "biohazard": 0x2623, "bishop": 0x265D,
    "skull": 0x2620, "airplane": 0x2708, "snowflake": 0x2744, "envelope": 0x2709, "cup": 0x2615, "pencil": 0x270F,
    "cat": 0x1F431, "shamrock": 0x2618, "pick": 0x2692, "urn": 0x26B1, "flask": 0x2697, "cross": 0x2716,
    "diamond": 0x2666, "swords": 0x2694, "anchor": 0x2693, "gear": 0x2699, "recycling": 0x267B, "moon": 0x263E,
    "radiation": 0x2622, "venus": 0x2640, "yinyang": 0x262F, "star": 0x2605, "mouse": 0x1F42D, "heart": 0x2665,
    "rook": 0x265C, "umbrella": 0x2602, "spade": 0x2660, "mask": 0x1F637, "atom": 0x269B, "blossom": 0x273F,
    "wheel": 0x2638, "note": 0x266A, "house": 0x2302, "sunglasses": 0x1F60E, "club": 0x2663, "arrow": 0x27A4,
    "pawn": 0x265F, "wheelchair": 0x267F, "warning": 0x26A0, "peace": 0x262E, "cloud": 0x2601, "scissors": 0x2702,
    "monkey": 0x1F435, "smiley": 0x263B, "telephone": 0x260E, "check": 0x2714,
}  # fmt: skip

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.95, 0.18, 0.15), "green": (0.20, 0.85, 0.25), "blue": (0.20, 0.35, 1.00), "yellow": (1.00, 0.92, 0.20),
    "purple": (0.75, 0.25, 0.90), "cyan": (0.20, 0.92, 0.95), "orange": (1.00, 0.55, 0.10), "white": (1.0, 1.0, 1.0),
}  # fmt: skip

# Each pair is a motion and the same motion played backwards: a single frame cannot distinguish them.
OPPOSITES: tuple[tuple[str, str], ...] = (
    ("rising", "falling"),
    ("sliding left", "sliding right"),
    ("growing", "shrinking"),
    ("turning clockwise", "turning counterclockwise"),
    ("appearing", "vanishing"),
)
PERIODIC: tuple[str, ...] = ("bouncing", "swinging", "blinking", "shaking")
SOURCE_VERBS: tuple[str, ...] = tuple(verb for pair in OPPOSITES for verb in pair) + PERIODIC
NEW_VERBS: tuple[str, ...] = (
    "climbing", "diving", "pulsing", "orbiting", "zigzagging", "flattening", "stretching", "tipping",
)  # fmt: skip
VERBS: tuple[str, ...] = SOURCE_VERBS + NEW_VERBS

# --- worlds, classes, lists of videos ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Numbers of source objects, verbs per object, clips per class of each split, and classes of each target set."""

    source_objects: int
    pairs_per_object: int
    periodic_per_object: int
    train_clips: int = 8
    validation_clips: int = 6
    target_classes: tuple[tuple[str, int], ...] = (("objects", 40), ("verbs", 36), ("both", 52))
    target_clips: tuple[tuple[str, int], ...] = (("objects", 12), ("verbs", 14), ("both", 11))


# 4 x (3 x 2 + 2) = 32 source classes in the narrow world, and all 4 x 8 new verbs on its target `verbs`;
# 32 x (1 x 2 + 1) = 96 source classes in the broad one.
DECLARED: dict[str, World] = {
    "narrow": World(
        source_objects=4,
        pairs_per_object=3,
        periodic_per_object=2,
        validation_clips=16,
        target_classes=(("objects", 40), ("verbs", 32), ("both", 52)),
        target_clips=(("objects", 12), ("verbs", 16), ("both", 11)),
    ),
    "broad": World(source_objects=32, pairs_per_object=1, periodic_per_object=1),
}
WORLDS: tuple[str, ...] = tuple(DECLARED)
SUBSETS: tuple[str, ...] = ("source", "objects", "verbs", "both")
SPLITS: dict[str, tuple[str, ...]] = {
    "source": ("train", "validation"),
    "objects": ("test",),
    "verbs": ("test",),
    "both": ("test",),
}


class GlyphClass(NamedTuple):
    """An object with a verb; `name` is used in class lists and prompts."""

    object: str
    verb: str

    @property
    def name(self) -> str:
        return f"{self.object} {self.verb}"


def _world(name: str) -> World:
    if name not in DECLARED:
        raise unknown("glyph world", name, WORLDS)
    return DECLARED[name]


def _drawn(items: Iterable[Item], *axes: str) -> list[Item]:
    """The items in a random order from named axes; sorting by seed does not depend on library versions."""
    return sorted(items, key=lambda item: seed_for("glyphs", *axes, *([item] if isinstance(item, str) else item)))


def _source_classes(world: str) -> list[GlyphClass]:
    """Each source object with pairs of opposite verbs, which need the order of frames, and some periodic verbs."""
    declared = _world(world)
    classes = []
    for thing in list(OBJECTS)[: declared.source_objects]:
        pairs = _drawn(OPPOSITES, world, thing)[: declared.pairs_per_object]
        periodic = _drawn(PERIODIC, world, thing)[: declared.periodic_per_object]
        classes += [GlyphClass(thing, verb) for pair in pairs for verb in pair]
        classes += [GlyphClass(thing, verb) for verb in periodic]
    return classes


def _spread(objects: list[str], verbs: tuple[str, ...], count: int, *axes: str) -> list[GlyphClass]:
    """`count` evenly spread classes: every object gets one verb before any gets a second."""
    order = _drawn(objects, *axes)
    rounds = [[GlyphClass(thing, _drawn(verbs, *axes, thing)[turn]) for thing in order] for turn in range(len(verbs))]
    return [glyph_class for one_round in rounds for glyph_class in one_round][:count]


@cache
def classes(world: str, subset: str) -> tuple[GlyphClass, ...]:
    """Classes of a set in label order (sorted by name)."""
    declared = _world(world)
    if subset not in SUBSETS:
        raise unknown("glyph subset", subset, SUBSETS)
    if subset == "source":
        return tuple(sorted(_source_classes(world)))
    seen, new = list(OBJECTS)[: declared.source_objects], list(OBJECTS)[declared.source_objects :]
    objects = seen if subset == "verbs" else new
    verbs = SOURCE_VERBS if subset == "objects" else NEW_VERBS
    return tuple(sorted(_spread(objects, verbs, dict(declared.target_classes)[subset], world, subset)))


def class_names(world: str, subset: str) -> tuple[str, ...]:
    """Class names in label order, e.g. `skull rising`; subset is source, objects, verbs or both."""
    return tuple(glyph_class.name for glyph_class in classes(world, subset))


def _clips(declared: World, split: str, subset: str) -> int:
    if split == "test":
        return dict(declared.target_clips)[subset]
    return declared.train_clips if split == "train" else declared.validation_clips


@cache
def entries(world: str, subset: str, split: str) -> tuple[tuple[str, int], ...]:
    """(path below the world's folder, label) of every video, in label order; renders nothing."""
    names = class_names(world, subset)
    if split not in SPLITS[subset]:
        raise unknown(f"split of the glyph subset '{subset}'", split, SPLITS[subset])
    folders = [f"{subset}/{split}/{name.replace(' ', '_')}" for name in names]
    clips = range(_clips(_world(world), split, subset))
    return tuple((f"{own}/{clip:03d}.mp4", label) for label, own in enumerate(folders) for clip in clips)


# --- motion -----------------------------------------------------------------------------------------------------------


class Pose(NamedTuple):
    """Position of a glyph relative to its rest position: shift, stretch (1 at rest), turn, opacity."""

    right: float = 0.0
    down: float = 0.0
    wide: float = 1.0
    high: float = 1.0
    turn: float = 0.0
    opacity: float = 1.0


class Placement(NamedTuple):
    """Rest position and style of a glyph: centre, size, tilt, reach of its motion, cycles of a periodic verb."""

    x: float
    y: float
    size: float
    tilt: float
    reach: float
    cycles: float


Motion = Callable[[float, float], Pose]
REACH = 0.24
QUARTER = math.pi / 2


def _wave(time: float, cycles: float) -> float:
    return math.sin(2 * math.pi * cycles * time)


def _triangle(time: float, cycles: float) -> float:
    """A triangle wave between -1 and 1."""
    return 4 * abs((cycles * time) % 1 - 0.5) - 1


def _backwards(motion: Motion) -> Motion:
    return lambda time, cycles: motion(1 - time, cycles)


def _rising(time: float, cycles: float) -> Pose:
    return Pose(down=REACH * (1 - 2 * time))


def _sliding_right(time: float, cycles: float) -> Pose:
    return Pose(right=REACH * (2 * time - 1))


def _growing(time: float, cycles: float) -> Pose:
    scale = 0.55 + 0.8 * time
    return Pose(wide=scale, high=scale)


def _turning_clockwise(time: float, cycles: float) -> Pose:
    """Half a turn about the glyph's foot, like the hand of a clock from 9 over 12 to 3."""
    angle = QUARTER * (2 * time - 1)
    return Pose(right=0.7 * REACH * math.sin(angle), down=0.7 * REACH * (0.6 - math.cos(angle)), turn=angle)


def _appearing(time: float, cycles: float) -> Pose:
    return Pose(opacity=0.08 + 0.92 * time)


def _bouncing(time: float, cycles: float) -> Pose:
    height = abs(_wave(time, cycles / 2))
    return Pose(down=REACH - 1.9 * REACH * height, high=0.8 + 0.2 * min(1.0, 4 * height))


def _swinging(time: float, cycles: float) -> Pose:
    angle = 0.65 * _wave(time, cycles)
    return Pose(right=-0.3 * math.sin(angle), down=0.3 * (math.cos(angle) - 0.9), turn=angle)


def _blinking(time: float, cycles: float) -> Pose:
    return Pose(opacity=1.0 if _wave(time, 1.5 * cycles) >= 0 else 0.12)


def _shaking(time: float, cycles: float) -> Pose:
    return Pose(right=0.06 * _wave(time, 2.6 * cycles), turn=0.16 * _wave(time, 1.9 * cycles))


def _climbing(time: float, cycles: float) -> Pose:
    """Up four steps: across, then up."""
    steps, within = divmod(4 * time, 1.0)
    across, up = (steps + min(1.0, 2 * within)) / 4, (steps + max(0.0, 2 * within - 1)) / 4
    return Pose(right=REACH * (2 * across - 1), down=REACH * (1 - 2 * up))


def _diving(time: float, cycles: float) -> Pose:
    """Jumps to the right and down, upside down at the end."""
    fall = 2.6 * time * time - 0.8 * time
    return Pose(right=0.8 * REACH * (2 * time - 1), down=REACH * (fall - 0.8), turn=1.6 * QUARTER * time)


def _pulsing(time: float, cycles: float) -> Pose:
    scale = 1 + 0.3 * _wave(time, cycles)
    return Pose(wide=scale, high=scale)


def _orbiting(time: float, cycles: float) -> Pose:
    angle = 2 * math.pi * (0.6 * cycles) * time
    return Pose(right=0.9 * REACH * math.cos(angle), down=0.9 * REACH * math.sin(angle))


def _zigzagging(time: float, cycles: float) -> Pose:
    return Pose(right=REACH * (2 * time - 1), down=0.7 * REACH * _triangle(time, cycles))


def _flattening(time: float, cycles: float) -> Pose:
    return Pose(down=0.5 * REACH * time, wide=1 + 0.3 * time, high=1 - 0.62 * time)


def _stretching(time: float, cycles: float) -> Pose:
    return Pose(wide=0.8 + 0.85 * time, high=0.95 - 0.15 * time)


def _tipping(time: float, cycles: float) -> Pose:
    """Falls over to the right about its lower right corner, slowly at first."""
    fallen = time**2.2
    return Pose(right=0.75 * REACH * fallen, down=0.35 * REACH * fallen, turn=QUARTER * fallen)


MOTIONS: dict[str, Motion] = {
    "rising": _rising,
    "falling": _backwards(_rising),
    "sliding left": _backwards(_sliding_right),
    "sliding right": _sliding_right,
    "growing": _growing,
    "shrinking": _backwards(_growing),
    "turning clockwise": _turning_clockwise,
    "turning counterclockwise": _backwards(_turning_clockwise),
    "appearing": _appearing,
    "vanishing": _backwards(_appearing),
    "bouncing": _bouncing,
    "swinging": _swinging,
    "blinking": _blinking,
    "shaking": _shaking,
    "climbing": _climbing,
    "diving": _diving,
    "pulsing": _pulsing,
    "orbiting": _orbiting,
    "zigzagging": _zigzagging,
    "flattening": _flattening,
    "stretching": _stretching,
    "tipping": _tipping,
}

# --- rendering --------------------------------------------------------------------------------------------------------
SIDE = 64  # frame height and width, pixels; decord 0.6 fails on widths 48 and 72 (row padding)
FRAMES = 16
FRAME_RATE = 8
# Glyphs in videos are smaller and fainter than in the photos on which the tiny CLIP was trained. Otherwise it knew
# the targets almost perfectly (A 100, B 94, C 98 % top-1), so that no method could improve on it.
SIZES, CONTRASTS = (0.65, 0.95), (0.4, 0.9)  # of a photo's, drawn for each clip
NOISE = 0.02  # standard deviation per pixel and frame: no two frames of a clip are identical
BACKGROUND_LIMIT = 0.48  # largest brightness of a background, so that every colour stands out
ENCODER: dict[str, str] = {"preset": "ultrafast", "crf": "18", "threads": "1"}  # one thread: the same bytes every time
MASK_SIDES = (96, 48, 24)  # a glyph is warped from the smallest mask that is not smaller than its size in the frame
BACKGROUNDS: dict[str, str] = {"source": "blobs", "verbs": "blobs", "objects": "stripes", "both": "blocks"}


def font_file() -> Path:
    """DejaVuSans.ttf of matplotlib, located without importing matplotlib."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise UserError("the glyph world draws with the font that matplotlib ships", hint="pip install matplotlib")
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def glyph_masks(thing: str) -> tuple[Image.Image, ...]:
    """8-bit coverage masks of an object, one for each side in MASK_SIDES; the glyph fills 86 % of the square."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.truetype(str(font_file()), 160)
    canvas = Image.new("L", (400, 400))
    ImageDraw.Draw(canvas).text((100, 100), chr(OBJECTS[thing]), fill=255, font=font)
    drawn = canvas.crop(canvas.getbbox())
    scale = 0.86 * 192 / max(drawn.size)
    drawn = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.LANCZOS)
    square = Image.new("L", (192, 192))
    square.paste(drawn, ((192 - drawn.width) // 2, (192 - drawn.height) // 2))
    thick = square.filter(ImageFilter.MaxFilter(5))  # thin strokes would vanish at 64 pixels
    return tuple(thick.resize((side, side), Image.Resampling.BOX) for side in MASK_SIDES)


def warp(thing: str, placement: Placement, pose: Pose) -> np.ndarray:
    """A glyph's coverage in the frame, [H,W] float32 in 0..1, opacity included."""
    import numpy as np
    from PIL import Image

    wide, high = SIDE * placement.size * pose.wide, SIDE * placement.size * pose.high
    mask = next((m for m in reversed(glyph_masks(thing)) if m.width >= max(wide, high)), glyph_masks(thing)[0])
    x = SIDE * (placement.x + placement.reach * pose.right)
    y = SIDE * (placement.y + placement.reach * pose.down)
    sine, cosine = math.sin(placement.tilt + pose.turn), math.cos(placement.tilt + pose.turn)
    # The inverse map, frame pixel -> mask pixel: shift to the glyph's centre, turn back, scale to the mask's side.
    a, b, d, e = cosine / wide, sine / wide, -sine / high, cosine / high
    inverse = [mask.width * v for v in (a, b, 0.5 - a * x - b * y, d, e, 0.5 - d * x - e * y)]
    warped = mask.transform((SIDE, SIDE), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    cover_HW: np.ndarray = np.asarray(warped, dtype=np.float32) * np.float32(pose.opacity / 255)
    return cover_HW


def background(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A texture [H,W,3] float32 in 0..BACKGROUND_LIMIT: soft `blobs`, a gradient with `stripes`, or fine `blocks`."""
    import numpy as np
    from PIL import Image

    if kind == "stripes":
        return _stripes(rng)
    cells, resampling = (5, Image.Resampling.BICUBIC) if kind == "blobs" else (16, Image.Resampling.NEAREST)
    small = Image.fromarray((255 * BACKGROUND_LIMIT * rng.random((cells, cells, 3))).astype(np.uint8))
    texture: np.ndarray = np.asarray(small.resize((SIDE, SIDE), resampling), dtype=np.float32) / np.float32(255)
    texture.clip(max=BACKGROUND_LIMIT, out=texture)
    return texture


def _stripes(rng: np.random.Generator) -> np.ndarray:
    """A colour gradient under sinusoidal stripes of another direction."""
    import numpy as np

    line = np.arange(SIDE, dtype=np.float32) / np.float32(SIDE)
    angle, other, cycles, phase = (float(v) for v in rng.random(4) * (2 * math.pi, 2 * math.pi, 5, 2 * math.pi))
    along = np.add.outer(math.sin(angle) * (line - 0.5), math.cos(angle) * (line - 0.5)) + 0.5
    turns = 2 * math.pi * (3 + cycles)
    across = np.sin(np.add.outer(turns * math.sin(other) * line + phase, turns * math.cos(other) * line))
    first, second = (rng.random((2, 3)) * 0.42).astype(np.float32)
    texture: np.ndarray = first + along[..., None] * (second - first) + np.float32(0.07) * across[..., None]
    texture.clip(0, BACKGROUND_LIMIT, out=texture)
    return texture


def quantised(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with sensor noise, as 8-bit values."""
    import numpy as np

    noisy = rng.standard_normal(picture.shape, dtype=np.float32)
    noisy *= np.float32(255 * NOISE)
    noisy += picture * np.float32(255) + np.float32(0.5)
    return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


def random_placement(rng: np.random.Generator) -> Placement:
    """Placement of a glyph in an action photo of the pre-training; `render` makes it smaller for videos."""
    x, y, size, tilt, reach, cycles = rng.random(6)
    return Placement(
        x=0.46 + 0.08 * x,
        y=0.46 + 0.08 * y,
        size=0.5 + 0.16 * size,
        tilt=0.3 * (tilt - 0.5),
        reach=0.85 + 0.3 * reach,
        cycles=1.6 + 0.9 * cycles,
    )


def render(glyph_class: GlyphClass, kind: str, seed: int) -> np.ndarray:
    """Frames [T,H,W,3] uint8 of one clip; the seed sets colour, background, place, size, contrast, speed and noise."""
    import numpy as np

    rng = np.random.default_rng(seed)
    placement = random_placement(rng)
    smaller, fainter = (float(low + (high - low) * rng.random()) for low, high in (SIZES, CONTRASTS))
    placement = placement._replace(size=placement.size * smaller)
    start, end = 0.08 * rng.random(), 1 - 0.08 * rng.random()
    colour = np.asarray(list(COLOURS.values())[rng.integers(len(COLOURS))], dtype=np.float32)
    scene_HW3 = background(kind, rng)
    motion = MOTIONS[glyph_class.verb]
    times = [start + (end - start) * frame / (FRAMES - 1) for frame in range(FRAMES)]
    cover_THW = np.stack([warp(glyph_class.object, placement, motion(time, placement.cycles)) for time in times])
    return quantised(scene_HW3 + np.float32(fainter) * cover_THW[..., None] * (colour - scene_HW3), rng)


def render_entry(world: str, path: str) -> np.ndarray:
    """Frames [T,H,W,3] uint8 of one path of `entries`, before encoding."""
    subset, _, slug, _ = path.split("/")
    glyph_class = next(c for c in classes(world, subset) if c.name.replace(" ", "_") == slug)
    return render(glyph_class, BACKGROUNDS[subset], seed_for("glyph clip", world, path))


# --- identity and building --------------------------------------------------------------------------------------------


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


@cache
def recipe_digest(world: str) -> str:
    """Hash of a world's declaration, this module's syntax tree and the encoder's settings.

    Comments, docstrings, formatting, and the versions of the font, Pillow, numpy and x264 do not change it.
    """
    payload = json.dumps([world, repr(_world(world)), ENCODER, syntax(Path(__file__).read_text(encoding="utf-8"))])
    return hashlib.sha256(payload.encode()).hexdigest()


def syntax(source: str) -> str:
    """A module's syntax tree as text, without comments, docstrings and formatting."""
    return ast.dump(_without_docstrings(ast.parse(source)))


def folder(world: str, cache_folder: Path) -> Path:
    """Folder of a world; its name contains the recipe's digest, so builds of other recipes are not used."""
    return Path(cache_folder) / f"glyphs-{world}-{recipe_digest(world)[:12]}"


def is_built(world: str, cache: Path) -> bool:
    """True if the world's completion marker exists and counts every video."""
    marker = folder(world, cache) / "complete.json"
    return marker.is_file() and json.loads(marker.read_text())["videos"] == len(_all_paths(world))


def _all_paths(world: str) -> list[str]:
    return [path for subset in SUBSETS for split in SPLITS[subset] for path, _ in entries(world, subset, split)]


def build(world: str, cache: Path, progress: Callable[[int, int], None], workers: int) -> Path:
    """Render and encode a world's videos under `cache`; returns its folder. An interrupted build resumes.

    `progress(done, total)` counts videos. Workers are spawned processes, which import neither torch nor the caller's
    modules; with fewer than two workers, videos are written by this process.
    """
    target = folder(world, cache)
    if is_built(world, cache):
        return target
    paths = _all_paths(world)
    missing = [path for path in paths if not (target / path).is_file()]
    progress(len(paths) - len(missing), len(paths))
    for parent in {(target / path).parent for path in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    done = len(paths) - len(missing)
    for written in _written(world, target, missing, workers):
        done += written
        progress(done, len(paths))
    _replace(target / "complete.json", lambda file: file.write_text(json.dumps({"videos": len(paths)})))
    return target


def _written(world: str, target: Path, paths: list[str], workers: int) -> Iterable[int]:
    """Numbers of written videos, chunk by chunk."""
    chunks = [paths[start : start + 24] for start in range(0, len(paths), 24)]
    work = partial(_write_videos, world, target)
    if workers < 2:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, chunk) for chunk in chunks]):
            yield future.result()


def _write_videos(world: str, target: Path, paths: list[str]) -> int:
    for path in paths:
        _replace(target / path, partial(encode, render_entry(world, path)))
    return len(paths)


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write to another name and rename, so that a file under its own name is always complete."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    write(beside)
    os.replace(beside, file)


def encode(frames_THW3: np.ndarray, file: Path) -> None:
    """Write H.264 in MP4 with PyAV: settings of ENCODER, 4:2:0 chroma, FRAME_RATE frames per second."""
    import av

    with av.open(str(file), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=ENCODER)
        stream.height, stream.width, stream.pix_fmt = frames_THW3.shape[1], frames_THW3.shape[2], "yuv420p"
        for frame_HW3 in frames_THW3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HW3, format="rgb24")))
        container.mux(stream.encode())
