from pathlib import Path

from tests.data import torture_lists


def test_no_mutation_of_a_list_goes_unnoticed(tmp_path: Path) -> None:
    found = torture_lists.run(1, 80, tmp_path)
    assert not [outcome for outcome in found if outcome.startswith("WRONG")], found
    assert found["read"] > 20 and found["refused"] > 20 and found.total() == 80
