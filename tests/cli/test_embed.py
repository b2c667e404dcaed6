"""`keras-resnet embed`."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from ..conftest import Command, Start


@pytest.fixture(scope="module")
def files(
    tiny_model: keras.Model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A saved model, and forty pictures in two folders."""
    root = tmp_path_factory.mktemp("files")
    tiny_model.save(root / "model.keras")
    for index, image in enumerate(images):
        folder = root / "pictures" / ("even", "odd")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:02}.png")
    return root


@pytest.fixture(scope="module")
def expected(tiny_model: keras.Model, images: np.ndarray) -> np.ndarray:
    """What the classifier sees of the pictures of `even`, then `odd`."""
    seen = keras.Model(tiny_model.input, tiny_model.get_layer("avg_pool").output)
    vectors: np.ndarray = seen.predict(np.concatenate([images[::2], images[1::2]]), verbose=0)
    return vectors


def test_vectors_of_a_folder(
    files: Path, expected: np.ndarray, command_in_process: Command, tmp_path: Path
) -> None:
    output = tmp_path / "vectors.npz"
    arguments = ["embed", str(files / "model.keras"), str(files / "pictures"), "--output"]
    done = command_in_process(*arguments, str(output))
    assert done.returncode == 0, done.stderr
    progress, written = done.stdout.splitlines()
    assert progress == "embed: 40 of 40 images (100% done)"
    assert written.startswith(f"Written: {output}, 40 vectors of 24 numbers (")
    assert written.endswith(" images/s).")
    with np.load(output) as arrays:
        names = [f"{('even', 'odd')[index % 2]}/{index:02}.png" for index in range(40)]
        assert arrays["files"].tolist() == names[::2] + names[1::2]
        np.testing.assert_allclose(arrays["vectors"], expected, atol=1e-5)
    again = command_in_process(*arguments, str(output))
    assert again.returncode == 2
    assert again.stderr == (
        f"keras-resnet: Expected a new file. Received: {output}. Pass `--overwrite`.\n"
    )


