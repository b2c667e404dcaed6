"""Classifiers that this package did not write: found out, run and compared like its own."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from keras_resnet.export import benchmark, export, load_runner, verify
from keras_resnet.export.tflite.private import (
    convert_bytearray_to_object,
    convert_object_to_bytearray,
    schema,
)
from keras_resnet.images import protocol
from keras_resnet.jobs.embed import embed, embed_to_file
from keras_resnet.jobs.predictor import Predictor
from keras_resnet.models.pixels import PIXEL_FORMATS
from keras_resnet.support.quiet import quiet

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def kernel(classes: int = 5) -> np.ndarray:
    """Of a classifier of the mean of every channel, `(3, classes)`."""
    return np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def expected(images: np.ndarray, classes: int = 5, mean: Any = MEAN, std: Any = STD) -> np.ndarray:
    pixels = (images / 255 - mean) / std
    return softmax(pixels.mean((1, 2)) @ kernel(classes))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)


def write_onnx(
    path: Path,
    shape: tuple[Any, ...] = ("n", 3, 20, 20),
    *,
    classes: int = 5,
    kind: int = TensorProto.FLOAT,
    ends: tuple[str, ...] = ("scores",),
    rank4: bool = False,
    **metadata: str,
) -> Path:
    """Logits of the mean of every channel; `shape` is NCHW or NHWC."""
    axes = [2, 3] if shape[1] in (1, 3) else [1, 2]
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0)
        if len(shape) == 4
        else helper.make_node("Identity", ["float"], ["mean"]),
        helper.make_node("MatMul", ["mean", "kernel"], ["logits"]),
    ]
    nodes += [helper.make_node("Identity", ["logits"], [end]) for end in ends]
    constants = [
        numpy_helper.from_array(kernel(classes)[: 1 if shape[1] == 1 else 3], "kernel"),
        numpy_helper.from_array(np.array(axes, np.int64), "axes"),
    ]
    sides: tuple[Any, ...] = ("n", classes)
    if rank4:
        nodes[-1] = helper.make_node("Reshape", ["logits", "sides"], [ends[0]])
        constants.append(numpy_helper.from_array(np.array([-1, classes, 1, 1], np.int64), "sides"))
        sides = ("n", classes, 1, 1)
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, sides) for end in ends],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {key.replace("_", ".", 1): v for key, v in metadata.items()})
    onnx.save(model, path)
    return path


def keras_model(size: int | None = 20, *, activation: str | None = "softmax") -> keras.Model:
    """The same classifier as a Keras model of pixels that are normalised already."""
    image = keras.Input((size, size, 3), name="anything")
    means = keras.layers.GlobalAveragePooling2D()(image)
    head = keras.layers.Dense(5, activation, use_bias=False, name="head")
    model = keras.Model(image, head(means))
    head.set_weights([kernel()])
    return model


def write_tflite(path: Path, model: keras.Model | None = None, **options: Any) -> Path:
    """With TensorFlow's public converter."""
    with quiet():
        converter = tf.lite.TFLiteConverter.from_keras_model(model or keras_model())
        for name, value in options.items():
            setattr(converter, name, value)
        path.write_bytes(converter.convert())
    return path


@pytest.mark.parametrize("shape", [("n", 3, 20, 20), ("n", 20, 20, 3), (1, 3, None, None)])
def test_layout_of_onnx_is_found_by_its_shape(
    tmp_path: Path, pictures: np.ndarray, shape: tuple[Any, ...]
) -> None:
    path = write_onnx(tmp_path / "model.onnx", shape)
    runner = load_runner(path, pixels="imagenet")
    name = "NCHW" if shape[1] == 3 else "NHWC"
    assert runner.notes[0].startswith(f"Layout: {name}, as its input has the shape ")
    assert runner.notes[1:] == (
        "Pixels: imagenet (RGB minus ImageNet's mean, divided by its standard deviation), as was "
        "asked for.",
        "Output: logits ('scores'), of which a softmax is taken, as they do not sum to 1.",
        "Classes: 5, by number, as nothing names them.",
    )
    assert runner.input_shape[3] == 3
    np.testing.assert_allclose(runner.predict(pictures), expected(pictures), atol=1e-5)
    predictor = Predictor(path, pixels="imagenet")
    assert predictor.notes == runner.notes
    assert repr(predictor).startswith(f"<Predictor of {path} (ONNX): images ")
    assert "pixels imagenet; 5 classes, without names>" in repr(predictor)


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_pixel_formats_are_those_of_keras_applications_and_torchvision(
    tmp_path: Path, pictures: np.ndarray, name: str
) -> None:
    received = load_runner(write_onnx(tmp_path / "m.onnx"), pixels=name).predict(pictures)
    floats = pictures.astype(np.float32)
    prepared = {
        "raw": floats,
        "unit": floats / 255,
        "imagenet": keras.applications.imagenet_utils.preprocess_input(floats.copy(), mode="torch"),
    }
    for mode in ("tf", "caffe"):
        prepared[mode] = keras.applications.imagenet_utils.preprocess_input(
            floats.copy(), mode=mode
        )
    wanted = softmax(prepared[name].mean((1, 2)) @ kernel())
    np.testing.assert_allclose(received, wanted, atol=1e-4)


