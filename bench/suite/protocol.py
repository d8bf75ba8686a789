"""Protocol: the way a number is measured. A value with a hash; a table has one protocol per column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.core.identity import Distinct, Identified, setting
from bench.video.views import TestViews

Role = Literal["closed-set", "zero-shot", "base", "novel"]
Fusion = Literal["double_softmax", "cos_mean", "softmax_sum", "logit_sum", "feature_mean"]
Generator = Literal["text4vis", "open-vclip"]
Likeness = Literal["labels", "templates", "descriptions", "frames", "size", "normalise"]


class Part(BaseModel):
    """One of several measurements whose mean is the number; fields that are not given are the protocol's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str | None = setting(None, "dataset of this part; none: the protocol's")
    split: str | None = setting(None, "split of this part; none: the protocol's")


class Scoring(Identified):
    """The part of a protocol that an evaluation reads; the videos, names and prompts reach it as its inputs."""

    half: Generator | None = setting(
        None, "mean over ten draws of half of the classes, drawn as Text4Vis or Open-VCLIP do"
    )
    views: TestViews = setting(TestViews(), "frames, clips and crops of a test video")
    fusion: Fusion = setting(
        "double_softmax",
        "rule that makes one score of those of the views: `double_softmax` (MoTE, BIKE), `feature_mean` "
        "(Text4Vis), `softmax_sum` (X-CLIP, ViFi-CLIP), `logit_sum` (Open-VCLIP), `cos_mean` (half-class routine)",
    )


class Protocol(Scoring):
    """Everything that decides an accuracy besides the model.

    `closed-set` measures on classes that were trained on, `zero-shot` on classes that were not. `base` and `novel`
    are the halves of one dataset's classes that have more and fewer training videos; each is its own vocabulary.
    Accuracy is the percentage over videos (micro average); a video that cannot be decoded counts as wrong.
    """

    role: Role = Field(
        description="classes that are measured: those of training (`closed-set`), others (`zero-shot`), or the half of "
        "a dataset's classes with more (`base`) or fewer (`novel`) training videos"
    )
    dataset: str = Field(description="dataset that is measured")
    split: str = setting("test", "split that is measured")
    over: Annotated[tuple[Part, ...], Distinct] = setting(
        (), "parts whose mean is the number, e.g. three official splits"
    )
    labels: str = setting("", "label variant: another spelling of the class names")
    vocabulary: Annotated[tuple[str, ...], Distinct] = setting(
        (), "other datasets whose class names are candidates as well (MoTE, Sec. 3.4)"
    )
    unlike_training: tuple[Likeness, ...] = setting(
        (),
        "settings that are meant to differ from those of a training on the same dataset; any other difference is named "
        "in the plan",
        exclude=True,
    )
    templates: str = setting(
        "mote28",
        "prompt templates of the candidate class texts: a name (bench/assets/templates.yaml), patterns with `{}` for "
        "the class, whole texts (`{class: [texts]}`), or a file of either (docs/add_a_dataset.md)",
    )
    descriptions: str = setting(
        "",
        "where the sentences about candidate classes come from that templates ask for (`{description}`, `{spatial}`, "
        "`{temporal}`): a file, a folder, or `glyphs` for the embedded world (docs/add_a_dataset.md)",
    )

    @cached_property
    def scoring(self) -> Scoring:
        """The part that an evaluation reads."""
        return Scoring(**{name: getattr(self, name) for name in Scoring.model_fields})

    @property
    def classes(self) -> Literal["all", "base", "novel"]:
        """The part of the dataset's classes that is measured and supplies the candidates."""
        return "all" if self.role in ("closed-set", "zero-shot") else self.role  # type: ignore[return-value]

    @property
    def seen(self) -> bool:
        """True if all candidates are classes that were trained on."""
        return self.role in ("closed-set", "base") and not self.vocabulary

    def parts(self) -> dict[str, Protocol]:
        """The measurements whose mean is the number, by name; a single one has the name ""."""
        if not self.over:
            return {"": self}
        parts = [{name: value for name, value in part.model_dump().items() if value} for part in self.over]
        return {"/".join(part.values()): self.model_copy(update={**part, "over": ()}) for part in parts}

    @property
    def settings(self) -> dict[str, Any]:
        """The fields as JSON values; without `descriptions` where there are none, as before protocols had any."""
        return self.model_dump(mode="json", exclude=None if self.descriptions else {"descriptions"})

    def fields(self) -> dict[str, Any]:
        """Every field that was given or has a default, flat: {"views.clips": 3, ...}."""
        dump = self.settings
        return dict(_flat({name: dump[name] for name in sorted(dump, key=lambda name: name in Scoring.model_fields)}))

    def differences(self, other: Protocol) -> str:
        """Differences from the other protocol, e.g. "views.clips 1 instead of 3"; "" if there are none."""
        own, others = self.fields(), other.fields()
        return ", ".join(
            f"{name} {_text(own.get(name))} instead of {_text(others.get(name))}"
            for name in {**own, **others}
            if own.get(name) != others.get(name)
        )


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: object) -> str:
    return "none" if value in (None, "", []) else str(value)
