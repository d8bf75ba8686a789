"""Seeded mistakes in the shipped suites: a plan or one message with the file, and never a traceback or a hang."""

from __future__ import annotations

import gc
import random
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from bench.commands.app import main
from bench.suite.resolve import SUITES
from tests.limits import Hang, limited

SECONDS = 60.0  # of a round, after which it counts as hanging

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 1.5, -0.0, 1e-300, 1e308, 10**9, 10**18, 10**30, -(10**12)),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "a",
        "1",
        "nan",
        "a" * 300,
        "é\u202e中😀",
        "a\x00b",
        "a\nb",
        "\ud800",
    ),
    *(
        "{",
        "{}",
        "{:d}",
        "%s",
        "$NOWHERE/x",
        "~",
        "~nobody/x",
        "..",
        "/",
        "/dev/zero",
        "/dev/null",
        ".",
        "a/b",
        "*",
        "a*",
    ),
    *("random:", "random:-1", "random:9" * 20, "tag@/nowhere", "module:Class", "no.such:thing", "shipped:none.csv"),
    *([], {}, [[]], [None], {"a": {"b": 1}}, [1, 1.0], [True, 1], ["a", "a"], {"": 1}, list(range(2000))),
    *({"size": 224}, {"views": None}, {"frames": 10**9}, {"use": 5}, {"use": "mote/none"}, {"like": "ucf101"}),
)
LINES = (
    *(
        "? {a: b}\n: 1",
        "? [a]\n: 1",
        "1: 2",
        "null: 1",
        "true: 1",
        "2020-01-01: 1",
        "<<: {title: x}",
        "=: 1",
        "- a",
        "a",
    ),
    *("x: &a [*a]", "x: *nowhere", "x: !!python/object/apply:os.getcwd []", "x: !!set {a}", "x: !own 1", "x: !!int ''"),
    *("---", "...", "%YAML 9.9", "\tx: 1", "x:\t1", "x: 'open", 'x: "\\x00"', "x: |\n  a", "x: 0x", "x: 2020-99-99"),
    *(
        "{" * 50,
        "[" * 3000,
        "x: " + "[" * 100 + "]" * 100,
        "x: " + "9" * 5000,
        "x: 0x" + "f" * 9000,
        "@x",
        "`x`",
        "x: y: z",
    ),
    *(
        "seeds: [0, 0]",
        "seeds: [0, '0']",
        "world: glyphs",
        "fidelity: clean",
        "axes: {recipe.lr: [1, 1.0]}",
        "\ufeffx: 1",
    ),
)
OVERRIDES = ("world=glyphs", "fidelity=clean", "recipe.epochs=2", "seeds=[3]", "recipe.views=5", "protocols.x={}")


def run(seed: int, count: int, folder: Path, suites: Sequence[Path] | None = None) -> Counter[str]:
    """Plan mutated suites: `count` rounds. Returns the numbers of outcomes."""
    shipped = suites or sorted(SUITES.glob("*.yaml"))
    outcomes: Counter[str] = Counter()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        file = folder / f"mutated-{number}.yaml"
        file.write_bytes(mutated(rng.choice(shipped).read_text(encoding="utf-8"), rng))
        overrides = rng.sample(OVERRIDES, rng.choice((0, 0, 0, 1, 1, 2)))
        outcome = planned(file, overrides, folder)
        outcomes[outcome] += 1
        if not outcome.startswith("WRONG"):
            file.unlink()
    return outcomes


def planned(file: Path, overrides: Sequence[str], folder: Path) -> str:
    """The outcome of `plan` on a file."""
    errors = StringIO()
    try:
        with redirect_stderr(errors), redirect_stdout(StringIO()), limited(SECONDS):
            code = main(["plan", str(file), *overrides, "--store", str(folder / "runs")])
    except Hang:
        return f"WRONG hang ({file.name})"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"WRONG traceback ({type(error).__name__} in {Path(last.filename).name}:{last.lineno}, {file.name})"
    finally:
        gc.enable()
    message = errors.getvalue()
    if code == 0:
        return "planned"
    if code != 2 or "Traceback" in message:
        return f"WRONG exit code {code} ({file.name})"
    named = file.name in message or "override" in message
    return "refused" if named else f"WRONG refused without file ({file.name}: {message.strip()[:200]})"


