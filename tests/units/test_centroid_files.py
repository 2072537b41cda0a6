"""Centroids of others: scikit-learn's by joblib in all its ways, NumPy's, damaged and hostile."""

from __future__ import annotations

import pickle
import sys
import types

import numpy as np
import pytest
import torch

from gslm.errors import UserError
from gslm.units.encoders import MFCCEncoder
from gslm.units.quantizers import centroid_files
from gslm.units.quantizers.centroid_files import read_centroids
from gslm.units.unit_encoder import UnitEncoder

joblib = pytest.importorskip("joblib", reason="scikit-learn is not installed")
cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn is not installed")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((200, 13)).astype(np.float32)


@pytest.fixture(scope="module", params=["batches", "batches with a RandomState", "whole"])
def fitted(request, frames):
    if request.param == "whole":
        return cluster.KMeans(7, n_init=1, random_state=0).fit(frames)
    state = np.random.RandomState(1) if "State" in request.param else 0
    return cluster.MiniBatchKMeans(7, n_init=1, random_state=state).fit(frames)


def _same(path, fitted) -> bool:
    found = read_centroids(path)
    assert found.dtype == torch.float32
    return np.array_equal(found.numpy(), fitted.cluster_centers_.astype(np.float32))


@pytest.mark.parametrize(
    "compress", [0, True, 9, "zlib", "gzip", "bz2", "lzma", "xz"], ids=lambda c: f"compress={c}"
)
def test_what_joblib_dumps_is_read(fitted, compress, tmp_path):
    joblib.dump(fitted, tmp_path / "km.bin", compress=compress)
    assert _same(tmp_path / "km.bin", fitted)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_of_joblib_and_of_pickle_is_read(fitted, protocol, tmp_path):
    with (tmp_path / "km.bin").open("wb") as file:
        joblib.dump(fitted, file, protocol=protocol)
    assert _same(tmp_path / "km.bin", fitted)
    (tmp_path / "km.pkl").write_bytes(pickle.dumps(fitted, protocol=protocol))
    assert _same(tmp_path / "km.pkl", fitted)


def _as_old_sklearn(fitted, monkeypatch):
    """The same object as scikit-learn 0.22 had it: under another module, with other attributes."""
    module = types.ModuleType("sklearn.cluster.k_means_")
    old = type("MiniBatchKMeans", (), {"__module__": module.__name__})
    module.MiniBatchKMeans = old
    monkeypatch.setitem(sys.modules, module.__name__, module)
    estimator = old()
    estimator.__dict__ = {
        "n_clusters": 7,
        "random_state_": np.random.RandomState(0),
        "counts_": np.ones(7, np.int32),
        "cluster_centers_": np.asfortranarray(fitted.cluster_centers_.astype(">f8")),
        "labels_": np.zeros(200, np.int32),
        "inertia_": np.float64(3.5),
        "_sklearn_version": "0.22.1",
    }
    return estimator


def test_an_old_file_is_read_though_its_classes_are_gone(fitted, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        joblib.dump(_as_old_sklearn(fitted, patched), tmp_path / "km.bin")
    assert "sklearn.cluster.k_means_" not in sys.modules
    assert _same(tmp_path / "km.bin", fitted)


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f4", "<f2", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_files_are_read(dtype, order, tmp_path):
    centers = np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order)
    expected = torch.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "c.npy", centers)
    np.savez(tmp_path / "one.npz", anything=centers)
    np.savez_compressed(tmp_path / "two.npz", cluster_centers_=centers, counts=np.ones(3))
    joblib.dump(centers, tmp_path / "array.bin")
    for name in ("c.npy", "one.npz", "two.npz", "array.bin"):
        assert torch.equal(read_centroids(tmp_path / name), expected), name


@pytest.mark.parametrize("write", [np.savez_compressed, joblib.dump])
def test_what_unfolds_to_more_than_a_k_means_is_refused(write, monkeypatch, tmp_path):
    monkeypatch.setattr(centroid_files, "_MAX_BYTES", 100_000)
    path = tmp_path / "bomb.npz"
    centers = np.zeros((1000, 100), np.float32)
    if write is joblib.dump:
        write(centers, path, compress=9)
    else:
        write(path, centroids=centers)
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="unfolds to over"):
        read_centroids(path)


