"""Images as vectors, in batches and in files."""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import keras
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import keras_resnet
from keras_resnet import feature_extractor
from keras_resnet.images.decode import UnreadableImageError
from keras_resnet.images.protocol import EvalProtocol, eval_transform
from keras_resnet.jobs import embed as embedding, vector_files
from keras_resnet.jobs.embed import embed, embed_to_file
from keras_resnet.networks.features import pooled

from ..conftest import Run


@pytest.fixture(scope="module", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Every call would compile the same network again, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "pooled", functools.cache(pooled))
        yield


@pytest.fixture(scope="module")
def paths(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    files = [folder / f"{index:02}.png" for index in range(20)]
    for path, image in zip(files, images, strict=False):
        Image.fromarray(image).save(path)
    return files


@pytest.fixture(scope="module")
def expected(tiny_model: keras.Model, images: np.ndarray) -> np.ndarray:
    """What the classifier sees of the pictures, `(20, 24)`."""
    seen = keras.Model(tiny_model.input, tiny_model.get_layer("avg_pool").output)
    vectors: np.ndarray = seen.predict(images[:20], verbose=0)
    return vectors


def read(path: Path) -> tuple[list[str], np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            assert set(arrays.files) == {"files", "vectors"}
            return arrays["files"].tolist(), arrays["vectors"]
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == ["file", "vector"]
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<element: float")
    vectors = np.array(table["vector"].to_pylist(), np.float32).reshape(len(table), -1)
    return table["file"].to_pylist(), vectors


def interrupt_after(count: int) -> embedding.Report:
    """A function that ends the work, as a signal would, once so many images are done."""

    def report(step: str, done: float) -> None:
        if int(step.split()[0]) >= count:
            raise SystemExit(130)

    return report


def test_batches_of_vectors_in_the_order_of_the_images(
    tiny_model: keras.Model, paths: list[Path], expected: np.ndarray
) -> None:
    steps = []
    batches = list(
        embed(tiny_model, paths, batch_size=8, progress=lambda *step: steps.append(step))
    )
    assert [files for files, _ in batches] == [
        [str(path) for path in paths[start : start + 8]] for start in (0, 8, 16)
    ]
    assert [vectors.shape for _, vectors in batches] == [(8, 24), (8, 24), (4, 24)]
    np.testing.assert_allclose(np.concatenate([v for _, v in batches]), expected, atol=1e-5)
    assert {vectors.dtype for _, vectors in batches} == {np.dtype(np.float32)}
    assert steps == [("8 of 20 images", 0.4), ("16 of 20 images", 0.8), ("20 of 20 images", 1.0)]


def test_levels_are_averages_of_feature_maps(tiny_model: keras.Model, images: np.ndarray) -> None:
    maps = feature_extractor(tiny_model)(images[:4])
    for level in ("C2", "C3", "C4"):
        vectors = pooled(tiny_model, level)(images[:4])
        np.testing.assert_allclose(vectors, np.mean(maps[level], axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(pooled(tiny_model)(images[:4]), vectors, atol=1e-5)
    with pytest.raises(ValueError, match=r"'avg' or one of \('C2', 'C3', 'C4'\). Received: 'C5'"):
        pooled(tiny_model, "C5")


def test_files_are_prepared_by_the_protocol(tiny_model: keras.Model, tmp_path: Path) -> None:
    """Also those that have the size of the network already, and for networks of any size."""
    path = tmp_path / "picture.jpg"
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((50, 40), Image.Resampling.BICUBIC).save(path)
    config = keras_resnet.ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")
    free = keras_resnet.build(config, include_top=False, input_shape=(None, None, 3))
    free.set_weights(tiny_model.get_weights()[:-2])
    for model, given, used in (
        (tiny_model, None, EvalProtocol(32, 32)),
        (tiny_model, EvalProtocol(32, 36), EvalProtocol(32, 36)),
        (free, EvalProtocol(40, 44), EvalProtocol(40, 44)),
    ):
        ((_, found),) = embed(model, [path], protocol=given)
        pixels = eval_transform(used)([str(path)])
        np.testing.assert_allclose(found, pooled(free)(pixels), atol=1e-5)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_both_formats_hold_the_vectors_and_names(
    suffix: str, tiny_model: keras.Model, paths: list[Path], expected: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / f"vectors{suffix}"
    names = [f"größe [{index}].png" for index in range(19)] + [os.fsdecode(b"\xff.png")]
    given = [Path(names[0]), *names[1:]]
    report = embed_to_file(tiny_model, paths, output, names=given, batch_size=8)
    files, vectors = read(output)
    assert files == [*names[:-1], "\\udcff.png"]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert vectors.dtype == np.float32
    assert (report.vectors, report.channels, report.resumed, report.bad_file) == (20, 24, 0, None)
    assert report.images_per_second > 0
    assert json.loads(json.dumps(report.to_dict()))["output"] == str(output)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    if suffix == ".parquet":
        file = pyarrow.parquet.ParquetFile(output)
        assert [file.metadata.row_group(i).num_rows for i in range(3)] == [8, 8, 4]


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_interrupted_work_goes_on_with_the_same_result(
    suffix: str, tiny_model: keras.Model, paths: list[Path], tmp_path: Path
) -> None:
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"vectors{suffix}"
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    images = [*paths[:3], bad, *paths[3:]]
    embed_to_file(tiny_model, images, whole, batch_size=8)
    for count in (8, 16):
        with pytest.raises(SystemExit):
            embed_to_file(tiny_model, images, output, batch_size=8, progress=interrupt_after(count))
        assert not output.exists()
    steps = []
    report = embed_to_file(
        tiny_model, images, output, batch_size=8, progress=lambda step, done: steps.append(step)
    )
    assert steps == ["16 of 21 images", "21 of 21 images"]
    assert (report.resumed, report.vectors, list(report.unreadable)) == (16, 20, [str(bad)])
    assert output.read_bytes() == whole.read_bytes()
    assert not output.with_name(f"{output.name}.partial").exists()


def test_another_batch_size_goes_on_too(
    tiny_model: keras.Model, paths: list[Path], expected: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / "vectors.npz"
    with pytest.raises(SystemExit):
        embed_to_file(tiny_model, paths, output, batch_size=8, progress=interrupt_after(8))
    assert embed_to_file(tiny_model, paths, output, batch_size=3).resumed == 8
    np.testing.assert_allclose(read(output)[1], expected, atol=1e-5)


def test_parts_that_are_not_whole_are_made_again(
    tiny_model: keras.Model, paths: list[Path], expected: np.ndarray, tmp_path: Path
) -> None:
    output, folder = tmp_path / "vectors.npz", tmp_path / "vectors.npz.partial"
    for damage in ("000000006.npy", "000000006.json", "job.json"):
        with pytest.raises(SystemExit):
            embed_to_file(tiny_model, paths, output, batch_size=3, progress=interrupt_after(12))
        part = folder / damage
        part.write_bytes(part.read_bytes()[:-5])
        if damage == "job.json":
            with pytest.warns(UserWarning, match="it is discarded"):
                report = embed_to_file(tiny_model, paths, output, batch_size=3)
        else:
            report = embed_to_file(tiny_model, paths, output, batch_size=3)
        assert report.resumed == (0 if damage == "job.json" else 6)
        np.testing.assert_allclose(read(output)[1], expected, atol=1e-5)
        output.unlink()


def test_other_work_starts_anew(tiny_model: keras.Model, paths: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "vectors.npz"
    other = keras.models.clone_model(tiny_model)
    other.set_weights([value + 0.01 for value in tiny_model.get_weights()])
    shown = [Path(shutil.copy(path, tmp_path)) for path in paths]
    for model, images, level, said in (
        (other, shown, "avg", "another model, level or protocol"),
        (tiny_model, shown, "C3", "another model, level or protocol"),
        (tiny_model, shown[1:], "avg", "other or changed images"),
        (tiny_model, shown, "avg", "other or changed images"),
    ):
        with pytest.raises(SystemExit):
            embed_to_file(tiny_model, shown, output, batch_size=8, progress=interrupt_after(8))
        if images is shown and model is tiny_model and level == "avg":
            shown[5].write_bytes(shown[4].read_bytes())
        with pytest.warns(UserWarning, match=f"vectors.npz.partial belongs to {said}: it is"):
            report = embed_to_file(model, images, output, batch_size=8, level=level)
        assert report.resumed == 0
        fresh = np.concatenate([v for _, v in embed(model, images, batch_size=8, level=level)])
        np.testing.assert_array_equal(read(output)[1], fresh)
        output.unlink()


def test_unreadable_images_are_left_out_and_listed(
    tiny_model: keras.Model, paths: list[Path], expected: np.ndarray, tmp_path: Path
) -> None:
    cut, empty = tmp_path / "cut.png", tmp_path / "empty.png"
    cut.write_bytes(paths[0].read_bytes()[:60])
    empty.touch()
    gone = tmp_path / "gone.png"
    # One batch has none that can be read.
    images = [*paths[:3], cut, empty, gone, *paths[3:]]
    output = tmp_path / "vectors.parquet"
    report = embed_to_file(tiny_model, images, output, batch_size=3)
    files, vectors = read(output)
    assert files == [str(path) for path in paths]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert report.bad_file == tmp_path / "vectors.parquet.bad.csv"
    with report.bad_file.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["file", "reason"],
        [str(cut), "it is truncated or damaged"],
        [str(empty), "it is empty"],
        [str(gone), "No such file or directory"],
    ]
    # Without bad images, the list of an earlier run would be wrong.
    embed_to_file(tiny_model, paths, output, overwrite=True)
    assert not report.bad_file.exists()
    bad: dict[str, str] = {}
    assert sum(len(names) for names, _ in embed(tiny_model, images, bad=bad)) == 20
    assert bad == dict(rows[1:])
    with pytest.raises(UnreadableImageError, match=r"cut.png \(it is truncated or damaged\)"):
        list(embed(tiny_model, images))
    report = embed_to_file(tiny_model, [cut, empty], tmp_path / "none.npz")
    assert read(report.output)[1].shape == (report.vectors, 24) == (0, 24)


def killed(*arguments: object) -> None:
    raise SystemExit


@pytest.mark.filterwarnings("ignore:A process was killed")
@pytest.mark.parametrize("at", ["x.npz.bad.csv", "x.npz", "removal"])
@pytest.mark.parametrize("is_bad", [False, True])
def test_killed_while_it_is_published_the_same_call_finishes_it(
    is_bad: bool,
    at: str,
    tiny_model: keras.Model,
    paths: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, bad_file = tmp_path / "x.npz", tmp_path / "x.npz.bad.csv"
    for name in ("bad.png", "worse.png"):
        (tmp_path / name).touch()

    def state() -> tuple[bytes | None, ...]:
        return tuple(p.read_bytes() if p.exists() else None for p in (output, bad_file))

    images = [*paths[:7], *([tmp_path / "bad.png"] if is_bad else [])]
    embed_to_file(tiny_model, images, output)
    new = state()
    embed_to_file(tiny_model, [*paths[7:9], tmp_path / "worse.png"], output, overwrite=True)
    old, replace = state(), Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "replace", lambda p, to: killed() if p == tmp_path / at else replace(p, to)
        )
        if at == "removal":
            patch.setattr(vector_files.UnfinishedVectors, "remove", killed)
        with pytest.raises(SystemExit):
            embed_to_file(tiny_model, images, output, overwrite=True)
    left = state()
    assert all(is_left in (None, was) for is_left, was in zip(left, old, strict=True)) or (
        left == new
    )
    report = embed_to_file(tiny_model, images, output)
    assert (report.resumed, report.vectors) == (len(images), 7)
    assert state() == new
    assert not list(tmp_path.glob("*.partial"))


def test_killed_when_all_was_published_other_images_are_refused(
    tiny_model: keras.Model, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "x.npz"
    with monkeypatch.context() as patch:
        patch.setattr(vector_files.UnfinishedVectors, "remove", killed)
        with pytest.raises(SystemExit):
            embed_to_file(tiny_model, paths[:4], output)
    before = output.read_bytes()
    with pytest.raises(FileExistsError, match="Pass `overwrite=True`"):
        embed_to_file(tiny_model, paths[:5], output)
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_what_took_the_place_of_the_output_is_not_replaced_unasked(
    tiny_model: keras.Model, paths: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "x.npz"
    with pytest.raises(SystemExit):
        embed_to_file(tiny_model, paths, output, batch_size=8, progress=interrupt_after(8))
    output.write_text("mine")
    with pytest.raises(FileExistsError, match="Pass `overwrite=True`"):
        embed_to_file(tiny_model, paths, output, batch_size=8)
    assert output.read_text() == "mine"
    assert embed_to_file(tiny_model, paths, output, batch_size=8, overwrite=True).resumed == 8


def test_bad_arguments_are_refused(
    tiny_model: keras.Model, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there.npz"
    there.write_bytes(b"earlier")
    with pytest.raises(FileExistsError, match=r"a new file. Received: .*there.npz. Pass"):
        embed_to_file(tiny_model, paths, there)
    for name, images, keywords, message in (
        ("vectors.csv", paths, {}, r"a .parquet or .npz file as output. Received: .*vectors.csv"),
        ("v.npz", [], {}, "at least one image file. Received: none"),
        ("v.npz", "v.png", {}, "a list of .* Received: 'v.png'"),
        ("v.npz", paths, {"batch_size": 0}, "`batch_size` to be .* Received: 0"),
        ("v.npz", paths, {"names": ["one"]}, "`names` per image. Received: 1 for 20 images"),
        ("v.npz", paths, {"level": "C7"}, "Received: 'C7'"),
        ("there.npz/v.npz", paths, {}, "that can be written to. Received: .*there.npz/v.npz"),
    ):
        with pytest.raises(ValueError, match=message):
            embed_to_file(tiny_model, images, tmp_path / name, **keywords)
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
    assert there.read_bytes() == b"earlier"
    (tmp_path / "v.npz.partial").mkdir()
    with (
        filelock.FileLock(tmp_path / "v.npz.partial" / ".lock"),
        pytest.raises(ValueError, match="one process at a time. Received: .*v.npz, where another"),
    ):
        embed_to_file(tiny_model, paths, tmp_path / "v.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="Parquet needs .* `pyarrow`.* or choose a .npz file"):
        embed_to_file(tiny_model, paths, tmp_path / "v.parquet")


MEMORY = """
import re, sys
from pathlib import Path
import keras, numpy as np
from PIL import Image
import keras_resnet
from keras_resnet.jobs.embed import embed_to_file
folder, count = Path(sys.argv[1]), int(sys.argv[2])
pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
files = [folder / f"{index}.{('png', 'jpg')[index % 2]}" for index in range(count)]
for index, path in enumerate(files):
    Image.fromarray(pixels + np.uint8(index % 256)).save(path)
config = keras_resnet.ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")
model = keras_resnet.build(config, input_shape=(64, 64, 3))
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000
before = peak()
for suffix in sys.argv[3:]:
    assert embed_to_file(model, files, folder / f"vectors.{suffix}").vectors == count
print(peak() - before)
"""


def memory(run_python: Run, folder: Path, count: int, *suffixes: str) -> float:
    """What so many images add to the peak of a process that has the network, in MB."""
    folder.mkdir()
    done = run_python(MEMORY, str(folder), str(count), *suffixes)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_memory_does_not_grow_with_the_images(run_python: Run, tmp_path: Path) -> None:
    few, many = (
        memory(run_python, tmp_path / str(count), count, "npz", "parquet")
        for count in (2_000, 10_000)
    )
    # Eight thousand pictures take 98 MB in integers and 393 MB in float32; threads and their
    # allocators move the peak by up to 50 MB, most of it within the first thousands.
    assert many - few < 70, (few, many)
