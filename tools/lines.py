"""Lines of Python by room, of the core and of the product: `python -m tools.lines` (docs/architecture.md)."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE_ROOMS = ("core", "models", "video", "data", "suite", "graph", "stages")
CORE_FILES = ("bench/store/records.py", "methods/contract.py", "methods/settings.py")
PRODUCT = ("bench", "methods", "reports", "run_suite.py", "video_transfer_bench")
CORE_LIMIT, PRODUCT_LIMIT = 14_510, 42_350  # docs/decisions.md says what they grew by


def lines(*places: str) -> int:
    """Lines of the Python files at these paths, and below those that are folders."""
    files = {
        file
        for place in places
        for file in ((ROOT / place).rglob("*.py") if (ROOT / place).is_dir() else [ROOT / place])
    }
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def core() -> int:
    """Lines of the core, which a newcomer reads in an afternoon."""
    return lines(*(f"bench/{room}" for room in CORE_ROOMS), *CORE_FILES)


def product() -> int:
    """Lines of the product; tests, tools and conformance tests are not among them."""
    return lines(*PRODUCT)


if __name__ == "__main__":
    for folder in sorted((ROOT / "bench").iterdir()):
        if (folder / "__init__.py").is_file():
            print(f"{lines(f'bench/{folder.name}'):7,}  bench/{folder.name}")
    for name in ("methods", "reports"):
        print(f"{lines(name):7,}  {name}")
    print(f"{core():7,}  core (at most {CORE_LIMIT:,})")
    print(f"{product():7,}  product (at most {PRODUCT_LIMIT:,})")
