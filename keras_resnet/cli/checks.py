"""Checks of arguments that run before TensorFlow is imported."""

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

#: Suffixes of artifacts that are files.
_ARTIFACTS = (*MODEL_SUFFIXES, ".tflite", ".onnx")


def check_model(
    model: str,
    weights: str | None,
    size: int | None = None,
    fields: Mapping[str, Any] | None = None,
    *,
    trained: bool = False,
) -> str:
    """Raise ValueError if a model cannot be loaded, as far as can be checked without Keras.

    Args:
        model: file of a Keras model (`.keras`, `.h5`), or name of a network.
        weights: file or tag of weights, for a network by name.
        size: height and width of the images in pixels, for a network by name.
        fields: fields of `ResNetConfig` to change, for a network by name.
        trained: whether a network by name needs `weights`.

    Returns:
        The path, or the name as in `list_models()`.

    Raises:
        ValueError: there is no such model or there are no such weights of it, or a file is combined
            with arguments for networks by name.
    """
    if not model.endswith(MODEL_SUFFIXES):
        return check_network(model, weights, fields, trained=trained)
    _refuse_fields(fields, size)
    if weights is not None:
        raise ValueError(
            "Expected a model file without `--weights`, as it has its own. "
            f"Received: --weights {weights}"
        )
    check_model_file(Path(model))
    return model


def _refuse_fields(fields: Mapping[str, Any] | None, size: int | None = None) -> None:
    given = [f"--net {field}={value}" for field, value in (fields or {}).items()]
    if given or size is not None:
        raise ValueError(
            "Expected a model file without `--size` and options of the network (`--version`, "
            "`--shortcut`, `--net`), which are for networks by name. "
            f"Received: {', '.join(given) or f'--size {size}'}"
        )


def check_network(
    model: str,
    weights: str | None = None,
    fields: Mapping[str, Any] | None = None,
    *,
    trained: bool = False,
) -> str:
    """Raise ValueError if a network by name cannot be built; see `check_model`."""
    from keras_resnet.networks.table import find_name, get_config
    from keras_resnet.weights.path_or_tag import check_file, find_weights_of, is_path
    from keras_resnet.weights.registry import find_weights

    hint = ""
    with contextlib.suppress(ValueError):
        tagged = find_weights(model).model
        hint = f"Pass {tagged} as the model, with `--weights {model}`"
    if hint:
        raise ValueError(
            f"Expected the name of a network. Received: {model}, which is a tag of weights. {hint}"
        )
    if Path(model).suffix and Path(model).exists():
        raise ValueError(
            "Expected a `.keras` or `.h5` file, or the name of a network in `keras-resnet list`. "
            f"Received: {model}. To load weights into a network, pass the network's name as the "
            f"model, with `--weights {model}`"
        )
    name = find_name(model)
    get_config(name, **(fields or {}))
    if weights is None and trained:
        raise ValueError(
            "Expected `--weights` with the name of a network, whose weights are random otherwise. "
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
    """Raise ValueError if `evaluate` cannot open a model: an artifact, a tag or a network."""
    from keras_resnet.weights.registry import find_weights

    if Path(model).suffix in _ARTIFACTS or Path(model).exists():
        if weights is not None:
            raise ValueError(
                "Expected a file without `--weights`, as it has its own. "
                f"Received: --weights {weights}"
            )
        _refuse_fields(fields)
        check_readable(model)
        return
    if weights is None and ("/" in model or "." in model):
        check_network(find_weights(model).model, model, fields)
    else:
        check_network(model, weights, fields, trained=True)


def check_untrained(model: str) -> None:
    """Raise ValueError if the model to train is a file, and not the name of a network."""
    if Path(model).suffix in _ARTIFACTS or Path(model).is_file():
        raise ValueError(
            f"Expected the name of a network to train. Received: {model}. To fine-tune a saved "
            f"network, run `keras-resnet finetune --model {model}`; to start from its weights, "
            f"pass `--model NAME --weights {model}`"
        )


def check_strategy(strategy: str, dtype: str) -> None:
    """Raise ValueError if there is no such strategy or precision."""
    check_choice("strategy", strategy, get_args(StrategyName))
    check_choice("dtype", dtype.removeprefix("mixed_"), get_args(Precision))


def check_data(*sources: str | None) -> None:
    """Raise ValueError if a data source does not exist; None is skipped."""
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
    """Raise ValueError, with the most similar name, if a path does not exist."""
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
    """Raise ValueError if a path does not exist, or its file is not an artifact."""
    check_artifacts(*paths)
    for path in filter(Path.is_file, map(Path, paths)):
        if path.suffix not in _ARTIFACTS:
            _refuse_artifact(path, ", which has another format")
        refuse_text(path, "an artifact that can be read")


def check_pixels(value: str | None, name: str = "pixels") -> None:
    """Raise ValueError if there is no such pixel format; None is skipped."""
    from keras_resnet.models.pixels import PIXEL_FORMATS

    if value is not None:
        check_choice(name, value, tuple(PIXEL_FORMATS))


def check_targets(text: str) -> list[str]:
    """Return the names of targets from a list separated by commas; `all` means all targets."""
    from keras_resnet.export.targets import TARGETS, check_targets

    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(TARGETS)
    if not names:
        raise ValueError(
            f"Expected names of targets ({', '.join(TARGETS)}), or all. Received: {text!r}"
        )
    check_targets(names)
    return names
