"""The first module that a fork server imports: the server ends with its process also while it imports the others.

It notices that by itself only afterwards, and torch takes seconds, on a busy machine a minute.
"""

from __future__ import annotations

import re
import sys

from bench.core.processes import kill_when_closed

# multiprocessing tells the server by its command line which pipe closes with its process and that one's children.
if found := re.search(r"from multiprocessing\.forkserver import main; main\(\d+, (\d+),", sys.orig_argv[-1]):
    kill_when_closed(int(found[1]))
