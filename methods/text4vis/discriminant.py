"""Rows of a linear discriminant analysis: Text4Vis' `lda` (arXiv 2207.01297, Section 3; a file in the official code).

Rows are Sigma^-1 mu_c, of the classes' means and the covariance within them, which is shrunk as far as it is uncertain:
Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices (2004). How the official file
was made is not published. Offsets of the discriminants are left out: a frozen classifier has rows and no bias.

Legend: N videos, D joint CLIP width, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.core.errors import UserError

# Least shrinkage: what keeps a covariance invertible whose few residuals all lie in one direction.
LEAST = 1e-6


def discriminant_rows(features_ND: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Unit rows [C, D] in double precision. Raises UserError where a class has no video.

    With one video of each class nothing is known of the scatter within classes. Any multiple of the identity then is
    the target of the shrinkage, and rows are the directions of the means.
    """
    features_ND, labels_N = features_ND.double().cpu(), labels_N.cpu()
    means_CD = _means(features_ND, labels_N, classes)
    residuals_ND, freedom = features_ND - means_CD[labels_N], len(features_ND) - classes
    rows_CD = means_CD
    if freedom and residuals_ND.any():
        rows_CD = torch.linalg.solve(within_covariance(residuals_ND, freedom), means_CD.T).T
    return F.normalize(rows_CD, dim=-1)


def _means(features_ND: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """[C, D]."""
    count_C = torch.bincount(labels_N, minlength=classes)
    if not count_C.all():
        empty = ", ".join(str(index) for index, count in enumerate(count_C.tolist()) if not count)
        raise UserError(
            f"the sample of the source has no video that can be decoded of classes (by id): {empty}",
            where="config.classifier",
            hint="discriminant analysis needs one of each; mend the files, or use another classifier",
        )
    sums_CD = torch.zeros(classes, features_ND.shape[1], dtype=features_ND.dtype)
    return sums_CD.index_add_(0, labels_N, features_ND) / count_C[:, None]


def within_covariance(residuals_ND: Tensor, freedom: int) -> Tensor:
    """[D, D], the covariance of residuals from class means, shrunk towards its mean variance times the identity.

    Of N residuals N - C are independent (`freedom`): by these the variances are divided, and by these counts the
    estimate's own uncertainty. Otherwise it is Ledoit and Wolf's estimator.
    """
    scaled_ND = residuals_ND * (len(residuals_ND) / freedom) ** 0.5  # as large as if means were known
    covariance_DD: Tensor = scaled_ND.T @ scaled_ND / len(scaled_ND)
    target_DD = covariance_DD.diagonal().mean() * torch.eye(scaled_ND.shape[1], dtype=scaled_ND.dtype)
    return covariance_DD.lerp(target_DD, shrinkage(scaled_ND, covariance_DD, target_DD, freedom))


def shrinkage(scaled_ND: Tensor, covariance_DD: Tensor, target_DD: Tensor, freedom: int) -> float:
    """How much of the target is taken, LEAST to 1: the covariance's expected error over its distance from the target.

    The error is the mean squared distance of single residuals' products from the covariance, over their number.
    """
    distance = float((covariance_DD - target_DD).square().sum())
    spread = float(scaled_ND.square().sum(dim=1).square().mean() - covariance_DD.square().sum())
    return max(LEAST, min(1.0, spread / freedom / distance)) if distance else 1.0
