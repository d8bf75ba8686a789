from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from bench.video import transforms
from bench.video.transforms import augmented, crop_views, normalise, resized, statistics, test_views, train_view
from bench.video.views import TestViews, TrainViews

RNG = np.random.default_rng(0)
COORDINATES_1HW3 = np.stack(np.broadcast_arrays(*np.ogrid[:40, :90], 7), -1).astype(np.uint8)[None]  # (y, x, 7)


def corners(views: TestViews) -> list[tuple[int, int]]:
    """Where the crops' first pixels came from, as (x, y)."""
    crops_VT3SS = test_views(COORDINATES_1HW3, views)
    return [(int(crop[0, 1, 0, 0]), int(crop[0, 0, 0, 0])) for crop in crops_VT3SS]


def test_crops_are_where_the_official_code_puts_them() -> None:
    # dw = (90 - 30) // 4 = 15, dh = (40 - 30) // 4 = 2
    views = {crops: TestViews(resize=40, size=30, crops=crops) for crops in (1, 3, 5, 10)}
    assert corners(views[1]) == [(30, 5)]
    assert corners(views[3]) == [(0, 4), (60, 4), (30, 4)]
    assert corners(views[5]) == [(0, 0), (60, 0), (0, 8), (60, 8), (30, 4)]
    assert corners(views[10])[::2] == corners(views[5])
    ten_VT3SS = test_views(COORDINATES_1HW3, views[10])
    assert torch.equal(ten_VT3SS[1::2], ten_VT3SS[::2].flip(-1))


def test_three_crops_of_mmaction_lie_along_the_longer_side() -> None:
    views = TestViews(resize=40, size=40, crops=3, three_crop="long_side")
    assert corners(views) == [(0, 0), (50, 0), (25, 0)]  # the quarters rule gives (0, 0), (48, 0), (24, 0)
    upright = np.ascontiguousarray(COORDINATES_1HW3.transpose(0, 2, 1, 3)[..., [1, 0, 2]])
    assert [(int(crop[0, 1, 0, 0]), int(crop[0, 0, 0, 0])) for crop in test_views(upright, views)] == [
        (0, 0),
        (0, 50),
        (0, 25),
    ]


def test_the_centre_crop_rounds_half_to_even() -> None:
    assert corners(TestViews(resize=40, size=31)) == [(30, 4)]  # 29.5 and 4.5


@pytest.mark.parametrize(("height", "width"), [(60, 100), (100, 60), (33, 200)])
def test_resizing_agrees_with_pillow(height: int, width: int) -> None:
    small = RNG.integers(0, 256, (9, 13, 3), np.uint8)
    frame = np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))
    scale = 48 / min(height, width)
    wanted = Image.fromarray(frame).resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    x, y = round((wanted.width - 48) / 2), round((wanted.height - 48) / 2)
    own = test_views(frame[None], TestViews(resize=48, size=48))[0, 0].permute(1, 2, 0).numpy()
    assert np.abs(own.astype(int) - np.asarray(wanted.crop((x, y, x + 48, y + 48)))).max() <= 1


def test_the_right_size_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms.F, "resize", None)
    assert test_views(COORDINATES_1HW3, TestViews(resize=40, size=40)).shape == (1, 1, 3, 40, 40)


