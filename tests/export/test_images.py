"""Which images are calibrated with and verified on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet.data import DataConfig, load_data
from keras_resnet.data.bad_records import TooManyBadRecordsError
from keras_resnet.export.images import balanced, check_calibration, image_sets
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import ModelInfo

SHAPE = (None, 16, 16, 3)
NAMES = ("a", "b", "c")


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures `(count, 16, 16, 3)`, uint8, all of them different."""
    corners = np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    resized = [Image.fromarray(image).resize((16, 16)) for image in corners]
    return np.stack([np.asarray(image) for image in resized])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: ten times as many images of `a` as of the others; larger than the model's."""
    root = tmp_path_factory.mktemp("folder")
    for part, count in (("train", 40), ("validation", 10)):
        for index, name in enumerate(NAMES):
            (root / part / name).mkdir(parents=True)
            for number, image in enumerate(pictures(count if name == "a" else count // 10 + 3)):
                shade = np.full_like(image, 60 * index) // 2 + image // 2
                path = root / part / name / f"{number}.png"
                Image.fromarray(shade).resize((40, 20)).save(path)
    return root


def test_classes_are_balanced_and_the_choice_is_seeded() -> None:
    labels = np.repeat([0, 1, 2], [100, 3, 10])
    chosen = balanced(labels, 15, seed=1)
    assert np.bincount(labels[chosen]).tolist() == [6, 3, 6]
    assert len(set(chosen)) == 15
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, balanced(labels, 15, seed=1))
    assert set(chosen) != set(balanced(labels, 15, seed=2))
    np.testing.assert_array_equal(balanced(labels, 500, seed=1), np.arange(113))


def test_unreadable_images_are_left_out_up_to_the_limit(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    for part in ("train", "validation"):
        (tmp_path / "copy" / part / "a" / "1.png").write_text("no image")
    source = f"folder:{tmp_path / 'copy'}"
    with pytest.raises(TooManyBadRecordsError, match=r"a/1\.png.*or raise `max_bad_fraction`"):
        image_sets(SHAPE, ModelInfo(), source, None, None, 0)
    config = DataConfig(source, max_bad_fraction=0.1)
    whole = image_sets(SHAPE, ModelInfo(), f"folder:{folder}", None, None, 0)
    for found, before in zip(
        image_sets(SHAPE, ModelInfo(), config, None, None, 0), whole, strict=True
    ):
        assert found is not None
        assert before is not None
        assert len(found.images) == len(before.images) - 1
        # The second of the images is gone; the others have kept their labels.
        np.testing.assert_array_equal(found.images, np.delete(before.images, 1, axis=0))
        np.testing.assert_array_equal(found.labels, np.delete(before.labels, 1))


def test_data_source_gives_both_parts_with_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras_resnet.export.images.CALIBRATION_IMAGES", 20)
    info = ModelInfo(class_names=("c", "a", "b"))
    calibration, verification = image_sets(SHAPE, info, f"folder:{folder}", None, None, 0)
    assert calibration is not None
    assert calibration.labels is not None

    assert sorted(np.bincount(calibration.labels)) == [6, 7, 7]
    assert calibration.images.shape == (20, 16, 16, 3)
    assert calibration.summary()["images_per_class"] == {"lowest": 6, "highest": 7}
    assert calibration.source.endswith("train, 20 of 54")
    assert verification.source.endswith("validation, 18 of 18")
    assert verification.labels is not None
    # The labels are columns of the model.
    assert np.bincount(verification.labels).tolist() == [4, 10, 4]
    # Prepared like images for a prediction: the whole short side, from the middle.
    path = folder / "validation" / "a" / "0.png"
    middle = Image.open(path).resize((32, 16), Image.Resampling.BILINEAR).crop((8, 0, 24, 16))
    first = verification.images[verification.labels == 1][0]
    np.testing.assert_allclose(first, np.asarray(middle), atol=1)


def test_images_are_held_out_as_in_training(folder: Path) -> None:
    """Else, an artifact would be verified on images that the network was trained on."""
    source = f"folder:{folder / 'train'}"
    config = DataConfig(source, validation_fraction=0.5)
    info = ModelInfo(class_names=("a", "b", "c"))
    sets = image_sets(SHAPE, info, config, None, None, 0)
    for found, part in zip(sets, load_data(config), strict=True):
        assert found is not None
        assert found.source.endswith(f", {len(part)} of {len(part)}")
        assert len(part) == 27
        assert found.labels is not None
        np.testing.assert_array_equal(found.labels, part.labels)


def test_classes_that_the_model_does_not_have_are_named(folder: Path) -> None:
    info = ModelInfo(class_names=("a", "b"))
    with pytest.raises(ValueError, match="images of the model's classes. Received: images of c in"):
        image_sets(SHAPE, info, f"folder:{folder}", None, None, 0)


def test_any_iterable_of_pictures_will_do(folder: Path) -> None:
    paths = sorted((folder / "train" / "a").iterdir())
    contents = (path.read_bytes() for path in paths)
    info = ModelInfo(protocol=EvalProtocol(16, 16))
    by_path, _ = image_sets(SHAPE, info, paths, pictures(4), None, 0)
    by_content, other = image_sets(SHAPE, info, contents, pictures(4), [0, 1, 2, 0], 0)
    assert by_path is not None
    assert by_content is not None
    np.testing.assert_array_equal(by_path.images, by_content.images)
    assert len(by_path.images) == 40
    assert other.labels is not None
    assert other.labels.tolist() == [0, 1, 2, 0]


def test_without_images_a_quarter_is_held_out_or_there_is_noise() -> None:
    images = pictures(40)
    calibration, verification = image_sets(SHAPE, ModelInfo(), iter(images), None, None, 0)
    assert calibration is not None
    np.testing.assert_array_equal(verification.images, images[3::4])
    kept = np.delete(images, np.arange(3, 40, 4), axis=0)
    np.testing.assert_array_equal(calibration.images, kept)
    _, noise = image_sets((None, None, 8, 1), ModelInfo(), None, None, None, 0)
    assert noise.source == "noise"
    assert noise.images.shape == (16, 224, 8, 1)
    assert (noise.images.min(), noise.images.max()) == (0, 255)


def test_unlikely_images_are_warned_of() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.float32)
    with pytest.warns(UserWarning, match="look like noise"):
        check_calibration(noise)
    plain = pictures(20).astype(np.float32)
    plain[4] = 17
    with pytest.warns(UserWarning, match="1 of 20 calibration images have a single color"):
        check_calibration(plain)


def test_likely_images_are_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    check_calibration(pictures(20).astype(np.float32))
    # Line art on white, such as digits.
    drawn = np.full((20, 16, 16, 3), 255, np.float32)
    for index in range(20):
        drawn[index, 3 : 5 + index % 8, index % 13 : index % 13 + 3] = 0
        drawn[index, index % 11] = 0
    check_calibration(drawn)
    assert not recwarn.list


def test_of_a_list_the_first_256_count_as_of_any_iterable() -> None:
    many = list(pictures(300))
    of_list = image_sets(SHAPE, ModelInfo(), many, None, None, 0)
    of_iterator = image_sets(SHAPE, ModelInfo(), iter(many), None, None, 0)
    for one, other in zip(of_list, of_iterator, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.images, other.images)
    assert [len(part.images) for part in of_list if part] == [192, 64]


def test_images_of_both_kinds_are_warned_of() -> None:
    images = pictures(20)
    with pytest.warns(
        UserWarning, match="20 of 20 verification images are calibration images, too"
    ):
        image_sets(SHAPE, ModelInfo(), images, images, None, 0)


def test_pairs_of_image_and_label_are_refused() -> None:
    pairs = [(image, 1) for image in pictures(20)]
    with pytest.raises(
        ValueError, match="calibration images without labels. Received: pairs of an image"
    ):
        image_sets(SHAPE, ModelInfo(), pairs, None, None, 0)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (None, [1], "`images` together with `labels`. Received: `labels` alone"),
        ("digits", [1], "no `labels` with a data source"),
        (pictures(3), [1], r"`labels` of shape \(3,\), one for each image. Received: shape \(1,\)"),
    ],
)
def test_labels_belong_to_images(images: object, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_sets(SHAPE, ModelInfo(), None, images, labels, 0)
