"""Checkpoint files: whole or skipped, the newest first, never in the way of training."""

import logging
from pathlib import Path

import numpy as np
import pytest

from dnnjob.runs import Position
from dnnjob.training.checkpoint import Checkpoint, CheckpointStore


def checkpoint(batch: int) -> Checkpoint:
    arrays = {"weight_0": np.arange(6, dtype=np.float32).reshape(2, 3) / 3, "empty": np.zeros(0)}
    return Checkpoint(Position(epoch=1, batch=batch), {"stop_reason": None}, arrays)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_a_checkpoint_comes_back_bit_for_bit(store: CheckpointStore) -> None:
    assert store.write(checkpoint(3), attempt=1)

    found = store.read_newest()

    assert found is not None
    assert found.checkpoint.position == Position(epoch=1, batch=3)
    assert found.checkpoint.facts == {"stop_reason": None}
    for name, array in checkpoint(3).arrays.items():
        np.testing.assert_array_equal(found.checkpoint.arrays[name], array)
        assert found.checkpoint.arrays[name].dtype == array.dtype
    np.testing.assert_equal(store.read(found.name).arrays, found.checkpoint.arrays)


def test_the_two_newest_are_kept(store: CheckpointStore, tmp_path: Path) -> None:
    for batch in range(4):
        store.write(checkpoint(batch), attempt=1)

    assert files(tmp_path) == ["00000003-1.ckpt", "00000004-1.ckpt"]


def test_without_any_there_is_none(store: CheckpointStore) -> None:
    assert store.read_newest() is None


@pytest.mark.parametrize("kept", [0, 10, 100, -1])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    store: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    store.write(checkpoint(1), attempt=1)
    store.write(checkpoint(2), attempt=1)
    newest = tmp_path / "checkpoints" / "00000002-1.ckpt"
    newest.write_bytes(newest.read_bytes()[:kept])

    found = store.read_newest()

    assert found is not None
    assert found.checkpoint.position.batch == 1
    assert f"Skipping the damaged checkpoint {newest}" in caplog.text


def test_a_flipped_bit_is_damage(store: CheckpointStore, tmp_path: Path) -> None:
    store.write(checkpoint(1), attempt=1)
    path = tmp_path / "checkpoints" / "00000001-1.ckpt"
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)

    assert store.read_newest() is None


def test_a_half_written_checkpoint_does_not_count(store: CheckpointStore, tmp_path: Path) -> None:
    store.write(checkpoint(1), attempt=1)
    (tmp_path / "checkpoints" / ".00000002-1.ckpt.77-abc.tmp").write_bytes(b"dnnjob")

    found = store.read_newest()

    assert found is not None
    assert found.name == "00000001-1.ckpt"


def test_a_later_attempt_counts_on(store: CheckpointStore, tmp_path: Path) -> None:
    store.write(checkpoint(1), attempt=1)
    store.write(checkpoint(2), attempt=2)

    assert files(tmp_path) == ["00000001-1.ckpt", "00000002-2.ckpt"]


def test_a_checkpoint_that_cannot_be_written_warns(
    store: CheckpointStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dnnjob.training.checkpoint.write_bytes", full)

    with caplog.at_level(logging.WARNING):
        assert not store.write(checkpoint(1), attempt=1)

    assert "training goes on" in caplog.text
    assert "No space left" in caplog.text


def test_an_old_checkpoint_that_cannot_be_removed_is_left(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in range(3):
        store.write(checkpoint(batch), attempt=1)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as storage:
        storage.setattr(Path, "unlink", refuse)
        assert store.write(checkpoint(3), attempt=1)

    assert len(files(tmp_path)) == 3
