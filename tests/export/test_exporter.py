"""Real artifacts in their real runtimes, made from a tiny network."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_resnet import ResNetConfig, build, feature_extractor
from keras_resnet.export import (
    TARGETS,
    ExportError,
    ExportOptions,
    ExportReport,
    Limits,
    Target,
    Timing,
    export,
    load_runner,
)
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.outputs import output_names
from keras_resnet.export.report.page import html_table
from keras_resnet.export.servers.kserve import SERVICE
from keras_resnet.export.tflite import flatbuffer
from keras_resnet.support.fingerprints import fingerprint_of_artifact

from ..conftest import randomize

REPORTS = {"export.json", "export.html", "model_card.md"}


@pytest.fixture(scope="module")
def exported(
    tiny_model: keras.Model, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ExportReport]:
    """All targets of the tiny network."""
    directory = tmp_path_factory.mktemp("exported")
    labels = tiny_model.predict(images, verbose=0).argmax(-1)
    report = export(
        tiny_model,
        directory,
        tuple(TARGETS),
        calibration=images[:32],
        images=images,
        labels=labels,
        options=ExportOptions(storage_uri="s3://bucket/tiny"),
        timing=None,
    )
    return directory, report


@pytest.fixture
def copied(exported: tuple[Path, ExportReport], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some targets of the tiny network are not converted again, but copied from `exported`."""

    def copying(target: Target) -> Target:
        def write(source: ExportedModel, path: Path) -> None:
            for name in (target.file_name, *target.companions):
                original = exported[0] / name
                copy = shutil.copytree if original.is_dir() else shutil.copyfile
                copy(original, path if name == target.file_name else path.with_name(name))

        return dataclasses.replace(target, write=write)

    for name in ("saved_model", "tflite-float32", "tflite-dynamic", "onnx"):
        monkeypatch.setitem(TARGETS, name, copying(TARGETS[name]))


def test_every_target_is_written_and_nothing_else(exported: tuple[Path, ExportReport]) -> None:
    directory, report = exported
    names = {name for t in TARGETS.values() for name in (t.file_name, *t.companions)}
    assert {path.name for path in directory.iterdir()} == names | REPORTS
    assert [artifact.target for artifact in report.artifacts] == ["keras", *TARGETS]
    for artifact in report.artifacts[1:]:
        path = directory / artifact.file_name
        assert artifact.size == sum(
            file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()
        )
        assert artifact.measurements == ()
        assert artifact.sha256 == fingerprint_of_artifact(path)
        assert artifact.comparison.images == 40
        assert artifact.comparison.keras_accuracy == 1.0
    assert report.failures == []
    graphs = {row.target: row.operators for row in report.artifacts}
    # Stem, three blocks of two convolutions.
    assert graphs["saved_model"]["Conv2D"] == graphs["onnx"]["Conv"] == 7
    assert graphs["tflite-float32"]["CONV_2D"] == 7
    services = list(directory.rglob(SERVICE))
    assert len(services) == 2
    assert all('storageUri: "s3://bucket/tiny"' in path.read_text() for path in services)


@pytest.mark.parametrize("name", TARGETS)
def test_artifact_run_anew_says_what_the_report_says(
    name: str, exported: tuple[Path, ExportReport], tiny_model: keras.Model, images: np.ndarray
) -> None:
    directory, report = exported
    artifact = next(artifact for artifact in report.artifacts if artifact.target == name)
    expected = tiny_model.predict(images, verbose=0)
    probabilities = load_runner(directory / artifact.file_name).predict(images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=0.02)
    error = np.abs(probabilities - expected).max()
    assert error == pytest.approx(artifact.comparison.max_error, abs=1e-6)
    # The limit of the float targets, and what this network loses when it is quantized.
    precise = {"saved_model", "tflite-float32", "onnx", "triton-onnx", "triton-saved_model"}
    precise |= {"kserve-onnx", "kserve-saved_model"}
    assert error <= (1e-4 if name in precise else 1e-2 if name.endswith("float16") else 0.2)
    # One image, and a number of images that is no multiple of the batch.
    np.testing.assert_allclose(
        load_runner(directory / artifact.file_name).predict(images[:1], 32)[0].sum(), 1, atol=0.02
    )


