"""Prompt templates by name. A class text is the normalised mean of the normalised embeddings of its prompts."""

from __future__ import annotations

from collections.abc import Sequence

from bench.errors import unknown

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

TEMPLATES: dict[str, tuple[str, ...]] = {
    # MoTE, supplement Table 8; "a example" is how it was published.
    "mote28": tuple(f"{head} {tail}" for head in _HEADS for tail in _TAILS),
    # Text4Vis, official code.
    "text4vis": ("a video of a person {}.",),
    "name": ("{}",),
    # The captions' templates of the embedded world (docs/glyph_world.md).
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
    return [[pattern.format(name) for pattern in TEMPLATES[template]] for name in class_names]