def test_unknown_pixels_are_refused_with_the_choices(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"Expected `pixels`, as .*model.onnx does not"):
        load_runner(path)
    with pytest.raises(ValueError, match=r"Expected `pixels` to be one of \('raw', 'unit', "):
        load_runner(path, pixels="torchvision")
    integers = write_onnx(tmp_path / "integers.onnx", kind=TensorProto.UINT8)
    with pytest.raises(
        ValueError, match="Expected `pixels='raw'` for .*, whose input takes integers"
    ):
        load_runner(integers, pixels="unit")
    grey = write_onnx(tmp_path / "grey.onnx", ("n", 1, 20, 20))
    with pytest.raises(
        ValueError, match="Expected a model of three channels with `pixels='caffe'`"
    ):
        load_runner(grey, pixels="caffe")


def test_metadata_and_types_of_onnx_tell_its_pixels(tmp_path: Path, pictures: np.ndarray) -> None:
    wanted = {
        "NominalRange_0_255": ("raw", expected(pictures, mean=0, std=1 / 255)),
        "Normalized_0_1": ("unit", expected(pictures, mean=0, std=1)),
        "Normalized_1_1": ("tf", expected(pictures, mean=0.5, std=0.5)),
    }
    for said, (name, probabilities) in wanted.items():
        path = write_onnx(tmp_path / f"{said}.onnx", Image_NominalPixelRange=said)
        runner = load_runner(path)
        assert runner.pixels.name == name
        assert "as the metadata of the file says" in runner.notes[1]
        np.testing.assert_allclose(runner.predict(pictures), probabilities, atol=1e-4)
    # Blue first: none of the known formats.
    metadata = {"Image_NominalPixelRange": "NominalRange_0_255", "Image_BitmapPixelFormat": "Bgr8"}
    with pytest.raises(ValueError, match="does not say in which format"):
        load_runner(write_onnx(tmp_path / "bgr.onnx", **metadata))
    integers = load_runner(write_onnx(tmp_path / "integers.onnx", kind=TensorProto.UINT8))
    assert "Pixels: raw (RGB in [0, 255]), as its input takes integers." in integers.notes
    np.testing.assert_allclose(
        integers.predict(pictures), wanted["NominalRange_0_255"][1], atol=1e-4
    )


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"shape": ("n", 3)}, r"its input has the shape \(None, 3\), "),
        ({"shape": ("n", "c", "h", "w")}, r"which does not show the layout \(NHWC or NCHW\)"),
        ({"shape": ("n", 3, 20, 3)}, r"does not show the layout"),
    ],
)
def test_what_takes_no_images_is_refused(
    tmp_path: Path, keywords: dict[str, Any], reason: str
) -> None:
    with pytest.raises(
        ValueError, match=f"Expected an artifact that takes one batch of images .*{reason}"
    ):
        load_runner(write_onnx(tmp_path / "model.onnx", **keywords), pixels="raw")


def test_several_outputs_are_no_classifier(tmp_path: Path, pictures: np.ndarray) -> None:
    path = write_onnx(tmp_path / "two.onnx", ends=("scores", "features"))
    runner = load_runner(path, pixels="raw")
    with pytest.raises(ValueError, match=r"Expected a classifier. Received: .* scores, features"):
        runner.predict(pictures)
    assert set(runner.compute(pictures)) == {"scores", "features"}


