"""What happens to an export: refused, interrupted, repeated, kept or not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.export import (
    TARGETS,
    ExportError,
    ExportOptions,
    ExportReport,
    Limits,
    Target,
    Timing,
    export,
)
from keras_resnet.export.model import ExportedModel
from keras_resnet.support.fingerprints import fingerprint_of_artifact

from .conftest import REPORTS


@pytest.fixture(scope="module")
def wrong(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFLite file of another network of the same shapes."""
    folder = tmp_path_factory.mktemp("wrong")
    export(keras.models.clone_model(tiny_model), folder, ("tflite-float32",), timing=None)
    return folder / "model-float32.tflite"


@pytest.mark.usefixtures("copied")
def test_artifact_that_disagrees_fails_and_is_not_kept(
    tiny_model: keras.Model,
    images: np.ndarray,
    wrong: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def perturbed(source: ExportedModel, path: Path) -> None:
        shutil.copyfile(wrong, path)

    (tmp_path / "broken.tflite").write_text("earlier")
    broken = Target("broken", "broken.tflite", perturbed, Limits(1e-4, 1.0, 0.01))
    monkeypatch.setitem(TARGETS, "broken", broken)
    labels = tiny_model.predict(images, verbose=0).argmax(-1)
    with pytest.raises(
        ExportError,
        match="broken disagrees with Keras: largest probability error.*top-1 agreement.*accuracy",
    ) as caught:
        export(
            tiny_model,
            tmp_path,
            ("broken", "tflite-float32"),
            images=images,
            labels=labels,
            overwrite=True,
            timing=None,
        )
    assert (tmp_path / "broken.tflite").read_text() == "earlier"
    assert {path.name for path in tmp_path.iterdir()} == {
        "broken.tflite",
        "model-float32.tflite",
        *TARGETS["tflite-float32"].companions,
        *REPORTS,
    }
    assert [bool(artifact.disagreements) for artifact in caught.value.report.artifacts] == [
        False,
        True,
        False,
    ]
    page = (tmp_path / "export.html").read_text()
    assert 'class="failed"' in page
    assert "broken disagrees with Keras: largest probability error" in page
    # Kept if that is what the user wants.
    report = export(
        tiny_model,
        tmp_path,
        ("broken",),
        images=images,
        overwrite=True,
        allow_disagreement=True,
        timing=None,
    )
    assert len(report.failures) == 1
    assert (tmp_path / "broken.tflite").stat().st_size == report.artifacts[1].size
    # What was kept on purpose is no failure of another export; asked for without, it goes.
    export(tiny_model, tmp_path, ("tflite-dynamic",), images=images, timing=None)
    with pytest.raises(ExportError, match="broken disagrees"):
        export(tiny_model, tmp_path, ("broken",), images=images, timing=None)
    assert not (tmp_path / "broken.tflite").exists()


def test_failing_writer_leaves_earlier_artifacts_untouched(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_text("earlier")

    def half_written(source: ExportedModel, path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(TARGETS, "onnx", Target("onnx", "model.onnx", half_written, Limits()))
    with pytest.raises(KeyboardInterrupt):
        export(tiny_model, tmp_path, ("onnx",), images=images, overwrite=True, timing=None)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("model.onnx", "earlier")
    ]


def test_existing_artifacts_are_refused_before_any_work(
    tiny_model: keras.Model, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_text("earlier")
    steps: list[str] = []
    with pytest.raises(FileExistsError, match="Received: .*, which holds model.onnx"):
        export(tiny_model, tmp_path, ("onnx",), progress=lambda step, done: steps.append(step))
    assert steps == []


@pytest.mark.usefixtures("copied")
def test_without_images_part_of_the_calibration_is_held_out(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def count(source: ExportedModel, path: Path) -> None:
        assert source.calibration is not None
        used.append(len(source.calibration))
        TARGETS["tflite-float32"].write(source, path)

    monkeypatch.setitem(TARGETS, "onnx", Target("onnx", "model.tflite", count, Limits()))
    report = export(tiny_model, tmp_path, ("onnx",), calibration=images, timing=None)
    assert (used, report.artifacts[1].comparison.images) == ([30], 10)
    assert report.artifacts[1].comparison.accuracy is None


def bad_requests() -> Iterator[tuple[dict[str, object], str]]:
    good = np.full((20, 32, 32, 3), 100, np.uint8)
    int8 = ("tflite-int8",)
    yield (
        {"targets": ("tflite-int9",)},
        r"Received: 'tflite-int9'\. Did you mean tflite-int8\?",
    )
    yield {"targets": "onnx"}, "Received: 'onnx'"
    yield {"targets": ()}, r"Received: \(\)"
    yield (
        {"targets": int8},
        "Expected `calibration` images for the target 'tflite-int8'.*Received: none",
    )
    varied = good.copy()
    varied[:, :16] = np.random.default_rng(0).integers(0, 200, (20, 1, 1, 1))
    few = "at least 16 different calibration images. Received: 15"
    yield {"targets": int8, "calibration": varied[:15], "images": good}, few
    # A quarter of them would be held out.
    yield {"targets": int8, "calibration": varied}, few
    equal = "at least 16 different .*Received: 20, 1 of them different"
    yield {"targets": int8, "calibration": good, "images": good}, equal
    plain = np.full((20, 32, 32, 3), 1) * np.arange(20).reshape(-1, 1, 1, 1)
    single = "Received: 20 of 20 images with a single color each"
    yield {"targets": int8, "calibration": plain, "images": good}, single
    ragged = [good[0], good[0, :16]]
    yield {"targets": int8, "calibration": ragged}, r"\(n, 32, 32, 3\). Received: something else"
    yield (
        {"targets": int8, "calibration": varied / 255, "images": good},
        r"in \[0, 255\].*as if divided by 255",
    )
    yield (
        {"targets": int8, "calibration": good - 123.0},
        r"pixels in \[0, 255\]. Received: pixels in \[-23, -23\]",
    )
    yield {"targets": int8, "calibration": good * np.nan}, r"Received: pixels in \[nan, nan\]"
    yield (
        {"targets": int8, "calibration": good[:, :16]},
        r"\(n, 32, 32, 3\). Received: \(20, 16, 32, 3\)",
    )
    yield {"targets": int8, "calibration": good[0]}, r"Received: \(32, 32, 3\)"
    yield (
        {"images": good[..., :1]},
        r"images of shape \(n, 32, 32, 3\). Received: \(20, 32, 32, 1\)",
    )
    yield (
        {"images": good, "labels": [1, 2]},
        r"`labels` of shape \(20,\), one for each image. Received: shape \(2,\)",
    )
    yield {"labels": [1, 2]}, "Expected `images` together with `labels`"
    options = ExportOptions(keep_float=("avg_pool",))
    yield {"options": options}, r"an integer target.*Received: \('avg_pool',\) for onnx"


@pytest.mark.parametrize(("request_", "message"), list(bad_requests()))
def test_bad_requests_are_refused(
    request_: dict[str, object], message: str, tiny_model: keras.Model, tmp_path: Path
) -> None:
    keywords = {"targets": ("onnx",), **request_}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        export(tiny_model, tmp_path, **keywords)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("copied")
def test_slow_targets_are_verified_on_fewer_images(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = dataclasses.replace(TARGETS["onnx"], max_pixels=10 * 32 * 32)
    monkeypatch.setitem(TARGETS, "onnx", slow)
    labels = tiny_model.predict(images, verbose=0).argmax(-1)
    targets = ("tflite-float32", "onnx")
    report = export(tiny_model, tmp_path, targets, images=images, labels=labels, timing=None)
    rows = [row.comparison for row in report.artifacts]
    assert [row.images for row in rows] == [40, 40, 10]
    # That on ten images says on how many it was measured.
    assert [row.accuracy for row in rows] == [1.0, 1.0, 1.0]
    assert "| 100.00% of 10 |" in (tmp_path / "model_card.md").read_text()
    assert "; images: 40; 10 for onnx; pixels: " in (tmp_path / "model_card.md").read_text()


def test_what_one_format_lacks_does_not_keep_others_from_being_made(
    images: np.ndarray, tmp_path: Path
) -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(image)
    x = keras.layers.GroupNormalization(2, name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    targets = ("tflite-float32", "tflite-int8", "onnx")
    for _ in range(2):  # The second call finds two targets done, and tries the third again.
        with pytest.raises(ExportError, match="^tflite-int8 is refused: .* in the layers norm"):
            export(model, tmp_path, targets, calibration=images, timing=None)
        files = {path.name for path in tmp_path.iterdir()}
        assert files == {"model-float32.tflite", "model-float32.json", "model.onnx", *REPORTS}
    stored = json.loads((tmp_path / "export.json").read_text())
    assert list(stored["refusals"]) == ["tflite-int8"]
    assert "- tflite-int8: Expected a network" in (tmp_path / "model_card.md").read_text()
    assert 'data-label="verdict">refused</td>' in (tmp_path / "export.html").read_text()
    # As the message says, which leaves what is there already as it is.
    before = (tmp_path / "model.onnx").stat().st_mtime_ns
    options = ExportOptions(keep_float=("norm",))
    # Of an untrained network, int8 may say anything.
    report = export(
        model,
        tmp_path,
        targets,
        calibration=images,
        options=options,
        allow_disagreement=True,
        timing=None,
    )
    assert [row.target for row in report.artifacts] == ["keras", *targets]
    assert (tmp_path / "model.onnx").stat().st_mtime_ns == before


@pytest.mark.full
def test_default_targets_need_no_calibration(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    report = export(tiny_model, tmp_path, images=images[:8], timing=None)
    targets = [artifact.target for artifact in report.artifacts]
    assert targets == ["keras", "saved_model", "onnx", "tflite-float32"]


@pytest.mark.usefixtures("untimed", "copied")
def test_same_export_again_does_what_is_missing(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_(*targets: str, **keywords: object) -> ExportReport:
        return export(tiny_model, tmp_path, targets, **{"images": images[:8]} | keywords)  # type: ignore[arg-type]

    def interrupted(source: ExportedModel, path: Path) -> None:
        raise KeyboardInterrupt

    whole = TARGETS["onnx"]
    monkeypatch.setitem(TARGETS, "onnx", dataclasses.replace(whole, write=interrupted))
    with pytest.raises(KeyboardInterrupt):
        export_("tflite-float32", "onnx", timing=None)
    file = tmp_path / "model-float32.tflite"
    before = file.stat().st_mtime_ns
    monkeypatch.setitem(TARGETS, "onnx", whole)
    # The latency of what was there already is measured all the same.
    report = export_("tflite-float32", "onnx", timing=Timing(seconds=0.02))
    assert file.stat().st_mtime_ns == before
    assert [row.target for row in report.artifacts] == ["keras", "tflite-float32", "onnx"]
    for row in report.artifacts:
        (measured,) = row.measurements
        assert (measured.artifact, measured.p50_ms) == (row.target, 1.0)
    stored = json.loads((tmp_path / "export.json").read_text())
    assert stored["artifacts"][2]["sha256"] == fingerprint_of_artifact(tmp_path / "model.onnx")
    assert "| tflite-float32 |" in (tmp_path / "model_card.md").read_text()
    # Further targets of the same model join those that are there, whatever the images.
    report = export_("saved_model", images=images[:6], timing=None)
    names = ["keras", "tflite-float32", "onnx", "saved_model"]
    assert sorted(row.target for row in report.artifacts) == sorted(names)
    stored = json.loads((tmp_path / "export.json").read_text())
    assert sorted(row["target"] for row in stored["artifacts"]) == sorted(names)
    # Other images, another export; and a file that was changed is not taken for finished.
    with pytest.raises(FileExistsError, match="of another export. Received: .*model.onnx"):
        export_("onnx", images=images[:4], timing=None)
    file.write_bytes(b"other")
    with pytest.raises(FileExistsError, match=r"Received: .*model-float32.tflite\."):
        export_("tflite-float32", "onnx", timing=None)
    export_("tflite-float32", "onnx", overwrite=True, timing=None)
    assert file.stat().st_size > 1000
