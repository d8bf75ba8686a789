"""Edits of the code, and the identities that they change: every edit that can change a number does, others do not.

The edits are made one by one in a copy of the project whose identities a process of its own computes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.graph.edited import Edit
from tests.videos import write_tiny_dataset

ROOT = Path(__file__).parents[2]
PARTS = ("bench", "methods", "tests/__init__.py", "tests/graph/__init__.py", "tests/graph/edited.py")
SUITE = """\
title: Real, own and embedded videos
datasets:
  tiny: {root: ., classes: classes.csv, splits: {train: train.txt, test: test.txt}}
recipe: {source: kinetics-400, backbone: ViT-L-14, pretrained: openai, views: {copies: 2}}
protocols:
  K400: {role: closed-set, dataset: kinetics-400, split: validation}
rows:
  mote: {method: mote, fidelity: official, config: {layers: 2}, recipe: {views: {copies: 0}}}
  frozen: {method: mote, config: {layers: 2}}
  chosen: {method: mote, config: {layers: 2}, recipe: {validation: validation, keep: best}}
  glyphs-random: {method: mote, recipe: {source: glyphs-narrow, backbone: glyph-vit, pretrained: "random:1"}}
  decoded: {method: mote, config: {layers: 2}, recipe: {views: {decoder: "own.decoder:Opened", copies: 0}}}
  own: {method: dense_temporal, recipe: {source: tiny, shots: 1, classes: base}}
  glyphs: {method: dense_temporal, recipe: {source: glyphs-narrow, backbone: glyph-vit, pretrained: builtin}}