@pytest.mark.parametrize("suffix", ["onnx", "tflite", "keras"])
def test_models_of_several_inputs_are_refused(tmp_path: Path, suffix: str) -> None:
    inputs = [keras.Input((20, 20, 3), name=name) for name in ("left", "right")]
    both = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(inputs))
    path = tmp_path / f"model.{suffix}"
    if suffix == "onnx":
        ends = [helper.make_tensor_value_info(x, TensorProto.FLOAT, (1, 3)) for x in "lro"]
        node = helper.make_node("Add", ["l", "r"], ["o"])
        graph = helper.make_graph([node], "two", ends[:2], ends[2:])
        opsets = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    elif suffix == "tflite":
        write_tflite(path, keras.Model(inputs, both))
    else:
        keras.Model(inputs, both).save(path)
    reason = "one input" if suffix == "keras" else r"it has 2 inputs \(.*, .*\) instead of one"
    with pytest.raises(ValueError, match=rf"model.{suffix}: .*{reason}"):
        load_runner(path)
    if suffix != "keras":
        (row,) = benchmark([path], seconds=0.01).measurements
        assert "it has 2 inputs (" in str(row.error)


def test_outputs_of_one_place_are_flattened(tmp_path: Path, pictures: np.ndarray) -> None:
    runner = load_runner(write_onnx(tmp_path / "m.onnx", rank4=True), pixels="imagenet")
    assert runner.ranks == (2,)
    np.testing.assert_allclose(runner.predict(pictures), expected(pictures), atol=1e-5)


@pytest.mark.parametrize(("classes", "first"), [(1000, "tench"), (1001, "background")])
def test_classifiers_of_imagenet_get_its_names(
    tmp_path: Path, pictures: np.ndarray, classes: int, first: str
) -> None:
    path = write_onnx(tmp_path / "model.onnx", classes=classes)
    predictor = Predictor(path, pixels="imagenet")
    assert predictor.class_names is not None
    assert (predictor.class_names[0], len(predictor.class_names)) == (first, classes)
    assert predictor.class_names[-1] == "toilet tissue"
    assert predictor.notes[-1].startswith("Classes: ImageNet's")
    best = int(expected(pictures, classes)[0].argmax())
    assert predictor.classify(pictures, 1)[0][0][1] == predictor.class_names[best]


def test_tflite_without_our_signature(tmp_path: Path, pictures: np.ndarray) -> None:
    path = write_tflite(tmp_path / "model.tflite")
    runner = load_runner(path, pixels="imagenet")
    assert "Output: probabilities ('output_0'), which sum to 1." in runner.notes
    np.testing.assert_allclose(runner.predict(pictures), expected(pictures), atol=1e-5)
    # As converters before 2020 wrote it.
    model = convert_bytearray_to_object(bytearray(path.read_bytes()))
    model.signatureDefs = None
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(convert_object_to_bytearray(model))
    runner = load_runner(bare, pixels="imagenet")
    for count in (4, 1, 3):
        np.testing.assert_allclose(
            runner.predict(pictures[:count]), expected(pictures[:count]), atol=1e-5
        )


@pytest.mark.parametrize(
    ("dtype", "low", "high", "name"),
    [
        (tf.uint8, 0, 1, "unit"),
        (tf.int8, -1, 1, "tf"),
        (tf.int8, 0, 255, "raw"),
        (tf.uint8, -2.118, 2.64, "imagenet"),
        (tf.int8, -3, 7, None),
    ],
)
def test_quantized_inputs_tell_their_pixels(
    tmp_path: Path, pictures: np.ndarray, dtype: Any, low: float, high: float, name: str | None
) -> None:
    ends = np.linspace(low, high, 2 * 20 * 20 * 3, dtype=np.float32).reshape(2, 1, 20, 20, 3)
    path = write_tflite(
        tmp_path / "model.tflite",
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([image] for image in ends),
        inference_input_type=dtype,
        inference_output_type=dtype,
    )
    if name is None:
        with pytest.raises(ValueError, match="does not say in which format"):
            load_runner(path)
        return
    runner = load_runner(path)
    assert runner.pixels.name == name
    assert "as its input is quantized to [" in runner.notes[1]
    assert "'StatefulPartitionedCall" in runner.notes[2] or "output_0" in runner.notes[2]
    assert "Output: probabilities" in runner.notes[2]
    pixels = PIXEL_FORMATS[name].apply(pictures)
    wanted = softmax(pixels.mean((1, 2)) @ kernel())
    assert np.abs(runner.predict(pictures) - wanted).max() < 0.05


