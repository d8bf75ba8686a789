"""Deployed models: the predictor behind an evaluation's record, to be called on videos that no list names.

Sampling, crops, tower, class texts and fusion are those of the evaluation, so its videos get its scores again, up to
rounding. The candidate classes may be others. The code is that of today; records say which revision made them.

Legend: B videos, V views, T frames, C classes, D joint CLIP width, H height, W width of a frame, S side of a view.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.core.errors import UserError
from bench.core.identity import digest
from bench.core.seeds import seed_for
from bench.measure.metrics import Fusion, fuse
from bench.models.class_features import class_features, content
from bench.models.clip import load_clip
from bench.models.precision import autocast
from bench.models.prompts import kinds, prompts
from bench.stages import texts
from bench.stages.trained import class_texts, deploy, trained_model
from bench.stages.work import Compute, Work
from bench.store.records import RecordData, Store
from bench.suite.templates import filled, read_templates
from bench.video.loader import test_loader
from bench.video.pool import Decoding
from bench.video.sampling import test_indices
from bench.video.source import Sample, Source
from bench.video.transforms import crop_views, normalise, resized, statistics
from bench.video.views import TestViews
from methods.contract import Encoded, Predictor, mapped

AT_ONCE = 8  # videos that are decoded while others are encoded
RATE = 30.0  # frames per second of a tensor, for samplers that ask

Videos = Tensor | str | Path | Sequence[str | Path]


class Answer(NamedTuple):
    """A class that a model gives to a video.

    `score` is that of the protocol's fusion rule, by which the evaluation ranks; its range differs between rules.
    `probability` is the softmax over the candidate classes of exp(s) times the mean cosine of the views.
    """

    label: str
    score: float
    probability: float


@dataclass(frozen=True, eq=False)
class DeployedModel:
    """A model as an evaluation deployed it. Call it on video files or on frames."""

    title: str  # of the evaluation: trial and protocol
    classes: tuple[str, ...]  # candidates, C
    views: TestViews  # frames, clips and crops of a video
    fusion: Fusion  # rule that makes one score of those of the views
    _normalised: Callable[[Tensor], Tensor]  # uint8 pixels [V, T, 3, S, S] -> the tower's input
    _encoded: Callable[[Tensor], Encoded]  # that input -> what `Model.encode` returns
    _predictor: Predictor
    _classes_CD: Tensor
    _workers: int

    def __call__(self, videos: Videos, top: int = 5) -> list[list[Answer]]:
        """The `top` classes of each video, the best first; of equal ones the first. Input and errors as of `scores`."""
        scores_BC, cosines_BC = self._measured(videos)
        shares_BC = (torch.from_numpy(cosines_BC) * self._predictor.logit_scale).softmax(dim=-1).numpy()
        best_BC = np.argsort(-scores_BC, axis=1, kind="stable")[:, :top]
        return [
            [Answer(self.classes[c], float(scores_BC[b, c]), float(shares_BC[b, c])) for c in own_C]
            for b, own_C in enumerate(best_BC)
        ]

    def scores(self, videos: Videos) -> NDArray[np.float64]:
        """Scores [B, C] of videos by the fusion rule.

        `videos` is a file, a list of files, or frames in RGB: uint8 [B, T, 3, H, W], from which views are sampled,
        resized and cropped as from a whole video of T frames, or floating-point [B, T, 3, S, S]: one view of each
        video, normalised, with the T and S of `views`. Raises UserError for another shape or type, and for files that
        cannot be decoded, with the reason of each.
        """
        return self._measured(videos)[0]

    @torch.no_grad()
    def _measured(self, videos: Videos) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores [B, C], and cosines [B, C], their mean over the views."""
        predictions = [self._predictor(self._encoded(own), self._classes_CD) for own in self._inputs(videos)]
        cosines_BVC = torch.stack([own.cosines_BC for own in predictions]).float().cpu().numpy()
        norms_BV = torch.stack([own.norms_B for own in predictions]).float().cpu().numpy()
        scores_BC = fuse(cosines_BVC, norms_BV, self._predictor.logit_scale, self.fusion)
        return scores_BC, cosines_BVC.mean(axis=1, dtype=np.float64)

    def _inputs(self, videos: Videos) -> Iterator[Tensor]:
        """The tower's input [V, T, 3, S, S] for each video."""
        if not isinstance(videos, Tensor):
            yield from map(self._normalised, self._read([videos] if isinstance(videos, str | Path) else videos))
        elif videos.ndim != 5 or videos.shape[2] != 3 or not videos.numel():
            raise UserError(f"frames have the shape {[*videos.shape]}", allowed=["[B, T, 3, H, W]"])
        elif videos.dtype == torch.uint8:
            yield from map(self._normalised, map(self._sampled, videos.cpu()))
        elif videos.is_floating_point() and videos.shape[1:] == (self.views.frames, 3, *[self.views.size] * 2):
            if not videos.isfinite().all():
                raise UserError("frames hold numbers that are not finite")
            yield from videos.float().split(1)
        else:
            side, frames = self.views.size, self.views.frames
            raise UserError(
                f"frames have the shape {[*videos.shape]} and the type {videos.dtype}",
                allowed=["uint8 [B, T, 3, H, W] of any size", f"float [B, {frames}, 3, {side}, {side}], normalised"],
            )

    def _sampled(self, frames_T3HW: Tensor) -> Tensor:
        """Views [V, T, 3, S, S] of frames, as `bench.video.loader` makes them of a file."""
        frames_THW3 = frames_T3HW.permute(0, 2, 3, 1).numpy()
        indices_KT = test_indices(self.views, len(frames_THW3), self.views.rate or RATE, seed_for("views", 0))
        views_CM3SS = crop_views(resized(frames_THW3[indices_KT.ravel()], self.views.resize), self.views)
        return views_CM3SS.reshape(-1, *indices_KT.shape[1:], *views_CM3SS.shape[2:])

    def _read(self, files: Sequence[str | Path]) -> Iterator[Tensor]:
        """Views [V, T, 3, S, S] of each file. Raises UserError for files that cannot be decoded."""
        if not files:
            raise UserError("there are no videos")
        samples = [Sample(str(file), Source(Path(file)), 0) for file in files]
        failed: list[str] = []
        for batch in test_loader(samples, self.views, Decoding(self._workers), AT_ONCE):
            failed += [f"{files[index]}: {reason}" for index, reason in batch.failures]
            if not failed:  # one message names all that fail
                yield from batch.pixels_bVT3SS
        if failed:
            raise UserError("\n  ".join(["cannot be decoded:", *failed]))


