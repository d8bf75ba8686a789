"""Class names beside learnt words: how methods read prompts as names, and how long these may be.

Legend: N names, L tokens of a text.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from bench.core.errors import UserError
from bench.models.clip import Tokenizer


def class_names(prompts: Iterable[str]) -> list[str]:
    """Prompts as class names: without a full stop, with blanks for underscores."""
    return [prompt.removesuffix(".").replace("_", " ") for prompt in prompts]


def name_tokens(tokenizer: Tokenizer, names: list[str], room: int, where: str) -> Tensor:
    """Tokens [N, L] of names with a full stop, as far as the longest has any.

    Raises UserError for a name with more tokens than the `room` that learnt words leave (`Config.name_room`). One that
    fills a text of CLIP is cut, as the tokenizer does with those that do not fit at all.
    """
    tokens_NL = tokenizer([f"{name}." for name in names])
    ends_N, full = tokens_NL.argmax(dim=-1), tokens_NL.shape[1]
    if (too_long := (ends_N >= room) & (ends_N < full - 1)).any():
        index = int(too_long.nonzero()[0])
        raise UserError(
            f"class '{names[index]}' is too long beside learnt words: it has {int(ends_N[index]) - 1} tokens with a "
            f"full stop, and names may have {room - 2}",
            where=where,
            hint="use fewer learnt words, or shorter names (recipe.templates, recipe.labels)",
        )
    end, tokens_NL = tokens_NL.max(), tokens_NL[:, :room].clone()  # the end has the highest id
    tokens_NL[ends_N >= room, -1] = end
    return tokens_NL[:, : int(tokens_NL.argmax(dim=-1).max()) + 1]
