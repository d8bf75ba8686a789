"""Views: which settings cannot go together, and what they count."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bench.video.views import TestViews, TrainViews
from tests.errors import refused


@pytest.mark.parametrize("resize", [200, (240, 200), (200, 320)])
def test_a_crop_beyond_the_resized_side_is_refused(resize: int | tuple[int, int]) -> None:
    with refused("200", kind=ValidationError):
        TestViews(resize=resize, size=224)


def test_views_of_a_video_are_clips_times_crops() -> None:
    assert (TestViews().count, TestViews(clips=4, crops=3).count) == (1, 12)


@pytest.mark.parametrize("wrong", [{"crops": 2}, {"frames": 0}, {"clip": 1}, {"rate": 0}])
def test_impossible_views_are_refused_at_their_key(wrong: dict[str, Any]) -> None:
    with refused(next(iter(wrong)), kind=ValidationError):
        TestViews.model_validate(wrong)


def test_views_survive_json() -> None:
    for views in (TestViews(resize=(240, 320), sampler="strided", rate=25), TrainViews(copies=2, flip=False)):
        assert type(views).model_validate_json(views.model_dump_json()) == views
