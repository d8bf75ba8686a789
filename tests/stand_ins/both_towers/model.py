"""Mean-pool CLIP with all of its tensors trained."""

from methods.clip_mean.model import Model

__all__ = ["Model"]