def test_both_sides_can_be_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    frames_THWC = RNG.integers(0, 256, (2, 50, 60, 3), np.uint8)
    views = TestViews(resize=(24, 32), size=24, crops=3)
    assert TestViews(**views.model_dump(mode="json")) == views  # a list in a suite file
    small_T3HW = resized(frames_THWC, views.resize)
    assert small_T3HW.shape == (2, 3, 24, 32) and small_T3HW.dtype == torch.uint8
    assert test_views(frames_THWC, views).shape == (3, 2, 3, 24, 24)
    wanted = Image.fromarray(frames_THWC[0]).resize((32, 24), Image.Resampling.BICUBIC)
    assert np.abs(small_T3HW[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(wanted)).max() <= 1
    monkeypatch.setattr(transforms.F, "resize", None)
    assert resized(frames_THWC, (50, 60)).shape == (2, 3, 50, 60)


def test_plain_training_view_is_the_centre_crop() -> None:
    frames_THWC = RNG.integers(0, 256, (3, 40, 60, 3), np.uint8)
    own_T3SS = train_view(frames_THWC, TrainViews(resize=32, size=24), np.random.default_rng(0))
    assert torch.equal(own_T3SS, test_views(frames_THWC, TestViews(resize=32, size=24))[0])


MOTE = TrainViews(augmentation="mote", resize=40, size=16)


def test_augmentation_is_shared_by_frames_and_follows_the_generator() -> None:
    frames_THWC = np.repeat(RNG.integers(0, 256, (1, 40, 60, 3), np.uint8), 3, axis=0)
    first, again, other = (train_view(frames_THWC, MOTE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 3, 16, 16) and first.dtype == torch.uint8
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], first[2])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_views_of_stored_resized_frames_have_the_same_bits(layout: torch.memory_format) -> None:
    frames_THWC = RNG.integers(0, 256, (3, 70, 90, 3), np.uint8)
    stored_T3HW = resized(frames_THWC, 40).contiguous(memory_format=layout)
    five = TestViews(resize=40, size=16, crops=5)
    assert torch.equal(crop_views(stored_T3HW, five), test_views(frames_THWC, five))
    for seed in range(20):
        fresh = train_view(frames_THWC, MOTE, np.random.default_rng(seed))
        assert torch.equal(augmented(stored_T3HW, MOTE, np.random.default_rng(seed)), fresh)


def test_without_flips_every_other_choice_stays() -> None:
    frames_THWC = RNG.integers(0, 256, (2, 40, 60, 3), np.uint8)
    unflipped, mirrored = MOTE.model_copy(update={"flip": False}), 0
    for seed in range(20):
        own, usual = (train_view(frames_THWC, views, np.random.default_rng(seed)) for views in (unflipped, MOTE))
        assert torch.equal(own, usual) or torch.equal(own.flip(-1), usual)
        mirrored += not torch.equal(own, usual)
    assert 0 < mirrored < 20


def test_augmentation_has_the_declared_frequencies() -> None:
    """On a ramp of x in red, flips show as falling red; green is constant, so equal channels mean grayscale."""
    flips, greys, trials = 0, 0, 600
    for seed in range(trials):
        red, green, _ = train_view(COORDINATES_1HW3[..., [1, 2, 2]], MOTE, np.random.default_rng(seed))[0].int()
        grey = torch.equal(red, green)
        greys += grey
        flips += int(red[0, -1] < red[0, 0])
    assert abs(flips / trials - 0.5) < 0.08 and abs(greys / trials - 0.2) < 0.07


def test_crop_areas_and_aspects_follow_the_published_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[tuple[int, int]] = []

    def spy(frames: torch.Tensor, sides: list[int], *_: object) -> torch.Tensor:
        boxes.append((frames.shape[-1], frames.shape[-2]))
        return frames[..., : sides[0], : sides[-1]]

    monkeypatch.setattr(transforms, "_resized", spy)
    frames_THWC = np.zeros((1, 400, 400, 3), np.uint8)
    views = TrainViews(augmentation="mote", resize=400, size=16)
    for seed in range(1500):
        train_view(frames_THWC, views, np.random.default_rng(seed))
    width, height = np.array(boxes).T
    area, aspect = width * height / 160_000, width / height
    assert 0.078 < area.min() < 0.1 and 0.95 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.76 and 1.31 < aspect.max() < 1.35
    small = area < 0.5  # always fit, so nothing is rejected and the aspect is r or 1/r, r uniform in [3/4, 4/3]
    # P(aspect <= 1) = P(r <= 1) / 2 + P(r >= 1) / 2 = 1/2; E[aspect] = (E[r] + E[1/r]) / 2 = 1.0139
    assert abs((aspect[small] <= 1).mean() - 0.5) < 0.06
    assert abs(aspect[small].mean() - 1.0139) < 0.02


