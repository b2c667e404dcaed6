"""Vectors as a map, and the files of it."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet.jobs import projection_page
from keras_resnet.jobs.projection import (
    Projection,
    check_method,
    folder_labels,
    map_files,
    project_vectors,
)
from keras_resnet.jobs.projection_page import save_projection
from keras_resnet.jobs.vector_files import load_vectors


@pytest.fixture(scope="module")
def clusters() -> np.ndarray:
    """Two groups of twenty vectors, far from one another."""
    random = np.random.default_rng(0)
    centres = np.zeros((2, 8), np.float32)
    centres[1] = 20
    return centres.repeat(20, axis=0) + random.normal(size=(40, 8)).astype(np.float32)


def test_principal_components_are_those_of_the_covariance(clusters: np.ndarray) -> None:
    found = project_vectors(clusters)
    values, directions = np.linalg.eigh(np.cov(clusters.T))
    expected = (clusters - clusters.mean(axis=0)) @ directions[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=1e-3)
    assert found.explained == pytest.approx(values[::-1][:2] / values.sum())


def test_neighbours_stay_neighbours_and_a_seed_is_a_map(clusters: np.ndarray) -> None:
    found = project_vectors(clusters, "tsne")
    assert found.points.shape == (40, 2)
    assert found.explained is None
    apart = np.linalg.norm(found.points[:, np.newaxis] - found.points, axis=-1)
    np.fill_diagonal(apart, np.inf)
    group = np.arange(40) // 20
    assert (group[apart.argmin(axis=1)] == group).all()
    assert np.array_equal(found.points, project_vectors(clusters, "tsne").points)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((2, 4)), "Expected at least 3 vectors"),
        (np.zeros(4), "Expected at least 3 vectors"),
        (np.ones((5, 4)), "Expected different vectors. Received: 5 equal vectors"),
        ([[1, 2], [np.nan, 3], [4, 5]], "1 of 3 with NaN or infinity, the first in row 1"),
    ],
)
def test_vectors_without_a_map_are_refused(vectors: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        project_vectors(vectors)


def test_three_vectors_and_one_channel_have_maps() -> None:
    assert project_vectors(np.eye(3), "tsne").points.shape == (3, 2)
    line = project_vectors(np.arange(5.0)[:, np.newaxis])
    assert line.explained == (1, 0)
    assert (line.points[:, 1] == 0).all()


def test_umap_is_used_where_it_is_installed(
    clusters: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="Expected `project` to be one of"):
        check_method("lda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="run `pip install umap-learn`, or choose pca or tsne"):
        project_vectors(clusters, "umap")
    monkeypatch.undo()
    pytest.importorskip("umap")
    assert project_vectors(clusters, "umap").points.shape == (40, 2)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat/1.png", "dog/2.png", "dog/old/3.png"], ["cat", "dog", "dog"]),
        (["/x/train/cat/1.png", "/x/val/dog/2.png"], ["cat", "dog"]),
        (["n01440764/1.png", "n01443537/2.png"], ["tench", "goldfish"]),
        (["1.png", "2.png"], None),
        (["cat/1.png", "cat/2.png"], None),
        (["cat/1.png", "2.png"], None),
    ],
)
def test_folders_are_classes(names: list[str], labels: list[str] | None) -> None:
    assert folder_labels(names) == labels


def page_data(path: Path) -> dict:
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text()
    )
    return json.loads(text)


def test_page_has_points_classes_and_thumbnails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [tmp_path / f"{index}.png" for index in range(4)]
    for index, path in enumerate(images):
        Image.new("RGB", (200, 100), (60 * index, 0, 0)).save(path)
    images[2].write_bytes(b"no image")
    found = Projection(np.array([[0, 0], [4, 0], [0, 2], [4, 2]], np.float32), "tsne", 0.0)
    beside = tmp_path / "vectors.npz"
    files = map_files(beside, "tsne")
    names, labels = ["</script>", "b", "c", "d"], ["y", "x", "x", "<i>"]
    said = save_projection(found, names, beside, labels=labels, images=images)
    assert said.startswith("3 of 4 points have a thumbnail of 64 pixels")
    data = page_data(files["html"])
    assert data["names"] == names
    # To the same scale, in the middle, and upwards.
    assert data["x"] == [0, 1, 0, 1]
    assert data["y"] == [0.75, 0.75, 0.25, 0.25]
    assert [data["classes"][index] for index in data["label"]] == labels
    assert list(data["thumbnails"]) == ["0", "1", "3"]
    shown = Image.open(io.BytesIO(base64.b64decode(data["thumbnails"]["3"])))
    assert shown.size == (64, 32)
    assert shown.getpixel((5, 5))[0] == pytest.approx(180, abs=4)
    assert "&lt;i&gt;" in files["html"].read_text()
    assert Image.open(files["png"]).size == (1350, 1050)
    assert "<svg" in files["svg"].read_text()
    with pytest.raises(FileExistsError, match="Pass `overwrite=True`"):
        save_projection(found, names, beside)
    with pytest.raises(ValueError, match="Expected one of `labels` per point, 4. Received: 1"):
        save_projection(found, names, beside, labels=["x"], overwrite=True)
    monkeypatch.setattr(projection_page, "MOST_THUMBNAILS", 2)
    save_projection(found, names, beside, images=images, overwrite=True)
    assert list(page_data(files["html"])["thumbnails"]) == ["0", "3"]


def test_vectors_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    np.savez(path, files=np.array(["a", "b"]), vectors=np.eye(2, dtype=np.float32))
    names, vectors = load_vectors(path)
    assert names == ["a", "b"]
    assert vectors.tolist() == [[1, 0], [0, 1]]
    np.savez(path, files=np.array(["a"]), vectors=np.eye(2))
    for wrong in (path, tmp_path / "none.npz", tmp_path / "vectors.csv"):
        with pytest.raises(ValueError, match="Expected a .parquet or .npz file of vectors"):
            load_vectors(wrong)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(ValueError, match="Expected a .parquet or .npz file of vectors"):
        load_vectors(tmp_path / "text.parquet")
