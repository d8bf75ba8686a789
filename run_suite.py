#!/usr/bin/env python3
"""Run benchmark suites: `python run_suite.py SUITE [key=value ...]`; `run_suite.py --help` lists the commands."""

from __future__ import annotations

import sys

from bench.commands.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
