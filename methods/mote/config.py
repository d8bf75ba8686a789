"""MoTE: a mixture of temporal experts that are routed at random in training and merged for the test.

Title: MoTE: Reconciling Generalization with Specialization for Visual-Language to Video Knowledge Transfer.
Paper: arXiv 2410.10589 (NeurIPS 2024). Official code: github.com/ZMHH-H/MoTE, no licence file (written from a
description; no code taken). Where paper and code differ, the code's form is taken.
"""

from __future__ import annotations

from typing import Annotated, Self

from annotated_types import Ge, Gt
from pydantic import Field, model_validator

from bench.backbones import Backbone
from methods import settings
from methods.settings import Parameters
from methods.temporal_costs import temporal_flops, temporal_parameters


class Inference(settings.Inference):
    """How experts become one network, and how far temporal features are trusted on the test's classes."""

    expert: Annotated[int, Ge(0)] | None = Field(
        default=None, description="use this expert, counted from 0, in every layer instead of merging (Fig. 3)"
    )
    merge_temperature: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="tau of the merge weights softmax(i / tau), i = 1..N (Eq. 7); none: uniform, as published",
    )
    tfm: bool = Field(
        default=True, description="temporal feature modulation; the official test has it on, most ablation tables off"
    )
    tfm_gamma: Annotated[float, Gt(0)] = Field(default=0.05, description="gamma of the modulation (Table 2f)")
    tfm_k: Annotated[int, Ge(1)] = Field(
        default=5, description="K nearest classes of test and source (Table 7b); fewer where there are fewer"
    )

    @model_validator(mode="after")
    def _one_way_to_combine(self) -> Self:
        if self.merge_temperature == 0:
            raise ValueError("merge_temperature must not be 0; leave it out for a uniform merge")
        if self.expert is not None and self.merge_temperature is not None:
            raise ValueError("expert and merge_temperature exclude each other")
        return self


class Config(settings.Config):
    """Size of the head and weights of the regularisers."""

    layers: Annotated[int, Ge(1)] = Field(
        default=4, description="temporal layers; 4 for ViT-B/16, 6 for ViT-L/14 (official configs)"
    )
    num_experts: Annotated[int, Ge(1)] = Field(default=4, description="experts per layer, N (Table 2b)")
    wmr_weight: Annotated[float, Ge(0)] = Field(
        default=0.5, description="lambda, weight of the weight merging regularisation (paper and code)"
    )
    mse_weight: Annotated[float, Ge(0)] = Field(
        default=0.1, description="eta, weight of the mean square of temporal features (paper; the term is the code's)"
    )
    beta: Annotated[float, Gt(0)] = Field(
        default=0.6, description="smallest positive merge temperature of the regulariser (Table 2e)"
    )

    @property
    def experts(self) -> int:
        return self.num_experts

    def check(self, inference: settings.Inference) -> None:
        assert isinstance(inference, Inference)
        if inference.expert is not None and inference.expert >= self.num_experts:
            raise ValueError(f"expert {inference.expert} does not exist; allowed: 0 to {self.num_experts - 1}")

    def expert_choices(self, inference: settings.Inference) -> dict[str, settings.Inference]:
        """Without modulation, as in Fig. 3: its strength is alike for all experts, and hides their differences."""
        merged = inference.model_copy(update={"expert": None, "tfm": False})
        single = {"merge_temperature": None, "tfm": False}
        return {"merged": merged} | {
            f"expert {i}": inference.model_copy(update={**single, "expert": i}) for i in range(self.num_experts)
        }

    def head_parameters(self, backbone: Backbone) -> Parameters:
        return temporal_parameters(backbone.embed_dim, self.layers, self.num_experts)

    def head_flops(self, backbone: Backbone, frames: int) -> int:
        return temporal_flops(backbone.embed_dim, self.layers, frames)
