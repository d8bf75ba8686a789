"""Prompt templates by name. A class text is the normalised mean of the normalised embeddings of its prompts.

Only the lists of prompts are reproduced. ActionCLIP averages the softmax over classes of its 16 prompts instead of
their embeddings, and FROSTER adds descriptions written by a language model; both are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.errors import unknown

_HEADS = ("a photo of", "a video of", "a example of", "a demonstration of")
_TAILS = (
    "{}.",
    "a person {}.",
    "a person using {}.",
    "a person doing {}.",
    "a person during {}.",
    "a person performing {}.",
    "a person practicing {}.",
)
_SSV2_HEADS = (
    "a video of",
    "a person is",
    "someone is",
    "a demonstration of",
    "an example of",
    "a clip showing",
    "a recording of",
    "this is a video about",
    "a scene of",
    "footage of",
    "a person performing the action of",
    "a video demonstrating",
    "a short clip of",
    "someone performing",
    "a video clip showing",
    "an action of",
    "a temporal sequence of",
    "a person interacting with something by",
    "someone manipulating objects by",
    "a hand-object interaction of",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    # MoTE, supplement Table 8; also Open-VCLIP and VidPrism. "a example" is the published spelling.
    "mote28": tuple(f"{head} {tail}" for head in _HEADS for tail in _TAILS),
    # Text4Vis, official code.
    "text4vis": ("a video of a person {}.",),
    # BIKE, official code; without a full stop.
    "bike": ("This is a video about {}",),
    # ViFi-CLIP, official code; underscores in the name become spaces.
    "vifi": ("a photo of a {}.",),
    # MSTA, abstract; the full stop is added by convention.
    "msta": ("a video of {}.",),
    # X-CLIP, official code: the bare name.
    "name": ("{}",),
    # ActionCLIP, official code, which averages probabilities over the prompts.
    "actionclip16": (
        "a photo of action {}",
        "a picture of action {}",
        "Human action of {}",
        "{}, an action",
        "{} this is an action",
        "{}, a video of action",
        "Playing action of {}",
        "{}",
        "Playing a kind of action, {}",
        "Doing a kind of action, {}",
        "Look, the human is {}",
        "Can you recognize the action of {}?",
        "Video classification of {}",
        "A video of {}",
        "The man is {}",
        "The woman is {}",
    ),
    # VidPrism, official code for Something-Something, although its test scripts use mote28.
    "vidprism20": tuple(f"{head} {{}}." for head in _SSV2_HEADS),
    # Caption templates of the embedded world (docs/glyph_world.md).
    "glyphs": tuple(
        f"{head}a {{}}"
        for head in (
            "a photo of ",
            "a picture of ",
            "",
            "a video of ",
            "an example of ",
            "a demonstration of ",
            "an image of ",
        )
    ),
}


def prompts(template: str, class_names: Sequence[str]) -> list[list[str]]:
    """The prompts of each class, [C][P]. Raises UserError for an unknown template name."""
    if template not in TEMPLATES:
        raise unknown("templates", template, TEMPLATES)
    if template == "vifi":
        class_names = [name.replace("_", " ") for name in class_names]
    return [[pattern.format(name) for pattern in TEMPLATES[template]] for name in class_names]


def texts_of(context: Mapping[str, Any]) -> list[list[str]]:
    """Texts of each class by a stage's context: its sentences, or the class name in every template."""
    return context.get("sentences") or prompts(context["templates"], context["class_names"])
