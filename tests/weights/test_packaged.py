"""Weights that come with the package: prediction without a network."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_resnet
from keras_resnet.weights import fetch as fetch_module
from keras_resnet.weights.fetch import DownloadError, fetch
from keras_resnet.weights.registry import find_weights, list_weights

from ..conftest import Run

PACKAGED = [tag for tag in list_weights() if find_weights(tag).download.packaged]


def test_every_file_of_the_folder_is_a_row_and_small() -> None:
    folder = Path(str(files("keras_resnet"))) / "weights" / "packaged"
    weights = {path.name: path for path in folder.glob("*.safetensors")}
    assert set(weights) == {find_weights(tag).download.packaged for tag in PACKAGED}
    for path in weights.values():
        assert path.stat().st_size < 1_000_000
        assert {array.dtype for array in load_file(path).values() if array.dtype.kind == "f"} == {
            np.dtype(np.float16)
        }


@pytest.mark.parametrize("tag", PACKAGED)
def test_every_row_has_its_hash_and_a_card_with_its_figures(tag: str) -> None:
    entry = find_weights(tag)
    path = fetch(entry)
    assert path.stat().st_size == entry.download.bytes
    assert entry.download.sha256 is not None
    card = path.with_suffix(".md").read_text("utf-8")
    assert f"{entry.top1:.2f} %" in card
    assert entry.download.sha256 in card
    assert entry.license.lower() in card
    assert entry.download.location == f"keras_resnet/weights/packaged/{path.name}"


def test_damaged_file_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = find_weights(PACKAGED[0])
    wrong = dataclasses.replace(entry.download, sha256="0" * 64)
    with pytest.raises(
        DownloadError, match=r"at .*\. Received: the sha256 .* Install keras_resnet"
    ):
        fetch(dataclasses.replace(entry, download=wrong))
    monkeypatch.setattr(fetch_module, "__file__", str(tmp_path / "fetch.py"))
    with pytest.raises(DownloadError, match="Received: no such file. Install keras_resnet again"):
        fetch(entry)


#: Every connection fails, and so does writing into the cache.
OFFLINE = """
import json, socket, sys
def refuse(*_, **__): raise OSError("no network here")
socket.socket.connect = refuse
import numpy as np
import keras_resnet
model = keras_resnet.ResNet20(weights="cifar10")
ramp = np.linspace(0, 255, 32)
images = np.stack([np.full((32, 32, 3), 255 * i // 3) for i in range(4)]).astype("uint8")
images[2, :, :, 0] = ramp.astype("uint8")
predictor = keras_resnet.Predictor(model)
best = predictor.classify(images, top=10)
print(json.dumps([predictor.predict(images).tolist(), best[0], model.load_report.tag]))
"""


def test_prediction_works_offline(run_python: Run, tmp_path: Path) -> None:
    done = run_python(OFFLINE, KERAS_RESNET_HOME=str(tmp_path / "none"), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    probabilities, best, tag = json.loads(done.stdout.splitlines()[-1])
    assert tag == find_weights("cifar10", "resnet20").tag == PACKAGED[0]
    assert {name for _, name, _ in best} == set(
        keras_resnet.images.labels.dataset_classes("cifar10")[0]
    )
    assert not (tmp_path / "none").exists()
    np.testing.assert_allclose(np.sum(probabilities, axis=-1), 1, atol=1e-5)
    # Recorded when the weights were packaged: another order of classes or channels, or another
    # normalisation, gives other numbers.
    golden = json.loads((Path(__file__).parents[1] / "golden" / "packaged.json").read_text())
    np.testing.assert_allclose(probabilities, golden[tag], atol=2e-4)
