"""The glyph-actions world: its declared sets, its rendering, its videos as other readers see them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.glyphs import world as glyphs
from tests.imports import imported_by

FEW = [glyphs.entries("narrow", subset, glyphs.SPLITS[subset][0])[0][0] for subset in glyphs.SUBSETS]


@pytest.mark.parametrize("world", glyphs.WORLDS)
def test_targets_are_unseen_as_declared(world: str) -> None:
    sets = {subset: glyphs.classes(world, subset) for subset in glyphs.SUBSETS}
    seen = {own.object for own in sets["source"]}
    assert {own.object for own in sets["verbs"]} <= seen
    assert seen.isdisjoint(own.object for subset in ("objects", "both") for own in sets[subset])
    assert {own.verb for own in sets["objects"]} <= set(glyphs.SOURCE_VERBS)
    assert {own.verb for subset in ("verbs", "both") for own in sets[subset]} <= set(glyphs.NEW_VERBS)
    names = [name for subset in glyphs.SUBSETS for name in glyphs.class_names(world, subset)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("world", glyphs.WORLDS)
def test_source_teaches_whole_opposite_pairs(world: str) -> None:
    source = set(glyphs.classes(world, "source"))
    opposites = {a: b for pair in glyphs.OPPOSITES for a, b in (pair, pair[::-1])}
    partners = {glyphs.GlyphClass(own.object, opposites[own.verb]) for own in source if own.verb in opposites}
    assert partners == {own for own in source if own.verb in opposites}


@pytest.mark.parametrize("world", glyphs.WORLDS)
def test_every_class_has_the_declared_number_of_clips(world: str) -> None:
    counts = {}
    for subset, splits in glyphs.SPLITS.items():
        for split in splits:
            listed = glyphs.entries(world, subset, split)
            per_class = Counter(label for _, label in listed)
            assert set(per_class) == set(range(len(glyphs.class_names(world, subset))))
            assert len(set(per_class.values())) == 1 and len({path for path, _ in listed}) == len(listed)
            counts[subset, split] = len(listed)
    expected = {"narrow": [256, 512, 480, 512, 572], "broad": [768, 576, 480, 504, 572]}
    assert list(counts.values()) == expected[world]


def test_wrong_names_are_explained() -> None:
    with pytest.raises(UserError, match="did you mean 'narrow'"):
        glyphs.class_names("narow", "source")
    with pytest.raises(UserError, match="allowed: both, objects, source, verbs"):
        glyphs.class_names("narrow", "colours")
    with pytest.raises(UserError, match="allowed: test"):
        glyphs.entries("narrow", "verbs", "train")


def test_planning_imports_no_array_or_image_library() -> None:
    code = "from bench.glyphs import world as g; g.entries('narrow', 'both', 'test'); g.recipe_digest('broad')"
    assert imported_by(code).isdisjoint({"numpy", "PIL", "av", "torch", "scipy"})


def test_rendering_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from bench.glyphs import world as g; "
        f"g.encode(g.render_entry('narrow', {FEW[0]!r}), Path({str(tmp_path / 'clip.mp4')!r}))"
    )
    assert "torch" not in imported_by(code)


@pytest.mark.parametrize(("one", "other"), glyphs.OPPOSITES)
def test_opposites_are_each_other_played_backwards(one: str, other: str) -> None:
    for time in (0.0, 0.2, 0.7, 1.0):
        forwards, backwards = glyphs.MOTIONS[one](time, 2.0), glyphs.MOTIONS[other](1 - time, 2.0)
        assert forwards == pytest.approx(backwards)
        assert forwards != pytest.approx(glyphs.MOTIONS[other](time + 0.1, 2.0))


def test_every_symbol_is_in_the_font_and_unlike_the_others() -> None:
    from PIL import ImageFont

    font = ImageFont.truetype(str(glyphs.font_file()), 40)
    absent = font.getmask("\U0010ffff").getbbox(), bytes(font.getmask("\U0010ffff"))
    drawn = {thing: font.getmask(chr(code)) for thing, code in glyphs.OBJECTS.items()}
    assert not [thing for thing, mask in drawn.items() if (mask.getbbox(), bytes(mask)) == absent]
    masks = np.stack([np.asarray(glyphs.glyph_masks(thing)[2], dtype=float).ravel() for thing in glyphs.OBJECTS])
    assert masks.mean(axis=1).min() > 20
    likeness = np.corrcoef(masks) - np.eye(len(masks))
    assert likeness.max() < 0.93


def test_a_clip_is_its_path_and_nothing_else() -> None:
    first = [glyphs.render_entry("narrow", path) for path in FEW]
    again = [glyphs.render_entry("narrow", path) for path in reversed(FEW)]
    for one, other in zip(first, reversed(again), strict=True):
        assert one.shape == (glyphs.FRAMES, glyphs.SIDE, glyphs.SIDE, 3) and one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)
    assert len({clip.tobytes() for clip in first}) == len(FEW)
    assert not np.array_equal(first[0], glyphs.render_entry("narrow", FEW[0].replace("000", "001")))


def test_every_verb_moves_something() -> None:
    for verb in glyphs.VERBS:
        frames = glyphs.render(glyphs.GlyphClass("skull", verb), "blobs", seed=1).astype(float)
        assert frames.std(axis=0).max() > 25, verb  # noise alone gives about 5


def test_the_digest_ignores_words_but_not_code() -> None:
    plain = glyphs.syntax("def f(x):\n    return x + 1\n")
    assert glyphs.syntax('"""Doc."""\ndef f(x):  # why\n    """Doc."""\n    return (x+1)\n') == plain
    assert glyphs.syntax("def f(x):\n    return x + 2\n") != plain
    assert glyphs.recipe_digest("narrow") != glyphs.recipe_digest("broad")


def test_videos_decode_to_what_was_rendered(tmp_path: Path) -> None:
    import decord

    for path in FEW:
        file, rendered = tmp_path / "clip.mp4", glyphs.render_entry("narrow", path)
        glyphs.encode(rendered, file)
        first_bytes = file.read_bytes()
        reader = decord.VideoReader(str(file), num_threads=1)
        decoded = reader.get_batch(list(range(len(reader)))).asnumpy()
        assert decoded.shape == rendered.shape and reader.get_avg_fps() == glyphs.FRAME_RATE
        luma = [frames.astype(float) @ (0.299, 0.587, 0.114) for frames in (rendered, decoded)]
        psnr = 10 * np.log10(255**2 / np.mean((luma[0] - luma[1]) ** 2))
        assert psnr > 32, path  # 4:2:0 halves the colours' resolution, so brightness is compared
        glyphs.encode(rendered, file)
        assert file.read_bytes() == first_bytes


def test_an_interrupted_build_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [path for path, _ in glyphs.entries("broad", "verbs", "test")[:30]]
    monkeypatch.setattr(glyphs, "_all_paths", lambda world: paths)

    def stop_after_a_chunk(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        glyphs.build("broad", tmp_path, stop_after_a_chunk, workers=1)
    folder = glyphs.folder("broad", tmp_path)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.mp4")}
    assert len(before) == 24 and not glyphs.is_built("broad", tmp_path)

    seen: list[tuple[int, int]] = []
    assert glyphs.build("broad", tmp_path, lambda *counts: seen.append(counts), workers=2) == folder
    assert seen == [(24, 30), (30, 30)] and glyphs.is_built("broad", tmp_path)
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*.mp4")}
    assert len(after) == 30 and before.items() <= after.items()
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == {
        *paths,
        "complete.json",
    }