def test_several_folders_a_level_and_json(
    files: Path, command_in_process: Command, tmp_path: Path
) -> None:
    pictures, output = files / "pictures", tmp_path / "vectors.npz"
    output.write_bytes(b"earlier")
    done = command_in_process(
        "embed", str(files / "model.keras"), str(pictures / "odd"),
        str(pictures / "even" / "00.png"), "--output", str(output),
        "--level", "C3", "--overwrite", "--json", "--batch-size", "7",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report.pop("images_per_second") > 0
    assert report == {
        "output": str(output),
        "vectors": 21,
        "channels": 16,
        "resumed": 0,
        "unreadable": {},
        "bad_file": None,
        "notes": [],
    }
    with np.load(output) as arrays:
        assert arrays["files"][[0, -1]].tolist() == [
            str(pictures / "odd" / "01.png"),
            str(pictures / "even" / "00.png"),
        ]


def test_bad_images_are_listed_and_make_the_exit_code_1(
    files: Path, expected: np.ndarray, command_in_process: Command, tmp_path: Path
) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "vectors.npz"
    shutil.copytree(files / "pictures", pictures)
    for name in ("even/00.png", "odd/01.png", "odd/39.png"):
        (pictures / name).write_bytes(b"\0 no picture")
    done = command_in_process(
        "embed", str(files / "model.keras"), str(pictures), "--output", str(output)
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"keras-resnet: 3 of 40 images could not be read; {output}.bad.csv lists them\n"
    )
    with (tmp_path / "vectors.npz.bad.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["file", "reason"],
            ["even/00.png", "that is none of these"],
            ["odd/01.png", "that is none of these"],
            ["odd/39.png", "that is none of these"],
        ]
    with np.load(output) as arrays:
        whole = np.delete(expected, (0, 20, 39), axis=0)
        np.testing.assert_allclose(arrays["vectors"], whole, atol=1e-5)


def test_bad_arguments_are_refused(
    files: Path, command_in_process: Command, tmp_path: Path
) -> None:
    pictures, output = str(files / "pictures"), str(tmp_path / "vectors.npz")
    model = str(files / "model.keras")
    (tmp_path / "nothing").mkdir()
    for arguments, said in (
        (("resnet20", pictures, "--output", output), "`--weights` with the name of a network"),
        (
            (model, pictures, "--output", output, "--weights", "x"),
            "a model file without `--weights`",
        ),
        ((model, pictures, "--output", "vectors.csv"), "a .parquet or .npz file as output"),
        ((model, str(tmp_path / "nothing"), "--output", output), "that name images"),
        ((model, pictures, "--output", output, "--level", "C9"), "('C2', 'C3', 'C4')"),
        ((model, pictures, "--output", output, "--batch-size", "0"), "--batch-size"),
    ):
        done = command_in_process("embed", *arguments)
        assert done.returncode == 2, arguments
        assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["nothing"]


@pytest.fixture(scope="module")
def many(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that keep a process busy for a while."""
    folder = tmp_path_factory.mktemp("many")
    pictures = sorted((files / "pictures").rglob("*.png"))
    for number in range(12):
        for path in pictures:
            (folder / f"{number:02}-{path.name}").hardlink_to(path)
    return folder


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_work_goes_on_with_the_same_result(
    number: signal.Signals,
    files: Path,
    many: Path,
    start_command: Start,
    command_in_process: Command,
    tmp_path: Path,
) -> None:
    suffix = "parquet" if number == signal.SIGKILL else "npz"
    whole, output = tmp_path / f"whole.{suffix}", tmp_path / f"vectors.{suffix}"
    arguments = ["embed", str(files / "model.keras"), str(many), "--batch-size", "4", "--output"]
    process = start_command(*arguments, str(output))
    partial = tmp_path / f"{output.name}.partial"
    while process.poll() is None and not (partial / "000000000.json").exists():
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert not output.exists()
    assert (partial / "job.json").exists()
    if number == signal.SIGKILL:
        assert process.returncode == -9
    else:
        assert process.returncode == 130
        assert errors == (
            f"keras-resnet: Interrupted. Finished batches are in {partial}; run the same command "
            "again to resume.\n"
        )
    done = command_in_process(*arguments, str(output))
    assert done.returncode == 0, done.stderr
    *progress, before, _ = done.stdout.splitlines()
    assert 1 <= len(progress) <= 10
    resumed = int(before.removesuffix(" images were finished by an earlier run."))
    assert 4 <= resumed < 480
    assert command_in_process(*arguments, str(whole)).returncode == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not partial.exists()


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_map_of_vectors(
    suffix: str, files: Path, command_in_process: Command, tmp_path: Path
) -> None:
    pictures, output = files / "pictures", tmp_path / f"vectors.{suffix}"
    arguments = ["embed", str(files / "model.keras"), str(pictures), "--output", str(output)]
    done = command_in_process(*arguments, "--project", "pca")
    assert done.returncode == 0, done.stderr
    assert "PCA of 40 vectors: about 1 s on an idle core." in done.stdout
    assert "Each of the 40 points has a thumbnail of 64 pixels." in done.stdout
    page = (tmp_path / "vectors.pca.html").read_text()
    assert '"classes": ["even", "odd"]' in page
    assert {path.name for path in tmp_path.iterdir()} == {
        output.name, "vectors.pca.html", "vectors.pca.png", "vectors.pca.svg",
    }  # fmt: skip
    again = command_in_process(*arguments, "--overwrite", "--project", "pca", "--json")
    assert json.loads(again.stdout)["map"]["html"] == str(tmp_path / "vectors.pca.html")

    alone = command_in_process(
        "analyze", "project", str(output), "--images", str(pictures), "--overwrite"
    )
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "vectors.pca.html").read_text() == page
    refused = command_in_process("analyze", "project", str(output))
    assert refused.returncode == 2
    assert "Expected a new file" in refused.stderr
    without = command_in_process("analyze", "project", str(output), "--overwrite")
    assert "For thumbnails, pass --images FOLDER." in without.stdout


def test_impossible_maps_are_refused_before_the_work(
    files: Path, command_in_process: Command, tmp_path: Path
) -> None:
    pictures, output = str(files / "pictures"), tmp_path / "vectors.npz"
    arguments = ["embed", str(files / "model.keras"), pictures, "--output", str(output)]
    (tmp_path / "vectors.pca.svg").write_text("earlier")
    for method, said in (("lda", "`--project` to be one of"), ("pca", "Expected a new file")):
        done = command_in_process(*arguments, "--project", method)
        assert done.returncode == 2
        assert said in done.stderr
    assert not output.exists()
    few = ["embed", arguments[1], f"{pictures}/odd/01.png", "--output", str(output)]
    done = command_in_process(*few, "--project", "tsne")
    assert done.returncode == 2
    assert "Expected at least 3 vectors" in done.stderr
    assert f"{output} is complete" in done.stderr
