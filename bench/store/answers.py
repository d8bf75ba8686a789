"""Whether the accuracies in the record of an evaluation are those of its predictions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

PREDICTIONS = "predictions.parquet"


def disagreement(record: dict[str, Any], folder: Path) -> str:
    """What in the record of an evaluation contradicts its predictions; empty if nothing does.

    Where classes were drawn by halves, accuracies cannot be had from predictions alone.
    """
    try:
        table = pd.read_parquet(folder / PREDICTIONS)
        failed_N, correct_N = table["failure"].notna(), table["correct"]
        measured: dict[str, float] = {"videos": len(table), "undecodable": int(failed_N.sum())}
        if "draws" not in record["result"]:
            measured["top1"] = 100 * correct_N.mean()
            measured["mean_class"] = 100 * correct_N.groupby(table["label"]).mean().mean()
            if (correct_N & (failed_N | (table["prediction"] != table["label"]))).any():
                return "its predictions call wrong answers correct"
        for name, value in measured.items():
            if name not in record["result"]:
                return f"the record lacks {name}"
            if not math.isclose(record["result"][name], value, abs_tol=1e-6):
                return f"the record has {name} {record['result'][name]}, its predictions {value}"
    except KeyError as error:
        return f"its predictions lack {error}"
    except (OSError, ValueError, TypeError) as error:
        return f"accuracies and predictions cannot be compared: {error}"
    return ""
