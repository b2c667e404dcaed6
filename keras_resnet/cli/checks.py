"""Early checks of commands: names and paths are refused before TensorFlow is imported."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from keras_resnet.models.archive import check_model_file
from keras_resnet.support.checks import MODEL_SUFFIXES, check_choice
from keras_resnet.support.placeholders import refuse_text
from keras_resnet.support.suggest import did_you_mean_beside
from keras_resnet.training.devices.choices import Precision, StrategyName

#: Suffixes of the artifacts that are files.
_ARTIFACTS = (*MODEL_SUFFIXES, ".tflite", ".onnx")


def check_model(
    model: str,
    weights: str | None,
    size: int | None = None,
    fields: Mapping[str, Any] | None = None,
    *,
    trained: bool = False,
) -> str:
    """Refuse a model that cannot be loaded, as far as that is seen without Keras.

    Args:
        model: a file of a Keras model (`.keras`, `.h5`), or the name of a network.
        weights: a file or a tag, for a network by name.
        size: height and width of its images.
        fields: of `ResNetConfig` that change in it.
        trained: whether a network by name needs `weights`.

    Returns:
        The path, or the name as in `list_models()`.

    Raises:
        ValueError: there is no such model, or no such weights of it, or a file comes with what
            only networks by name have.
    """
    if not model.endswith(MODEL_SUFFIXES):
        return check_network(model, weights, fields, trained=trained)
    _refuse_fields(fields, size)
    if weights is not None:
        raise ValueError(
            "Expected no `--weights` with a file of a model, which has its own. "
            f"Received: --weights {weights}"
        )
    check_model_file(Path(model))
    return model


def _refuse_fields(fields: Mapping[str, Any] | None, size: int | None = None) -> None:
    given = [f"--net {field}={value}" for field, value in (fields or {}).items()]
    if given or size is not None:
        raise ValueError(
            "Expected neither `--size` nor options of the network (`--version`, `--shortcut`, "
            "`--net`) with a file of a model, whose network is built. "
            f"Received: {', '.join(given) or f'--size {size}'}"
        )


def check_network(
    model: str,
    weights: str | None = None,
    fields: Mapping[str, Any] | None = None,
    *,
    trained: bool = False,
) -> str:
    """Do what `check_model` does, for a network by name alone."""
    from keras_resnet.networks.table import find_name, get_config
    from keras_resnet.weights.path_or_tag import check_file, find_weights_of, is_path
    from keras_resnet.weights.registry import find_weights

    hint = ""
    with contextlib.suppress(ValueError):
        tagged = find_weights(model).model
        hint = f"Pass {tagged} as the model, with `--weights {model}`"
    if hint:
        raise ValueError(
            f"Expected the name of a network. Received: {model}, a tag of weights. {hint}"
        )
    if Path(model).suffix and Path(model).exists():
        raise ValueError(
            "Expected a `.keras` or `.h5` file, or a network of `keras-resnet list`. "
            f"Received: {model}. "
            "To load weights into a network, pass its name as the model, with "
            f"`--weights {model}`"
        )
    name = find_name(model)
    get_config(name, **(fields or {}))
    if weights is None and trained:
        raise ValueError(
            "Expected `--weights` with the name of a network, which has random ones without. "
            f"Received: {model} alone"
        )
    if weights is not None and is_path(weights):
        check_file(Path(weights))
    elif weights is not None:
        find_weights_of(name, weights)
    return name


def check_evaluated(
    model: str, weights: str | None, fields: Mapping[str, Any] | None = None
) -> None:
    """Refuse what `evaluate` cannot open: no artifact, no tag, no network with weights."""
    from keras_resnet.weights.registry import find_weights

    if Path(model).suffix in _ARTIFACTS or Path(model).exists():
        if weights is not None:
            raise ValueError(
                f"Expected no `--weights` with a file, which has its own. Received: {weights}"
            )
        _refuse_fields(fields)
        check_readable(model)
        return
    if weights is None and ("/" in model or "." in model):
        check_network(find_weights(model).model, model, fields)
    else:
        check_network(model, weights, fields, trained=True)


def check_untrained(model: str) -> None:
    """Refuse a file where a network is trained from random weights, or from given ones."""
    if Path(model).suffix in _ARTIFACTS or Path(model).is_file():
        raise ValueError(
            f"Expected the name of a network, which `train` builds. Received: {model}. To train a "
            f"saved network on, run `keras-resnet finetune --model {model}`; to start from its "
            f"weights, pass `--model NAME --weights {model}`"
        )


def check_strategy(strategy: str, dtype: str) -> None:
    """Refuse devices and precisions that there are not."""
    check_choice("strategy", strategy, get_args(StrategyName))
    check_choice("dtype", dtype.removeprefix("mixed_"), get_args(Precision))


def check_data(*sources: str | None) -> None:
    """Refuse sources of images that do not exist; those that are None are none."""
    from keras_resnet.data.sources.load import check_source

    for source in sources:
        if source is not None:
            check_source(source)


def check_level(name: str, value: str | None, *others: str) -> None:
    """Refuse what is no level of any network; None is none.

    Args:
        name: of the option.
        value: a level, such as `C4`. Whether the network has it is seen when it is loaded.
        others: what else there is, such as `stem`.
    """
    if value is not None and not re.fullmatch(r"C[2-9]", value):
        check_choice(name, value, (*others, "C2", "C3", "C4", "C5"))


def check_blocks(name: str, texts: Sequence[str] | None) -> list[list[str]]:
    """Return the names of blocks in texts that separate them by commas."""
    found = [[part.strip() for part in text.split(",") if part.strip()] for text in texts or ()]
    for block in itertools.chain(*found):
        if not re.fullmatch(r"conv\d+_block\d+", block):
            raise ValueError(
                f"Expected `--{name}` with names of blocks, such as conv2_block1. Received: {block}"
            )
    return found


def check_file(name: str, path: Path | None) -> None:
    """Refuse a path where no file is; the message names the most similar one beside it."""
    if path is not None and not path.is_file():
        hint = did_you_mean_beside(path, Path.is_file)
        raise ValueError(f"Expected `--{name}` with an existing file. Received: {path}{hint}")


def check_artifacts(*paths: str | Path) -> None:
    """Refuse paths where nothing is; the message names the most similar file beside it."""
    for path in map(Path, paths):
        if not path.exists():
            fits = lambda other: other.suffix in _ARTIFACTS or other.is_dir()  # noqa: E731
            _refuse_artifact(path, did_you_mean_beside(path, fits))


def _refuse_artifact(path: Path, hint: str) -> NoReturn:
    raise ValueError(
        "Expected an existing `.keras`, `.h5`, `.tflite` or `.onnx` file or a SavedModel "
        f"directory. Received: {path}{hint}"
    )


def check_readable(*paths: str | Path) -> None:
    """Do what `check_artifacts` does, and refuse other files and texts in the place of files."""
    check_artifacts(*paths)
    for path in filter(Path.is_file, map(Path, paths)):
        if path.suffix not in _ARTIFACTS:
            _refuse_artifact(path, ", which is something else")
        refuse_text(path, "an artifact that can be read")


def check_pixels(value: str | None, name: str = "pixels") -> None:
    """Refuse a pixel format that there is not; None is none."""
    from keras_resnet.models.pixels import PIXEL_FORMATS

    if value is not None:
        check_choice(name, value, tuple(PIXEL_FORMATS))


def check_targets(text: str) -> list[str]:
    """Return the names of targets, which are separated by commas; `all` stands for every one."""
    from keras_resnet.export.targets import TARGETS, check_targets

    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(TARGETS)
    if not names:
        raise ValueError("Expected names of targets, or all. Received: none")
    check_targets(names)
    return names
