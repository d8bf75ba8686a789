"""Still glyphs and their captions."""

from __future__ import annotations

import numpy as np

from bench.glyphs import world as glyphs
from tools import stills


def test_stills_follow_from_seed_and_step() -> None:
    one, same, other = stills.still_batch(24, 1, 2), stills.still_batch(24, 1, 2), stills.still_batch(24, 1, 3)
    assert one.captions == same.captions and np.array_equal(one.pixels_BHW3, same.pixels_BHW3)
    assert one.captions != other.captions and one.pixels_BHW3.shape == (24, 64, 64, 3)
    for caption, thing, verb in zip(one.captions, one.objects_B, one.verbs_B, strict=True):
        assert list(glyphs.OBJECTS)[thing] in caption
        assert verb < 0 or all(word in caption for word in glyphs.VERBS[verb].split())
        assert set(caption.split()) <= {*stills.WORDS, "<unk>"}
