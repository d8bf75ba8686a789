"""What rows may ask of features from elsewhere: what plain CLIP's frozen tower made of their views."""

from __future__ import annotations

from collections.abc import Iterator

from bench.core.errors import UserError
from bench.data.datasets import Dataset
from bench.data.features import Features
from bench.models.backbones import backbone
from bench.models.weights import weights_identity
from bench.suite.recipe import Recipe
from bench.suite.trial import Suite, Trial
from bench.video.views import TestViews, TrainViews

UNCLAIMED = {"decoder", "copies"}  # decoders give alike pixels; copies are counted
SHARED = ("frames", "resize", "size", "normalise")  # that a training on deterministic views has in common with them
PLAIN = {"augmentation": "none", "rand_augment": "none", "random_erasing": 0.0}  # and these, which change nothing
Misfit = tuple[str, list[str]]  # what a row asks for that the features are not, and what is allowed


def still(views: TrainViews) -> TestViews:
    """One deterministic view with the size and normalisation of the training views."""
    shared = {name: getattr(views, name) for name in ("frames", "size", "decoder", "normalise")}
    return TestViews(resize=views.resize or views.size, **shared)


def refuse_others(suite: Suite) -> Iterator[UserError]:
    """An error for each thing that a row asks of declared features and that they are not."""
    if not any(data.features for data in suite.datasets.values()):
        return
    found: dict[str, UserError] = {}
    for trial in {(own.row, own.point): own for own in suite.trials}.values():
        for what, allowed in _misfits(suite, trial):
            error = UserError(f"row '{trial.row}' {what}", where=suite.where(("rows", trial.row)), allowed=allowed)
            found[str(error)] = error
    yield from found.values()


def _misfits(suite: Suite, trial: Trial) -> Iterator[Misfit]:
    recipe, config, given = trial.recipe, trial.config, {n: own for n, own in suite.datasets.items() if own.features}
    if config.trains and not recipe.imported and (data := given.get(recipe.source)):
        use = f"is trained on '{recipe.source}/{recipe.split}'"
        wanted: list[TestViews | TrainViews] = [recipe.views, *([still(recipe.views)] * config.looks_at_source)]
        for views in wanted:
            yield from _named(use, data, recipe.split, _lacking(data, recipe.split, trial, views, training=True))
        if recipe.validation:
            yield f"{use} and decodes 'recipe.validation', of which there are features only", ["recipe.validation: ''"]
    for name, protocol in trial.protocols:
        for part in protocol.parts().values():
            if data := given.get(part.dataset):
                use = f"is measured under '{name}' on '{part.dataset}/{part.split}'"
                yield from _named(use, data, part.split, _lacking(data, part.split, trial, part.views))
                if suite.file.report.maps and trial.row in suite.file.report.experts:
                    yield f"{use}, and maps need frames, of which there are features only", ["report.maps: 0"]


def _named(use: str, data: Dataset, split: str, misfits: Iterator[Misfit]) -> Iterator[Misfit]:
    features = data.features
    claim = f", {features.claim(split)}" if features and split in features.splits else ""
    return ((f"{use}{claim}: {what}", allowed) for what, allowed in misfits)


def _lacking(
    data: Dataset, split: str, trial: Trial, views: TestViews | TrainViews, training: bool = False
) -> Iterator[Misfit]:
    features, config = data.features, trial.config
    assert features is not None
    if split not in features.splits:
        yield "a split without features", [f"{data.name}/{own}" for own in features.splits]
    elif not config.shares_encodings:
        why = "tunes the visual tower" if "visual" in config.tuned else "has a tower of its own"
        yield f"its method {why}", ["methods that read frame features of plain CLIP's frozen tower"]
    elif features.normalised:
        yield "methods need the lengths of features", ["features before normalisation, with normalised: false"]
    else:
        other = [*_other_tower(features, trial.recipe)]
        yield from other or _other_views(features, split, views, training)  # sizes follow from the tower


def _other_tower(features: Features, recipe: Recipe) -> Iterator[Misfit]:
    if recipe.backbone != features.backbone:
        yield f"recipe.backbone is {recipe.backbone}", [features.backbone]
    elif recipe.pretrained != features.pretrained:
        own, claimed = (weights_identity(recipe.backbone, each.pretrained) for each in (recipe, features))
        if own != claimed:
            yield f"recipe.pretrained is {recipe.pretrained}", [features.pretrained]


def _other_views(features: Features, split: str, views: TestViews | TrainViews, training: bool) -> Iterator[Misfit]:
    """Fields of the views in which they differ from those of the features."""
    claimed, key = features.splits[split].views, "recipe.views" if training else "views"
    fields = [name for name in type(views).model_fields if name not in UNCLAIMED]
    needed = {name: getattr(claimed, name, None) for name in fields}
    if isinstance(views, TestViews) and isinstance(claimed, TrainViews):
        yield "its random views of a training are no views of a test", ["features without `copies`"]
        return
    if training and isinstance(claimed, TestViews):
        needed = {name: getattr(claimed, name) for name in SHARED} | (PLAIN if isinstance(views, TrainViews) else {})
        if claimed.crops > 1:
            yield f"its {claimed.crops} crops are those of a test", ["features of one crop"]
    if isinstance(views, TrainViews) and not 1 <= views.copies <= claimed.count:
        yield f"{key}.copies is {views.copies}", [f"1 to {claimed.count}" if claimed.count > 1 else "1"]
    for name, shown in needed.items():
        fewer = _fewer(features, claimed) if name == "frames" and isinstance(views, TestViews) else []
        if (own := getattr(views, name)) not in (shown, *fewer):
            yield f"{key}.{name} is {own}", [str(value) for value in (shown, *fewer)]


def _fewer(features: Features, claimed: TestViews | TrainViews) -> list[int]:
    """Numbers of frames that one clip by `segment_start` has at equal distances among those that it was made of."""
    exact = isinstance(claimed, TestViews) and claimed.sampler == "segment_start" and claimed.clips == 1
    if not exact or backbone(features.backbone).video:
        return []
    return [number for number in range(claimed.frames - 1, 0, -1) if claimed.frames % number == 0]
