"""Coverage of the intervals, and power of the test, of bench/measure/statistics.py by simulation.

    python -m tools.coverage              intervals, videos that are independent of each other
    python -m tools.coverage --groups     intervals, videos in groups
    python -m tools.coverage --classes    intervals, means over draws of classes
    python -m tools.coverage --selection  one of several points, chosen by validation
    python -m tools.coverage --power      power, as bench/measure/power.py promises it and as it is

docs/statistics.md shows the results. Two equally good rows answer the same N videos with S seeds each. A seed is right
on a video if difficulty of the video + effect of the seed + noise of both > 0, all Gaussian: the probit model of
crossed random effects, in which the accuracies of given seeds and of all seeds are known exactly. Groups of videos may
share a part of the difficulty, and a part of the noise that is a row's own and the same for its seeds. Points of a
tuned row are rows here, whose seeds are as good on validation as on the test. A draw of classes adds an effect of its
own to all its videos, half of which two rows share.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import nct, norm, t

from bench.core.seeds import seed_for
from bench.measure.power import LEVEL, Variances, measured, power
from bench.measure.selection import chosen, resampled
from bench.measure.statistics import (
    TAILS,
    Estimates,
    Groups,
    bootstrap_means,
    changes_by_draws,
    difference_tests,
    estimate,
    nested_intervals,
    percentiles,
)

SEEDS, VIDEOS, SPREADS = (3, 5, 10), (100, 500, 2000), (0.0, 1.0, 3.0)  # spread: s.d. over seeds in points
ACCURACY = 0.7
# Share of the difficulty in the variance of difficulty and noise. With it two seeds do not share a third of the
# variance of an answer, which is typical of trainings on the embedded world (a sixth to a half).
DIFFICULTY = 0.83
DRAWS = 500
BLOCK = 50  # pairs of rows with the same resamples
CHOSEN_ROWS = 20  # tuned rows with the same resamples
COLUMNS = {
    "videos": "videos, given the seeds",
    "plain": "plain percentile, seeds and videos",
    "nested": "nested, as reported",
    "difference": "difference of two rows, t",
}


class Sharing(NamedTuple):
    """Groups of so many videos, in turn; their share of the variance of the difficulty, and of the noise of a row."""

    sizes: tuple[int, ...]
    difficulty: float
    interaction: float

    def groups(self, videos: int) -> Groups:
        """The number of each video's group, from 0."""
        return np.repeat(np.arange(videos), np.resize(self.sizes, videos))[:videos]


SHARED = [Sharing((5,), *shares) for shares in product((0.0, 0.3, 0.5), (0.0, 0.5))]
GROUPED = {
    "videos": "groups, given the seeds",
    "nested": "nested, as reported",
    "difference": "difference of two rows, as reported",
    "alone nested": "nested over videos",
    "alone difference": "difference over videos",
}

ALONE, APART = (
    Sharing((1,), 0.0, 0.0),
    Sharing((1,), 0.0, 0.5),
)  # a row does nothing, or something, of its own to videos
SETTINGS = [  # of the power: seeds, videos, s.d. over seeds, true difference, sharing
    (3, 500, 1.0, 3.0, ALONE),
    (3, 2000, 0.0, 1.5, ALONE),
    (3, 2000, 1.0, 4.0, APART),
    (3, 2000, 3.0, 8.0, APART),
    (3, 2000, 1.0, 2.5, Sharing((5,), 0.3, 0.5)),
    (5, 100, 1.0, 6.0, APART),
    (5, 500, 1.0, 3.0, Sharing((5,), 0.3, 0.5)),
    (5, 2000, 0.3, 2.0, APART),
    (5, 2000, 3.0, 5.0, ALONE),
    (10, 500, 1.0, 3.0, APART),
    (10, 2000, 1.0, 2.5, Sharing((5,), 0.5, 0.5)),
    (10, 2000, 3.0, 4.5, Sharing((5,), 0.5, 0.5)),
]
POWER = {"promised": "promised", "simulated": "simulated", "student": "noncentral t"}
BLOCKS = 10  # of pairs of rows, without effects of seeds, that the variances are known from