class _Runs:
    """A pickle that leaves a file behind where it is run."""

    def __init__(self, call, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("where", ["alone", "in a k-means", "in an array"])
@pytest.mark.parametrize("compress", [0, 3])
def test_a_malicious_pickle_does_not_run(frames, where, compress, tmp_path):
    import os

    mark = tmp_path / "it ran"
    bad = _Runs(os.mkdir, str(mark))
    if where == "in a k-means":
        fitted = cluster.KMeans(3, n_init=1).fit(frames)
        fitted.harmless = bad
        bad = fitted
    if where == "in an array":
        bad = np.array([bad, None], dtype=object)
    joblib.dump(bad, tmp_path / "km.bin", compress=compress)
    with pytest.raises(UserError) as error:
        read_centroids(tmp_path / "km.bin")
    assert not mark.exists()
    assert "\n" not in str(error.value)
    if where != "in an array":
        assert "asks to run posix.mkdir" in str(error.value) or "nt.mkdir" in str(error.value)
    joblib.load(tmp_path / "km.bin")  # the pickle is one that works
    assert mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy.testing._private.utils\nrunstring\n(S'1/0'\n}tR.",
        b"cjoblib.numpy_pickle\nload\n(S'/etc/passwd'\ntR.",
        b"csklearn.cluster\nKMeans\n(tR}S'__class__'\nI1\nsb.",
        b"csklearn.cluster\nKMeans\n}S'__setstate__'\nI1\nsb.",
        b"\x80\x02\x82\x01.",
        b"Pabc\n.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04K\x01.",
        b"",
        b"not a pickle at all",
    ],
)
def test_hostile_or_foreign_bytes_are_one_line(program, tmp_path):
    path = tmp_path / "km.bin"
    path.write_bytes(program)
    with pytest.raises(UserError) as error:
        read_centroids(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_stand_ins_are_fresh_for_every_file(tmp_path):
    (tmp_path / "alters").write_bytes(b"csklearn.cluster\nKMeans\n(tRN}S'values'\nI1\ns\x86b.")
    for _ in range(2):
        with pytest.raises(UserError, match="holds no cluster_centers_"):
            read_centroids(tmp_path / "alters")


@pytest.mark.parametrize("compress", [0, "zlib", "gzip", "bz2", "lzma"])
def test_a_cut_file_is_one_line(frames, compress, tmp_path):
    joblib.dump(cluster.KMeans(7, n_init=1).fit(frames), tmp_path / "km.bin", compress=compress)
    whole = (tmp_path / "km.bin").read_bytes()
    for n in (1, 10, len(whole) // 2, len(whole) - 9):
        (tmp_path / "cut.bin").write_bytes(whole[:n])
        with pytest.raises(UserError, match=r"cut.bin: "):
            read_centroids(tmp_path / "cut.bin")


def test_what_is_no_matrix_of_numbers_is_refused(tmp_path):
    for name, values in {
        "line": np.ones(3),
        "empty": np.ones((0, 3)),
        "nan": np.array([[1.0, np.nan]]),
        "text": np.array([["a"]]),
        "object": np.array([[None]]),
    }.items():
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(UserError, match=f"{name}.npy: "):
            read_centroids(tmp_path / f"{name}.npy")
    np.savez(tmp_path / "two.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    with pytest.raises(UserError, match="a, b; expected an array called cluster_centers_"):
        read_centroids(tmp_path / "two.npz")
    with pytest.raises(UserError, match="no such file"):
        read_centroids(tmp_path / "none.bin")


def test_an_unfitted_k_means_and_joblibs_oldest_files_are_named(tmp_path):
    joblib.dump(cluster.KMeans(3), tmp_path / "km.bin")
    with pytest.raises(UserError, match="holds no cluster_centers_"):
        read_centroids(tmp_path / "km.bin")
    (tmp_path / "old.bin").write_bytes(b"ZF0x1                  ")
    with pytest.raises(UserError, match=r"joblib before 0\.10"):
        read_centroids(tmp_path / "old.bin")


def test_centroids_of_another_dimension_are_one_line(tmp_path):
    np.save(tmp_path / "c.npy", np.ones((4, 13), np.float32))
    with pytest.raises(UserError) as error:
        UnitEncoder(MFCCEncoder(), read_centroids(tmp_path / "c.npy"))
    assert "(4, 13) do not fit mfcc features of 39" in str(error.value)
    assert "\n" not in str(error.value)