def test_quantized_files_are_smaller(exported: tuple[Path, ExportReport]) -> None:
    sizes = {artifact.target: artifact.size for artifact in exported[1].artifacts}
    assert sizes["tflite-float16"] < 0.7 * sizes["tflite-float32"]
    assert sizes["tflite-int8"] < 0.5 * sizes["tflite-float32"]
    assert sizes["tflite-dynamic"] < 0.5 * sizes["tflite-float32"]


def test_names_and_batch_dimension_are_the_same_everywhere(
    exported: tuple[Path, ExportReport],
) -> None:
    directory, _ = exported
    signature = tf.saved_model.load(str(directory / "saved_model" / "1")).signatures[
        "serving_default"
    ]
    assert list(signature.structured_input_signature[1]) == ["image"]
    assert sorted(signature.structured_outputs) == ["classes", "probabilities"]
    assert signature.structured_outputs["probabilities"].shape.as_list() == [None, 10]
    for path in directory.glob("*.tflite"):
        interpreter = Interpreter(str(path))
        assert interpreter.get_signature_list() == {
            "serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}
        }
        (image,), (probabilities,) = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
        assert (image["name"], probabilities["name"]) == ("image", "probabilities")
        ends = {"model-int8-io": np.int8, "model-uint8-io": np.uint8}.get(path.stem, np.float32)
        assert (image["dtype"], probabilities["dtype"]) == (ends, ends)
        assert image["shape_signature"].tolist() == [-1, 32, 32, 3]
    graph = onnx.load(directory / "model.onnx").graph
    (image,), (probabilities,) = graph.input, graph.output
    assert (image.name, probabilities.name) == ("image", "probabilities")
    dims = [value.type.tensor_type.shape.dim for value in (image, probabilities)]
    assert [dim[0].dim_param for dim in dims] == ["batch", "batch"]
    assert not [value for value in graph.value_info if "unk__" in str(value)]


def test_int8_computes_in_integers_from_end_to_end(exported: tuple[Path, ExportReport]) -> None:
    model = flatbuffer.read(exported[0] / "model-int8.tflite")
    floats = [t.name for t in model.subgraphs[0].tensors if t.type == 0]
    # Only the two ends, which the signature promises to be float.
    assert sorted(floats) == [b"image", b"probabilities"]


def test_onnx_has_one_transpose(exported: tuple[Path, ExportReport]) -> None:
    nodes = [node.op_type for node in onnx.load(exported[0] / "model.onnx").graph.node]
    assert nodes.count("Transpose") == 1
    assert "GlobalAveragePool" in nodes
    assert "BatchNormalization" not in nodes


def test_report_is_plain_data_and_tables(exported: tuple[Path, ExportReport]) -> None:
    _, report = exported
    data = json.loads(json.dumps(report.to_dict()))
    assert data["artifacts"][0]["target"] == "keras"
    assert report.to_table().row_count == 1 + len(TARGETS)
    html = html_table(report)
    assert html.count("<tr class='passed'>") == 1 + len(TARGETS)
    assert "tflite-int8" in html


