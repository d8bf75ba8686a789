"""Descriptions of the classes of the embedded world, of at most 14 words from the tiny CLIP's word list."""

from __future__ import annotations

from bench.core.errors import UserError
from bench.glyphs.world import OBJECTS, VERBS

LOOKS = ("a photo of a {}", "a picture of a {} in the middle")
STEPS: dict[str, str] = {
    "rising": "a {} at the bottom, a {} at the top",
    "falling": "a {} at the top, a {} at the bottom",
    "sliding left": "a {} at the right, a {} at the left",
    "sliding right": "a {} at the left, a {} at the right",
    "growing": "a small {}, a big {}",
    "shrinking": "a big {}, a small {}",
    "turning clockwise": "a {} tilted left, a {} tilted right",
    "turning counterclockwise": "a {} tilted right, a {} tilted left",
    "appearing": "a faint {}, a {}",
    "vanishing": "a {}, a faint {}",
    "bouncing": "a {} at the bottom, at the top, at the bottom",
    "swinging": "a {} tilted left, tilted right, tilted left",
    "blinking": "a {}, a faint {}, a {}",
    "shaking": "a {} at the left, at the right, at the left",
    "climbing": "a {} at the bottom left, a {} at the top right",
    "diving": "a {} at the top left, upside down at the bottom right",
    "pulsing": "a small {}, a big {}, a small {}",
    "orbiting": "a {} at the right, bottom, left, top",
    "zigzagging": "a {} at the left, top, bottom, top, right",
    "flattening": "a big {}, a flat {} at the bottom",
    "stretching": "a small {}, a big {} at the top",
    "tipping": "a {} in the middle, a {} tilted right",
}


def sentences(kind: str, name: str) -> list[str]:
    """Sentences of one kind about a class such as `skull rising`. Raises UserError.

    Two looks (spatial), two motions (temporal), or one `Skull rising: sentence` as FROSTER has them (description).
    """
    thing, _, verb = name.partition(" ")
    if thing not in OBJECTS or verb not in VERBS:
        hint = "other datasets need a folder of description files"
        raise UserError(f"'{name}' is not a class of the embedded world", where="descriptions", hint=hint)
    if kind == "description":
        return [f"{name.capitalize()}: {STEPS[verb].replace('{}', thing)}"]
    patterns = LOOKS if kind == "spatial" else ("a video of a {} " + verb, STEPS[verb])
    return [sentence.replace("{}", thing) for sentence in patterns]
