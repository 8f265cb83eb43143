"""Results are kept until what they were made from changes."""

from __future__ import annotations

from pathlib import Path

from evidence.cached import kept_json
from lit_instruct.files import digest


def test_the_same_parts_make_a_result_once(tmp_path: Path) -> None:
    source, made = tmp_path / "source.txt", []
    source.write_text("one")

    def make() -> list[int]:
        made.append(len(made))
        return [*made]

    for _ in range(2):
        assert kept_json(tmp_path / "new/found.json", [source, 3], make) == [0]
    assert kept_json(tmp_path / "new/found.json", [source, 4], make) == [0, 1]
    source.write_text("two")
    assert kept_json(tmp_path / "new/found.json", [source, 3], make) == [0, 1, 2]


def test_a_digest_takes_the_content_of_files_and_stages(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "stage.json").write_text("{}")
    assert digest(one, 1) == digest(other, 1) != digest(one, 2)
    (other / "stage.json").write_text("{ }")
    assert digest(one) != digest(other)
    assert digest("a", "b") != digest("ab")
