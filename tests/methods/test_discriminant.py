"""Rows of a discriminant analysis against known answers, second ways of computing them, and what must not matter.

Legend: N videos, D width, C classes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.core.errors import UserError
from methods.text4vis.classifiers import LEAST, discriminant_rows, shrinkage, within_covariance

D, C = 12, 5


def anisotropic(width: int = D) -> Tensor:
    """A covariance [D, D] whose largest variance is 100 times the smallest."""
    turn_DD, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(7)).double())
    covariance_DD: Tensor = turn_DD @ torch.diag(torch.logspace(0, 2, width).double()) @ turn_DD.T
    return covariance_DD


def videos(each: int, seed: int = 0, classes: int = C) -> tuple[Tensor, Tensor, Tensor]:
    """Normal features [N, D] about class means, their labels, the means [C, D]."""
    generator = torch.Generator().manual_seed(seed)
    means_CD = 5 * torch.randn(classes, D, generator=generator).double()
    labels_N = torch.arange(each * classes) % classes
    noise_ND = torch.randn(each * classes, D, generator=generator).double() @ torch.linalg.cholesky(anisotropic()).T
    return means_CD[labels_N] + noise_ND, labels_N, means_CD


def centred(features_ND: Tensor, labels_N: Tensor) -> Tensor:
    """Residuals [N, D] from class means."""
    return features_ND - torch.stack([features_ND[labels_N == label].mean(dim=0) for label in labels_N])


def test_of_many_normal_videos_the_rows_are_those_of_the_true_discriminants() -> None:
    features_ND, labels_N, means_CD = videos(4000)
    true_CD = F.normalize(torch.linalg.solve(anisotropic(), means_CD.T).T, dim=-1)
    rows_CD = discriminant_rows(features_ND, labels_N, C)
    assert (rows_CD * true_CD).sum(dim=-1).min() > 0.999
    assert (F.normalize(means_CD, dim=-1) * true_CD).sum(dim=-1).max() < 0.9  # means alone would not do
    torch.testing.assert_close(rows_CD.norm(dim=-1), torch.ones(C).double())


def test_it_is_the_published_estimator_written_out_video_by_video() -> None:
    features_ND, labels_N, _ = videos(4)
    x, y, freedom = features_ND.numpy(), labels_N.numpy(), 4 * C - C
    means = np.stack([x[y == label].mean(axis=0) for label in range(C)])
    residuals = x - means[y]
    s = sum(np.outer(each, each) for each in residuals) / freedom
    target = np.trace(s) / D * np.eye(D)
    products = [np.outer(each, each) * len(x) / freedom for each in residuals]
    error = np.mean([((product - s) ** 2).sum() for product in products]) / freedom
    part = min(1, error / ((s - target) ** 2).sum())
    assert 0.05 < part < 0.95
    rows = means @ np.linalg.inv((1 - part) * s + part * target)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    torch.testing.assert_close(discriminant_rows(features_ND, labels_N, C), torch.from_numpy(rows))


def of_pairs(differences_ND: Tensor) -> tuple[Tensor, float]:
    """The covariance of classes of two videos each, and its shrinkage: as of half as many free vectors."""
    residuals_ND = torch.cat([differences_ND, -differences_ND]) / 2
    scaled_ND, freedom = residuals_ND * 2**0.5, len(differences_ND)
    raw_DD = scaled_ND.T @ scaled_ND / len(scaled_ND)
    target_DD = raw_DD.trace() / D * torch.eye(D).double()
    return within_covariance(residuals_ND, freedom), shrinkage(scaled_ND, raw_DD, target_DD, freedom)


def test_of_two_videos_a_class_only_the_differences_count() -> None:
    """Their covariance is that of vectors with a known mean of 0, for which Ledoit and Wolf's estimator holds."""
    differences_ND = torch.randn(40, D, generator=torch.Generator().manual_seed(3)).double() @ anisotropic()
    free_ND = differences_ND / 2**0.5
    s = free_ND.T @ free_ND / len(free_ND)
    target = s.trace() / D * torch.eye(D).double()
    error = (free_ND.square().sum(dim=1).square().mean() - s.square().sum()) / len(free_ND)
    part = float(error / (s - target).square().sum())
    found_DD, found = of_pairs(differences_ND)
    assert found == pytest.approx(part)
    torch.testing.assert_close(found_DD, (1 - part) * s + part * target)


def test_it_shrinks_as_scikit_learn_does() -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    differences_ND = torch.randn(40, D, generator=torch.Generator().manual_seed(3)).double() @ anisotropic()
    expected, part = covariance.ledoit_wolf((differences_ND / 2**0.5).numpy(), assume_centered=True)
    found_DD, found = of_pairs(differences_ND)
    assert found == pytest.approx(part)
    torch.testing.assert_close(found_DD, torch.from_numpy(expected))


