from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.stages import encode


@pytest.mark.parametrize("at_once", [1, 10, 1000])
def test_frames_meet_those_of_their_own_view_only(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that gives each frame the mean of all that it sees together, whatever number that is."""
    monkeypatch.setattr(encode, "FRAMES", at_once)
    pixels_NVT3HW = torch.randint(256, (5, 2, 4, 3, 2, 2), dtype=torch.uint8)

    def mixing(views_MT3HW: Tensor) -> Tensor:
        return views_MT3HW.double().mean(dim=(1, 3, 4), keepdim=True).squeeze((3, 4)).expand(-1, 4, -1)

    features_NVTD = encode._encode(mixing, pixels_NVT3HW)
    own_NV3 = pixels_NVT3HW.double().mean(dim=(2, 4, 5)).float()
    torch.testing.assert_close(features_NVTD, own_NV3[:, :, None].expand(-1, -1, 4, -1))
