"""Files of frame features and their declarations: three forms of file, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from bench.data.datasets import Dataset, declared_fields
from bench.data.feature_files import are_normalised, contents
from tests.errors import refused

NAMES = ["a/x.mp4", "b/y.mp4", "c/z.mp4"]
FEATURES = np.random.default_rng(0).normal(size=(3, 4, 128)).astype(np.float32)  # [N, T, D]


def write(
    file: Path, features: np.ndarray = FEATURES, names: list[str] = NAMES, labels: list[Any] | None = None
) -> Path:
    """All features in one array or column, beside their names and labels."""
    more = {} if labels is None else {"labels": labels}
    if file.suffix == ".npz":
        arrays: dict[str, Any] = {"features": features, "names": np.array(names), **more}
        np.savez(file, **arrays)
    elif file.suffix == ".safetensors":
        save_file(
            {"features": features}, file, {name: json.dumps(own) for name, own in {"names": names, **more}.items()}
        )
    else:
        kind = pa.list_(pa.list_(pa.from_numpy_dtype(features.dtype)))
        column = pa.array([[list(own_D) for own_D in own_TD] for own_TD in features], kind)
        pq.write_table(pa.table({"names": names, "features": column, **more}), file)
    return file


def declared(folder: Path, file: str = "f.npz", **more: Any) -> Dataset:
    """A dataset whose split `test` are the features in a file, with a list."""
    (folder / "classes.csv").write_text("id,name\n0,one\n1,two\n2,three\n")
    (folder / "test.txt").write_text("a/x.mp4 0\nb/y.mp4 1\nc/z.mp4 2\n")
    features = {
        "backbone": "glyph-vit",
        "pretrained": "builtin",
        "splits": {"test": {"files": file, "views": {"frames": 4}}},
    }
    fields = {"root": ".", "classes": "classes.csv", "splits": {"test": "test.txt"}, "features": features, **more}
    return Dataset.model_validate(declared_fields("own", str(folder), fields))


def faults(data: Dataset) -> dict[str, str]:
    entries = data.entries("test")
    data.content(entries, split="test")
    return {name: f"{fault.kind} {fault.detail}" for name, fault in data.faults(entries, "test").items()}


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_each_kind_of_file_gives_the_same_features(tmp_path: Path, suffix: str, dtype: type) -> None:
    data = declared(tmp_path, f"f.{suffix}")
    write(tmp_path / f"f.{suffix}", FEATURES.astype(dtype), NAMES[::-1])
    held, entries = data.stored("test"), data.entries("test")
    assert not faults(data)
    for entry, own in zip(entries, FEATURES[::-1].astype(dtype).astype(np.float32), strict=True):
        place = held.place(entry.name, entry.path)
        assert place and np.array_equal(held.read(place), own[None]) and held.read(place).dtype == np.float32


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("names", [NAMES, ["a/x", "b/y", "c/z"], ["x.mp4", "y", "./c/z.mp4"]])
def test_an_array_of_each_video_is_found_by_its_name(tmp_path: Path, suffix: str, names: list[str]) -> None:
    data, arrays = declared(tmp_path, f"f.{suffix}"), dict(zip(names, FEATURES, strict=True))
    np.savez(tmp_path / "f.npz", **arrays) if suffix == "npz" else save_file(arrays, tmp_path / "f.safetensors")
    held = data.stored("test")
    assert not faults(data)
    places = [held.place(entry.name, entry.path) for entry in data.entries("test")]
    assert np.array_equal([held.read(place)[0] for place in places if place], FEATURES)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
@pytest.mark.parametrize("labels", [[2, 0, 1], ["three", "one", "Two"]])
def test_a_split_without_a_list_takes_names_and_labels_from_its_file(
    tmp_path: Path, suffix: str, labels: list[Any]
) -> None:
    data = declared(tmp_path, f"f.{suffix}", splits={})
    write(tmp_path / f"f.{suffix}", labels=labels)
    assert [(entry.path, entry.label) for entry in data.entries("test")] == list(zip(NAMES, [2, 0, 1], strict=True))


def test_labels_are_needed_in_range_and_of_known_classes(tmp_path: Path) -> None:
    for labels, said in ((None, "no labels"), ([0, 1, 3], "3 out of range 0..2"), (["one", "ones", "two"], "'ones'")):
        write(tmp_path / "f.npz", labels=labels)
        with refused(said, where=str(tmp_path / "f.npz")):
            declared(tmp_path, splits={}).entries("test")


def test_content_is_that_of_the_files_and_of_the_list(tmp_path: Path) -> None:
    def content() -> str:
        data = declared(tmp_path)
        return data.content(data.entries("test"), split="test")

    write(tmp_path / "f.npz")
    first = content()
    assert content() == first
    write(tmp_path / "f.npz", FEATURES + 1)
    assert content() != first
    write(tmp_path / "f.npz")
    assert content() == first


def test_single_videos_that_are_wrong_are_named_with_their_file(tmp_path: Path) -> None:
    arrays = dict(zip(NAMES, FEATURES, strict=True))
    arrays["a/x.mp4"] = FEATURES[0, :3]
    arrays["b/y.mp4"] = FEATURES[1].astype(np.float64)
    del arrays["c/z.mp4"]
    np.savez(tmp_path / "f.npz", **arrays)
    found = faults(declared(tmp_path))
    assert found["a/x.mp4"] == "cannot be read f.npz: 'a/x.mp4' has shape [3, 128], and [4, 128] is declared"
    assert found["b/y.mp4"] == "cannot be read f.npz: 'b/y.mp4' is float64; allowed: float16, float32"
    assert found["c/z.mp4"] == "are not there looked for in f.npz"
    assert set(faults(declared(tmp_path, known_bad=["a/x.mp4"]))) == {"b/y.mp4", "c/z.mp4"}
    np.savez(tmp_path / "f.npz", **dict(zip(NAMES, FEATURES, strict=True)))
    assert not faults(declared(tmp_path)) and not faults(declared(tmp_path))  # the second time it is known


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    features = FEATURES.copy()
    features[1, 2, 3] = np.inf
    write(tmp_path / "f.npz", features)
    held = declared(tmp_path).stored("test")
    with pytest.raises(ValueError, match=r"f.npz: 'b/y.mp4' has numbers that are not finite"):
        held.read((tmp_path / "f.npz", 1))
    assert held.read((tmp_path / "f.npz", 0)).shape == (1, 4, 128)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
def test_damaged_files_are_refused_with_their_name(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"f.{suffix}")
    for damaged in (b"", b"no features", file.read_bytes()[:-40]):
        file.write_bytes(damaged)
        with refused("cannot be read", where=str(file)):
            contents(file)


def test_files_that_are_no_features_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.npz"
    np.savez(file, features=FEATURES)
    with refused("names", where=str(file)):
        contents(file)
    np.savez(file, features=FEATURES, names=np.array(NAMES[:2]))
    with refused("[3, 4, 128]", "2 names", where=str(file)):
        contents(file)
    np.savez(file, features=FEATURES, names=np.array(["a", "a", "b"]))
    with refused("1 of 3 names appear twice, such as 'a'", where=str(file)):
        contents(file)
    np.savez(file, features=FEATURES, names=np.array(NAMES, object))  # numpy pickles these
    with refused("allow_pickle=False", where=str(file)):
        contents(file)
    file.write_bytes(b"junk")
    with refused("no archive of arrays", where=str(file)):
        contents(file)
    table = tmp_path / "f.parquet"
    pd.DataFrame({"features": [1.0]}).to_parquet(table)
    with refused("no column 'names'", where=str(table)):
        contents(table)
    pd.DataFrame({"names": ["a"], "features": [[[1.0]]]}).to_parquet(table)
    with refused("double", where=str(table), allowed=["float16", "float32"]):
        contents(table)


def test_names_that_fit_two_videos_are_refused(tmp_path: Path) -> None:
    data = declared(tmp_path)
    (tmp_path / "test.txt").write_text("a/x.mp4 0\nb/x.mp4 1\n")
    write(tmp_path / "f.npz", FEATURES[:1], ["x"])
    with refused("'x' may be 'a/x.mp4' or 'b/x.mp4'", where=str(tmp_path / "f.npz")):
        data.content(data.entries("test"), split="test")
    write(tmp_path / "g.npz", FEATURES[:1], ["x"])
    two = {"files": ["f.npz", "g.npz"], "views": {"frames": 4}}
    both = {"backbone": "glyph-vit", "pretrained": "builtin", "splits": {"test": two}}
    with refused("'x' is also in", "f.npz", where=str(tmp_path / "g.npz")):
        declared(tmp_path, features=both).stored("test")


def test_files_stay_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    write(tmp_path / "f.npz")
    with refused("leads out", where="features.splits.test"):
        declared(tmp_path, "../f.npz", root="inside").missing("test")
    (tmp_path / "inside" / "f.npz").symlink_to(tmp_path / "f.npz")
    with refused("leads out", where="features.splits.test"):
        declared(tmp_path, root="inside").missing("test")
    assert declared(tmp_path, root="inside", links={"follow": "."}).missing("test") is None


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert "'f.npz' of dataset 'own' not found" in str(declared(tmp_path).missing("test"))
    data = declared(tmp_path, splits={"test": "test.txt", "val": "test.txt"})
    assert data.missing("val") == "no features of split 'val' of dataset 'own' are declared"


def test_normalised_features_are_told_by_their_lengths() -> None:
    unit = FEATURES / np.linalg.norm(FEATURES, axis=-1, keepdims=True)
    assert are_normalised(unit) and are_normalised(unit.astype(np.float16).astype(np.float32))
    assert not are_normalised(FEATURES) and not are_normalised(np.zeros_like(FEATURES))
    assert are_normalised(np.concatenate([unit, np.zeros_like(unit)]))
