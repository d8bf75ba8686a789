import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.datasets import Entry
from bench.data.selection import base_and_novel, few_shot, merged_vocabulary, of_classes
from tests.errors import refused


def videos(counts: list[int]) -> list[Entry]:
    """As many videos of class c as counts[c], the classes mixed."""
    found = [Entry(f"{label}/{video}.avi", label) for label, count in enumerate(counts) for video in range(count)]
    random.Random(0).shuffle(found)
    return found


HMDB_TRAIN, HMDB_TEST = videos([70] * 51), videos([30] * 51)  # every official split is balanced like this


@given(st.lists(st.integers(4, 9), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 2**32))
def test_few_shot_takes_so_many_of_each_class_in_order(counts: list[int], shots: int, seed: int) -> None:
    entries = videos(counts)
    drawn = few_shot(entries, shots, seed)
    assert [entry.label for entry in drawn] == [label for label in range(len(counts)) for _ in range(shots)]
    assert len(set(drawn)) == len(drawn)
    places = [(entry.label, entries.index(entry)) for entry in drawn]
    assert places == sorted(places)
    assert set(drawn) <= set(few_shot(entries, 4, seed)), "more shots contain fewer"


def test_a_few_shot_draw_follows_from_its_seed_and_the_class_alone() -> None:
    assert few_shot(HMDB_TRAIN, 2, 0) == few_shot(HMDB_TRAIN, 2, 0) != few_shot(HMDB_TRAIN, 2, 1)
    without_class_0 = [entry for entry in HMDB_TRAIN if entry.label]
    assert few_shot(without_class_0, 2, 0) == few_shot(HMDB_TRAIN, 2, 0)[2:]
    assert [len(few_shot(HMDB_TRAIN, shots, 0)) for shots in (2, 4, 8, 16)] == [102, 204, 408, 816]


def test_every_video_of_a_class_can_be_drawn() -> None:
    assert {few_shot(videos([5]), 1, seed)[0].path for seed in range(60)} == {f"0/{video}.avi" for video in range(5)}


def test_a_class_with_too_few_videos_is_named() -> None:
    with refused("class 1", "3 videos", "4 shots", "'1/"):
        few_shot(videos([4, 3, 4]), 4, 0)


def test_base_classes_have_more_training_videos() -> None:
    assert base_and_novel(videos([5, 1, 9, 2]), 4) == ([0, 2], [1, 3])
    assert base_and_novel(videos([5, 1, 9]), 4) == ([0, 2], [1, 3])  # class 3 has none
    assert base_and_novel(videos([3, 3, 3]), 3) == ([1, 2], [0])


@pytest.mark.parametrize(("classes", "base", "novel"), [(51, 26, 25), (101, 51, 50), (400, 200, 200), (174, 87, 87)])
def test_halves_have_the_published_sizes(classes: int, base: int, novel: int) -> None:
    own_base, own_novel = base_and_novel(videos([1] * classes), classes)
    assert (len(own_base), len(own_novel)) == (base, novel)
    assert sorted(own_base + own_novel) == list(range(classes))


def test_halves_of_hmdb_have_the_published_counts() -> None:
    base, novel = base_and_novel(HMDB_TRAIN, 51)
    assert (base, novel) == (list(range(25, 51)), list(range(25)))
    assert len(of_classes(HMDB_TRAIN, base)) == 1820
    assert (len(of_classes(HMDB_TEST, base)), len(of_classes(HMDB_TEST, novel))) == (780, 750)
    assert len(few_shot(of_classes(HMDB_TRAIN, base), 16, 0)) == 416


def test_labels_count_within_the_chosen_classes() -> None:
    entries = [Entry("a", 7), Entry("b", 3), Entry("c", 5), Entry("d", 7)]
    assert [(entry.path, entry.label, entry.class_id) for entry in of_classes(entries, [5, 7])] == [
        ("a", 1, 7),
        ("c", 0, 5),
        ("d", 1, 7),
    ]


def test_vocabularies_merge_names_that_have_the_same_letters() -> None:
    names = ["Apply Eye Makeup", "YoYo"]
    others = ["applying makeup", "yo-yo", "Push Ups", "pushups", "apply eye makeup"]
    assert merged_vocabulary(names, others) == ["Apply Eye Makeup", "YoYo", "applying makeup", "Push Ups"]
    assert merged_vocabulary(["a b", "ab"], []) == ["a b", "ab"]  # the test set's own names all stay