@pytest.mark.parametrize("each", [2, 3, 5])
def test_shrinking_comes_closer_to_the_truth_than_either_end(each: int) -> None:
    errors = torch.zeros(3).double()
    for seed in range(20):
        features_ND, labels_N, _ = videos(each, seed)
        residuals_ND, freedom = centred(features_ND, labels_N), (each - 1) * C
        raw_DD = residuals_ND.T @ residuals_ND / freedom
        ends = raw_DD, raw_DD.trace() / D * torch.eye(D).double()
        found = (within_covariance(residuals_ND, freedom), *ends)
        errors += torch.stack([(estimate - anisotropic()).square().sum() for estimate in found])
    assert errors[0] < 0.9 * errors[1] and errors[0] < 0.9 * errors[2]


def test_more_videos_shrink_less() -> None:
    parts = []
    for each in (2, 8, 64, 1000):
        features_ND, labels_N, _ = videos(each)
        scaled_ND = centred(features_ND, labels_N) * (each / (each - 1)) ** 0.5
        raw_DD = scaled_ND.T @ scaled_ND / len(scaled_ND)
        target_DD = raw_DD.trace() / D * torch.eye(D).double()
        parts.append(shrinkage(scaled_ND, raw_DD, target_DD, (each - 1) * C))
    assert parts == sorted(parts, reverse=True) and 1 >= parts[0] > 10 * parts[-1] > 0


def test_one_video_of_each_class_says_nothing_of_scatter() -> None:
    features_ND, labels_N, _ = videos(1)
    torch.testing.assert_close(discriminant_rows(features_ND, labels_N, C), F.normalize(features_ND, dim=-1))


def test_a_class_with_one_video_among_others_has_a_row() -> None:
    features_ND, labels_N, _ = videos(3)
    kept = (labels_N > 0) | (torch.arange(len(labels_N)) == 0)
    rows_CD = discriminant_rows(features_ND[kept], labels_N[kept], C)
    assert rows_CD.isfinite().all() and not torch.allclose(rows_CD[0], F.normalize(features_ND[0], dim=-1), atol=1e-2)


def test_scatter_in_one_direction_can_be_inverted() -> None:
    """Of one difference alone, nothing says that other directions have any variance."""
    features_ND = torch.eye(D).double()[[0, 1, 0, 1]]
    features_ND[:, 2] += torch.tensor([1.0, 1.0, -1.0, -1.0]).double()
    labels_N = torch.tensor([0, 1, 0, 1])
    residuals_ND = centred(features_ND, labels_N)
    variances_D = torch.linalg.eigvalsh(within_covariance(residuals_ND, 2))
    assert variances_D.min() >= LEAST * variances_D.mean() * 0.99
    torch.testing.assert_close(discriminant_rows(features_ND, labels_N, 2), torch.eye(D).double()[:2])


def test_units_axes_and_order_do_not_matter_and_the_origin_does() -> None:
    features_ND, labels_N, _ = videos(4)
    rows_CD = discriminant_rows(features_ND, labels_N, C)
    torch.testing.assert_close(discriminant_rows(30 * features_ND, labels_N, C), rows_CD)
    turn_DD, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)).double())
    torch.testing.assert_close(discriminant_rows(features_ND @ turn_DD, labels_N, C), rows_CD @ turn_DD)
    order = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(discriminant_rows(features_ND[order], labels_N[order], C), rows_CD)
    torch.testing.assert_close(discriminant_rows(features_ND, C - 1 - labels_N, C), rows_CD.flip(0))
    # Another origin leaves the covariance, and moves all rows, before they have unit norm, by the same vector.
    moved_ND = features_ND + torch.ones(D).double()
    covariances = [within_covariance(centred(each, labels_N), 3 * C) for each in (features_ND, moved_ND)]
    torch.testing.assert_close(*covariances)
    means_CD = torch.stack([moved_ND[labels_N == label].mean(dim=0) for label in range(C)])
    expected_CD = F.normalize(torch.linalg.solve(covariances[0], means_CD.T).T, dim=-1)
    torch.testing.assert_close(discriminant_rows(moved_ND, labels_N, C), expected_CD)
    assert not torch.allclose(expected_CD, rows_CD, atol=1e-2)


def test_a_class_without_videos_is_named() -> None:
    features_ND, labels_N, _ = videos(2)
    kept = (labels_N != 1) & (labels_N != 4)
    with pytest.raises(UserError, match=r"config\.classifier: .* decoded of classes \(by id\): 1, 4"):
        discriminant_rows(features_ND[kept], labels_N[kept], C)
