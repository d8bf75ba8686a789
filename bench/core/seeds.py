"""Seeds derived from named axes, so that no random choice depends on worker, rank or order."""

from __future__ import annotations

import hashlib
import json


def seed_for(*axes: str | int) -> int:
    """A 63-bit seed from named axes, e.g. `seed_for("sample", trial_seed, epoch, index)`."""
    digest = hashlib.sha256(json.dumps(axes).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
