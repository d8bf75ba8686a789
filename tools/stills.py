"""Random stills of glyphs with captions, on which the tiny CLIP is pre-trained: any object, colour, verb, background.

There are two kinds of pictures. An *action photo* shows one moment of a verb, mostly near its end; about half of them
have ghosts, fading copies of the glyph at earlier times, as comics draw motion. A *posed photo* shows a glyph at rest,
with its size, place or attitude in the caption. A verb such as `rising` has to be recognised in one picture.

Legend: B batch, H height, W width. Everything depends only on (seed, step). Does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.core.seeds import seed_for
from bench.glyphs.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    OBJECTS,
    OPPOSITES,
    VERBS,
    Placement,
    Pose,
    background,
    quantised,
    random_placement,
    warp,
)

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "a picture of a {}",
    "a {}",
    "a video of a {}",
    "an example of a {}",
    "a demonstration of a {}",
    "an image of a {}",
)
PLACES: dict[str, tuple[float, float]] = {
    "at the top": (0.0, -0.24),
    "at the bottom": (0.0, 0.24),
    "at the left": (-0.24, 0.0),
    "at the right": (0.24, 0.0),
    "in the middle": (0.0, 0.0),
}
ATTITUDES: dict[str, tuple[float, float]] = {  # the range of the tilt, radians
    "tilted left": (-1.3, -0.4),
    "tilted right": (0.4, 1.3),
    "upside down": (math.pi - 0.3, math.pi + 0.3),
}
MANNERS: tuple[str, ...] = ("small", "big", "flat", "faint", "")

# All words of captions, in the order of the embedding rows of the shipped weights: append only.
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        word
        for text in (*TEMPLATES, *OBJECTS, *COLOURS, *VERBS, *PLACES, *ATTITUDES, *MANNERS)
        for word in text.replace("{}", "").split()
    )
)

ACTION_SHARE = 0.6
GHOST_SHARE = 0.5  # of the action photos
COLOUR_SHARE = 0.3  # captions that name the colour
STRANGE_SHARE = 0.08  # captions with the tokenizer's <unk>, so that the text tower learns to ignore it
GHOSTS: tuple[tuple[float, float], ...] = ((0.45, 0.16), (0.3, 0.28), (0.15, 0.42))  # (time before, opacity)


@dataclass(frozen=True)
class Stills:
    """A batch: pixels_BHW3 uint8, captions, and indices of objects and verbs (-1 in posed photos)."""

    pixels_BHW3: np.ndarray
    captions: list[str]
    objects_B: np.ndarray
    verbs_B: np.ndarray


class _Layer(NamedTuple):
    placement: Placement
    pose: Pose


def still_batch(count: int, seed: int, step: int) -> Stills:
    """`count` stills of one training step."""
    rng = np.random.default_rng(seed_for("stills", seed, step))
    objects_B = rng.integers(len(OBJECTS), size=count)
    verbs_B = np.where(rng.random(count) < ACTION_SHARE, rng.integers(len(VERBS), size=count), -1)
    pictures, captions = [], []
    for thing, verb in zip(objects_B, verbs_B, strict=True):
        picture_HW3, words = _still(list(OBJECTS)[thing], VERBS[verb] if verb >= 0 else None, rng)
        template = TEMPLATES[rng.integers(len(TEMPLATES))]
        pictures.append(picture_HW3)
        captions.append(_with_strange_word(template.format(words), rng))
    return Stills(quantised(np.stack(pictures), rng), captions, objects_B, verbs_B)


def _still(thing: str, verb: str | None, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """One picture [H,W,3] and its caption without template."""
    layers, before, after = _action(verb, rng) if verb else _posed(rng)
    colour = list(COLOURS)[rng.integers(len(COLOURS))]
    kinds = sorted(set(BACKGROUNDS.values()))
    picture_HW3 = background(kinds[rng.integers(len(kinds))], rng)
    for layer in layers:
        cover_HW = warp(thing, layer.placement, layer.pose)
        picture_HW3 = picture_HW3 + cover_HW[..., None] * (np.asarray(COLOURS[colour], dtype=np.float32) - picture_HW3)
    named = colour if rng.random() < COLOUR_SHARE else ""
    return picture_HW3, " ".join(word for word in (before, named, thing, after) if word)


def _action(verb: str, rng: np.random.Generator) -> tuple[list[_Layer], str, str]:
    """A moment of a verb: the glyph, often with ghosts of earlier moments below it."""
    placement, time = random_placement(rng), rng.beta(5, 1)
    motion = MOTIONS[verb]
    layers = [_Layer(placement, motion(time, placement.cycles))]
    if rng.random() < GHOST_SHARE:
        earlier = [(max(0.0, time - before), opacity) for before, opacity in GHOSTS]
        ghosts = [(motion(moment, placement.cycles), opacity) for moment, opacity in earlier]
        layers = [_Layer(placement, p._replace(opacity=p.opacity * opacity)) for p, opacity in ghosts] + layers
    return layers, "", verb


def _posed(rng: np.random.Generator) -> tuple[list[_Layer], str, str]:
    """A glyph at rest with a manner (small, big, flat, faint) and a place or an attitude."""
    placement = random_placement(rng)
    manner = MANNERS[rng.integers(len(MANNERS))]
    size = {"small": rng.uniform(0.3, 0.42), "big": rng.uniform(0.72, 0.92)}.get(manner, placement.size)
    pose = Pose(
        high=rng.uniform(0.35, 0.55) if manner == "flat" else 1.0,
        opacity=rng.uniform(0.25, 0.5) if manner == "faint" else 1.0,
    )
    if rng.random() < 0.65:
        place = list(PLACES)[rng.integers(len(PLACES))]
        right, down = PLACES[place]
        return [_Layer(placement._replace(size=size), pose._replace(right=right, down=down))], manner, place
    attitude = list(ATTITUDES)[rng.integers(len(ATTITUDES))]
    tilt = rng.uniform(*ATTITUDES[attitude])
    return [_Layer(placement._replace(size=size, tilt=tilt), pose)], manner, attitude


def _with_strange_word(caption: str, rng: np.random.Generator) -> str:
    if rng.random() >= STRANGE_SHARE:
        return caption
    words = caption.split()
    words.insert(int(rng.integers(len(words) + 1)), "<unk>")
    return " ".join(words)


def other_verb(verb: int, rng: np.random.Generator) -> int:
    """A wrong verb for this one: its opposite half of the time, else any other."""
    opposites = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
    name = VERBS[verb]
    if name in opposites and rng.random() < 0.5:
        return VERBS.index(opposites[name])
    return int((verb + 1 + rng.integers(len(VERBS) - 1)) % len(VERBS))