@pytest.mark.full
def test_logits_stay_logits_and_runners_still_give_probabilities(
    tiny_config: ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    model = build(tiny_config, input_shape=(32, 32, 3), classifier_activation=None)
    randomize(model)
    export(
        model, tmp_path, ("saved_model", "tflite-float32", "onnx"), images=images[:8], timing=None
    )
    expected = keras.ops.softmax(model(images[:8]))
    for name in ("saved_model", "model-float32.tflite", "model.onnx"):
        runner = load_runner(tmp_path / name)
        assert runner.outputs == ("logits",)
        np.testing.assert_allclose(runner.predict(images[:8]), expected, atol=1e-5)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("mixed_float16", marks=pytest.mark.full),
        "mixed_bfloat16",
        pytest.param("nested", marks=pytest.mark.full),
    ],
)
def test_mixed_precision_models_are_exported_in_float32(
    policy: str, tiny_config: ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    dtype = "mixed_bfloat16" if policy == "nested" else policy
    model = build(tiny_config, input_shape=(32, 32, 3), dtype=dtype)
    randomize(model)
    if policy == "nested":
        image = keras.Input((32, 32, 3))
        model = keras.Model(image, model(image))
    report = export(model, tmp_path, ("tflite-float32", "onnx"), images=images[:8], timing=None)
    assert all(artifact.comparison.max_error <= 1e-4 for artifact in report.artifacts)
    exact = build(tiny_config, input_shape=(32, 32, 3))
    exact.set_weights(model.get_weights())
    received = load_runner(tmp_path / "model.onnx").predict(images[:8])
    np.testing.assert_allclose(received, exact(images[:8]), atol=1e-4)


@pytest.mark.full
def test_any_image_size_and_number_of_channels(tiny_config: ResNetConfig, tmp_path: Path) -> None:
    model = build(tiny_config, input_shape=(None, None, 1))
    randomize(model)
    random = np.random.default_rng(0)
    export(
        model,
        tmp_path,
        ("saved_model", "onnx"),
        images=random.integers(0, 256, (4, 40, 24, 1)),
        timing=None,
    )
    other = random.integers(0, 256, (3, 16, 48, 1))
    for name in ("saved_model", "model.onnx"):
        np.testing.assert_allclose(
            load_runner(tmp_path / name).predict(other), model(other), atol=1e-5
        )


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
    assert "class='failed'" in page
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


def test_flex_and_custom_operators_are_refused_by_name(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))

    @keras.saving.register_keras_serializable("test")
    class Erfinv(keras.layers.Layer):
        def call(self, x: tf.Tensor) -> tf.Tensor:
            return tf.math.erfinv(x / 300.0)

    x = keras.layers.GlobalAveragePooling2D()(Erfinv()(image))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    with pytest.raises(
        ValueError, match="TFLite's built-in operators.*Received: one that needs Erfinv$"
    ):
        export(model, tmp_path, ("tflite-float32",), timing=None)
    assert list(tmp_path.iterdir()) == []


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
        r"Expected `targets` among .*'tflite-int8'.*Received: \('tflite-int9',\)",
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
    single = "Received: 20 of 20 images of a single colour each"
    yield {"targets": int8, "calibration": plain, "images": good}, single
    ragged = [good[0], good[0, :16]]
    yield {"targets": int8, "calibration": ragged}, r"\(n, 32, 32, 3\). Received: what is no array"
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
        r"one label per image, 20. Received: labels of shape \(2,\)",
    )
    yield {"labels": [1, 2]}, "Expected `images` together with `labels`"
    options = ExportOptions(keep_float=("avg_pool",))
    yield {"options": options}, r"Received: \('avg_pool',\) for onnx, which are in float"