def deployed_model(
    store: Store,
    identity: str,
    classes: Sequence[str] = (),
    templates: Sequence[str] = (),
    device: str = "cpu",
    workers: int = 0,
) -> DeployedModel:
    """The model behind an evaluation's record, on a device: "cpu", "cuda", "cuda:1", or "auto".

    `classes` are other candidates than the evaluation's, under its templates, or under these patterns with `{}` for the
    class. `workers` are processes that decode files; 0: this one. Every file of a record is verified when it is read.
    Raises UserError if a record is missing or damaged, and if its weights do not fit the method any more.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    record, work = _work(store, "evaluate", identity, device)
    kind, features = record["inputs"]["features"]
    encoding = store.read(kind, features)
    with TemporaryDirectory() as folder:
        if classes or templates:
            texts_of = _retold(
                _work(store, "texts", record["inputs"]["texts"][1], device)[1], classes, templates, Path(folder)
            )
            work = replace(work, inputs={**work.inputs, "texts": texts_of})
        try:
            model = deepcopy(trained_model(work, work.spec["inference"]["clip_alpha"])).to(device)
            predictor = deploy(work, model, work.spec["inference"])
        except (KeyError, RuntimeError) as error:
            where, hint = (
                str(store.folder("evaluate", identity)),
                "provenance.revision in its record says which code fits",
            )
            raise UserError(f"cannot be deployed by this code: {error}", where=where, hint=hint) from error
        classes_CD = class_texts(work, "texts", model, plain=work.spec.get("plain_texts", False))
        names = json.loads((work.inputs["texts"] / "record.json").read_bytes())["context"]["class_names"]
    plain = load_clip(work.spec["backbone"], work.context["pretrained"]).to(device)
    encode = model.encode if "method" in encoding["spec"] else plain.encode_clips
    views, precision = TestViews(**encoding["spec"]["views"]), encoding["spec"].get("precision", "fp32")
    mean, std = statistics(views, plain.spec.mean, plain.spec.std)

    def encoded(views_VT3SS: Tensor) -> Encoded:
        with autocast(device, precision):
            return mapped(Tensor.float, encode(views_VT3SS.to(device)))

    return DeployedModel(
        record["title"],
        tuple(names),
        views,
        work.spec["protocol"]["fusion"],
        lambda views_VT3SS: normalise(views_VT3SS, mean, std),
        encoded,
        predictor,
        classes_CD,
        workers,
    )


def _work(store: Store, kind: str, identity: str, device: str) -> tuple[RecordData, Work]:
    """A verified record, and the work that it was the result of, with nowhere to write to."""
    try:
        record = store.read(kind, identity, None)
        for name, (of, key) in record["inputs"].items():
            store.read(of, key, () if name == "features" else None)  # these may be large, and are not read here
    except FileNotFoundError as error:
        raise UserError(
            "there is no such record", where=str(error.filename), hint="a run of its suite makes it"
        ) from error
    inputs = {name: store.folder(*key) for name, key in record["inputs"].items()}
    nowhere, silent = Path(os.devnull), lambda *told: None
    return record, Work(record["spec"], record["context"], inputs, nowhere, nowhere, Compute(device), silent, silent)


def _retold(work: Work, classes: Sequence[str], templates: Sequence[str], folder: Path) -> Path:
    """The record of texts, in `folder`, with other classes or templates. Raises UserError where they are not known."""
    context: dict[str, Any] = {**work.context, "class_names": [*(classes or work.context["class_names"])]}
    spec = {name: own for name, own in work.spec.items() if name not in ("prompts", "classes")}
    if source := context.get("class_features"):
        if templates:
            raise UserError("class features are from a file, so templates have no effect", where=source)
        spec["classes"] = content(class_features(source, context["class_names"], context["width"]))
    else:
        own = context.get("templates", "")  # the name of a set; a pattern alone is its own name
        given = [*templates] or [own] * ("{}" in own)
        patterns = read_templates(given, Path(), "templates")[1] if given else ()
        if kinds(patterns) or ("sentences" in context and not patterns):
            hint = "give other templates, such as ['a video of {}.']"
            raise UserError("its prompts have texts about its own classes", where="templates", hint=hint)
        names = context["class_names"]
        context["sentences"] = filled(patterns, names) if patterns else prompts(own, names)
        spec["prompts"] = digest(context["sentences"])
    texts.run(replace(work, spec=spec, context=context, out=folder))
    (folder / "record.json").write_text(json.dumps({"spec": spec, "context": context}))
    return folder
