"""Agreement of training and test on one dataset: spelling, prompts, frames, image size and channel statistics.

The length of the short side may differ, since training cuts random crops out of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.core.errors import UserError
from bench.data.datasets import dataset
from bench.data.lists import plain_name
from bench.suite.protocol import Protocol
from bench.suite.recipe import Recipe
from bench.suite.trial import Suite


def disagreements(suite: Suite) -> Iterator[str]:
    """A sentence for each undeclared difference between a row's training and its test on the same dataset."""
    trained = (trial for trial in suite.trials if trial.config.trains)
    pairs = {(own.row, name, id(own.recipe), id(p)): (own.recipe, p) for own in trained for name, p in own.protocols}
    rows: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for (row, name, *_), (recipe, protocol) in pairs.items():
        for part in protocol.parts().values():
            for field, learnt, measured in _differences(suite, recipe, part):
                if field not in protocol.unlike_training:
                    rows.setdefault((name, field, learnt, measured), {})[row] = None
    for (name, field, learnt, measured), (first, *others) in rows.items():
        also = f" (as {', '.join(others)})" if others else ""
        yield (
            f"{suite.where(('rows', first))} trains with {field} {learnt}{also}, but protocols.{name} tests with "
            f"{measured} on the same dataset; if that is wanted, protocols.{name} says unlike_training: [{field}]"
        )


def _differences(suite: Suite, recipe: Recipe, part: Protocol) -> Iterator[tuple[str, str, str]]:
    """Field, value in training, value in the test."""
    source, learnt = _spelt(suite, recipe.source, recipe.labels)
    target, tested = _spelt(suite, part.dataset, part.labels)
    if source != target:
        return
    respelt = [name for name in learnt if name in tested and learnt[name] != tested[name]]
    if respelt or (recipe.labels != part.labels and not (learnt and tested)):
        names = [f" ({each[name]})" for name in respelt[:1] for each in (learnt, tested)] or ["", ""]
        yield "labels", f"'{recipe.labels}'{names[0]}", f"'{part.labels}'{names[1]}"
    if recipe.templates != part.templates and not recipe.class_features:
        yield "templates", recipe.templates, part.templates
    for field in ("frames", "size", "normalise") if not recipe.imported else ():
        if (own := getattr(recipe.views, field)) != (other := getattr(part.views, field)):
            yield field, str(own), str(other)


def _spelt(suite: Suite, name: str, labels: str) -> tuple[str, dict[str, str]]:
    """The shipped dataset that this is a copy of, or itself; and plain class name -> as spelt, if its file is there."""
    data = dataset(name, suite.datasets)
    try:
        return data.like or name, {plain_name(each): each for each in data.class_names(labels)}
    except UserError:
        return data.like or name, {}
