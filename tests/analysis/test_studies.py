"""Lesions, responses and filters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import keras_resnet
from keras_resnet.analysis.studies import lesion
from keras_resnet.analysis.studies.blocks import Block, Function, Network, take_apart
from keras_resnet.analysis.studies.lesion import _steps, chosen_lesions, lesion_study
from keras_resnet.analysis.studies.responses import first_filters, layer_responses
from keras_resnet.cli.analyze import results

from ..conftest import Command, randomize


def network(blocks: tuple[int, ...] = (1, 3, 1), **fields) -> keras.Model:
    config = keras_resnet.ResNetConfig(
        "basic", blocks, (8, 16, 24), stem="cifar", **{"shortcut": "A", **fields}
    )
    keras.utils.set_random_seed(0)
    model = keras_resnet.build(config, input_shape=(32, 32, 3), classes=10)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    return network()


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    for layer in target.layers:
        layer.set_weights(source.get_layer(layer.name).get_weights())


@pytest.mark.parametrize("fields", [{}, {"shortcut": "B"}, {"preactivation": "resnetv2"}])
def test_parts_in_a_row_are_the_network(fields: dict, images: np.ndarray) -> None:
    if "preactivation" in fields:
        fields = {"version": "v2"}
    model = network(**fields)
    parts = take_apart(model)
    x = parts.stem(images[:4].astype(np.float32))
    for block in parts.blocks:
        assert block.residual is not None
        total = block.shortcut(x) + block.residual(x)
        y = block.whole(x)
        assert np.allclose(block.tail(total), y, atol=1e-5)
        x = y
    assert np.allclose(parts.head(x), model(images[:4]), atol=1e-5)


def test_lesion_of_a_block_is_the_network_rebuilt_without_it(
    trained: keras.Model, images: np.ndarray
) -> None:
    without = network((1, 2, 1))
    copy_weights(trained, without)
    parts = take_apart(trained)
    x = parts.stem(images.astype(np.float32))
    for block in parts.blocks:
        x = block.without_residual(x) if block.name == "conv3_block3" else block.whole(x)
    expected = np.asarray(without(images))
    assert np.allclose(parts.head(x), expected, atol=1e-5)

    # Its errors are counted against the answers of the rebuilt network: it has none then.
    study = lesion_study(trained, (images, expected.argmax(-1)), batch_size=16)
    assert study.names[3] == "conv3_block3"
    assert len(study.names) == 5
    assert study.errors[3] == 0
    own = np.asarray(trained(images)).argmax(-1)
    assert study.error == pytest.approx((own != expected.argmax(-1)).mean())


def test_deleting_several_blocks_and_swapping(trained: keras.Model, images: np.ndarray) -> None:
    labels = np.asarray(trained(images)).argmax(-1)
    study = lesion_study(
        trained,
        (images, labels),
        several=(1, 5),
        swaps=(1,),
        delete=[["conv3_block2"], ["conv3_block3", "conv2_block1"]],
        swap=[["conv3_block3", "conv3_block2"]],
        draws=3,
    )
    assert {number: len(lesions) for number, lesions in study.several.items()} == {1: 3, 5: 3}
    alone = dict(zip(study.names, study.errors, strict=True))
    for item in study.several[1]:
        assert item.error == alone[item.deleted[0]]
    # All five blocks: the choice is always the same.
    assert {item.deleted for item in study.several[5]} == {study.names}
    # The second and third block of the second stage are the only ones of one shape.
    pair = ("conv3_block2", "conv3_block3")
    assert {item.swapped for item in study.swapped[1]} == {(pair,)}
    one, two, swapped = study.chosen
    assert one.error == alone["conv3_block2"]
    assert two.words == "Without conv3_block3 and conv2_block1"
    assert swapped.error == study.swapped[1][0].error
    found = json.loads(json.dumps(study.to_dict()))
    assert found["several"]["5"][0]["deleted"] == list(study.names)
    assert found["swapped"]["1"][0]["swapped"] == [list(pair)]

    # As of the parts that run in that order.
    parts = take_apart(trained)
    x = parts.stem(images.astype(np.float32))
    for index in (0, 1, 3, 2, 4):
        x = parts.blocks[index].whole(x)
    wrong = np.asarray(parts.head(x)).argmax(-1) != labels
    assert swapped.error == pytest.approx(wrong.mean())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"several": (6,)}, "Expected `several` to be numbers from 1 to 5 of blocks. Received: 6"),
        ({"swaps": (2,)}, "Expected `swaps` to be numbers from 1 to 1 of pairs .* Received: 2"),
        ({"delete": [["conv3_block4"]]}, "Received: conv3_block4. Did you mean conv3_block"),
        (
            {"delete": [["conv3_block2"] * 2]},
            "to name different blocks. Received: conv3_block2,conv3_block2",
        ),
        ({"delete": [[]]}, "to name different blocks. Received: none"),
        (
            {"swap": [["conv3_block1", "conv3_block2"]]},
            "Expected `swap` to name blocks among conv2",
        ),
        ({"swap": [["conv2_block1", "conv3_block2"]]}, "such as conv3_block2,conv3_block3. Rec"),
        ({"swap": [["conv3_block2"]]}, "such as conv3_block2,conv3_block3. Received: conv3_block2"),
    ],
)
def test_impossible_lesions_are_refused(
    trained: keras.Model, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_lesions(take_apart(trained), **arguments)


def test_swaps_never_cancel_out() -> None:
    parts = take_apart(network((3, 3, 3)))
    names = [block.name for block in parts.blocks]
    for (_, number), lesions in chosen_lesions(parts, swaps=(1, 2, 3), draws=100).items():
        for item in lesions:
            moved = [
                place for place, (index, _) in enumerate(_steps(names, item)) if index != place
            ]
            assert len(moved) == 2 * number
            assert all(a[:5] == b[:5] for a, b in item.swapped)


def test_plain_networks_lose_whole_blocks(images: np.ndarray) -> None:
    plain = network((1, 2, 2), shortcut=None)
    labels = np.asarray(plain(images)).argmax(-1)
    study = lesion_study(plain, (images, labels))
    assert study.kept == ("conv3_block1", "conv4_block1")
    assert study.names == ("conv2_block1", "conv3_block2", "conv4_block2")


def test_deletions_of_resnet110_run_half_of_its_blocks(
    tiny_model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"whole": 0, "residual": 0, "shortcut": 0}

    def counted(part: str) -> Function:
        def run(x: Any) -> Any:
            runs[part] += 1
            return x

        return run

    def fake(index: int) -> Block:
        parts = counted("whole"), counted("shortcut"), counted("residual")
        return Block(f"block{index}", 2, *parts, lambda x: x, True)

    blocks = tuple(fake(index) for index in range(54))
    deep = Network(lambda x: x, blocks, lambda x: np.eye(10)[np.zeros(len(x), int)])
    monkeypatch.setattr(lesion, "take_apart", lambda model, compiled: deep)
    study = lesion_study(tiny_model, (np.full((3, 32, 32, 3), 9.0), [0, 1, 0]))
    assert study.errors == (pytest.approx(1 / 3),) * 54
    # The whole network, and without block i the 53 - i blocks behind it.
    assert runs == {"whole": 54 + 53 * 54 // 2, "shortcut": 54, "residual": 0}
    assert runs["whole"] + runs["shortcut"] < 0.6 * 54 * 54


def test_sources_are_opened(digits_file: Path) -> None:
    study = lesion_study(keras_resnet.load_model(digits_file), "digits")
    assert study.images == 360
    assert study.error < 0.1 < max(study.errors)


def test_labels_have_to_be_there(trained: keras.Model, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Expected at least one image, with one label"):
        lesion_study(trained, (images, np.zeros(3)))
    with pytest.raises(
        ValueError, match="Expected labels from 0 to 9.*Received: labels from 0 to 10"
    ):
        lesion_study(trained, (images[:2], [0, 10]))
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="Expected a flat network with layers named as in"):
        lesion_study(flat, (images, np.zeros(40)))


def test_responses_are_deviations_after_normalisation(
    trained: keras.Model, images: np.ndarray
) -> None:
    found = layer_responses(trained, images, batch_size=16)
    assert len(found.names) == 10
    assert found.names[:2] == ("conv2_block1_1_conv", "conv2_block1_2_conv")
    norm = trained.get_layer("conv2_block1_2_bn").output
    expected = np.asarray(keras.Model(trained.input, norm)(images)).std()
    assert found.deviations[1] == pytest.approx(expected, rel=1e-4)
    assert found.to_dict()["sorted"] == sorted(found.deviations, reverse=True)


def test_responses_of_pre_activation_networks(images: np.ndarray) -> None:
    model = network(version="v2")
    found = dict(zip(*vars(layer_responses(model, images)).values(), strict=True))
    norm = model.get_layer("conv2_block1_1_bn").output
    last = model.get_layer("conv2_block1_2_conv").output
    for name, tensor in (("conv2_block1_1_conv", norm), ("conv2_block1_2_conv", last)):
        expected = np.asarray(keras.Model(model.input, tensor)(images)).std()
        assert found[name] == pytest.approx(expected, rel=1e-4)


def test_classes_of_data_and_model_are_compared(
    digits_file: Path, tmp_path: Path, command_in_process: Command
) -> None:
    for label in ("1", "8"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / label / f"{index}.png")
    arguments = ("--data", f"folder:{tmp_path / 'data'}", "--output", str(tmp_path / "out"))
    done = command_in_process("analyze", "lesion", str(digits_file), *arguments, "--split", "all")
    assert done.returncode == 2
    assert "Expected data with the model's 10 classes" in done.stderr


def test_filters_are_scaled_alike(trained: keras.Model) -> None:
    filters = first_filters(trained)
    kernel = trained.get_layer("conv1_conv").get_weights()[0]
    assert filters.shape == (8, 3, 3, 3)
    assert filters.max() == 1 or filters.min() == 0
    assert np.allclose((filters - 0.5) / (kernel.transpose(3, 0, 1, 2)), 0.5 / np.abs(kernel).max())


def test_times_are_said_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter((5.0, 0.5) * 3)
    monkeypatch.setattr(results, "_seconds", lambda step: next(times))
    with results.watched("study", "the work") as keywords:
        keywords["begin"](lambda: None, 10, 2)
        keywords["begin"](lambda: None, 1, 0)
        keywords["begin"](lambda: None, 1000, 0)
    # 2 x (5.0 - 0.5) s to prepare, and 10 x 0.5 s.
    assert capsys.readouterr().out.splitlines()[:3] == [
        "About 14 s for the work.",
        "Less than 1 s for the work.",
        "About 8 min for the work.",
    ]


def test_commands_write_pictures_and_json(
    digits_file: Path, tmp_path: Path, command_in_process: Command
) -> None:
    common = (str(digits_file), "--output", str(tmp_path))
    images = ("--data", "digits", "--images", "60")
    chosen = ("--several", "1,2", "--delete", "conv2_block1,conv3_block1")
    done = command_in_process("analyze", "lesion", *common, *images, *chosen)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Without conv2_block1 and conv3_block1: " in done.stdout
    assert "Top-1 error of the whole network" in done.stdout
    before, _, after = done.stdout.partition("s for classifying without the blocks.")
    assert "lesion: " in after
    assert "lesion: " not in before
    assert "s left" in done.stdout
    for name, arguments in (("responses", images), ("filters", ())):
        done = command_in_process("analyze", name, *common, *arguments)
        assert done.returncode == 0, done.stderr
        assert ("s for the responses." in done.stdout) == (name == "responses")
    names = {path.name for path in tmp_path.iterdir()}
    studies = ("lesion", "responses", "filters")
    assert names == {f"{study}.{suffix}" for study in studies for suffix in ("png", "svg", "json")}
    study = json.loads((tmp_path / "lesion.json").read_text())
    assert len(study["errors"]) == len(study["names"])
    assert study["chosen"][0]["deleted"] == ["conv2_block1", "conv3_block1"]


def test_outputs_and_lesions_are_checked_before_the_work(
    digits_file: Path, tmp_path: Path, command_in_process: Command
) -> None:
    common = (str(digits_file), "--output", str(tmp_path))
    images = ("--data", "digits", "--images", "60")
    # Other studies may share the folder; the same one is not replaced unasked.
    (tmp_path / "filters.json").write_text("earlier")
    (tmp_path / "lesion.svg").write_text("earlier")
    done = command_in_process("analyze", "filters", *common)
    assert done.returncode == 2
    assert "Pass `--overwrite`" in done.stderr
    done = command_in_process("analyze", "filters", *common, "--overwrite")
    assert done.returncode == 0, done.stderr
    refused = command_in_process(
        "analyze", "lesion", str(digits_file), "--output", str(digits_file), *images
    )
    assert refused.returncode == 2
    assert "Expected a directory that can be written to" in refused.stderr
    assert "About" not in refused.stdout
    refused = command_in_process(
        "analyze", "lesion", *common, *images, "--overwrite", "--swaps", "9"
    )
    assert "Expected `--swaps` to be numbers from 1 to" in refused.stderr
    assert "About" not in refused.stdout