def with_standard_metadata(path: Path, mean: float, std: float, labels: str) -> Path:
    """As `tflite-support` writes it: a flatbuffer in an entry, the labels in a zip at the end."""
    builder = flatbuffers.Builder()

    def table(fields: dict[int, Callable[[int], None]]) -> int:
        builder.StartObject(max(fields) + 1)
        for number, add in fields.items():
            add(number)
        return int(builder.EndObject())

    def offset(value: int) -> Callable[[int], None]:
        return lambda number: builder.PrependUOffsetTRelativeSlot(number, value, 0)

    def byte(value: int) -> Callable[[int], None]:
        return lambda number: builder.PrependInt8Slot(number, value, 0)

    def vector(tables: list[int]) -> int:
        builder.StartVector(4, len(tables), 4)
        for place in tables:
            builder.PrependUOffsetTRelative(place)
        return int(builder.EndVector())

    means = builder.CreateNumpyVector(np.array([mean], np.float32))
    stds = builder.CreateNumpyVector(np.array([std], np.float32))
    options = table({0: offset(means), 1: offset(stds)})
    unit = table({0: byte(1), 1: offset(options)})
    image = table({4: offset(vector([unit]))})
    file_name = builder.CreateString("labels.txt")
    file = table({0: offset(file_name), 2: byte(2)})
    scores = table({6: offset(vector([file]))})
    graph = table({2: offset(vector([image])), 3: offset(vector([scores]))})
    builder.Finish(table({3: offset(vector([graph]))}), file_identifier=b"M001")

    model = convert_bytearray_to_object(bytearray(path.read_bytes()))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(bytes(builder.Output()), np.uint8)
    entry.name, entry.buffer = b"TFLITE_METADATA", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    archive = io.BytesIO(bytes(convert_object_to_bytearray(model)))
    with zipfile.ZipFile(archive, "a") as writer:
        writer.writestr("labels.txt", labels)
    path.write_bytes(archive.getvalue())
    return path


def test_metadata_of_tflite_tell_pixels_and_names(tmp_path: Path, pictures: np.ndarray) -> None:
    path = write_tflite(tmp_path / "model.tflite")
    labels = "ant\nbee\ncat\ndog\nelk\n"
    runner = load_runner(with_standard_metadata(path, 127.5, 127.5, labels))
    assert runner.info.class_names == ("ant", "bee", "cat", "dog", "elk")
    assert runner.pixels.name == "tf"
    assert runner.notes[3:] == ("Classes: 5, named by the labels in the file.",)
    np.testing.assert_allclose(
        runner.predict(pictures), expected(pictures, mean=0.5, std=0.5), atol=1e-5
    )
    other = write_tflite(tmp_path / "other.tflite")
    runner = load_runner(with_standard_metadata(other, 100, 50, labels[4:]))
    assert runner.notes[1] == (
        "Pixels: metadata (RGB in [0, 255] minus 100, divided by 50), as the metadata of the file "
        "says."
    )
    np.testing.assert_allclose(
        runner.predict(pictures), expected(pictures, mean=100 / 255, std=50 / 255), atol=1e-5
    )
    assert runner.info.class_names is None
    assert "by number, as the file has 4 labels, which cannot name them" in runner.notes[3]
    content = path.read_bytes()
    harmless = 0
    place = content.index(struct.pack("<f", 127.5))
    for start in range(place - 120, place, 8):
        damaged = tmp_path / "damaged.tflite"
        damaged.write_bytes(content[:start] + b"\xff" * 4 + content[start + 4 :])
        # Most of it does not matter; what does gives no other error.
        with contextlib.suppress(ValueError):
            load_runner(damaged, pixels="raw")
            harmless += 1
    assert harmless < 14


class Elsewhere(tf.Module):
    """A SavedModel without Keras, with names of its own."""

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32, "pictures")])
    def __call__(self, pictures: Any) -> Any:
        return {"likelihood": tf.nn.softmax(tf.reduce_mean(pictures, (1, 2)) @ kernel())}

    @tf.function(input_signature=[tf.TensorSpec((None, 3, 20, 20), tf.uint8, "bytes")])
    def channels_first(self, pictures: Any) -> Any:
        return tf.reduce_mean(tf.cast(pictures, tf.float32), (2, 3)) @ kernel()

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def strings(self, texts: Any) -> Any:
        return tf.strings.length(texts)


