"""Start two ranks that write their ids and wait: python -m tests.stages.orphans FOLDER."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench.stages.training.processes import start
from bench.stages.training.ranks import RankInfo
from tests.stages import orphans


def sleeping(folder: Path, info: RankInfo) -> None:
    (folder / f"{info.rank}.pid").write_text(str(os.getpid()))
    time.sleep(300)


if __name__ == "__main__":
    start(orphans.sleeping, Path(sys.argv[1]), 2)
