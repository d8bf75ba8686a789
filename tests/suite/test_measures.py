"""Measures of a table: its protocols by role, then the harmonic means that they allow."""

from __future__ import annotations

from bench.suite.measures import measures


def test_protocols_come_by_role_and_the_harmonic_means_after_them() -> None:
    roles = {"UCF": "zero-shot", "K400": "closed-set", "HMDB": "zero-shot"}
    found = measures(roles, dict.fromkeys(roles, ""))
    assert list(found) == ["K400", "UCF", "HMDB", "hm_zs", "trade_off"]
    assert found["hm_zs"].needs == found["hm_zs"].inputs == ("UCF", "HMDB")
    assert found["trade_off"].needs == ("K400", "hm_zs") and found["trade_off"].inputs == ("K400", "UCF", "HMDB")


def test_a_trade_off_needs_both_sides_and_takes_the_first_closed_set() -> None:
    assert list(measures({"K400": "closed-set"}, {"K400": "k"})) == ["K400"]
    assert list(measures({"UCF": "zero-shot"}, {"UCF": "u"})) == ["UCF", "hm_zs"]
    roles = {"one": "closed-set", "two": "closed-set", "UCF": "zero-shot"}
    assert measures(roles, dict.fromkeys(roles, ""))["trade_off"].needs == ("one", "hm_zs")


def test_base_and_novel_of_one_dataset_are_weighed() -> None:
    roles = {"base": "base", "novel": "novel", "other": "novel"}
    found = measures(roles, {"base": "ucf101", "novel": "ucf101", "other": "hmdb51"})
    assert found["hm_base_novel"].title == "HM" and "hm_base_other" not in found


def test_several_pairs_are_named_by_dataset_and_by_protocols_where_a_dataset_has_two() -> None:
    roles = {"b": "base", "n": "novel", "c": "base", "m": "novel", "l": "novel"}
    found = measures(roles, {"b": "ucf101", "n": "ucf101", "c": "hmdb51", "m": "hmdb51", "l": "hmdb51"})
    titles = {name: measure.title for name, measure in found.items() if name.startswith("hm_")}
    assert titles == {"hm_b_n": "HM ucf101", "hm_c_m": "HM c/m", "hm_c_l": "HM c/l"}