# --- mutations --------------------------------------------------------------------------------------------------------


def mutated(text: str, rng: random.Random) -> bytes:
    """A suite with one to three mistakes: in its tree, its lines or its bytes."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        try:
            data = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError, IndexError):
            data = None
        if isinstance(data, dict) and rng.random() < 0.75:
            rng.choice(IN_TREE)(data, rng)
            text = yaml.dump(data, sort_keys=False, width=10_000)
        else:
            lines = text.split("\n")
            rng.choice(IN_LINES)(lines, rng)
            text = "\n".join(lines)
    data_ = bytearray(text.encode("utf-8", "surrogatepass"))
    match rng.randrange(40):
        case 0:
            del data_[rng.randrange(len(data_) + 1) :]
        case 1 if data_:
            data_[rng.randrange(len(data_))] ^= 1 << rng.randrange(8)
        case 2:
            place = rng.randrange(len(data_) + 1)
            data_[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        case 3:
            return text.encode(rng.choice(("utf-16", "latin-1", "utf-8-sig", "cp1252")), "replace")
    return bytes(data_)


Node = dict[Any, Any] | list[Any]


def _places(data: Any) -> list[tuple[Node, Any]]:
    """Every (mapping or list, key or index)."""
    found: list[tuple[Node, Any]] = []
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        found += [(data, key), *_places(data[key])]
    return found


def _delete(data: Any, rng: random.Random) -> None:
    node, key = rng.choice(_places(data) or [({0: 0}, 0)])
    del node[key]


def _replace(data: Any, rng: random.Random) -> None:
    node, key = rng.choice(_places(data) or [({}, 0)])
    node[key] = rng.choice(ODD)


def _rename(data: Any, rng: random.Random) -> None:
    nodes = [(node, key) for node, key in _places(data) if isinstance(node, dict)]
    node, key = rng.choice(nodes or [({0: 0}, 0)])
    new = rng.choice(
        ("x", "a" * 300, "é", "", 5, None, True, f"{key}s", str(key)[:-1], "recipe", "a.b", "protocol.views")
    )
    node[new] = node.pop(key)


def _copy(data: Any, rng: random.Random) -> None:
    places = _places(data) or [({0: 0}, 0)]
    (node, key), (other, there) = rng.choice(places), rng.choice(places)
    if key in node if isinstance(node, dict) else key < len(node):
        node[key] = yaml.safe_load(yaml.dump(other[there]))


def _nest(data: Any, rng: random.Random) -> None:
    node, key = rng.choice(_places(data) or [({0: 0}, 0)])
    for _ in range(rng.choice((1, 2, 60))):
        node[key] = rng.choice(([node[key]], {"a": node[key]}))


def _scale(data: Any, rng: random.Random) -> None:
    numbers = [(node, key) for node, key in _places(data) if isinstance(node[key], int | float)]
    node, key = rng.choice(numbers or [({0: 0}, 0)])
    node[key] = rng.choice((-1, 0, 0.5, 1000, 10**6, 10**12)) * node[key]


def _lengthen(data: Any, rng: random.Random) -> None:
    lists = [(node, key) for node, key in _places(data) if isinstance(node[key], list) and node[key]]
    node, key = rng.choice(lists or [({0: [0]}, 0)])
    node[key] = node[key] * rng.choice((2, 3, 500))


def _odd_line(lines: list[str], rng: random.Random) -> None:
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))


def _without_line(lines: list[str], rng: random.Random) -> None:
    del lines[rng.randrange(len(lines))]


def _line_twice(lines: list[str], rng: random.Random) -> None:
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))


def _indented(lines: list[str], rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    lines[at] = rng.choice((" ", "  ", "\t", "    ")) + lines[at]


def _odd_value(lines: list[str], rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    lines[at] = f"{key}{colon} {rng.choice((*map(str, ODD), '*a', '&a', '!x', '|', '>', '@', '`', '%', '{', '[', '}'))}"


IN_TREE: tuple[Callable[[Any, random.Random], None], ...] = (
    *(_delete, _replace, _replace, _replace, _rename, _copy, _nest, _scale, _lengthen),
)
IN_LINES: tuple[Callable[[list[str], random.Random], None], ...] = (
    *(_odd_line, _odd_line, _without_line, _line_twice, _indented, _odd_value),
)
