"""Agreement of training and test on one dataset: spelling, prompts, frames, image size and channel statistics.

The length of the short side may differ, since training cuts random crops out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.core.errors import UserError
from bench.data.datasets import Dataset, dataset
from bench.data.lists import plain_name
from bench.suite.protocol import Protocol
from bench.suite.recipe import Recipe
from bench.suite.trial import Suite


def disagreements(suite: Suite) -> Iterator[str]:
    """A sentence for each difference between a row's training and its test on the same dataset that is undeclared.

    One for each that is declared and is not there.
    """
    trained = (trial for trial in suite.trials if trial.config.trains)
    alike = {(own.row, id(own.recipe), id(own.protocols)): own for own in trained}.values()
    pairs = {(own.row, name, id(own.recipe), id(p)): (own.recipe, p) for own in alike for name, p in own.protocols}
    rows: dict[tuple[str, str, str, str], dict[str, None]] = {}
    there: set[tuple[str, str]] = set()
    for (row, name, *_), (recipe, protocol) in pairs.items():
        for part in protocol.parts().values():
            for field, learnt, measured in _differences(suite, recipe, part):
                there.add((name, field))
                if field not in protocol.unlike_training:
                    rows.setdefault((name, field, learnt, measured), {})[row] = None
    for (name, field, learnt, measured), (first, *others) in rows.items():
        also = f" (as {', '.join(others)})" if others else ""
        yield (
            f"{suite.where(('rows', first))} trains with {field} {learnt}{also}, but protocols.{name} tests with "
            f"{measured} on the same dataset; if that is wanted, protocols.{name} says unlike_training: [{field}]"
        )
    for name, own in suite.file.protocols.items() if not suite.file.world else ():  # a world has settings of its own
        for field in own.get("unlike_training", ()):
            if (name, field) not in there:
                place = suite.where(("protocols", name, "unlike_training"))
                yield f"{place}: has no effect: no row's training on the same dataset differs in {field}"


def _differences(suite: Suite, recipe: Recipe, part: Protocol) -> Iterator[tuple[str, str, str]]:
    """Field, value in training, value in the test."""
    source, target = dataset(recipe.source, suite.datasets), dataset(part.dataset, suite.datasets)
    learnt, tested = _names(source, recipe.labels), _names(target, part.labels)
    own = source.name == target.name or _same_videos(source, target)
    if not own and (source.like or source.name) != (target.like or target.name):
        return
    respelt = [pair for pair in _paired(learnt, tested, own) if pair[0] != pair[1]]
    if respelt or (recipe.labels != part.labels and not (learnt and tested)):
        names = [f" ({each})" for pair in respelt[:1] for each in pair] or ["", ""]
        yield "labels", f"'{recipe.labels}'{names[0]}", f"'{part.labels}'{names[1]}"
    if recipe.templates != part.templates and not recipe.class_features:
        yield "templates", recipe.templates, part.templates
    told = suite.kinds(recipe.templates) and suite.kinds(part.templates) and not recipe.class_features
    if told and recipe.descriptions != part.descriptions:
        yield "descriptions", recipe.descriptions, part.descriptions
    for field in ("frames", "size", "normalise") if not recipe.imported else ():
        if (own := getattr(recipe.views, field)) != (other := getattr(part.views, field)):
            yield field, str(own), str(other)


def _names(data: Dataset, labels: str = "") -> tuple[str, ...]:
    """The class names as spelt in a label variant; none if their file is not there."""
    try:
        return data.class_names(labels)
    except UserError:
        return ()


def _same_videos(one: Dataset, other: Dataset) -> bool:
    """Tells whether two datasets are one under two names: of one root, with a list or all class names in common.

    Sets of one root, such as halves of its classes, are different datasets.
    """
    if one.location().resolve() != other.location().resolve():
        return False
    names, lists = [_names(one), _names(other)], _lists(one) & _lists(other)
    plain = [{*map(plain_name, each)} for each in names]
    return len(names[0]) == len(names[1]) and (plain[0] == plain[1] or bool(lists))


def _lists(data: Dataset) -> set[str]:
    """The files whose every video is the dataset's."""
    whole = [] if data.buildable else [split for split in data.splits.values() if not split.subset]
    return {file for split in whole for file in split.list}


def _paired(learnt: Sequence[str], tested: Sequence[str], own: bool) -> Iterator[tuple[str, str]]:
    """The two spellings of each class: of the same plain name, or of the same id if wordings of `own` names differ."""
    plain = [{plain_name(each): each for each in names} for names in (learnt, tested)]
    if own and plain[0].keys() != plain[1].keys():
        return zip(learnt, tested, strict=False)  # of different length only if a file is missing
    return ((plain[0][name], plain[1][name]) for name in plain[0] if name in plain[1])
