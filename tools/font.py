"""The font of all pictures: `python -m tools.font` cuts DejaVu Sans, which matplotlib brings, down to common letters.

Each PDF embeds the letters that it uses. To find them takes four times longer in the whole font than in this one.
"""

from __future__ import annotations

from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from matplotlib import get_data_path

from reports.style import FALLBACK, FONT, FONT_NAME

# Latin, Greek and Cyrillic; punctuation, sub- and superscripts; letter-like signs, arrows, operators; geometric shapes.
BLOCKS = ((0x20, 0x250), (0x370, 0x460), (0x2000, 0x20C0), (0x2100, 0x2300), (0x25A0, 0x2700))
UNUSED = ["FFTM", "GDEF", "GPOS", "GSUB", "MATH", "gasp"]  # tables


def cut() -> TTFont:
    """The font with the letters of BLOCKS, their kerning, and without hints and other layout."""
    font = TTFont(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", recalcTimestamp=False)
    subsetter = Subsetter(Options(hinting=False, legacy_kern=True, notdef_outline=True, drop_tables=UNUSED))
    subsetter.populate(unicodes=[code for first, end in BLOCKS for code in range(first, end)])
    subsetter.subset(font)
    for record in font["name"].names:
        record.string = record.toUnicode().replace(FALLBACK, FONT_NAME).replace("DejaVuSans", "DejaVuSansCut")
    return font


if __name__ == "__main__":
    cut().save(FONT)
