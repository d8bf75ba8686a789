"""Text4Vis' model: that of `dense_temporal`, with Text4Vis' config."""

from __future__ import annotations

from methods.dense_temporal.model import Model

__all__ = ["Model"]
