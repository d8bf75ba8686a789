"""Views: which settings cannot go together, and what they count."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bench.video.views import TestViews
from tests.errors import refused


@pytest.mark.parametrize("resize", [200, (240, 200), (200, 320)])
def test_a_crop_beyond_the_resized_side_is_refused(resize: int | tuple[int, int]) -> None:
    with refused("200", kind=ValidationError):
        TestViews(resize=resize, size=224)
