"""Tokens on disk are the tokens embedded, to the last bit of a half float, or not there."""

import errno
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.errors import (
    Cancelled,
    EncoderError,
    OutputError,
)
from SpatialARAnomalyLib.engine.model import feature_store
from SpatialARAnomalyLib.engine.model.feature_store import (
    FeatureStore,
    feature_key,
    release_pages,
)

SHAPE = (7, 5, 3, 4)
TOKENS = np.random.RandomState(3).normal(scale=4.0, size=SHAPE).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def files(store: FeatureStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def batches(*sizes):
    assert sum(sizes) == len(TOKENS)
    return iter(np.split(TOKENS, np.cumsum(sizes)[:-1]))


def test_what_is_read_is_what_was_written_in_half_precision(store):
    store.write("key", SHAPE, batches(2, 2, 2, 1))
    tokens = store.open("key")
    assert tokens.dtype == np.float16
    assert np.array_equal(tokens, TOKENS.astype(np.float16))
    assert np.abs(tokens - TOKENS).max() < 2**-11 * np.abs(TOKENS).max()


def test_how_it_is_cut_into_batches_leaves_no_trace(store):
    store.write("one", SHAPE, batches(7))
    store.write("many", SHAPE, (TOKENS[i : i + 1].swapaxes(2, 3).swapaxes(2, 3) for i in range(7)))
    one, many = (store.folder / f"{key}.npy" for key in ("one", "many"))
    assert one.read_bytes() == many.read_bytes()


def test_batches_that_are_not_contiguous_are_stored_in_order(store):
    turned = np.ascontiguousarray(TOKENS.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1)
    assert not turned.flags.c_contiguous
    store.write("key", SHAPE, [turned])
    assert np.array_equal(store.open("key"), TOKENS.astype(np.float16))


def test_tokens_are_mapped_and_cannot_be_changed(store):
    store.write("key", SHAPE, batches(7))
    tokens = store.open("key")
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 0


@pytest.mark.parametrize("error", [Cancelled(), KeyboardInterrupt(), ValueError("broken")])
def test_an_interrupted_embedding_leaves_nothing_under_the_key(store, error):
    def interrupted():
        yield TOKENS[:3]
        raise error

    with pytest.raises(type(error)):
        store.write("key", SHAPE, interrupted())
    assert "key" not in store
    assert files(store) == []

    store.write("key", SHAPE, batches(3, 4))
    assert np.array_equal(store.open("key"), TOKENS.astype(np.float16))
    assert files(store) == ["key.npy"]


def test_a_longer_leftover_is_harmless(store):
    store.folder.mkdir(parents=True)
    (store.folder / "key.npy.partial").write_bytes(b"\xff" * 100_000)
    assert "key" not in store
    store.write("key", SHAPE, batches(7))
    assert np.array_equal(store.open("key"), TOKENS.astype(np.float16))


def test_an_embedding_that_fails_keeps_the_earlier_one(store):
    store.write("key", SHAPE, batches(7))
    with pytest.raises(AssertionError, match="3 of 7 images"):
        store.write("key", SHAPE, [np.zeros_like(TOKENS[:3])])
    assert np.array_equal(store.open("key"), TOKENS.astype(np.float16))


@pytest.mark.parametrize("count", [6, 8])
def test_another_number_of_images_is_refused(store, count):
    with pytest.raises(AssertionError, match=f"{count} of 7 images"):
        store.write("key", SHAPE, [np.ones((count, *SHAPE[1:]), np.float32)])
    assert "key" not in store


def test_another_grid_of_the_same_size_is_refused(store):
    with pytest.raises(AssertionError, match="for"):
        store.write("key", SHAPE, [TOKENS.reshape(7, 5, 4, 3)])
    assert "key" not in store


def test_a_full_disk_is_an_error_the_user_can_act_on(store, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/where/it/lies")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError) as caught:
        store.write("key", SHAPE, batches(7))
    assert caught.value.code == "training-unwritable"
    assert caught.value.message == "The tokens cannot be stored (No space left on device)."
    assert "key" not in store


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0, -1e30])
def test_tokens_that_half_precision_cannot_hold_are_refused(store, value):
    bad = TOKENS.copy()
    bad[5, 2, 1, 3] = value
    with pytest.raises(EncoderError) as caught:
        store.write("key", SHAPE, [bad[:3], bad[3:]])
    assert caught.value.code == "encoder-not-finite"
    assert caught.value.message == (
        "The encoder's tokens must be finite and within ±65504; they are not."
    )
    assert files(store) == []


def test_the_key_changes_with_the_way_to_the_tokens(monkeypatch):
    before = feature_key("12", encoder="ab")
    monkeypatch.setattr(feature_store, "PREPARATION_VERSION", 2)
    assert feature_key("12", encoder="ab") != before


def test_the_key_changes_with_all_that_changes_tokens():
    settings = {"slices": {"fov_mm": 240.0, "plane": "axial"}, "encoder": "ab"}
    keys = [
        feature_key("12", **settings),
        feature_key("13", **settings),
        feature_key("12", **settings | {"encoder": "ac"}),
        feature_key("12", **settings | {"slices": {"fov_mm": 240.5, "plane": "axial"}}),
        feature_key("12", **settings, intensity={"low": 1.0}),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)
    same = {"encoder": "ab", "slices": {"plane": "axial", "fov_mm": 240.0}}
    assert feature_key("12", **same) == keys[0]


@pytest.mark.parametrize("length", [0, 5, 100, 500, -1])
def test_a_file_that_was_cut_counts_as_none(store, length):
    store.write("key", SHAPE, batches(7))
    file = store.folder / "key.npy"
    assert "key" in store
    file.write_bytes(file.read_bytes()[:length])
    assert "key" not in store
    store.write("key", SHAPE, batches(7))
    assert np.array_equal(store.open("key"), TOKENS.astype(np.float16))


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system cannot be told so")
def test_what_was_read_is_let_go_and_read_again(store):
    """What a training holds of its store is a batch, not all that it ever read."""
    shape = (8, 64, 64, 64)  # 4 MB
    tokens = np.random.RandomState(0).normal(size=shape).astype(np.float32)
    store.write("key", shape, iter(tokens[:, None]))
    mapped = store.open("key")

    def held_bytes() -> int:
        text = Path("/proc/self/smaps").read_text()
        entry = text[text.index("key.npy") :]
        return 1024 * int(entry[entry.index("Rss:") :].split()[1])

    read = np.array(mapped)
    if sys.platform == "linux":
        assert held_bytes() > 3_000_000
    release_pages(mapped[2:4])  # a part stands for the whole
    if sys.platform == "linux":
        assert held_bytes() < 100_000
    assert np.array_equal(mapped, read)
    assert np.array_equal(read, tokens.astype(np.float16))
    release_pages(read)  # not mapped: nothing happens
    assert np.array_equal(read, tokens.astype(np.float16))


def test_a_folder_that_vanished_is_not_made_again(tmp_path):
    store = FeatureStore(tmp_path / "gone" / "features")
    for use in (lambda: store.write("key", SHAPE, batches(7)), lambda: store.open("key")):
        with pytest.raises(OutputError, match="its folder is gone") as caught:
            use()
        assert caught.value.code == "training-unwritable"
    assert not store.folder.parent.exists()