@pytest.mark.parametrize(("request_", "message"), list(bad_requests()))
def test_bad_requests_are_refused(
    request_: dict[str, object], message: str, tiny_model: keras.Model, tmp_path: Path
) -> None:
    keywords = {"targets": ("onnx",), **request_}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        export(tiny_model, tmp_path, **keywords)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_only_models_of_one_image_are_exported(tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    one_class = keras.Model(image, keras.layers.Dense(1)(keras.layers.Flatten()(image)))
    two = keras.Model([image, keras.Input((32, 32, 3))], keras.layers.Flatten()(image))
    for model, message in (
        (two, "with one input .*Received: Functional with input"),
        (keras.Sequential(), "with one input"),
        ("model.keras", "with one input .*Received: str"),
        (one_class, "at least two classes"),
    ):
        with pytest.raises(ValueError, match=f"Expected a Keras .*{message}"):
            export(model, tmp_path, ("onnx",))


@pytest.mark.full
@pytest.mark.parametrize(
    "names", [("C2", "C3", "C4"), pytest.param(("features",), marks=pytest.mark.full)]
)
def test_feature_maps_are_exported_by_name(
    names: tuple[str, ...], tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    if names == ("features",):
        model = keras.Model(tiny_model.input, tiny_model.get_layer("avg_pool").output)
    else:
        model = feature_extractor(tiny_model)
    folder = tmp_path
    report = export(
        model,
        folder,
        ("saved_model", "tflite-float32", "tflite-int8", "onnx"),
        calibration=images,
        timing=None,
    )
    expected = model(images[:3].astype(np.float32))
    expected = expected if isinstance(expected, dict) else {"features": expected}
    for row in report.artifacts[1:]:
        assert row.comparison.agreement is None
        assert row.comparison.cosine > (0.99 if row.target == "tflite-int8" else 0.999999)
        runner = load_runner(folder / str(row.file_name))
        assert set(runner.outputs) == set(names)
        with pytest.raises(ValueError, match="Expected a classifier. Received: a model that"):
            runner.predict(images)
        if row.target != "tflite-int8":
            received = runner.compute(images[:3])
            for name in names:
                np.testing.assert_allclose(received[name], expected[name], atol=1e-4)


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
    # The accuracy on ten images is none to put beside that on forty.
    assert [row.accuracy for row in rows] == [1.0, 1.0, None]
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
    assert "<td>refused</td>" in (tmp_path / "export.html").read_text()
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


def test_embeddings_are_features_not_logits(images: np.ndarray, tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(image))
    model = keras.Model(image, keras.layers.UnitNormalization()(keras.layers.Dense(4)(x)))
    report = export(model, tmp_path, ("onnx",), images=images, timing=None)
    assert report.artifacts[1].comparison.agreement is None
    assert load_runner(tmp_path / "model.onnx").outputs == ("features",)


def endings(image: keras.KerasTensor, logits: keras.KerasTensor) -> dict[str, keras.Model]:
    """One classifier, ended in every way that users end theirs."""
    softmax = keras.layers.Softmax()(logits)
    flat = keras.Model(image, softmax)
    return {
        "layer": flat,
        "operation": keras.Model(image, keras.ops.softmax(logits)),
        "cast": keras.Model(image, keras.layers.Activation("linear", dtype="float32")(softmax)),
        "nested": keras.Model(image, flat(image)),
    }


@pytest.mark.parametrize("kind", ["layer", "operation", "cast", "nested"])
def test_probabilities_are_recognised_however_the_model_ends(kind: str) -> None:
    image = keras.Input((8, 8, 3))
    logits = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(image))
    assert output_names(endings(image, logits)[kind]) == ("probabilities",)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["layer", "operation", "cast", "nested"])
def test_probabilities_stay_probabilities_however_the_model_ends(
    kind: str, tiny_config: ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    base = build(tiny_config, input_shape=(32, 32, 3), classifier_activation=None)
    randomize(base)
    model = endings(base.input, base.output)[kind]
    export(model, tmp_path, ("tflite-float32",), images=images[:8], timing=None)
    runner = load_runner(tmp_path / "model-float32.tflite")
    assert runner.outputs == ("probabilities",)
    np.testing.assert_allclose(runner.predict(images[:8]), model(images[:8]), atol=1e-5)


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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 0}, "`version` to be an integer of at least 1. Received: 0"),
        ({"batch_size": 1.5}, "`batch_size` to be an integer of at least 1. Received: 1.5"),
        ({"serving_batch_sizes": (1, True)}, "`serving_batch_sizes` .*. Received: True"),
        ({"serving_batch_sizes": ()}, "at least one of `serving_batch_sizes`. Received: none"),
        ({"layout": "CHW"}, r"`layout` to be one of \('NHWC', 'NCHW'\). Received: 'CHW'"),
        ({"keep_float": "conv1_conv"}, "a tuple of layers as `keep_float`. Received: 'conv1_conv'"),
    ],
)
def test_impossible_options_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportOptions(**fields)  # type: ignore[arg-type]


