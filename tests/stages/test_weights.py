"""Distances between experts in weight space, against vectors whose distances are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.core.errors import StageError
from bench.stages import weights
from bench.stages.weights import compare
from tests.stages.works import EXPERTS, Experts, work


def test_known_vectors() -> None:
    a, b = (
        {"x": torch.tensor([3.0, 0.0]), "y": torch.tensor([0.0])},
        {"x": torch.tensor([0.0, 0.0]), "y": torch.tensor([3.0])},
    )
    assert compare(a, b) == pytest.approx((2**0.5, 0))
    assert compare(a, a) == (0, 1)
    assert compare(a, {name: 2 * tensor for name, tensor in a.items()}) == pytest.approx((3 / 22.5**0.5, 1))


def test_zeros_have_no_direction() -> None:
    zeros = {"x": torch.zeros(3)}
    assert all(value != value for value in compare(zeros, zeros))


def test_groups_are_all_parameters_and_each_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Experts()
    monkeypatch.setattr(weights, "trained_model", lambda work: model)
    made = work(tmp_path, {})
    result = weights.run(made)
    assert result == {"groups": ["all layers", "layer 0", "layer 1"], "experts": EXPERTS, "parameters": [256, 128, 128]}
    found = load_file(made.out / "weights.safetensors")
    assert found["distance"].shape == found["cosine"].shape == (3, EXPERTS, EXPERTS)
    a, b = model.vectors_ELD[0].double().flatten(), model.vectors_ELD[2].double().flatten()
    mean = ((a.square().sum() + b.square().sum()) / 2).sqrt()
    torch.testing.assert_close(found["distance"][0, 0, 2], (a - b).norm() / mean)
    torch.testing.assert_close(found["cosine"][0, 0, 2], a @ b / a.norm() / b.norm())
    a, b = a[128:], b[128:]
    torch.testing.assert_close(found["cosine"][2, 2, 0], a @ b / a.norm() / b.norm())


def test_a_method_without_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Experts()
    model.vectors_ELD = model.vectors_ELD[:1]
    monkeypatch.setattr(weights, "trained_model", lambda work: model)
    with pytest.raises(StageError, match="1 experts"):
        weights.run(work(tmp_path, {}))