def test_saved_models_of_others(tmp_path: Path, pictures: np.ndarray) -> None:
    module = Elsewhere()
    tf.saved_model.save(module, str(tmp_path / "a"), signatures=module.__call__)
    runner = load_runner(tmp_path / "a", pixels="imagenet")
    assert runner.input_shape == (None, None, None, 3)
    assert "Output: probabilities ('likelihood'), which sum to 1." in runner.notes
    np.testing.assert_allclose(runner.predict(pictures), expected(pictures), atol=1e-5)
    # A signature of any name, if it is the only one.
    tf.saved_model.save(module, str(tmp_path / "b"), signatures={"classify": module.channels_first})
    runner = load_runner(tmp_path / "b")
    assert runner.notes[0].startswith("Layout: NCHW")
    np.testing.assert_allclose(
        runner.predict(pictures), expected(pictures, mean=0, std=1 / 255), atol=1e-4
    )
    assert benchmark([tmp_path / "b"], seconds=0.01).measurements[0].error is None
    two = {"one": module.__call__, "two": module.channels_first}
    for name, signatures, reason in (
        ("c", two, r"it needs a signature 'serving_default', or one signature only"),
        ("d", module.strings, "not a batch of images"),
    ):
        tf.saved_model.save(module, str(tmp_path / name), signatures=signatures)
        with pytest.raises(ValueError, match=rf"Received: .*{name}: .*{reason}"):
            load_runner(tmp_path / name, pixels="raw")


def test_keras_models_of_others(tmp_path: Path, pictures: np.ndarray) -> None:
    keras_model().save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match=r"model.keras does not say in which format .*`pixels`"):
        runner = load_runner(tmp_path / "model.keras")
    assert "the default for Keras models, as the file does not say" in runner.notes[1]
    runner = load_runner(tmp_path / "model.keras", pixels="imagenet")
    np.testing.assert_allclose(runner.predict(pictures), expected(pictures), atol=1e-5)
    # A layer that normalises says that pixels are raw.
    for number, layer in enumerate(
        (
            keras.layers.Rescaling(1 / 127.5, -1),
            keras.layers.Normalization(mean=list(255 * MEAN), variance=list((255 * STD) ** 2)),
        )
    ):
        path = tmp_path / f"{number}.keras"
        keras.Sequential([keras.Input((20, 20, 3)), layer, keras_model()]).save(path)
        runner = load_runner(path)
        assert "the model normalizes its pixels itself" in runner.notes[1]
    np.testing.assert_allclose(runner.predict(pictures), expected(pictures), atol=1e-5)


def test_artifacts_of_others_are_compared(tmp_path: Path, pictures: np.ndarray) -> None:
    keras_model(activation=None).save(tmp_path / "model.keras")
    path = write_onnx(tmp_path / "model.onnx")
    row = verify(
        path, tmp_path / "model.keras", pictures, pixels="imagenet", against_pixels="imagenet"
    )
    assert (row.disagreements, row.comparison.agreement) == ((), 1.0)
    assert row.comparison.max_error < 1e-5
    assert f"{path}: Layout: NCHW" in row.notes[0]
    assert len(row.notes) == 8
    wrong = verify(path, tmp_path / "model.keras", pictures, pixels="tf", against_pixels="imagenet")
    assert wrong.comparison.max_error > 0.01