def test_a_video_in_which_no_crop_fits_gets_a_random_square() -> None:
    """At 40 x 4000 pixels the smallest area, 8 %, is already higher than the frame."""
    frames_THWC = np.broadcast_to(np.linspace(0, 255, 4000, dtype=np.uint8)[:, None], (1, 40, 4000, 3)).copy()
    views_3SS = [train_view(frames_THWC, MOTE, np.random.default_rng(seed))[0] for seed in range(6)]
    assert all(view.shape == (3, 16, 16) for view in views_3SS)
    assert len({int(view[0, 0, 0]) for view in views_3SS}) > 3


# ---------------------------------------------------------------------------------------------------------------------
# Augmentations of other methods

NOISE_THWC = RNG.integers(0, 256, (3, 40, 60, 3), np.uint8)
STILL_THWC = np.repeat(NOISE_THWC[:1], 3, axis=0)


@pytest.mark.parametrize(
    "choices",
    [
        {"augmentation": "resized_crop"},
        {"augmentation": "multi_scale"},
        {"augmentation": "multi_scale", "positions": 13, "rand_augment": "frame", "resize": None},
        {"augmentation": "short_side", "resize": None},
        {"augmentation": "short_side", "rand_augment": "clip", "rand_augment_n": 4, "rand_augment_m": 7},
        {"random_erasing": 1.0},
    ],
)
def test_views_follow_their_generator_alone(choices: dict[str, Any]) -> None:
    views = TrainViews(**{"resize": 40, "size": 16, **choices})
    assert TrainViews.model_validate(views.model_dump(mode="json")) == views
    before = torch.get_rng_state()
    own = [train_view(NOISE_THWC, views, np.random.default_rng(seed)) for seed in (1, 1, 2, 3)]
    assert all(view.shape == (3, 3, 16, 16) and view.dtype == torch.uint8 for view in own)
    assert torch.equal(own[0], own[1])
    assert not torch.equal(own[0], own[2]) or not torch.equal(own[0], own[3])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rand_augment", ["frame", "clip"])
def test_rand_augment_is_drawn_for_each_frame_or_once(rand_augment: Literal["frame", "clip"]) -> None:
    views = TrainViews(resize=40, size=32, rand_augment=rand_augment)
    alike = [
        bool((view == view[:1]).all())
        for view in (train_view(STILL_THWC, views, np.random.default_rng(seed)) for seed in range(8))
    ]
    assert all(alike) == (rand_augment == "clip") and not (rand_augment == "frame" and any(alike))


def test_colours_change_by_frame_and_the_crop_does_not() -> None:
    views, changed = TrainViews(augmentation="multi_scale", resize=40, size=16), 0
    for seed in range(40):
        view = train_view(STILL_THWC, views, np.random.default_rng(seed)).float()
        grey = [frame.mean(dim=0).flatten() for frame in view]
        assert float(torch.corrcoef(torch.stack(grey[:2]))[0, 1]) > 0.5
        changed += not torch.equal(view[0], view[1])
    assert abs(changed / 40 - 0.8) < 0.2


def test_multi_scale_crops_have_a_few_sizes_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 224 x 300 pixels: sides of 224, 196, 168 and 147, which are at most one step apart."""
    boxes = _boxes(monkeypatch, TrainViews(augmentation="multi_scale", resize=224), 400)
    sides = [224, 196, 168, 147]
    assert {(w, h) for *_, w, h in boxes} == {
        (w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1
    }
    for x, y, w, h in boxes:
        dx, dy = (300 - w) // 4, (224 - h) // 4
        assert (x, y) in {(0, 0), (4 * dx, 0), (0, 4 * dy), (4 * dx, 4 * dy), (2 * dx, 2 * dy)}
    more = _boxes(monkeypatch, TrainViews(augmentation="multi_scale", resize=224, positions=13), 400)
    small = {(x, y) for x, y, w, h in more if (w, h) == (147, 147)}
    assert len({(x, y) for x, y, w, h in boxes if (w, h) == (147, 147)}) == 5 and 9 <= len(small) <= 13


def test_a_side_close_to_the_views_size_becomes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short side of 256 gives 256, 224, 192 and 168; of 254, 222 becomes 224."""
    boxes = _boxes(monkeypatch, TrainViews(augmentation="multi_scale", resize=254), 60, height=254)
    assert {w for *_, w, _ in boxes} == {254, 224, 190, 167}


