"""Whether the numbers in an archive are those of its predictions, and these those of its weights.

Legend: N videos, V views, M views of all videos in a row, C candidate classes, D draws of half of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load

from bench.care.archive import LIST, RECORD, Archive, Contradiction, unpack
from bench.core.errors import StageError, UserError
from bench.core.identity import source_hashes
from bench.core.seeds import seed_for
from bench.core.words import counted
from bench.graph.stage import CARRIERS
from bench.measure.metrics import accuracies, fuse, half_classes, subset_accuracies, top_k_correct
from bench.store.answers import PREDICTIONS
from bench.store.provenance import other_versions
from bench.store.records import RecordData, Store

SCORES = "scores.safetensors"
EVALUATIONS = 4  # of which scores are computed again, because a model takes longer to load than to answer
MALFORMED = (KeyError, ValueError, TypeError, IndexError, AttributeError, SafetensorError)  # raised by forged content
MEASURES = ("top1", "top5", "mean_class")


@dataclass
class Verified:
    """What of an archive was checked, what contradicts it, and what could not be checked and why."""

    root: str
    checked: list[str] = field(default_factory=list)
    wrong: list[Contradiction] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def verify(archive: Archive, expect: str = "", videos: int = 0) -> Verified:
    """Compare an archive with its hashes, its metrics with its predictions, and scores of so many videos with weights.

    `expect`: the root hash that it should have, or its first digits.
    """
    found = Verified(archive.root)
    if expect and not archive.root.startswith(expect.lower()):
        found.wrong.append(Contradiction(LIST, "root hash", expect, archive.root))
    elif expect:
        found.checked.append("the root hash is the expected one")
    found.wrong += archive.contradictions()
    if any(own.what != "root hash" for own in found.wrong):
        found.unchecked.append("numbers: what holds them contradicts the list of entries")
        return found
    found.checked.append(f"SHA-256 and size of {len(archive.listed.entries):,} entries")
    evaluations = [identity for kind, identity in archive.keys if kind == "evaluate"]
    for identity in evaluations:
        _check_metrics(archive, identity, found)
    found.checked.append(f"metrics of {counted(len(evaluations), 'evaluation')} from predictions, these from scores")
    if lacking := sum(bool(archive.left_out(*key)) for key in archive.keys):
        found.unchecked.append(f"weights of {counted(lacking, 'record')}: they were left out (`pack --weights`)")
    if videos:
        _sample(archive, evaluations, videos, found)
    else:
        found.unchecked.append("scores: none was computed again (`--sample N`)")
    if not expect:
        found.unchecked.append(
            "whether this is the archive that was published: whoever changes predictions, metrics and hashes together "
            "is found by nobody without its root hash (`--expect`) or a computation from weights (`--sample`)"
        )
    return found


# --- metrics from predictions -----------------------------------------------------------------------------------------


def _check_metrics(archive: Archive, identity: str, found: Verified) -> None:
    prefix, record = f"records/evaluate/{identity}", archive.record("evaluate", identity)
    try:
        table = pd.read_parquet(BytesIO(archive.content(prefix, PREDICTIONS)))
        found.wrong += [*_metrics(archive, record, prefix, table, found)]
    except (*MALFORMED, OSError) as error:
        what = f"{type(error).__name__}: {error}"
        found.wrong.append(Contradiction(prefix, "predictions and scores", "those of an evaluation", what))


def _metrics(
    archive: Archive, record: RecordData, prefix: str, table: pd.DataFrame, found: Verified
) -> Iterator[Contradiction]:
    result, protocol = record["result"], record["spec"]["protocol"]
    scores, rule = load(archive.content(prefix, SCORES)), protocol["fusion"]
    cosines_NVC, norms_NV, scale = scores["cosines"], scores["norms"], float(scores["logit_scale"])
    failed_N, labels_N = table["failure"].notna().to_numpy(), table["label"].to_numpy()
    scores_NC = fuse(cosines_NVC, norms_NV, scale, rule)
    if (other := np.flatnonzero(table["prediction"].to_numpy() != scores_NC.argmax(axis=1))).size:
        video, own = table["video"][other[0]], scores_NC[other[0]].argmax()
        answer = f"{table['prediction'][other[0]]}, of {video}"
        yield Contradiction(f"{prefix}/{PREDICTIONS}", "prediction", f"{own}, as by the scores", answer)
    expected: dict[str, Any] = {"videos": len(table), "undecodable": int(failed_N.sum()), "classes": scores_NC.shape[1]}
    if half := protocol["half"]:
        draws = result["draws"]
        expected |= {name: _mean([draw[name] for draw in draws]) for name in MEASURES}
        ids_DC = [half_classes(scores_NC.shape[1], draw, half) for draw in range(len(draws))]
        times_N = sum(np.isin(labels_N, ids).astype(int) for ids in ids_DC)  # a video was drawn
        told, right = (
            sum(draw["top1"] * draw["videos"] / 100 for draw in draws),
            float((times_N * table["correct"]).sum()),
        )
        if not math.isclose(told, right, abs_tol=1e-6):
            yield Contradiction(f"{prefix}/{RECORD}", "right answers in all draws", f"{right:g}", f"{told:g}")
        again = [subset_accuracies(cosines_NVC, norms_NV, scale, rule, labels_N, failed_N, ids)[0] for ids in ids_DC]
        if not all(_alike(own[name], draw[name]) for own, draw in zip(again, draws, strict=True) for name in MEASURES):
            title = record["title"]
            found.unchecked.append(f"draws of {title}: a method that looks at the candidates is run anew for each draw")
    else:
        expected |= accuracies(scores_NC, labels_N, failed_N)
        correct_N = top_k_correct(scores_NC, labels_N, 1) & ~failed_N
        if (other := np.flatnonzero(table["correct"].to_numpy() != correct_N)).size:
            answer = f"{table['correct'][other[0]]}, of {table['video'][other[0]]}"
            yield Contradiction(f"{prefix}/{PREDICTIONS}", "correct", str(correct_N[other[0]]), answer)
    for name, value in expected.items():
        if not _alike(result[name], value):
            yield Contradiction(f"{prefix}/{RECORD}", name, f"{value}, as by the predictions", str(result[name]))
    features = record["inputs"]["features"]
    if tuple(features) in archive.keys:
        listed = pd.read_parquet(BytesIO(archive.content("records", *features, "videos.parquet")))
        names = ["video", "label", "failure"]
        if not listed[names].astype(str).equals(table[names].astype(str)):
            yield Contradiction(
                f"{prefix}/{PREDICTIONS}", "videos and labels", f"those of {' '.join(features)}", "others"
            )


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _alike(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else math.isclose(a, b, abs_tol=1e-9)


# --- scores from weights ----------------------------------------------------------------------------------------------


class _Impossible(Exception):
    """Why scores cannot be computed again here."""


def _sample(archive: Archive, evaluations: list[str], videos: int, found: Verified) -> None:
    """Compute the scores of some videos again, to the bit, and note what could not be."""
    order = random.Random(seed_for("verify", archive.root))
    left, reasons = videos, dict[str, int]()
    chosen, tried = order.sample(evaluations, len(evaluations)), 0
    with TemporaryDirectory(prefix="verify-") as folder:
        store = Store.create(Path(folder))
        for identity in chosen:
            if not left or tried == EVALUATIONS:
                break
            record = archive.record("evaluate", identity)
            try:
                _require_same(record, "evaluate")
                for key in [("evaluate", identity), *map(tuple, _inputs(archive, record))]:
                    if key not in archive.keys:
                        raise _Impossible(f"its input {' '.join(key)} is not in the archive")
                    unpack(archive, store, key)
                rows = range(record["result"]["videos"])
                share = order.sample(rows, min(len(rows), math.ceil(left / (EVALUATIONS - tried))))
                wrong = _compared(store, record, share, Path(folder))
            except (_Impossible, UserError, StageError, OSError) as error:
                reason = error.what if isinstance(error, UserError) else str(error)
                reasons[reason] = reasons.get(reason, 0) + 1
                continue
            except (*MALFORMED, RuntimeError) as error:
                what = f"none: {type(error).__name__}: {error}"
                wrong, share = Contradiction(f"records/evaluate/{identity}", "scores", "those of its weights", what), []
            left, tried = left - len(share), tried + 1
            if wrong:
                found.wrong.append(wrong)
            else:
                found.checked.append(f"scores of {counted(len(share), 'video')} of {record['title']}: the same bits")
    for reason, count in reasons.items():
        found.unchecked.append(f"scores of {counted(count, 'evaluation')}: {reason}")


def _inputs(archive: Archive, record: RecordData) -> Iterator[tuple[str, str]]:
    """The inputs of a record and of its features, each with what it reads."""
    for key in map(tuple, record["inputs"].values()):
        yield key
        if key[0] == "encode" and key in archive.keys and archive.left_out(*key):
            yield from map(tuple, archive.record(*key)["inputs"].values())


def _require_same(record: RecordData, kind: str) -> None:
    """Raise unless this machine and this code promise the same bits as those that made a record."""
    import torch

    origin, device = record["provenance"], f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    if origin["device"] != device:
        raise _Impossible(f"computed on {origin['device']}; only a {device} gives the same bits here")
    if others := other_versions(origin["versions"]):
        raise _Impossible(f"computed by other versions: {others}")
    if source_hashes(*record["source"], without=CARRIERS[kind]) != record["source"]:
        raise _Impossible("computed by other code than is here; check out the revision of its record")


def _compared(store: Store, record: RecordData, rows: list[int], folder: Path) -> Contradiction | None:
    """The first difference between the stored scores of these videos and those computed now, in the batches of then."""
    import torch
    from safetensors.torch import load_file

    from bench.stages.evaluate import VIEWS_OF_CPU
    from bench.stages.trained import class_texts, deploy, trained_model
    from bench.stages.work import Compute, Work

    def work(own: RecordData) -> Work:
        inputs = {name: store.folder(*key) for name, key in own["inputs"].items()}
        compute = Compute("cpu", own["provenance"]["threads"], loader_workers=0, frame_cache_gb=0)
        return Work(own["spec"], own["context"], inputs, folder, folder, compute, lambda *_: None, lambda _: None)

    if "train" in record["inputs"] and store.left_out(*record["inputs"]["train"]):
        raise _Impossible("the weights of its training were left out (`pack --weights`)")
    stored = load_file(store.folder("evaluate", record["identity"]) / SCORES)
    cosines_MC, norms_M, views = stored["cosines"].flatten(0, 1), stored["norms"].flatten(), stored["norms"].shape[1]
    wanted, before = {row * views + view for row in rows for view in range(views)}, torch.get_num_threads()
    torch.set_num_threads(record["provenance"]["threads"])
    try:
        own, inference = work(record), record["spec"]["inference"]
        model = trained_model(own, inference["clip_alpha"])
        predictor = deploy(own, model, inference)
        texts_CD = class_texts(own, "texts", model, plain=record["spec"].get("plain_texts", False))
        encoded = _features(store, record, work)
        for start in sorted({view // VIEWS_OF_CPU * VIEWS_OF_CPU for view in wanted}):
            stop = min(start + VIEWS_OF_CPU, len(norms_M))
            with torch.no_grad():
                said = predictor(encoded(start, stop), texts_CD)
            for view in sorted(wanted & {*range(start, stop)}):
                now_C, now = said.cosines_BC[view - start].float(), said.norms_B[view - start].float()
                if now_C.numpy().tobytes() + now.numpy().tobytes() != (
                    cosines_MC[view].numpy().tobytes() + norms_M[view].numpy().tobytes()
                ):
                    far = max((now_C - cosines_MC[view]).abs().max().item(), (now - norms_M[view]).abs().item())
                    what = f"scores of video {view // views}, view {view % views}"
                    entry = f"records/evaluate/{record['identity']}/{SCORES}"
                    return Contradiction(entry, what, "those of its weights", f"others, off by up to {far:.3g}")
        return None
    finally:
        torch.set_num_threads(before)


def _features(store: Store, record: RecordData, work: Callable[[RecordData], Any]) -> Callable[[int, int], Any]:
    """A function that gives the encodings of the views from one to before another, those of all videos in a row.

    They are those in the archive, or encoded again, in the batches of then, from the videos that are here.
    """
    import torch

    from bench.data.selection import Selection
    from bench.data.videos import opened
    from bench.stages import encode
    from bench.stages.stored_features import stored
    from bench.stages.trained import FEATURES, video_features
    from methods.contract import mapped

    key = record["inputs"]["features"]
    if not store.left_out(*key):
        flat = mapped(lambda own_NV: own_NV.flatten(0, 1), video_features(work(record)))
        return lambda start, stop: mapped(lambda own_M: own_M[start:stop], flat)
    encoding = store.read(*key)
    _require_same(encoding, "encode")
    if "train" in encoding["inputs"] and store.left_out(*encoding["inputs"]["train"]):
        raise _Impossible("the weights of its tower were left out (`pack --weights`)")
    own = work(encoding)
    videos, views = opened(own.context), encode._views(own).count
    split = Selection(*own.context["selection"]).split
    if videos.dataset.content(videos.entries, lambda *_: None, split) != encoding["spec"]["content"]:
        raise _Impossible(f"features were left out, and the videos of {videos.dataset.name} here are others")
    if videos.dataset.features:
        taken_MTD = torch.from_numpy(stored(own, videos)[0]).flatten(0, 1)
        return lambda start, stop: taken_MTD[start:stop]
    encoder = encode._encoder(own)

    def again(start: int, stop: int) -> Any:
        first = start // views // encode.BATCH * encode.BATCH
        last = min(-(-stop // views // encode.BATCH) * encode.BATCH, len(videos))
        parts = []
        for indices, pixels_NVT3HW, failed in encode._batches(own, videos, range(first, last)):
            parts.append(encode._encode(encoder, pixels_NVT3HW, encode.FRAMES_OF_CPU))
            for own_NV in parts[-1].values():
                own_NV[[indices.index(index) for index, _ in failed]] = 0
        tensors = {name: own_NV.flatten(0, 1) for name, own_NV in encode._joined(parts).items()}
        frames = tensors.pop(FEATURES)
        others = {name.removeprefix(f"{FEATURES}."): own_M for name, own_M in tensors.items()}
        shown = slice(start - first * views, stop - first * views)
        return mapped(lambda own_M: own_M[shown], {"frames": frames, **others} if others else frames)

    return again
