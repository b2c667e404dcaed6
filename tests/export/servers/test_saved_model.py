"""The signatures of a SavedModel, called as servers call them."""

from __future__ import annotations

import dataclasses
import io
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.tools import saved_model_cli

from keras_resnet import Predictor, ResNetConfig, build, feature_extractor
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import output_names
from keras_resnet.export.servers import saved_model
from keras_resnet.export.servers.picture_graph import decode_file, exif_orientation
from keras_resnet.images.decode import read_image
from keras_resnet.images.formats import exif_orientation as orientation_in_python
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import ModelInfo, set_info
from keras_resnet.support.files import size_of

from ...conftest import randomize

NAMES = tuple(f"class {letter}" for letter in "abcdefghij")
INFO = ModelInfo(class_names=NAMES, protocol=EvalProtocol(32, 36))


def source_of(model: keras.Model, workspace: Path, **fields: Any) -> ExportedModel:
    workspace.mkdir(exist_ok=True)
    outputs = fields.pop("outputs", None) or output_names(model)
    return ExportedModel(model, None, workspace, outputs, **fields)


@pytest.fixture(scope="module")
def written(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version's directory of the tiny network's SavedModel."""
    folder = tmp_path_factory.mktemp("written")
    options = ExportOptions(version=7, serving_batch_sizes=(1, 3))
    source = source_of(tiny_model, folder / "work", info=INFO, options=options)
    saved_model.write(source, folder / "saved_model")
    return folder / "saved_model" / "7"


@pytest.fixture(scope="module")
def loaded(written: Path) -> Any:
    return tf.saved_model.load(str(written))


@pytest.fixture(scope="module")
def predictor(tiny_model: keras.Model) -> Predictor:
    return Predictor(tiny_model, protocol=INFO.protocol, class_names=NAMES)


def picture(mode: str = "RGB", size: tuple[int, int] = (50, 40)) -> Image.Image:
    coarse = np.random.default_rng(sum(size)).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str, **keywords: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **keywords)
    return buffer.getvalue()


def oriented(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), form, exif=exif)


def files() -> Iterator[tuple[str, bytes]]:
    yield "JPEG", encoded(picture(size=(61, 47)), "JPEG")
    yield "small JPEG", encoded(picture(size=(20, 17)), "JPEG", subsampling=0)
    yield "grey JPEG", encoded(picture("L"), "JPEG")
    yield "CMYK JPEG", encoded(picture("CMYK"), "JPEG")
    yield "progressive JPEG", encoded(picture(), "JPEG", progressive=True)
    yield "turned JPEG", oriented("JPEG", 6)
    yield "PNG", encoded(picture(size=(33, 90)), "PNG")
    yield "grey PNG", encoded(picture("L"), "PNG")
    yield "palette PNG", encoded(picture("P"), "PNG", transparency=3)
    yield "black and white PNG", encoded(picture("1"), "PNG")
    alpha = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    yield "transparent PNG", encoded(Image.fromarray(alpha), "PNG")
    deep = np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16)
    yield "16-bit PNG", encoded(Image.fromarray(deep), "PNG")
    yield "turned PNG", oriented("PNG", 8)


FILES = dict(files())


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_those_of_read_image(kind: str) -> None:
    np.testing.assert_array_equal(decode_file(tf.constant(FILES[kind])), read_image(FILES[kind]))


def test_every_orientation_is_undone() -> None:
    decode = tf.function(decode_file, input_signature=[tf.TensorSpec((), tf.string)])
    for form in ("JPEG", "PNG"):
        for orientation in range(1, 9):
            data = oriented(form, orientation)
            np.testing.assert_array_equal(decode(data), read_image(data))


def test_exif_data_is_read_as_in_python() -> None:
    read = tf.function(exif_orientation, input_signature=[tf.TensorSpec((), tf.string)])

    def tiff(order: str, *entries: tuple[int, int, int]) -> bytes:
        head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
        packed = [struct.pack(f"{order}HHIHH", tag, kind, 1, v, 0) for tag, kind, v in entries]
        return head + struct.pack(f"{order}H", len(entries)) + b"".join(packed)

    noise = ((0x0100, 3, 5), (0x0112, 4, 6))
    whole = [tiff(order, *noise, (0x0112, 3, 6), (0x0112, 3, 2)) for order in "<>"]
    assert [orientation_in_python(data) for data in whole] == [6, 6]
    cases = [
        *whole,
        *(whole[0][:length] for length in range(0, len(whole[0]), 3)),
        *(b"Exif\0\0" + data for data in whole),
        tiff("<", (0x0112, 3, 0)),
        tiff(">", (0x0112, 3, 9)),
        b"MM\0*\xff\xff\xff\xff",
        b"no TIFF at all",
    ]
    for data in cases:
        assert int(read(data)) == orientation_in_python(data), data


def test_files_of_mixed_sizes_are_classified_as_by_the_predictor(
    loaded: Any, predictor: Predictor
) -> None:
    answers = loaded.signatures["serving_bytes"](bytes=tf.constant(list(FILES.values())))
    assert set(answers) == {"probabilities", "classes", "scores"}
    expected = predictor.predict(list(FILES.values()))
    # The resized pixels differ by one level where they are at the edge of rounding.
    np.testing.assert_allclose(answers["probabilities"], expected, atol=5e-3)
    rows = zip(answers["classes"].numpy(), answers["scores"].numpy(), strict=True)
    for (names, scores), row in zip(rows, answers["probabilities"].numpy(), strict=True):
        order = np.argsort(-row, kind="stable")[:5]
        assert [name.decode() for name in names] == [NAMES[index] for index in order]
        np.testing.assert_array_equal(scores, row[order])


def test_pixels_are_classified_in_both_dtypes(
    loaded: Any, tiny_model: keras.Model, images: np.ndarray
) -> None:
    expected = tiny_model.predict(images, verbose=0)
    floats = loaded.signatures["serving_default"](image=tf.constant(images, tf.float32))
    integers = loaded.signatures["serving_uint8"](image=tf.constant(images))
    for answers in (floats, integers):
        assert set(answers) == {"probabilities", "classes"}
        np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
        first = [name.decode() for name in answers["classes"][:, 0].numpy()]
        assert first == [NAMES[index] for index in expected.argmax(-1)]


def test_features_are_what_the_classifier_sees(
    loaded: Any, tiny_model: keras.Model, images: np.ndarray
) -> None:
    pixels = images[:4].astype(np.float32)
    vectors = loaded.signatures["features"](image=tf.constant(pixels))["features"].numpy()
    assert vectors.shape == (4, 24)
    kernel, bias = tiny_model.get_layer("predictions").get_weights()
    logits = vectors @ kernel + bias
    np.testing.assert_allclose(tf.nn.softmax(logits), tiny_model(pixels), atol=1e-5)


def broken_files() -> Iterator[tuple[str, bytes]]:
    jpeg, png = FILES["JPEG"], FILES["PNG"]
    yield "text", b"this is no picture"
    yield "nothing", b""
    yield "GIF", encoded(picture("P"), "GIF")
    yield "start of a JPEG", jpeg[:3]
    yield "half a JPEG", jpeg[: len(jpeg) // 2]
    yield "start of a PNG", png[:8]
    yield "half a PNG", png[: len(png) // 2]
    yield "damaged PNG", png[:60] + bytes([png[60] ^ 255]) + png[61:]
    # Sizes that would not fit into memory.
    yield "huge PNG", png[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + png[24:]
    frame = jpeg.index(b"\xff\xc0")
    yield "huge JPEG", jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :]


def test_bytes_that_are_no_image_are_named_and_the_model_goes_on(
    loaded: Any, predictor: Predictor
) -> None:
    serve = loaded.signatures["serving_bytes"]
    good = FILES["JPEG"]
    for kind, bad in broken_files():
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"Expected JPEG or PNG .* batch:\] \[1\]\n"
        ):
            serve(bytes=tf.constant([good, bad, good]))
        if kind != "GIF":  # Of these the predictor takes more kinds.
            with pytest.raises(ValueError, match="Expected an image"):
                predictor.predict([bad])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"batch:\] \[0 2 3\]\n"):
        serve(bytes=tf.constant([b"a", good, b"b", b"c"]))
    after = serve(bytes=tf.constant([good]))["probabilities"]
    np.testing.assert_allclose(after, predictor.predict([good]), atol=5e-3)


def test_a_file_of_nothing_but_segments_does_not_keep_the_server_busy(loaded: Any) -> None:
    endless = b"\xff\xd8" + b"\xff\xfe\x00\x02" * 300_000 + FILES["JPEG"][2:]
    answers = loaded.signatures["serving_bytes"](bytes=tf.constant([endless]))
    assert answers["probabilities"].shape == (1, 10)


def test_an_empty_batch_has_an_empty_answer(loaded: Any) -> None:
    answers = loaded.signatures["serving_bytes"](bytes=tf.constant([], tf.string))
    assert answers["probabilities"].shape == (0, 10)


def test_assets_and_one_set_of_variables(written: Path, tiny_model: keras.Model) -> None:
    names = (written / "assets" / "class_names.txt").read_text("utf-8").splitlines()
    assert tuple(names) == NAMES
    assert ModelInfo.from_json((written / "assets.extra/keras_resnet.json").read_text()) == INFO
    values = sum(int(np.prod(weight.shape)) for weight in tiny_model.weights)
    assert 4 * values <= size_of(written / "variables") < 1.25 * 4 * values + 4096
    assert {path.name for path in written.parent.parent.iterdir()} == {
        "saved_model",
        "models.config",
        "batching.config",
        "work",
    }


def test_names_are_read_from_the_asset(written: Path, tmp_path: Path, images: np.ndarray) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(written, copy)
    lines = "".join(f"klasse {number}\n" for number in range(10))
    (copy / "assets" / "class_names.txt").write_text(lines)
    serve = tf.saved_model.load(str(copy)).signatures["serving_default"]
    answers = serve(image=tf.constant(images[:1], tf.float32))
    best = int(answers["probabilities"].numpy().argmax())
    assert answers["classes"].numpy()[0, 0] == f"klasse {best}".encode()


def test_saved_model_cli_shows_every_signature(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What `saved_model_cli show --all` calls; the command itself imports TensorFlow once more.
    saved_model_cli._show_all(str(written))
    shown = capsys.readouterr().out
    flat = " ".join(shown.split())
    for signature, key, dtype, shape in (
        ("serving_default", "image", "DT_FLOAT", "(-1, 32, 32, 3)"),
        ("serving_uint8", "image", "DT_UINT8", "(-1, 32, 32, 3)"),
        ("serving_bytes", "bytes", "DT_STRING", "(-1)"),
        ("features", "image", "DT_FLOAT", "(-1, 32, 32, 3)"),
    ):
        start = flat.index(f"signature_def['{signature}']")
        wanted = f"inputs['{key}'] tensor_info: dtype: {dtype} shape: {shape}"
        assert wanted in flat[start : start + 300]
    assert "outputs['classes'] tensor_info: dtype: DT_STRING shape: (-1, 5)" in flat


def signatures_of(model: keras.Model, folder: Path, **fields: Any) -> Any:
    saved_model.write(source_of(model, folder / "work", **fields), folder / "saved_model")
    return tf.saved_model.load(str(folder / "saved_model" / "1"))


def flat_cnn(
    shape: tuple[int | None, ...], end: Callable[[Any], Any], activation: str | None = "softmax"
) -> keras.Model:
    image = keras.Input(shape)
    x = keras.layers.Conv2D(6, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(4, activation=activation)(end(x)))
    randomize(model)
    return model


def test_logits_stay_and_scores_are_probabilities(tmp_path: Path) -> None:
    model = flat_cnn((None, None, 3), keras.layers.GlobalAveragePooling2D(), None)
    loaded = signatures_of(model, tmp_path)
    answers = loaded.signatures["serving_bytes"](bytes=tf.constant([FILES["PNG"]]))
    assert set(answers) == {"logits", "classes", "scores"}
    probabilities = tf.nn.softmax(answers["logits"]).numpy()[0]
    order = np.argsort(-probabilities)
    np.testing.assert_allclose(answers["scores"][0], probabilities[order], atol=1e-6)
    # Without names, the numbers of the classes; of four classes there are no five best.
    assert answers["classes"].numpy()[0].tolist() == [str(index).encode() for index in order]
    # A model of any size: 256 -> 224.
    expected = Predictor(model).predict([FILES["PNG"]])[0]
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert loaded.signatures["features"].structured_outputs["features"].shape == (None, 6)


def test_grey_models_get_grey_pictures(tmp_path: Path) -> None:
    model = flat_cnn((16, 16, 1), keras.layers.GlobalAveragePooling2D())
    serve = signatures_of(model, tmp_path).signatures["serving_bytes"]
    kinds = [FILES["JPEG"], FILES["grey PNG"]]
    expected = Predictor(model).predict(kinds)
    np.testing.assert_allclose(
        serve(bytes=tf.constant(kinds))["probabilities"], expected, atol=2e-3
    )


def test_what_is_not_well_defined_is_left_out(tmp_path: Path) -> None:
    model = flat_cnn((16, 12, 5), keras.layers.Flatten())
    loaded = signatures_of(model, tmp_path)
    assert set(loaded.signatures) == {"serving_default", "serving_uint8"}


def test_feature_maps_have_no_classes(tiny_model: keras.Model, tmp_path: Path) -> None:
    model = feature_extractor(tiny_model, ["C3", "C4"])
    loaded = signatures_of(model, tmp_path, outputs=("C3", "C4"))
    assert set(loaded.signatures) == {"serving_default", "serving_uint8", "serving_bytes"}
    answers = loaded.signatures["serving_bytes"](bytes=tf.constant([FILES["PNG"]]))
    assert {name: value.shape.as_list() for name, value in answers.items()} == {
        "C3": [1, 16, 16, 16],
        "C4": [1, 8, 8, 24],
    }
    assert not (tmp_path / "saved_model" / "1" / "assets" / "class_names.txt").exists()


def test_imagenet_is_what_a_thousand_unnamed_classes_are(tmp_path: Path) -> None:
    model = build(
        ResNetConfig("basic", (1,), (4,), stem="cifar"), input_shape=(8, 8, 3), classes=1000
    )
    source = source_of(model, tmp_path)
    names = saved_model.class_names(source)
    assert names is not None
    assert (len(names), names[0]) == (1000, "tench")
    named = dataclasses.replace(source, info=ModelInfo(class_names=("a\nb", *names[1:])))
    set_info(model, named.info)
    saved_model.write(named, tmp_path / "saved_model")
    lines = (tmp_path / "saved_model/1/assets/class_names.txt").read_text("utf-8").splitlines()
    assert (len(lines), lines[0]) == (1000, "a b")