def coverage(
    seeds: int, videos: int, spread: float, repetitions: int = 2000, sharing: Sharing | None = None
) -> dict[str, float]:
    """Percent of the 95 % intervals of `COLUMNS` that cover the truth, over `repetitions` pairs of rows.

    With `sharing`, of those of `GROUPED`.
    """
    return {name: mean for name, (mean, _) in _coverage(seeds, videos, spread, repetitions, sharing).items()}


def _coverage(
    seeds: int, videos: int, spread: float, repetitions: int, sharing: Sharing | None
) -> dict[str, tuple[float, float]]:
    """`coverage` with standard errors, from the spread of blocks of pairs."""
    blocks = [_block(seeds, videos, spread, number, sharing) for number in range(-(-repetitions // BLOCK))]
    found = {
        name: 100 * np.array([block[name].mean() for block in blocks]) for name in (sharing and GROUPED) or COLUMNS
    }
    return {
        name: (float(own.mean()), float(own.std(ddof=1) / len(own) ** 0.5) if len(own) > 1 else float("nan"))
        for name, own in found.items()
    }


def _block(
    seeds: int, videos: int, spread: float, number: int, sharing: Sharing | None
) -> dict[str, NDArray[np.bool_]]:
    seed = seed_for("coverage", seeds, videos, str(spread), number, *map(str, sharing or ()))
    correct_TN, given_G, truth = _answers(seeds, videos, spread, np.random.default_rng(seed), sharing)
    alone = _estimates(correct_TN, seeds, seed)
    if sharing:
        grouped = _estimates(correct_TN, seeds, seed, sharing.groups(videos))
        apart = _covered(alone, given_G, truth, seed).items()
        return _covered(grouped, given_G, truth, seed) | {f"alone {name}": own for name, own in apart}
    draws_TB = bootstrap_means(correct_TN, DRAWS, seed)
    plain_GB = _resample_seeds(draws_TB.reshape(len(given_G), seeds, DRAWS), seed)
    plain = _inside(truth, *percentiles(plain_GB, axis=1))
    return _covered(alone, given_G, truth, seed) | {"plain": plain}


def _estimates(correct_TN: NDArray[np.float32], seeds: int, seed: int, group_N: Groups | None = None) -> Estimates:
    """Those of the rows, each of so many trials one after the other."""
    trials, videos = correct_TN.shape
    row_T, groups = np.arange(trials) // seeds, 0 if group_N is None else int(group_N.max()) + 1
    draws_TB = bootstrap_means(correct_TN, DRAWS, seed, group_N)
    return estimate(correct_TN.mean(axis=1, dtype=np.float64), draws_TB, row_T, trials // seeds, videos, groups)


def _covered(
    estimates: Estimates, given_G: NDArray[np.float64], truth: float, seed: int
) -> dict[str, NDArray[np.bool_]]:
    """Whether the intervals of each row, and of the difference of each pair, cover the truth."""
    rows = np.arange(len(given_G))
    tests = difference_tests(estimates, rows[::2], rows[1::2])
    return {
        "videos": _inside(given_G, *percentiles(estimates.draws_GB, axis=1)),
        "nested": _inside(truth, *nested_intervals(estimates, seed)),
        "difference": _inside(0.0, tests.low, tests.high),
    }


def _answers(
    seeds: int,
    videos: int,
    spread: float,
    generator: np.random.Generator,
    sharing: Sharing | None = None,
    difference: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """Correctness [T,N] of 2 × BLOCK rows, accuracy [G] of each row's seeds over all videos, and that of all seeds.

    Every second row is `difference` points better than the one before it, whose accuracy over all seeds is told.
    """
    level, scale = _level(spread)
    effect_GS = level + scale * generator.standard_normal((2 * BLOCK, seeds))
    effect_GS[1::2] += _better(spread, difference) - level if difference else 0.0
    difficulty_GN = generator.standard_normal((BLOCK, videos), np.float32)
    noise_GSN = generator.standard_normal((2 * BLOCK, seeds, videos), np.float32)
    if sharing:
        group_N, nothing_GN = sharing.groups(videos), np.zeros((2 * BLOCK, videos), np.float32)
        difficulty_GN = _shared(difficulty_GN, group_N, sharing.difficulty, generator)
        own_GN = _shared(nothing_GN, group_N, sharing.interaction, generator)
        noise_GSN = (1 - sharing.interaction) ** 0.5 * noise_GSN + own_GN[:, None]
    difficulty_GN = np.repeat(difficulty_GN, 2, axis=0)
    score_GSN = DIFFICULTY**0.5 * difficulty_GN[:, None] + (1 - DIFFICULTY) ** 0.5 * noise_GSN
    correct_GSN = score_GSN > -effect_GS[..., None].astype(np.float32)
    truth = float(norm.cdf(level / np.hypot(1, scale)))
    return correct_GSN.reshape(-1, videos).astype(np.float32), norm.cdf(effect_GS).mean(axis=1), truth


# --- draws of classes ---


class Drawn(NamedTuple):
    """So many draws of `of` classes from `classes`, of ten videos each."""

    draws: int
    of: int
    classes: int


HALVES = [Drawn(10, 50, 100), Drawn(3, 160, 220)]  # as half-class protocols draw, and Kinetics-600
EFFECTS = (0.0, 1.0, 3.0)  # standard deviation of the effect of a draw in points
IN_CLASS = 10  # videos
OF_CLASS = 0.3  # share of the variance of the difficulty that a class's videos have in common
CLASS_PAIRS = 10  # pairs of rows with the same draws and resamples
BY_CLASSES = {
    "nested": "nested, as reported",
    "difference": "difference of two rows, as reported",
    "alone nested": "nested, draws as they are",
    "alone difference": "difference, draws as they are",
}


def coverage_of_classes(drawn: Drawn, seeds: int, effect: float, repetitions: int) -> dict[str, tuple[float, float]]:
    """Percent of the 95 % intervals of `BY_CLASSES` that cover the truth of other draws, and standard errors."""
    blocks = [_classes_block(drawn, seeds, effect, number) for number in range(-(-repetitions // CLASS_PAIRS))]
    found = {name: 100 * np.array([block[name].mean() for block in blocks]) for name in BY_CLASSES}
    return {name: (float(own.mean()), float(own.std(ddof=1) / len(own) ** 0.5)) for name, own in found.items()}


def _classes_block(drawn: Drawn, seeds: int, effect: float, number: int) -> dict[str, NDArray[np.bool_]]:
    seed = seed_for("coverage of classes", *drawn, seeds, str(effect), number)
    generator, rows = np.random.default_rng(seed), 2 * CLASS_PAIRS
    class_N = np.repeat(np.arange(drawn.classes), IN_CLASS)
    inside_DN = np.array([generator.permutation(drawn.classes)[class_N] < drawn.of for _ in range(drawn.draws)])
    (level, scale), unit = _level(SPREADS[1]), _level(effect)[1]
    class_GC = np.repeat(generator.standard_normal((CLASS_PAIRS, drawn.classes)), 2, axis=0)
    video_GN = np.repeat(generator.standard_normal((CLASS_PAIRS, len(class_N))), 2, axis=0)
    difficulty_GN = OF_CLASS**0.5 * class_GC[:, class_N] + (1 - OF_CLASS) ** 0.5 * video_GN
    both_GD = np.repeat(generator.standard_normal((CLASS_PAIRS, drawn.draws)), 2, axis=0)
    effect_GD = unit * (both_GD + generator.standard_normal((rows, drawn.draws))) / 2**0.5
    effect_GS = level + scale * generator.standard_normal((rows, seeds))
    noise_GSN = generator.standard_normal((rows, seeds, len(class_N)), np.float32)
    score_GSN = DIFFICULTY**0.5 * difficulty_GN[:, None] + (1 - DIFFICULTY) ** 0.5 * noise_GSN + effect_GS[..., None]
    number_GSD, share_GSN = np.empty((rows, seeds, drawn.draws)), np.zeros_like(score_GSN)
    for draw, inside_N in enumerate(inside_DN):
        correct_GSN = (score_GSN + effect_GD[:, draw, None, None] > 0) & inside_N
        number_GSD[..., draw] = correct_GSN.sum(axis=-1) / inside_N.sum()
        share_GSN += correct_GSN / inside_N.sum() / drawn.draws
    measured_N = inside_DN.any(axis=0)
    videos = int(measured_N.sum())
    draws_TB = bootstrap_means(videos * share_GSN[..., measured_N].reshape(rows * seeds, -1), DRAWS, seed)
    number_TD, row_T = number_GSD.reshape(rows * seeds, -1), np.arange(rows * seeds) // seeds
    both_TB = draws_TB + changes_by_draws(number_TD, DRAWS, seed)
    rest = (DIFFICULTY * (1 - OF_CLASS) + 1 - DIFFICULTY + scale**2 + unit**2) ** 0.5
    truth_G = norm.cdf((level + (DIFFICULTY * OF_CLASS) ** 0.5 * class_GC) / rest).mean(axis=1)
    found = dict[str, NDArray[np.bool_]]()
    for kind, own_TB in (("", both_TB), ("alone ", draws_TB)):
        own = estimate(number_TD.mean(axis=1), own_TB, row_T, rows, videos)
        tests = difference_tests(own, np.arange(0, rows, 2), np.arange(1, rows, 2))
        found[f"{kind}nested"] = _inside(truth_G, *nested_intervals(own, seed))
        found[f"{kind}difference"] = _inside(0.0, tests.low, tests.high)
    return found


# --- selection ---


POINTS, VALIDATION = (4, 16), 500  # points of a tuned row, videos that choose one
FAR = (0.0, 1.0)  # standard deviation of the true accuracies of points
CHOICES = {
    "chosen": "chosen, bias",
    "coverage": "nested interval, covers",
    "together": "chosen by the seeds that are measured, bias",
    "oracle": "best on the test, bias",
}


def selection(points: int, seeds: int, apart: float = 0.0, repetitions: int = 2000) -> dict[str, tuple[float, float]]:
    """Bias in points, coverage in percent, and their standard errors, of one of so many points.

    Their true accuracies are quantiles of a normal distribution whose standard deviation is `apart` points. The truth
    is what is chosen on average.
    """
    blocks = [_chosen_block(points, seeds, apart, number) for number in range(-(-repetitions // CHOSEN_ROWS))]
    errors = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    truth = errors.pop("truth").mean()
    covered = 100.0 * _inside(truth, errors.pop("low"), errors.pop("high"))
    found = {"chosen": errors["chosen"] - truth, "coverage": covered}
    found |= {name: errors[name] - truth for name in ("together", "oracle")}
    return {name: (float(own.mean()), float(own.std(ddof=1) / len(own) ** 0.5)) for name, own in found.items()}


def _chosen_block(points: int, seeds: int, apart: float, number: int) -> dict[str, NDArray[np.float64]]:
    """Numbers of `CHOSEN_ROWS` tuned rows, R, in percent, their intervals, and the truth of what is chosen."""
    seed = seed_for("selection", points, seeds, str(apart), number)
    generator = np.random.default_rng(seed)
    level, unit = float(norm.ppf(ACCURACY)), 1 / 100 / float(norm.pdf(norm.ppf(ACCURACY)))
    level_P = level + apart * unit * norm.ppf((np.arange(points) + 0.5) / points)
    scale = SPREADS[1] * unit
    effect_RPS = level_P[:, None] + scale * generator.standard_normal((CHOSEN_ROWS, points, seeds))
    measured = []
    for videos, name in ((VALIDATION, "validation"), (VIDEOS[-1], "test")):
        difficulty_R11N = generator.standard_normal((CHOSEN_ROWS, 1, 1, videos), np.float32)
        noise_RPSN = generator.standard_normal((CHOSEN_ROWS, points, seeds, videos), np.float32)
        score_RPSN = DIFFICULTY**0.5 * difficulty_R11N + (1 - DIFFICULTY) ** 0.5 * noise_RPSN
        correct_TN = (score_RPSN > -effect_RPS[..., None]).reshape(-1, videos).astype(np.float32)
        draws_TB = 100 * bootstrap_means(correct_TN, DRAWS, seed_for(name, seed))
        shape = (CHOSEN_ROWS, points, seeds)
        measured.append((100 * correct_TN.mean(axis=1).reshape(shape), draws_TB.reshape(*shape, DRAWS)))
    (judged_RPS, judged_RPSB), (test_RPS, test_RPSB) = measured
    picked_RS, again = np.array([*map(chosen, judged_RPS)]), [*map(chosen, judged_RPSB)]
    draws_RSB = np.array([*map(resampled, test_RPS, test_RPSB, picked_RS, again)])
    rows_R1, row_T = np.arange(CHOSEN_ROWS)[:, None], np.repeat(np.arange(CHOSEN_ROWS), seeds)
    values_RS = test_RPS[rows_R1, picked_RS, np.arange(seeds)].astype(float)
    draws_TB = draws_RSB.reshape(-1, DRAWS).astype(np.float32)
    estimates = estimate(values_RS.ravel(), draws_TB, row_T, CHOSEN_ROWS, VIDEOS[-1])
    low, high = nested_intervals(estimates, seed)
    together_R = [int(chosen(judged_PS, across=False)[0]) for judged_PS in judged_RPS]
    mean_RP = test_RPS.mean(axis=2)
    return {
        "truth": 100 * norm.cdf(level_P / np.hypot(1, scale))[picked_RS].mean(axis=1),
        "chosen": values_RS.mean(axis=1),
        "low": low,
        "high": high,
        "together": mean_RP[rows_R1[:, 0], together_R],
        "oracle": mean_RP.max(axis=1),
    }


def _level(spread: float) -> tuple[float, float]:
    """The mean effect of a seed, and its s.d., for a row of `ACCURACY` whose seeds differ by `spread` points."""
    level = float(norm.ppf(ACCURACY))
    return level, spread / 100 / float(norm.pdf(level))


def _better(spread: float, difference: float) -> float:
    """The mean effect of a seed for a row that is so many points better, over all seeds."""
    level, scale = _level(spread)
    truth = float(norm.cdf(level / np.hypot(1, scale)))
    return float(norm.ppf(truth + difference / 100) * np.hypot(1, scale))


def _shared(
    own_GN: NDArray[np.float32], group_N: Groups, share: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Effects of videos of which a share of the variance is that of their group."""
    groups_GU = generator.standard_normal((len(own_GN), group_N[-1] + 1), np.float32)
    return np.asarray((1 - share) ** 0.5 * own_GN + share**0.5 * groups_GU[:, group_N], np.float32)


# --- power ------------------------------------------------------------------------------------------------------------


def powers(
    seeds: int, videos: int, spread: float, difference: float, sharing: Sharing, repetitions: int = 2000
) -> dict[str, float]:
    """Percent of tests that call a true difference of two rows significant.

    As promised from the true variances, as simulated, and as a noncentral t with expected degrees of freedom promises.
    """
    variances, groups = true_variances(spread, difference, sharing), len(np.unique(sharing.groups(videos)))
    found = [
        _significant(seeds, videos, spread, difference, sharing, number) for number in range(-(-repetitions // BLOCK))
    ]
    return {
        "promised": 100 * power(difference, variances, groups, (seeds, seeds)),
        "simulated": 100 * float(np.mean(found)),
        "student": 100 * _noncentral(difference, variances, groups, seeds),
    }


def true_variances(spread: float, difference: float, sharing: Sharing) -> Variances:
    """Those of a difference with groups of one size: of seeds by a quadrature, else from a million videos."""
    generator = np.random.default_rng(seed_for("true variances", str(spread), str(difference), *map(str, sharing)))
    size, found = sharing.sizes[0], list[Variances]()
    for _ in range(BLOCKS):
        correct_TN, _, _ = _answers(2, VIDEOS[-1] // size * size, 0.0, generator, sharing, difference)
        correct_SGU = 100 * correct_TN.reshape(2 * BLOCK, 2, -1, size).mean(axis=-1).swapaxes(0, 1)
        found.append(measured(correct_SGU[:, 1::2].reshape(2, -1), correct_SGU[:, ::2].reshape(2, -1)))
    better, other = (float(np.mean([own.both[row] for own in found])) for row in (0, 1))
    (level, scale), (nodes, weights) = _level(spread), np.polynomial.hermite_e.hermegauss(40)
    effects = _better(spread, difference), level
    first, second = (_variance(100 * norm.cdf(effect + scale * nodes), weights) for effect in effects)
    return Variances(float(np.mean([own.videos for own in found])), (first, second), (better, other))


def _variance(values_Q: NDArray[np.float64], weight_Q: NDArray[np.float64]) -> float:
    return float(np.average(np.square(values_Q - np.average(values_Q, weights=weight_Q)), weights=weight_Q))


def _significant(
    seeds: int, videos: int, spread: float, difference: float, sharing: Sharing, number: int
) -> NDArray[np.bool_]:
    seed = seed_for("power", seeds, videos, str(spread), str(difference), number, *map(str, sharing))
    correct_TN, given_G, _ = _answers(seeds, videos, spread, np.random.default_rng(seed), sharing, difference)
    groups = sharing.groups(videos) if sharing.sizes != (1,) else None
    rows = np.arange(len(given_G))
    return difference_tests(_estimates(correct_TN, seeds, seed, groups), rows[1::2], rows[::2]).p < LEVEL


def _noncentral(difference: float, variances: Variances, groups: int, seeds: int) -> float:
    """The textbook's power, of a test whose variance is right on the average and has expected degrees of freedom."""
    videos = variances.over_videos(groups, (seeds, seeds))
    between = [own / seeds + both / (groups * seeds) for own, both in zip(variances.seeds, variances.both, strict=True)]
    variance = videos + sum(variances.seeds) / seeds
    freedom = variance**2 / (videos**2 / (groups - 1) + sum(np.square(between)) / (seeds - 1))
    critical, shift = t.ppf(TAILS[1], freedom), difference / variance**0.5
    return float(nct.sf(critical, freedom, shift) + nct.cdf(-critical, freedom, shift))


def _resample_seeds(draws_GSB: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Means [G,B] of resampled seeds on resampled videos, the usual percentile bootstrap."""
    seeds, draws = draws_GSB.shape[1:]
    picked_BS = np.random.default_rng(seed).multinomial(seeds, [1 / seeds] * seeds, size=draws) / seeds
    return np.einsum("gsb,bs->gb", draws_GSB, picked_BS)  # type: ignore[no-any-return]


def _inside(
    truth: NDArray[np.float64] | float, low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.bool_]:
    return (low <= truth) & (truth <= high)


def table(repetitions: int) -> Iterator[str]:
    """Lines of the Markdown table over all seeds × videos × spreads."""
    yield f"| seeds | videos | s.d. over seeds | {' | '.join(COLUMNS.values())} |"
    yield "| ---: " * (3 + len(COLUMNS)) + "|"
    for seeds, videos, spread in product(SEEDS, VIDEOS, SPREADS):
        found = " | ".join(f"{value:.1f}" for value in coverage(seeds, videos, spread, repetitions).values())
        yield f"| {seeds} | {videos} | {spread:g} | {found} |"


def table_of_groups(repetitions: int) -> Iterator[str]:
    """Lines of the Markdown table over all seeds × what groups share: 2000 videos, a point of deviation over seeds."""
    yield f"| seeds | shared difficulty | row × group | {' | '.join(GROUPED.values())} |"
    yield "| ---: " * (3 + len(GROUPED)) + "|"
    for sharing, seeds in product(SHARED, SEEDS):
        found = _coverage(seeds, VIDEOS[-1], SPREADS[1], repetitions, sharing)
        texts = " | ".join(f"{mean:.1f} ± {error:.1f}" for mean, error in found.values())
        yield f"| {seeds} | {sharing.difficulty:g} | {sharing.interaction:g} | {texts} |"


def table_of_classes(repetitions: int) -> Iterator[str]:
    """Lines of the Markdown table over how classes are drawn × effects of a draw × seeds."""
    yield f"| draws | classes of a draw | s.d. over draws | seeds | {' | '.join(BY_CLASSES.values())} |"
    yield "| ---: " * (4 + len(BY_CLASSES)) + "|"
    for drawn, effect, seeds in product(HALVES, EFFECTS, SEEDS[::2]):
        found = coverage_of_classes(drawn, seeds, effect, repetitions).values()
        texts = " | ".join(f"{mean:.1f} ± {error:.1f}" for mean, error in found)
        yield f"| {drawn.draws} | {drawn.of} of {drawn.classes} | {effect:g} | {seeds} | {texts} |"


def table_of_selection(repetitions: int) -> Iterator[str]:
    """Lines of the Markdown table over how far points are apart × points × seeds."""
    yield f"| points apart | points | seeds | {' | '.join(CHOICES.values())} |"
    yield "| ---: " * (3 + len(CHOICES)) + "|"
    for apart, points, seeds in product(FAR, POINTS, SEEDS):
        found = selection(points, seeds, apart, repetitions)
        texts = (
            f"{mean:.1f} ± {error:.1f}" if name == "coverage" else f"{mean:+.2f} ± {error:.2f}"
            for name, (mean, error) in found.items()
        )
        yield f"| {apart:g} | {points} | {seeds} | {' | '.join(texts)} |"


def table_of_power(repetitions: int) -> Iterator[str]:
    """Lines of the Markdown table over the `SETTINGS`."""
    heads = ("seeds", "videos", "in groups of", "s.d. over seeds", "shared difficulty", "row × group")
    yield f"| {' | '.join((*heads, 'true difference', *POWER.values()))} |"
    yield "| ---: " * (len(heads) + 1 + len(POWER)) + "|"
    for seeds, videos, spread, difference, sharing in SETTINGS:
        found = powers(seeds, videos, spread, difference, sharing, repetitions)
        shared = f"{sharing.sizes[0]} | {spread:g} | {sharing.difficulty:g} | {sharing.interaction:g}"
        texts = " | ".join(f"{found[name]:.1f}" for name in POWER)
        yield f"| {seeds} | {videos} | {shared} | {difference:g} | {texts} |"


if __name__ == "__main__":
    parser = ArgumentParser(description="Coverage of 95 % intervals, and power, by simulation, as Markdown tables.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--groups", action="store_true", help="of videos in groups")
    what.add_argument("--classes", action="store_true", help="of means over draws of classes")
    what.add_argument("--selection", action="store_true", help="of points that are chosen by validation")
    what.add_argument("--power", action="store_true", help="power of the test of a difference")
    parser.add_argument("--repetitions", type=int, default=2000, help="pairs of rows for each line (2000)")
    asked = parser.parse_args()
    tables = {
        "groups": table_of_groups,
        "classes": table_of_classes,
        "selection": table_of_selection,
        "power": table_of_power,
    }
    made = next((own for name, own in tables.items() if getattr(asked, name)), table)
    for line in made(asked.repetitions):
        print(line, flush=True)
