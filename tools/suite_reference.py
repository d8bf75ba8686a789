"""Reference of every key that a user can write, from the models that read them: docs/suite_reference.md.

    python -m tools.suite_reference            writes the page
    python -m tools.suite_reference --check    fails if the page is stale or a key has no description

Type, default and meaning come from pydantic's JSON schemas. A description ends with its source in brackets, unless it
names a source for each of several values.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.data.datasets import Dataset
from bench.launch.site import Site
from bench.suite.file import SuiteFile
from bench.suite.protocol import Protocol
from bench.suite.recipe import Recipe
from methods.registry import Method, methods

Schema = dict[str, Any]

PAGE = Path(__file__).parents[1] / "docs" / "suite_reference.md"
INTRODUCTION = """\
# Suite reference

Every key of a suite file, of the site file, and of each method. `python -m tools.suite_reference` writes this page
from the descriptions in the code; a test checks that it is up to date. A wrong key, type or value gives one message
with file, line, allowed values and a suggestion. For a whole suite see [first_comparison.md](first_comparison.md).

**required** marks a key without default; *none* is YAML's `null`. The last column names the source of a value or rule:
a paper, its official code ("code"), or a file of this project. A method's paper stands above its tables.

**Rows become trials.** A row is multiplied by its axes, the suite's axes and the seeds. An axis names any field of
`config`, `inference`, `recipe`, `protocol` (all protocols) or `protocols.<name>` (one), with a list of values; or it
has a name of its own and named bundles that move several fields together (suites/depth.yaml). Settings of a row go over
those of the suite, an axis over both, and `fidelity` lies below all of them. Axes over `inference` alone train once.
One point of an axis marked `tune: true` is chosen by `select` ([tuning.md](tuning.md)).

**A suite over another.** `base: other.yaml` (a path from the file that says so) or `base: quickstart` (a shipped suite)
lays the keys of a file over those of its base; a base may have a base.

```yaml
base: quickstart
title: Quickstart with a wider MoTE, without Text4Vis
seeds: [0, 1, 2]                               # lists and values take the base's place
rows:
  text4vis: null                               # removes a key of the base
  wide: {method: mote, config: {layers: 2, num_experts: 8}}   # new keys follow those of the base
report: {compare: [[wide, mote]]}
```

Mappings are merged key by key; everything else is replaced. `null` removes a key that the base has: a row, a protocol,
a dataset, an axis or one of its bundles, a section of the file or of a row. Below `recipe`, `config`, `inference`,
`protocol`, `at_toy_scale`, `protocols.<name>` and `datasets.<name>`, where keys hold values, `null` is a value as in
any file. `title` and `description` are inherited like all keys; the suite's name is that of its own file. Relative
paths of datasets and templates start at the folder of the file that has them, errors name that file and line, and
overrides apply to what is merged. `plan` says what is added, replaced and removed. Equal settings have equal
identities, whichever file they are in. Launches keep the merged text, so neither `retry` nor `remove` needs the base.

**A protocol is a value with a hash.** A table has one protocol in each column. A row that is measured otherwise is
marked with the fields that differ, and takes part in no comparison, mean or bold.
"""
ROOTS: dict[str, tuple[type[BaseModel], str]] = {
    "Suite": (SuiteFile, "The keys of a suite file, `suites/*.yaml` or your own."),
    "Recipe": (Recipe, "Keys below `recipe` of a suite or a row; an axis names them `recipe.<key>`."),
    "Protocol": (
        Protocol,
        "Keys below `protocols.<name>`, and below `protocol` of a suite (defaults of all) or of a row. `use: HOW/WHAT` "
        "takes a named protocol (`python run_suite.py list protocols`); keys beside it change single fields.",
    ),
    "Dataset": (Dataset, "Keys below `datasets.<name>`; see [add_a_dataset.md](add_a_dataset.md)."),
    "Site": (Site, "The keys of the site file of a cluster; see [slurm.md](slurm.md)."),
}
NAMES = {"string": "text", "boolean": "true or false", "null": "*none*", "object": "mapping", "array": "list"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
SOURCE = re.compile(r"\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)$")


def page() -> str:
    """The whole page. Raises ValueError for a key without a description."""
    shipped = [method for method in methods().values() if method.package.startswith("methods.")]
    parts = [INTRODUCTION]
    for title, (model, introduction) in ROOTS.items():
        parts += [f"## {title}\n\n{introduction}\n", *(text for text in _tables(model) if text not in parts)]
    parts.append(
        "## Methods\n\n`Config` changes training (`config` of a row), `Inference` the test alone (`inference`).\n"
    )
    parts += [text for method in shipped for text in _method(method)]
    return "\n".join(parts)


def _method(method: Method) -> Iterator[str]:
    yield f"### {method.name}\n\n{inspect.getdoc(import_module(method.modules[0]))}\n"
    for name, model in (("Config", method.config), ("Inference", method.inference)):
        for table in _tables(model):
            yield f"**{name} of {method.name}**\n\n{table}"


def _tables(model: type[BaseModel]) -> Iterator[str]:
    """The table of a model, then those of the models that it holds."""
    schema = model.model_json_schema()
    yield _table(schema)
    for name, held in schema.get("$defs", {}).items():
        if "properties" in held:
            yield f"### {name}\n\n{held.get('description', '')}\n\n{_table(held)}"


def _table(schema: Schema) -> str:
    lines = ["| key | type | default | meaning | source |", "|---|---|---|---|---|"]
    for key, field in schema["properties"].items():
        if "description" not in field:
            raise ValueError(f"'{key}' of {schema['title']} has no description")
        default = "**required**" if key in schema.get("required", ()) else _default(field)
        meaning, source = _meaning(field["description"])
        lines.append("| " + " | ".join((f"`{key}`", _type(field), default, meaning, source)) + " |")
    return "\n".join(lines) + "\n"


def _meaning(description: str) -> tuple[str, str]:
    """(meaning, source) of a description that may end with its source in brackets."""
    text = " ".join(description.split()).replace("|", r"\|")
    found = SOURCE.search(text)
    if not found or "`" in found[1] or re.search(r"\([A-Z]", text[: found.start()]):
        return text, "–"
    return text[: found.start()], found[1]


def _type(field: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in field.keys() & {"anyOf", "oneOf"}:
        return " or ".join(dict.fromkeys(map(_type, field[key])))
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind: str = field.get("type", "any value")
    bounds = [f"{sign} {field[key]:g}" for key, sign in BOUNDS.items() if key in field]
    return " ".join([NAMES.get(kind, kind) + _items(field), *bounds])


def _items(field: Schema) -> str:
    """Type of the items of a list or a mapping, e.g. " of text"."""
    if "prefixItems" in field:
        return f" [{', '.join(map(_type, field['prefixItems']))}]"
    held = next((field[key] for key in ("items", "additionalProperties") if isinstance(field.get(key), dict)), None)
    for pattern in field.get("patternProperties", {}).values():
        held = pattern
    return f" of {_type(held)}" if held else ""


def _default(field: Schema) -> str:
    value = field.get("default")
    if value is None:
        return "*none*"
    if "$ref" in field:
        return "its defaults"
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main(arguments: list[str]) -> int:
    written = page()
    if "--check" not in arguments:
        PAGE.write_text(written, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != written:
        print(f"{PAGE.name} is stale: python -m tools.suite_reference writes it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
