"""Record the defaults of settings that enter identities: `python -m tools.neutral` (bench/core/identity.py).

A field with its recorded value does not change identities. Recorded fields keep their values even if their defaults
have changed since: a changed default gives new identities.
"""

from __future__ import annotations

import json

from pydantic import BaseModel

from bench.core.identity import NEUTRAL_FILE, default_values, model_name, neutral_values, recorded
from bench.suite.file import Measurement
from bench.suite.protocol import Scoring
from bench.suite.recipe import Average, Mix, Training
from bench.video.views import TestViews, TrainViews
from methods.registry import BUILT_IN, method


def identified_models() -> list[type[BaseModel]]:
    """Settings of this project that enter identities by value; those inside others come first."""
    methods = [model for name in BUILT_IN for model in (method(name).config, method(name).inference)]
    return [TrainViews, TestViews, Average, Mix, Training, Scoring, Measurement, *methods]


def lacking() -> dict[str, list[str]]:
    """Model -> fields with a default that is not recorded."""
    found = {
        model_name(each): set(default_values(each)) - set(recorded().get(model_name(each), {}))
        for each in identified_models()
    }
    return {name: sorted(fields) for name, fields in found.items() if fields}


def record(model: type[BaseModel]) -> None:
    """Add fields of a model that are not in the file."""
    known = recorded()
    known[model_name(model)] = {**default_values(model), **known.get(model_name(model), {})}
    NEUTRAL_FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    recorded.cache_clear()
    neutral_values.cache_clear()


if __name__ == "__main__":
    for each in identified_models():
        record(each)
