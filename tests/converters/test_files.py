"""Files that appear whole or not at all."""

import os
import stat

import pytest

from bnnkeras.files import replacing

pytestmark = pytest.mark.any_backend


def test_the_file_appears_when_the_block_succeeds(tmp_path) -> None:
    path = tmp_path / "new" / "folders" / "model.v2.keras"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        # Keras chooses the format by the suffix.
        assert temporary.name.endswith(".keras")
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_when_the_block_fails(tmp_path, error) -> None:
    path = tmp_path / "report.json"
    path.write_text("before")
    with pytest.raises(error):
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


def test_an_existing_file_is_replaced(tmp_path) -> None:
    path = tmp_path / "report.json"
    path.write_text("before")
    with replacing(os.fspath(path)) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after"


def test_the_file_is_as_readable_as_any_other(tmp_path) -> None:
    previous = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=f"Cannot write to the output folder .*{tmp_path.name}/file"):
        with replacing(tmp_path / "file" / "model.tflite"):
            pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path) -> None:
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(OSError, match="model.tflite"):
        with replacing(tmp_path / "model.tflite") as temporary:
            temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]
    assert [*(tmp_path / "model.tflite").iterdir()] == []
