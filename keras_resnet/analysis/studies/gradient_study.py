"""Study of gradients by depth, with and without shortcuts and batch normalization."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.analysis.studies.families import gradient_configs
from keras_resnet.analysis.studies.gradients import GradientNorms, Probe
from keras_resnet.analysis.studies.images import labeled_images
from keras_resnet.data.sources.base import Source
from keras_resnet.evaluation.classes import Classes
from keras_resnet.evaluation.images import open_images
from keras_resnet.models.info import set_class_names
from keras_resnet.networks.builder import build
from keras_resnet.support.checks import check_integer, check_number
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen

#: The factor per layer and the number of layers that articles assume: 0.9^50 = 0.005.
ASSUMED_FACTOR, ASSUMED_LAYERS = 0.9, 50

#: Batches that norms are averaged over.
_MEASURED = 4


@dataclass(frozen=True)
class NetworkGradients:
    """Gradients of one of the compared networks.

    Attributes:
        depth: number of weighted layers.
        shortcuts: whether the network is residual rather than plain.
        batch_norm: whether batch normalization follows the convolutions.
        seed: seed of the weights and batches.
        layers: number of convolutions on the main path of the blocks.
        initial: gradients before training; None if they overflow.
        trained: gradients after training; None if training diverged.
        training_losses: loss of every training step.
    """

    depth: int
    shortcuts: bool
    batch_norm: bool
    seed: int
    layers: int
    initial: GradientNorms | None
    trained: GradientNorms | None
    training_losses: tuple[float, ...]

    @property
    def name(self) -> str:
        """A name such as `plain-56 without BN`."""
        kind = "residual" if self.shortcuts else "plain"
        return f"{kind}-{self.depth} {'with' if self.batch_norm else 'without'} BN"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        values = {"name": self.name, **vars(self)}
        for moment in ("initial", "trained"):
            values[moment] = None if values[moment] is None else values[moment].to_dict()
        losses = [loss if math.isfinite(loss) else None for loss in self.training_losses]
        return {**values, "training_losses": losses}


@dataclass(frozen=True)
class GradientSummary:
    """Gradients of one kind of network before or after training, over all seeds.

    Attributes:
        name: name of the network.
        moment: `"initial"` or `"trained"`.
        loss: mean loss.
        ratio: gradient norm of the first kernel divided by that of the last kernel, geometric mean.
        ratios: this ratio for every seed.
        factor: factor of the kernels' norms per layer toward the input, geometric mean.
        output_factor: factor of the norms at the blocks' outputs per block, geometric mean.
        assumed_ratio: the ratio for a factor of 0.9 per layer.
        diverged: number of seeds whose training diverged, which are not included.
    """

    name: str
    moment: str
    loss: float | None
    ratio: float | None
    ratios: tuple[float, ...]
    factor: float | None
    output_factor: float | None
    assumed_ratio: float
    diverged: int

    @property
    def verdict(self) -> str:
        """A word for the ratio: `vanishes`, `shrinks`, `healthy`, `grows`, `zero` or `diverged`.

        Gradients vanish at a ratio of at most 0.9^50, as articles assume; they are healthy at a
        ratio from 0.1 to 10.
        """
        if self.ratio is None:
            return "diverged" if self.diverged else "zero"
        if self.ratio <= ASSUMED_FACTOR**ASSUMED_LAYERS:
            return "vanishes"
        if self.ratio < 0.1:
            return "shrinks"
        return "healthy" if self.ratio <= 10 else "grows"


@dataclass(frozen=True)
class GradientStudy:
    """Gradients of several networks; see `gradient_study`.

    Attributes:
        networks: the gradients for every depth, kind and seed.
        settings: the numeric arguments of the study.
    """

    networks: tuple[NetworkGradients, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def summaries(self) -> list[GradientSummary]:
        """Return a summary of every kind of network, before and after training."""
        found = []
        for name, group in itertools.groupby(self.networks, lambda network: network.name):
            networks = list(group)
            for moment in ("initial", "trained"):
                norms = [getattr(network, moment) for network in networks]
                kept = [item for item in norms if item is not None]
                ratios = tuple(item.ratio for item in kept if item.ratio is not None)
                summary = GradientSummary(
                    name,
                    moment,
                    float(np.mean([item.loss for item in kept])) if kept else None,
                    _geometric_mean(ratios),
                    ratios,
                    _geometric_mean(item.factor for item in kept),
                    _geometric_mean(item.output_factor for item in kept),
                    ASSUMED_FACTOR ** (networks[0].layers - 1),
                    len(norms) - len(kept),
                )
                found.append(summary)
        return found

    def findings(self) -> list[str]:
        """Return sentences that compare the plain networks with a common claim.

        Articles explain by vanishing gradients (0.9^50 = 0.005) why deep plain networks train
        badly. He et al. 2015, section 4.1, report that their gradients do not vanish with batch
        normalization.
        """
        words = {
            "vanishes": "vanishes, as articles claim",
            "shrinks": "shrinks, but does not vanish",
            "healthy": "neither vanishes nor explodes",
            "grows": "does not vanish but grows toward the input",
        }
        found = []
        for item in self.summaries():
            if item.name.startswith("plain") and item.verdict in words:
                found.append(
                    f"{item.name}, {item.moment}: the gradient {words[item.verdict]}. Its norm in "
                    f"the first layer is {item.ratio:.3g} times that in the last layer; with 0.9 "
                    f"per layer it would be {item.assumed_ratio:.2g} times."
                )
        # Networks so deep that gradients would vanish at 0.9 per layer.
        deep = {
            f"plain-{network.depth} with BN"
            for network in self.networks
            if network.layers >= ASSUMED_LAYERS
        }
        verdicts = {item.verdict for item in self.summaries() if item.name in deep}
        if verdicts and verdicts <= words.keys() - {"vanishes"}:
            found.append(
                f"With batch normalization (BN), gradients of plain networks with more than "
                f"{ASSUMED_LAYERS} layers do not vanish here. This contradicts articles that "
                "explain by vanishing gradients (0.9 per layer, 0.9^50 = 0.005) why such networks "
                "train badly, and confirms He et al. 2015, section 4.1."
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "assumed_by_articles": {
                "factor": ASSUMED_FACTOR,
                "layers": ASSUMED_LAYERS,
                "ratio": ASSUMED_FACTOR**ASSUMED_LAYERS,
            },
            "settings": self.settings,
            "summaries": [{**vars(s), "verdict": s.verdict} for s in self.summaries()],
            "findings": self.findings(),
            "networks": [network.to_dict() for network in self.networks],
        }


def gradient_study(
    data: Any = "digits",
    *,
    depths: Sequence[int] = (20, 56),
    width: float = 0.5,
    size: int = 16,
    steps: int = 40,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    seeds: int = 3,
    images: int = 1000,
    max_bad_fraction: float = 0.01,
    network: Mapping[str, Any] | None = None,
    begin: Begin = unannounced,
    progress: Progress = unseen,
) -> GradientStudy:
    """Measure gradients by depth, with and without shortcuts and batch normalization.

    For every depth, train four networks of He et al. 2015, section 4.2: residual (shortcut A, or
    that of `network`) and plain, each with and without batch normalization. With the same seed, all
    four start from the same kernels (He initialization) and train on the same batches, by SGD with
    a momentum of 0.9 and a constant learning rate. Gradients are clipped to a norm of 1, because
    deep residual networks without normalization start with a large loss; norms are measured before
    clipping. The function sets the global seeds of Python, NumPy and Keras.

    Args:
        data: the name of a source, such as `"digits"`, or a `Source`, whose training split is used;
            or a pair of images and labels.
        depths: numbers of weighted layers, 6n+2.
        width: factor of the 16, 32 and 64 filters of the stages.
        size: height and width of the images, in pixels.
        steps: number of training steps.
        batch_size: images per step.
        learning_rate: learning rate of SGD.
        seeds: number of trainings of each kind of network, with the seeds 0, 1 and so on.
        images: largest number of images to use.
        max_bad_fraction: share of these images that may be unreadable, 0 to 1; they are left out.
        network: fields of `ResNetConfig` of all networks, such as `{"version": "v2"}`; `shortcut`
            applies to the residual networks only.
        begin: called with one step of the work, to time it, before the work begins.
        progress: called after every network with a description and the share of the work.

    Raises:
        ValueError: an argument is invalid.

    Examples:

    ```python
    study = gradient_study("digits", depths=(8, 20), steps=10, seeds=1)
    study.findings()
    ```
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("seeds", seeds)):
        check_integer(name, value)
    check_number("learning_rate", learning_rate)
    fields = dict(network or {})
    configs = gradient_configs(depths, width, fields)
    source, classes = _training_split(data, size)

    def new(depth: int, shortcuts: bool, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = build(
            configs[depth, shortcuts],
            input_shape=(size, size, 3),
            classes=classes,
            classifier_activation=None,
        )
        if source.class_names:
            set_class_names(model, source.class_names)
        return model

    kinds = [(*key, batch_norm) for key in configs for batch_norm in (True, False)]
    first = new(*kinds[0][:2], 0)
    pixels, labels = labeled_images(first, source, images, max_bad_fraction=max_bad_fraction)
    total, done = seeds * sum(depth for depth, *_ in kinds), 0
    found: list[NetworkGradients] = []
    for depth, shortcuts, batch_norm in kinds:
        model = new(depth, shortcuts, 0)
        model = model if batch_norm else without_batch_norm(model)
        trainer = _Trainer(model, pixels, labels, batch_size, learning_rate)
        if not found:
            # The time of a step, and of tracing before the first one, is proportional to the depth.
            times = sum(kind[0] / depth for kind in kinds)
            begin(trainer.step, times * seeds * (steps + 2 * _MEASURED), times)
        for seed in range(seeds):
            trainer.start(new(depth, shortcuts, seed), seed)
            initial = trainer.measured()
            losses = trainer.train(steps)
            item = (depth, shortcuts, batch_norm, seed, len(trainer.probe.layers))
            found.append(NetworkGradients(*item, initial, trainer.measured(), losses))
            done += depth
            progress(f"{found[-1].name}, seed {seed}", done / total)
    settings = {"depths": list(depths), "width": width, "size": size, "images": len(labels)}
    settings["network"] = fields
    training = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    return GradientStudy(tuple(found), {**settings, **training, "seeds": seeds})


def without_batch_norm(model: keras.Model) -> keras.Model:
    """Return a copy of a model without its batch normalization, with the same other weights."""

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            return arguments[0]
        return layer(*arguments, **keywords)

    copy = keras.models.clone_model(model, call_function=call)
    _copy_weights(model, copy)
    return copy


def _copy_weights(model: keras.Model, target: keras.Model) -> None:
    """Copy the weights of a model to all layers of the target."""
    for layer in target.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())