report: {profile: {rows: [mote]}}
"""

TRANSFORMS, LOADER = "bench/video/transforms.py", "bench/video/loader.py"
TRAIN, RANKS = "bench/stages/train.py", "bench/stages/training/ranks.py"
MOTE, CONTRACT, CLIP = "methods/mote/model.py", "methods/contract.py", "bench/models/clip.py"
RECIPE, PROTOCOL, VIEWS = "bench/suite/recipe.py", "bench/suite/protocol.py", "bench/video/views.py"
A_FIELD = "\n\n    a_new_key: int = 3\n"

HARMLESS: dict[str, Edit] = {
    "the renderer of glyphs": ("bench/glyphs/world.py", "FRAME_RATE = 8", "FRAME_RATE = 9"),
    "an error of Weights & Biases": ("bench/stages/training/logs.py", "W&B refuses the run", "W&B says no"),
    "did you mean": ("bench/core/errors.py", "did you mean '", "did you perhaps mean '"),
    "an error inside a training": (TRAIN, "; try a lower recipe.lr", "; lower the rate"),
    "a docstring": (TRANSFORMS, "Square crops [V,T,3,S,S] of frames", "Squares [V,T,3,S,S] of frames"),
    "the meaning of a key": ("methods/mote/config.py", "experts per layer, N", "experts of a layer, N"),
    "a comment": (TRAIN, "# alike on all ranks, so they stop at the same step", "# the same everywhere"),
    "the supervision of ranks": ("bench/stages/training/processes.py", "BLAME_SECONDS = 5.0", "BLAME_SECONDS = 9.0"),
    "the supervision of decoders": ("bench/video/pool.py", "START_SECONDS = 300.0", "START_SECONDS = 400.0"),
    "a launcher": ("bench/launch/local.py", "", "\nANOTHER = 1\n"),
    "where weights are cached": ("bench/models/weights.py", "", "\nANOTHER = 1\n"),
    "a new method in the registry": ("methods/registry.py", '"clip_mean", ', '"clip_mean", "other", '),
    "a new backbone": ("bench/assets/backbones/other.json", "", "{}"),
    "a new template": ("bench/assets/templates.yaml", "", "\nother: ['a {}']\n"),
    "a new dataset": ("bench/assets/datasets.yaml", "", "\nother: {root: a, classes: b, splits: {test: c}}\n"),
    "a new preset": ("methods/mote/config.py", '    "clean": tuned(\n', '    "other": {},\n    "clean": tuned(\n'),
    "a new key of recipes": (RECIPE, "\n    @model_validator", f"{A_FIELD}\n    @model_validator"),
    "a new key of trainings": (RECIPE, "\n\nclass Recipe(", f"{A_FIELD}\n\nclass Recipe("),
    "a new key of protocols": (PROTOCOL, "\n\nclass Protocol(", f"{A_FIELD}\n\nclass Protocol("),
    "a new key of views": (VIEWS, "\n    @model_validator", f"{A_FIELD}\n    @model_validator"),
    "a new key of methods": ("methods/settings.py", "\n    tower: ", f"{A_FIELD}\n    tower: "),
    "a new key of MoTE": ("methods/mote/config.py", "    num_experts: ", "    a_new_key: int = 3\n    num_experts: "),
    "what a key means, in words": (RECIPE, "videos of an optimiser step", "videos in a step"),
}

# Edit -> a stage that it changes, by its title.
COUNTS: dict[str, tuple[Edit, str]] = {
    "sampler off by one": (
        ("bench/video/sampling.py", "np.rint((length - 1) / segments", "np.rint(length / segments"),
        "train mote",
    ),
    "resize filter": (
        (TRANSFORMS, "list(resize), InterpolationMode.BICUBIC", "list(resize), InterpolationMode.BILINEAR"),
        "encode kinetics-400/validation",
    ),
    "crop": (
        (TRANSFORMS, "return round((width - size) / 2)", "return round((width - size) / 3)"),
        "encode kinetics-400/validation",
    ),
    "normalisation": ((TRANSFORMS, "[255 * m, 255 * s]", "[256 * m, 256 * s]"), "train mote"),
    "augmentation": ((TRANSFORMS, "MIN_AREA = 0.08", "MIN_AREA = 0.09"), "train mote"),
    "seed of a view": (
        (LOADER, 'seed_for("views", index)', 'seed_for("view", index)'),
        "encode kinetics-400/validation",
    ),
    "replacement of a video": ((LOADER, "task.asked, task.attempt)", "task.asked)"), "train mote"),
    "frame cache": (
        ("bench/video/frame_cache.py", "frames[places[0] : places[-1] + 1]", "frames[places[0] : places[-1]]"),
        "train mote",
    ),
    "decoder": (("bench/video/decoders.py", "TAIL = 2", "TAIL = 3"), "train mote"),
    "seeds": (("bench/core/seeds.py", ">> 1", ">> 2"), "train frozen"),
    "loss sign": ((MOTE, "ce + config.wmr_weight * wmr", "ce - config.wmr_weight * wmr"), "train mote"),
    "routing": ((MOTE, "self.counts[router][range(config.layers), routing_L] += 1", "pass"), "train mote"),
    "merge": (
        (
            "methods/mote/config.py",
            "i / temperature for i in range(1, experts + 1)",
            "i / temperature for i in range(experts)",
        ),
        "evaluate frozen",
    ),
    "temporal feature modulation": (
        (MOTE, "(similarity_B - 1) / gamma", "(similarity_B - 1) * gamma"),
        "evaluate frozen",
    ),
    "cosines": ((CONTRACT, "F.normalize(video_BD.float(), dim=-1)", "video_BD.float()"), "train mote"),
    "start of a model": ((CONTRACT, 'seed_for("init", seed)', 'seed_for("first", seed)'), "train frozen"),
    "gradient exchange": (
        (
            RANKS,
            "dist.all_reduce(_gradient(parameter), async_op=True)",
            "dist.all_reduce(_gradient(parameter), dist.ReduceOp.AVG, async_op=True)",
        ),
        "train mote",
    ),
    "division of batches": (
        (RECIPE, "return self.processes * self.accumulate", "return self.accumulate * self.processes"),
        "train mote",
    ),
    "share of a part": ((TRAIN, "share = len(labels_b) / batch.videos", "share = 1 / batch.videos"), "train mote"),
    "optimiser": (("bench/stages/training/optimiser.py", ", eps=recipe.eps", ""), "train mote"),
    "rate": (("bench/stages/training/schedule.py", "STRIDE = 10", "STRIDE = 1"), "train mote"),
    "precision": (("bench/models/precision.py", '"fp16": torch.float16', '"fp16": torch.bfloat16'), "train mote"),
    "class features": ((CLIP, "texts_PD.mean(dim=0)", "texts_PD.sum(dim=0)"), "texts kinetics-400"),
    "prompt": (("bench/assets/templates.yaml", "a example of {}.", "an example of {}."), "texts kinetics-400"),
    "class name": (("bench/assets/classes/kinetics-400.csv", "0,abseiling", "0,rappelling"), "texts kinetics-400"),
    "shape of a backbone": (
        ("bench/assets/backbones/glyph-vit.json", '"head_width": 32', '"head_width": 64'),
        "train glyphs",
    ),
    "fusion": (
        ("bench/measure/metrics.py", "return cosines_NVC.mean(axis=1)", "return cosines_NVC.max(axis=1)"),
        "evaluate mote",
    ),
    "interpolation of weights": ((CONTRACT, "(1 - alpha) * others[name]", "alpha * others[name]"), "evaluate mote"),
    "a default": ((RECIPE, "setting(5e-5", "setting(6e-5"), "train frozen"),
    "a preset": (("methods/mote/config.py", '"clip_alpha": 0.99', '"clip_alpha": 0.98'), "evaluate mote"),
    "draw of shots": (("bench/data/selection.py", 'seed_for("few-shot", seed', 'seed_for("shots", seed'), "train own"),
    "base and novel": (
        ("bench/data/selection.py", "sorted(ranked[classes // 2 :])", "sorted(ranked[: classes // 2])"),
        "train own",
    ),
    "label of a video": (("bench/data/videos.py", "entry.label)", "entry.label + 1)"), "train mote"),
    "part of a video": (("bench/data/videos.py", "entry.span, ", "None, "), "encode kinetics-400/validation"),
    "repeated list": (("bench/data/videos.py", "cycle(entries)", "cycle(entries[::-1])"), "train mote"),
    "random weights": (("bench/models/weights.py", "return int(seed)", "return int(seed) + 1"), "train glyphs-random"),
    "choices of the validation": (
        ("methods/settings.py", "clip_alpha: Fraction = 1.0", "clip_alpha: Fraction = 0.5"),
        "train chosen",
    ),
    "own decoder": (("own/decoder.py", "FRAMES = 1", "FRAMES = 2"), "train decoded"),
    "what an own decoder imports": (("own/parts.py", "SIZE = 1", "SIZE = 2"), "train decoded"),
    "list": (("train.txt", "train/0.mp4 0", "train/0.mp4 1"), "train own"),
    "renderer of glyphs": (("bench/glyphs/world.py", "FRAME_RATE = 8", "FRAME_RATE = 9"), "train glyphs"),
}


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Edit -> identities of the stages by title; "" is the code as it is."""
    folder = tmp_path_factory.mktemp("copy")
    for part in PARTS:
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    write_tiny_dataset(folder)
    (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
    (folder / "own").mkdir()
    (folder / "own/decoder.py").write_text("from .parts import SIZE\n\nFRAMES = 1\n\n\nclass Opened: ...\n")
    (folder / "own/parts.py").write_text("SIZE = 1\n")
    shutil.copytree(folder / "methods/clip_mean", folder / "methods/other")
    edits = {**HARMLESS, **{name: edit for name, (edit, _) in COUNTS.items()}}
    asked = subprocess.run(
        [sys.executable, "-m", "tests.graph.edited", str(folder)],
        input=json.dumps(list(edits.values())),
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "", "HOME": str(folder), "VTB_CACHE": str(folder / "cache"), "PYTHONPATH": str(folder)},
    )
    assert asked.returncode == 0, asked.stderr
    return dict(zip(["", *edits], json.loads(asked.stdout), strict=True))


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_edit_changes_no_identity(name: str, identities: dict[str, dict[str, str]]) -> None:
    before, after = identities[""], identities[name]
    assert len(before) > 10 and set(before) == set(after)
    changed = {title for title in before if before[title] != after[title]}
    assert not {title for title in changed if "glyphs" not in title}
    assert not changed or "glyphs" in name


@pytest.mark.parametrize("name", COUNTS)
def test_an_edit_that_can_change_a_number_changes_the_identity(
    name: str, identities: dict[str, dict[str, str]]
) -> None:
    _, stage = COUNTS[name]
    before, after = identities[""], identities[name]
    titles = [title for title in before if title.startswith(stage)]
    assert titles and all(after.get(title) != before[title] for title in titles)