@pytest.mark.full
def test_versions_of_a_saved_model_lie_beside_each_other(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    for version in (1, 2):
        options = ExportOptions(version=version)
        export(tiny_model, tmp_path, ("saved_model",), images=images, options=options, timing=None)
    assert {path.name for path in (tmp_path / "saved_model").iterdir()} == {"1", "2"}


@pytest.mark.full
def test_onnx_may_take_channels_first_and_one_batch_size(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    options = ExportOptions(layout="NCHW", batch_size=3)
    report = export(
        tiny_model,
        tmp_path,
        ("onnx",),
        images=images[:8],
        options=options,
        timing=Timing(seconds=0.02),
    )
    assert [row.measurements[0].batch_size for row in report.artifacts] == [3, 3]
    assert all(row.latency_ms is not None for row in report.artifacts)
    graph = onnx.load(tmp_path / "model.onnx").graph
    sides = [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim]
    assert sides == [3, 3, 32, 32]
    runner = load_runner(tmp_path / "model.onnx")
    assert runner.input_shape == (3, 32, 32, 3)
    # Two batches of three and one of two, which is filled up.
    expected = tiny_model.predict(images[:8], verbose=0)
    np.testing.assert_allclose(runner.predict(images[:8]), expected, atol=1e-5)


@pytest.mark.full
def test_layers_that_ruin_int8_are_named_and_can_stay_in_float(
    images: np.ndarray, tmp_path: Path
) -> None:
    """One channel of `wide` is three hundred times as large as the others; `undo` divides it."""
    # Before any layer, whose initial kernel follows from it.
    keras.utils.set_random_seed(1)
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 64, offset=-2)(image)
    x = layers.Conv2D(16, 3, 2, activation="relu", name="first")(x)
    x = layers.Conv2D(16, 3, activation="relu", name="wide")(x)
    x = layers.Conv2D(16, 3, activation="relu", name="undo")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(10, activation="softmax", name="head")(x))
    wide, undo, head = (model.get_layer(name) for name in ("wide", "undo", "head"))
    kernel, bias = wide.get_weights()
    kernel[..., 3] *= 300
    wide.set_weights([kernel, bias])
    kernel, bias = undo.get_weights()
    kernel[:, :, 3] /= 300
    undo.set_weights([kernel, bias])
    vectors = keras.Model(image, x).predict(images, verbose=0)
    # Every second image its own class, so that small errors change answers.
    centres = vectors[:10] - vectors.mean(0)
    scaled = 30 * centres / np.linalg.norm(centres, axis=1, keepdims=True) ** 2
    head.set_weights([scaled.T, -scaled @ vectors.mean(0)])
    arguments = (("tflite-int8", "onnx-int8"),)
    keywords = {"calibration": images, "images": images, "timing": None, "overwrite": True}
    with pytest.raises(ExportError, match="hurt most: (wide|undo), (wide|undo)") as caught:
        export(model, tmp_path, *arguments, **keywords)  # type: ignore[arg-type]
    assert len(caught.value.report.failures) == 2
    for row in caught.value.report.artifacts[1:]:
        assert set(list(row.layer_errors)[:2]) == {"wide", "undo"}
        assert row.comparison.agreement < 0.9
    options = ExportOptions(keep_float=("wide", "undo"))
    report = export(model, tmp_path, *arguments, options=options, **keywords)  # type: ignore[arg-type]
    for row in report.artifacts[1:]:
        assert row.comparison.agreement >= 0.95
        assert {"wide", "undo"} <= set(row.float_layers)
        assert row.measurements == ()
