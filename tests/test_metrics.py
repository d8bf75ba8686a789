from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.metrics import accuracies, fuse, half_class_accuracy, half_classes, harmonic_mean, top_k_correct, trade_off
from tests.golden.data_cases import replay_half_classes, replay_view_fusion

GOLDEN = Path(__file__).parent / "golden"
RNG = np.random.default_rng(0)


def test_official_fusion_is_reproduced() -> None:
    assert max(replay_view_fusion(GOLDEN / "view_fusion.safetensors").values()) < 1e-5


def test_official_half_class_accuracies_are_reproduced() -> None:
    deviations = replay_half_classes(GOLDEN / "half_classes.safetensors")
    assert set(deviations) == {"top1_per_split", "top5_per_split"} and max(deviations.values()) < 1e-5


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum(-1, keepdims=True)  # type: ignore[no-any-return]


def test_fusion_rules() -> None:
    features_NVD, classes_CD = RNG.normal(size=(5, 3, 8)), RNG.normal(size=(4, 8))
    classes_CD /= np.linalg.norm(classes_CD, axis=1, keepdims=True)
    norms_NV = np.linalg.norm(features_NVD, axis=2)
    cosines_NVC = features_NVD @ classes_CD.T / norms_NV[..., None]
    assert np.allclose(fuse(cosines_NVC, norms_NV, 10, "cos_mean"), cosines_NVC.mean(1))
    assert np.allclose(fuse(cosines_NVC, norms_NV, 10, "logit_sum"), 10 * cosines_NVC.sum(1))
    assert np.allclose(fuse(cosines_NVC, norms_NV, 10, "softmax_sum"), softmax(10 * cosines_NVC).sum(1))
    assert np.allclose(fuse(cosines_NVC, norms_NV, 10, "double_softmax"), softmax(softmax(cosines_NVC).mean(1)))
    mean_ND = features_NVD.mean(1)
    factor_N = np.linalg.norm(mean_ND, axis=1) / norms_NV.mean(1)
    exact_NC = mean_ND @ classes_CD.T / np.linalg.norm(mean_ND, axis=1, keepdims=True)
    assert np.allclose(fuse(cosines_NVC, norms_NV, 10, "feature_mean"), factor_N[:, None] * exact_NC)


def test_one_view_ranks_alike_under_every_rule() -> None:
    cosines_N1C = RNG.uniform(-1, 1, (20, 1, 6)).astype(np.float32)
    for rule in ("double_softmax", "cos_mean", "softmax_sum", "logit_sum", "feature_mean"):
        fused_NC = fuse(cosines_N1C, np.full((20, 1), 2.5, np.float32), 100, rule)
        assert (fused_NC.argsort(1) == cosines_N1C[:, 0].argsort(1)).all()


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 8))
def test_top_k_is_a_stable_sort(seed: int, classes: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores_NC, labels_N = rng.integers(0, 3, (10, classes)).astype(float), rng.integers(0, classes, 10)
    best_NK = np.argsort(-scores_NC, axis=1, kind="stable")[:, :k]
    assert (top_k_correct(scores_NC, labels_N, k) == (best_NK == labels_N[:, None]).any(1)).all()


def test_ties_go_to_the_lowest_class_and_nan_is_wrong() -> None:
    scores_NC = np.array([[1.0, 1.0], [1.0, 1.0], [nan, nan], [2.0, nan]])
    assert top_k_correct(scores_NC, np.array([0, 1, 0, 0]), 1).tolist() == [True, False, False, False]
    assert not top_k_correct(scores_NC, np.array([0, 1, 0, 0]), 2)[2]


def test_accuracies_are_exact_percentages() -> None:
    scores_NC = np.eye(6)[[0, 0, 0, 1, 2, 5]]
    labels_N = np.array([0, 0, 0, 0, 2, 3])  # class 0: 3 of 4, class 2: 1 of 1, class 3: 0 of 1, others do not occur
    measured = accuracies(scores_NC, labels_N)
    assert measured == pytest.approx({"top1": 400 / 6, "top5": 100.0, "mean_class": (75 + 100 + 0) / 3})
    failed_N = np.array([True, False, False, False, True, False])
    assert accuracies(scores_NC, labels_N, failed_N) == pytest.approx(
        {"top1": 200 / 6, "top5": 400 / 6, "mean_class": (50 + 0 + 0) / 3}
    )


def test_top5_needs_five_classes_and_accuracy_a_video() -> None:
    assert accuracies(np.eye(4), np.arange(4)) == {"top1": 100, "top5": None, "mean_class": 100}
    with pytest.raises(ValueError, match="no videos"):
        accuracies(np.empty((0, 4)), np.empty(0, int))


def test_harmonic_means() -> None:
    assert harmonic_mean([60, 30]) == pytest.approx(40)
    assert harmonic_mean([50, 0.0]) == 0
    assert isnan(harmonic_mean([50, None])) and isnan(harmonic_mean([0, nan])) and isnan(harmonic_mean([]))
    # MoTE ViT-L/14, Tables 3 and 4: UCF 88.7, HMDB 61.4, K600 78.4 give 74.4, with K400 86.8 a trade-off of 80.1.
    unseen = harmonic_mean([88.7, 61.4, 78.4])
    assert unseen == pytest.approx(74.4, abs=0.05) and trade_off(86.8, unseen) == pytest.approx(80.1, abs=0.05)


def test_half_classes_are_those_of_the_papers() -> None:
    assert half_classes(101, 0)[:5] == [26, 86, 2, 55, 75] and len(half_classes(101, 0)) == 50
    assert half_classes(51, 0)[:5] == [29, 11, 10, 22, 2] and len(half_classes(51, 9)) == 25


def test_half_class_accuracy_knows_only_the_drawn_classes() -> None:
    ids = half_classes(12, 0)
    dropped = next(iter(set(range(12)) - set(ids)))
    cosines_NVC = np.zeros((12, 2, 12))
    cosines_NVC[np.arange(12), :, np.arange(12)] = 0.5
    cosines_NVC[:, :, dropped] = 1.0  # would win everything if it were a candidate
    assert half_class_accuracy(cosines_NVC, np.arange(12), 0) == {"top1": 100, "top5": 100, "mean_class": 100}