def test_commands_say_how_they_take_the_files_of_others(
    tmp_path: Path, pictures: np.ndarray, command_in_process: Any
) -> None:
    path, folder = write_onnx(tmp_path / "model.onnx"), tmp_path / "pictures"
    for index, picture in enumerate(pictures):
        (folder / str(index)).mkdir(parents=True)
        keras.utils.save_img(folder / str(index) / "image.png", picture, scale=False)
    refused = command_in_process("predict", str(path), str(folder))
    assert refused.returncode == 2
    assert "Expected `--pixels`, as" in refused.stderr
    done = command_in_process(
        "predict", str(path), str(folder), "--pixels", "imagenet", "--top", "1"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Layout: NCHW, as its input has the shape (?, 3, 20, 20)." in done.stdout
    best = expected(pictures)[0].argmax()
    assert f"{expected(pictures)[0].max():7.2%}  {best}" in done.stdout
    done = command_in_process(
        "predict", str(path), str(folder), "--pixels", "imagenet", "--top", "1", "--json"
    )
    found = json.loads(done.stdout)
    assert (found["model"]["pixels"], len(found["model"]["notes"])) == ("imagenet", 4)
    assert found["predictions"][0]["classes"][0]["name"] == str(best)
    keras_model(activation=None).save(tmp_path / "model.h5")
    options = ("--pixels", "imagenet", "--against-pixels", "imagenet")
    done = command_in_process(
        "verify", str(path), "--against", str(tmp_path / "model.h5"), *options
    )
    assert done.returncode == 0, done.stderr
    assert "Pixels: imagenet" in done.stdout
    data = f"folder:{folder}"
    done = command_in_process(
        *("evaluate", str(path), "--data", data, "--split", "all", "--match-names", "--crop", "20"),
        *("--pixels", "imagenet", "--json"),
    )
    assert done.returncode == 0, done.stderr
    right = expected(pictures)[:, :4].argmax(-1) == np.arange(4)
    assert json.loads(done.stdout)["accuracy"] == pytest.approx(right.mean())
    assert any("Layout: NCHW" in note for note in json.loads(done.stdout)["notes"])


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def test_vectors_of_the_files_of_others(tmp_path: Path, pictures: np.ndarray) -> None:
    """What the last dense layer gets: here, the means of the channels."""
    files = []
    for index, picture in enumerate(pictures):
        files.append(tmp_path / f"{index}.png")
        files[-1].write_bytes(png(picture))
    keras_model().save(tmp_path / "model.keras")
    keras_model().save(tmp_path / "model.h5")
    write_onnx(tmp_path / "model.onnx")
    write_tflite(tmp_path / "model.tflite")
    wanted = ((pictures / 255 - MEAN) / STD).mean((1, 2))
    for suffix in ("keras", "h5", "onnx", "tflite"):
        path, output = tmp_path / f"model.{suffix}", tmp_path / f"{suffix}.npz"
        report = embed_to_file(path, files, output, pixels="imagenet", batch_size=3)
        assert (report.channels, report.vectors) == (3, 4)
        assert any(note.startswith("Pixels: imagenet") for note in report.notes)
        with np.load(output) as arrays:
            np.testing.assert_allclose(arrays["vectors"], wanted, atol=1e-5)
    with pytest.raises(ValueError, match="Expected `level` to be 'avg' for an artifact"):
        embed_to_file(tmp_path / "model.onnx", files, tmp_path / "x.npz", level="C4")
    tf.saved_model.save(Elsewhere(), str(tmp_path / "saved"), signatures=Elsewhere().__call__)
    with pytest.raises(ValueError, match="it has no signature 'features'"):
        next(embed(tmp_path / "saved", files, pixels="raw"))


@pytest.mark.full
def test_vectors_of_our_artifacts_are_those_of_the_model(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, image in zip(files, images, strict=False):
        file.write_bytes(png(image))
    targets = ("saved_model", "tflite-float32", "onnx")
    export(tiny_model, tmp_path / "out", targets, images=images, timing=None)
    ((_, wanted),) = embed(tiny_model, files)
    for name in ("saved_model", "model-float32.tflite", "model.onnx"):
        ((_, found),) = embed(tmp_path / "out" / name, files)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_scaled_images_are_warned_of(
    tmp_path: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(write_onnx(tmp_path / "model.onnx"), pixels="unit")
    scaled = pictures.astype(np.float32) / 255
    for source in (scaled, list(scaled), scaled[0]):
        monkeypatch.setattr(protocol, "_warned", False)
        with pytest.warns(UserWarning, match=r"Expected pixels in \[0, 255\].*look scaled") as seen:
            predictor.predict(source)
        assert seen[0].filename == __file__


def test_many_predictors_are_no_retracing(
    caplog: pytest.LogCaptureFixture, pictures: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(pictures[0]))
    for _ in range(8):
        Predictor(keras_model()).predict(pictures)
        next(embed(keras_model(), [file]))
    assert "retracing" not in caplog.text