def _training_split(data: Any, size: int) -> tuple[Source, int]:
    """Return the images to train on, and the number of their classes."""
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2
    labels = data[1] if is_pair else getattr(data, "labels", ())
    # Only used if the source does not name its classes.
    count = int(np.max(labels, initial=1)) + 1
    opened = open_images(data, Classes(count), size, split="train")
    if len(opened.classes) < 2:
        raise ValueError(
            f"Expected data with at least two classes. Received: {opened.source.name}, which has "
            f"only the class {opened.classes.names[0]}"
        )
    return opened.source, len(opened.classes)


class _Trainer:
    """Training of one network from several initial weights, and measurement of its gradients."""

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        rate: float,
    ) -> None:
        self.model, self.probe = model, Probe(model)
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.random = np.random.default_rng(0)
        self.optimizer = keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=1.0)
        self.optimizer.build(model.trainable_variables)
        self.state = [variable.numpy() for variable in self.optimizer.variables]
        # One traced function for all seeds.
        self.run = tf.function(self._run)

    def _run(self, images: Any, labels: Any) -> Any:
        norms, gradients = self.probe.norms(images, labels)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return norms

    def step(self) -> np.ndarray:
        """Train on one random batch; return the loss and the norms before the update."""
        indices = self.random.integers(len(self.images), size=self.batch_size)
        return self.run(self.images[indices].astype(np.float32), self.labels[indices]).numpy()

    def start(self, model: keras.Model, seed: int) -> None:
        """Copy the weights of a new network, and seed the batches."""
        _copy_weights(model, self.model)
        self.random = np.random.default_rng(seed)

    def train(self, steps: int) -> tuple[float, ...]:
        """Train, and return the loss of every step."""
        self._reset_optimizer()
        return tuple(float(self.step()[0]) for _ in range(steps))

    def measured(self) -> GradientNorms | None:
        """Return the norms for the current weights, averaged over batches; None if not finite."""
        self._reset_optimizer()
        # With a learning rate of 0 a step changes no weights, and no other function is traced.
        self.optimizer.learning_rate = 0.0
        values = np.mean([self.step() for _ in range(_MEASURED)], axis=0)
        return self.probe.named(values) if np.isfinite(values).all() else None

    def _reset_optimizer(self) -> None:
        for variable, value in zip(self.optimizer.variables, self.state, strict=True):
            variable.assign(value)


def _geometric_mean(values: Iterable[float | None]) -> float | None:
    """Return the geometric mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(known)))) if known else None
