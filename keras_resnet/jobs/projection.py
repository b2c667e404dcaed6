"""Projection of vectors onto a two-dimensional map."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

import numpy as np

from keras_resnet.data.sources.splits import split_of
from keras_resnet.images.labels import names_and_ids
from keras_resnet.support.checks import check_choice, check_integer

Method = Literal["pca", "tsne", "umap"]

#: Method -> its name in text.
NAMES: dict[Method, str] = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}

#: Principal components used as inputs of t-SNE, as scikit-learn's documentation recommends.
_TSNE_COMPONENTS = 50

#: Largest number of vectors for which t-SNE uses a single thread.
_ALONE = 5000


@dataclass(frozen=True, eq=False)
class Projection:
    """A map of vectors in two dimensions.

    Attributes:
        points: positions `(n, 2)`, float32, in the order of the vectors.
        method: `"pca"`, `"tsne"` or `"umap"`.
        seconds: time that the projection took.
        explained: for PCA, the share of the variance along each axis; else None.
    """

    points: np.ndarray
    method: Method
    seconds: float
    explained: tuple[float, float] | None = None


def check_method(method: Any) -> Method:
    """Return `method`, or raise an error if it cannot be used.

    Raises:
        ValueError: If there is no such method.
        ImportError: If the method is UMAP and `umap-learn` is not installed.
    """
    check_choice("project", method, get_args(Method))
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ImportError(
            "UMAP needs the package `umap-learn`, which is not installed: run `pip install "
            "umap-learn`, or choose pca or tsne",
            name="umap",
        )
    return method


def project_vectors(vectors: Any, method: Method = "pca", seed: int = 0) -> Projection:
    """Project vectors onto two dimensions.

    Args:
        vectors: at least three vectors `(n, channels)`, such as those of `embed`.
        method: `"pca"`: the two principal components; the only method that preserves the scale of
            distances. `"tsne"` (van der Maaten and Hinton 2008): preserves neighborhoods, with a
            perplexity of 30, or less for fewer than 91 vectors. `"umap"` (McInnes et al. 2018,
            arXiv:1802.03426): preserves neighborhoods and is faster for many vectors; needs
            `umap-learn`.
        seed: random seed of t-SNE and UMAP. The same seed gives the same map.

    Returns:
        The map, with one point per vector.

    Raises:
        ValueError: If there are fewer than three vectors, a value is not finite, all vectors are
            equal, or there is no such method.
        ImportError: If the method is UMAP and `umap-learn` is not installed.
    """
    method = check_method(method)
    check_integer("seed", seed, 0)
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or len(rows) < 3:
        raise ValueError(
            f"Expected at least 3 vectors, as an array (n, channels). Received: shape {rows.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(
            f"Expected vectors of finite numbers. Received: {len(bad):,} of {len(rows):,} with NaN "
            f"or infinity, the first in row {bad[0]}"
        )
    if (rows == rows[0]).all():
        raise ValueError(f"Expected different vectors. Received: {len(rows):,} equal vectors")
    begin = time.perf_counter()
    points, explained = _projected(rows, method, seed)
    return Projection(points, method, time.perf_counter() - begin, explained)


def _projected(
    rows: np.ndarray, method: Method, seed: int
) -> tuple[np.ndarray, tuple[float, float] | None]:
    # Imported here, as importing scikit-learn takes a second.
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    wanted = {"pca": 2, "tsne": _TSNE_COMPONENTS}.get(method, rows.shape[1])
    if method != "umap":
        pca = PCA(min(wanted, *rows.shape), random_state=seed)
        reduced = pca.fit_transform(rows)
    if method == "pca":
        # Vectors of length 1 have a single principal component.
        points = np.zeros((len(rows), 2), np.float32)
        points[:, : reduced.shape[1]] = reduced
        shares = (*map(float, pca.explained_variance_ratio_), 0.0)
        return points, shares[:2]  # type: ignore[return-value]
    if method == "tsne":
        from sklearn.manifold import TSNE

        tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), random_state=seed)
        # For few vectors, threads mostly wait for each other: for 600 vectors on a busy machine,
        # two threads took eight times as long as one.
        threads = 1 if len(rows) <= _ALONE else None
        with threadpool_limits(threads, "openmp"):
            mapped = tsne.fit_transform(reduced)
    else:
        # The spectral initialization of UMAP fails for so few points.
        start = "random" if len(rows) < 10 else "spectral"
        umap = importlib.import_module("umap").UMAP(
            n_neighbors=min(15, len(rows) - 1), init=start, random_state=seed, n_jobs=1
        )
        with warnings.catch_warnings():
            # It is normal that classes are far apart.
            warnings.filterwarnings("ignore", "Graph is not fully connected")
            mapped = umap.fit_transform(rows)
    return np.asarray(mapped, np.float32), None


def estimated_seconds(count: int, method: Method) -> float:
    """Estimate the time that `project_vectors` takes for `count` vectors on an idle core.

    The constants are CPU times measured with 500 to 8,000 vectors of length 2,048.
    """
    per_vector = {"pca": 4e-5, "tsne": 5.5e-4, "umap": 3.3e-4}[method]
    return 1 + per_vector * count * (math.log2(max(count, 2)) if method != "pca" else 1)


def folder_labels(names: Sequence[str | os.PathLike[str]]) -> list[str] | None:
    """Return the class of every image from the folders in its path.

    The class is the first folder below the common parent folder and below folders with the names of
    data set parts, such as `train`. Folders named by WordNet IDs get the class names of ImageNet.

    Args:
        names: paths of image files, relative or absolute.

    Returns:
        One class per image; None if the images are in fewer than two folders, or some are in none.
    """
    folders = [PurePath(name).parent.parts for name in names]
    for _ in range(2):
        levels = enumerate(zip(*folders, strict=False))
        ends = min(map(len, folders))
        shared = next((level for level, parts in levels if len(set(parts)) > 1), ends)
        folders = [parts[shared:] for parts in folders]
        if not all(parts and split_of(parts[0]) for parts in folders):
            break
        folders = [parts[1:] for parts in folders]
    if not all(folders) or len({parts[0] for parts in folders}) < 2:
        return None
    order = sorted({parts[0] for parts in folders})
    called = dict(zip(order, names_and_ids(order)[0], strict=True))
    return [called[parts[0]] for parts in folders]


def map_files(vectors_file: Path, method: Method) -> dict[str, Path]:
    """Return suffix -> file of a map, named after the file of vectors and the method."""
    return {
        kind: vectors_file.with_name(f"{vectors_file.stem}.{method}.{kind}")
        for kind in ("png", "svg", "html")
    }