def test_resized_crops_have_log_uniform_proportions(monkeypatch: pytest.MonkeyPatch) -> None:
    views = TrainViews(augmentation="resized_crop", resize=400, size=16)
    width, height = np.array([box[2:] for box in _boxes(monkeypatch, views, 1000, height=400, width=400)]).T
    small = width * height < 80_000  # always fit
    assert abs(np.log(width / height)[small].mean()) < 0.02 and 0.74 < (width / height).min() < 0.77


def test_the_short_side_is_drawn_between_the_size_and_its_multiple(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = set()

    def spy(frames: torch.Tensor, side: int, *_: object) -> torch.Tensor:
        sides.add(side)
        return frames

    monkeypatch.setattr(transforms, "_short_side", spy)
    for seed in range(300):
        views = TrainViews(augmentation="short_side", resize=None, size=30, short_side=1.15)
        train_view(COORDINATES_1HW3, views, np.random.default_rng(seed))
    assert sides == set(range(30, 35))  # round(30 * 1.15) = 34


def test_a_box_is_erased_in_all_frames_now_and_then() -> None:
    views, erased = TrainViews(resize=40, size=32, random_erasing=0.25), 0
    whole = train_view(NOISE_THWC, views.model_copy(update={"random_erasing": 0.0}), np.random.default_rng(0))
    for seed in range(200):
        view = train_view(NOISE_THWC, views, np.random.default_rng(seed))
        changed = (view != whole).any(dim=1)
        erased += bool(changed.any())
        assert (
            torch.equal(view.movedim(1, -1)[changed].unique(dim=0), torch.tensor([[123, 117, 104]]))
            or not changed.any()
        )
    assert abs(erased / 200 - 0.25) < 0.1


def test_frames_without_a_size_need_crops_that_have_one() -> None:
    with pytest.raises(ValueError, match="resize: none needs an augmentation"):
        TrainViews(resize=None)


def _boxes(
    monkeypatch: pytest.MonkeyPatch, views: TrainViews, draws: int, height: int = 224, width: int = 300
) -> list[tuple[int, int, int, int]]:
    """(x, y, width, height) of the boxes that are resized to views, of pixels that tell their place."""
    boxes: list[tuple[int, int, int, int]] = []

    def spy(frames: torch.Tensor, sides: list[int], *_: object) -> torch.Tensor:
        boxes.append((int(frames[0, 0, 0, 0]), int(frames[0, 1, 0, 0]), frames.shape[-1], frames.shape[-2]))
        return torch.zeros(1, 3, *sides, dtype=torch.uint8)

    y_HW, x_HW = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    with monkeypatch.context() as patch:
        patch.setattr(transforms, "_resized", spy)
        for seed in range(draws):
            augmented(torch.stack([x_HW, y_HW, y_HW])[None], views, np.random.default_rng(seed))
    return boxes


def test_normalise() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    own = normalise(pixels, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    wanted = torch.tensor([(0 - 0.1) / 0.5, (128 / 255 - 0.2) / 0.25, (1 - 0.3) / 0.125])
    assert own.dtype == torch.float32 and own.shape == pixels.shape
    assert torch.allclose(own[1, :, 2, 3], wanted)


def test_statistics_are_those_of_the_weights_or_of_imagenet() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    assert statistics(TestViews(), mean, std) == (mean, std)
    own_mean, own_std = statistics(TrainViews(normalise="imagenet"), mean, std)
    assert [255 * value for value in own_mean] == pytest.approx([123.675, 116.28, 103.53])
    assert [255 * value for value in own_std] == pytest.approx([58.395, 57.12, 57.375])
