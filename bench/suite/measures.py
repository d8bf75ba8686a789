"""Columns of the tables: every protocol, then the harmonic means that its roles allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

VALIDATION = "validation"  # the role of the protocol that chooses among tuned points, and is no column
ROLES = ("closed-set", "zero-shot", "base", "novel", VALIDATION)
# Columns of a suite's table of results, and those of what is made of it: no axis may have such a name.
COLUMNS = {
    *("row", "label", "method", "point", "seed", "expert", "role", "protocol", "dataset", "part", "deviation"),
    *("top1", "top5", "mean_class", "videos", "undecodable", "identity"),
}
RESERVED = COLUMNS | {"_weights", "setting", "environment", "seeds", "hm_zs", "trade_off"}


@dataclass(frozen=True)
class Measure:
    """A percentage of a trial: top-1 under a protocol, or the harmonic mean of the measures that it `needs`.

    `inputs` are the protocols that it comes from in the end.
    """

    title: str
    inputs: tuple[str, ...]
    needs: tuple[str, ...] = ()


def measures(roles: Mapping[str, str], datasets: Mapping[str, str]) -> dict[str, Measure]:
    """The measures of protocols of these roles on these datasets, in the order of the table."""
    unseen = of_role(roles, "zero-shot")
    measured = {name: Measure(name, (name,)) for role in ROLES for name in of_role(roles, role)}
    zero_shot = {"hm_zs": Measure("HM_ZS", unseen, unseen)} if unseen else {}
    return {**measured, **zero_shot, **trade_offs(roles, datasets)}


def trade_offs(roles: Mapping[str, str], datasets: Mapping[str, str]) -> dict[str, Measure]:
    """The measures that weigh two sides: closed-set and HM_ZS (MoTE, Table 4), base and novel of a dataset."""
    closed, unseen = of_role(roles, "closed-set")[:1], of_role(roles, "zero-shot")
    both = {"trade_off": Measure("Trade-off", (*closed, *unseen), (*closed, "hm_zs"))} if closed and unseen else {}
    pairs = product(of_role(roles, "base"), of_role(roles, "novel"))
    halves = [(base, novel) for base, novel in pairs if datasets[base] == datasets[novel]]
    several = [datasets[base] for base, _ in halves]
    for base, novel in halves:
        alone = f"HM {datasets[base]}" if several.count(datasets[base]) == 1 else f"HM {base}/{novel}"
        both[f"hm_{base}_{novel}"] = Measure(alone if len(halves) > 1 else "HM", (base, novel), (base, novel))
    return both


def headlines(measures: Mapping[str, Measure]) -> list[str]:
    """The measures that summarize a suite: harmonic means that no other one needs, else all top-1 accuracies."""
    needed = {need for measure in measures.values() for need in measure.needs}
    return [key for key, own in measures.items() if own.needs and key not in needed] or list(measures)


def of_role(roles: Mapping[str, str], role: str) -> tuple[str, ...]:
    """The protocols of a role, in the suite's order."""
    return tuple(name for name, own in roles.items() if own == role)
