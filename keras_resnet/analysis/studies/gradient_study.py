"""Gradients by depth, with and without shortcuts and batch normalisation, measured."""

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
from keras_resnet.analysis.studies.images import labelled_images
from keras_resnet.data.sources.base import Source
from keras_resnet.evaluation.classes import Classes
from keras_resnet.evaluation.images import open_images
from keras_resnet.models.info import set_class_names
from keras_resnet.networks.builder import build
from keras_resnet.support.checks import check_integer, check_number
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen

#: The factor per layer that articles assume, and of how many layers: 0.9^50 = 0.005.
ASSUMED_FACTOR, ASSUMED_LAYERS = 0.9, 50

#: Batches that norms are averaged over.
_MEASURED = 4


@dataclass(frozen=True)
class NetworkGradients:
    """Gradients of one network of the comparison.

    Attributes:
        depth: weighted layers.
        shortcuts: whether it is a residual network; else a plain one.
        batch_norm: whether batch normalisation follows its convolutions; else nothing does.
        seed: of its weights and batches.
        layers: how many convolutions the main path has inside the blocks.
        initial: before training; None if numbers overflow.
        trained: after it; None if training diverged.
        training_losses: mean loss of the batch of every training step.
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
    """One kind of network at one moment, over all seeds.

    Attributes:
        name: of the network.
        moment: `"initial"` or `"trained"`.
        loss: mean over the seeds.
        ratio: the first kernel's gradient norm divided by the last one's: geometric mean.
        ratios: the same of every seed.
        factor: of the kernels' norms per layer, towards the input: geometric mean.
        output_factor: of the norms at the blocks' outputs per block, likewise.
        assumed_ratio: what 0.9 per layer would make of the ratio.
        diverged: of how many seeds training diverged; they are not counted.
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
        """A sentence about the ratio.

        Gradients vanish if the first layer gets at most 0.9^50 of the last one's, which is what
        articles mean; they are healthy between a tenth and ten times.
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
    """Gradients of several networks, see `gradient_study`.

    Attributes:
        networks: one for every depth, kind and seed.
        settings: the arguments of the study that are numbers.
    """

    networks: tuple[NetworkGradients, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def summaries(self) -> list[GradientSummary]:
        """One for every kind of network before and after training."""
        found = []
        for name, group in itertools.groupby(self.networks, lambda network: network.name):
            several = list(group)
            for moment in ("initial", "trained"):
                norms = [getattr(network, moment) for network in several]
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
                    ASSUMED_FACTOR ** (several[0].layers - 1),
                    len(norms) - len(kept),
                )
                found.append(summary)
        return found

    def findings(self) -> list[str]:
        """Sentences that compare the measured plain networks with what articles say.

        Articles explain why deep plain networks train badly by gradients that vanish, as 0.9^50 is
        0.005. He et al. 2015, section 4.1, had checked that they do not, with batch normalisation.
        """
        words = {
            "vanishes": "vanishes, as articles say",
            "shrinks": "shrinks, but does not vanish",
            "healthy": "neither vanishes nor explodes",
            "grows": "does not vanish but grows towards the input",
        }
        found = []
        for item in self.summaries():
            if item.name.startswith("plain") and item.verdict in words:
                found.append(
                    f"{item.name}, {item.moment}: the gradient {words[item.verdict]}. The first "
                    f"layer's is {item.ratio:.3g} times the last layer's, where 0.9 per layer "
                    f"would make it {item.assumed_ratio:.2g}."
                )
        # Depths of which 0.9 per layer would leave nothing.
        deep = {
            f"plain-{network.depth} with BN"
            for network in self.networks
            if network.layers >= ASSUMED_LAYERS
        }
        verdicts = {item.verdict for item in self.summaries() if item.name in deep}
        if verdicts and verdicts <= words.keys() - {"vanishes"}:
            found.append(
                f"With batch normalisation (BN), gradients of plain networks with more than "
                f"{ASSUMED_LAYERS} layers do not vanish here. Articles that explain by vanishing "
                "gradients why such networks train badly (0.9 per layer, 0.9^50 = 0.005) are wrong "
                "about them; He et al. 2015, section 4.1, had checked that."
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
    """Measures gradients by depth with and without shortcuts, with and without normalisation.

    For every depth, trains four networks of He et al. 2015, section 4.2: residual with shortcut A
    (or another one of `network`),
    and plain; each with and without batch normalisation. With the same seed, all four start from
    the same kernels (He initialisation) and see the same batches. Training is SGD with momentum 0.9
    and a constant rate. Gradients are clipped to a norm of 1, as deep residual networks without
    normalisation start with a large loss; norms are measured before that. Sets the global seeds of
    Python, NumPy and Keras.

    Args:
        data: a source, such as `"digits"`, whose training images are used; or images and labels.
        depths: weighted layers, 6n+2.
        width: multiplies the 16, 32 and 64 filters of the stages.
        size: height and width of the images, in pixels.
        steps: of training.
        batch_size: images per step.
        learning_rate: of SGD.
        seeds: how many networks of each kind are trained, with the seeds 0, 1 and so on.
        images: how many images are used, at most.
        max_bad_fraction: share of these images that may be unreadable; they are left out.
        network: fields of `ResNetConfig` of all networks, such as `{"version": "v2"}`; `shortcut`
            is that of the residual ones.
        begin: is given one step of the work, to be timed, before it begins.
        progress: is told after every network.

    Raises:
        ValueError: an argument is wrong.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("seeds", seeds)):
        check_integer(name, value)
    check_number("learning_rate", learning_rate)
    fields = dict(network or {})
    configs = gradient_configs(depths, width, fields)
    source, classes = _training_part(data, size)

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
    pixels, labels = labelled_images(first, source, images, max_bad_fraction=max_bad_fraction)
    total, done = seeds * sum(depth for depth, *_ in kinds), 0
    found: list[NetworkGradients] = []
    for depth, shortcuts, batch_norm in kinds:
        model = new(depth, shortcuts, 0)
        model = model if batch_norm else without_batch_norm(model)
        trainer = _Trainer(model, pixels, labels, batch_size, learning_rate)
        if not found:
            # Steps, and tracing before the first one, take as long as networks are deep.
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
    """A copy of a model, with the same weights, in which nothing stands for batch normalisation."""

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            return arguments[0]
        return layer(*arguments, **keywords)

    copy = keras.models.clone_model(model, call_function=call)
    _copy_weights(model, copy)
    return copy


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of all layers that the target has."""
    for layer in target.layers:
        layer.set_weights(source.get_layer(layer.name).get_weights())


def _training_part(data: Any, size: int) -> tuple[Source, int]:
    """The images to train on, and how many classes they have."""
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2
    labels = data[1] if is_pair else getattr(data, "labels", ())
    # Sources that name their classes need no number.
    count = int(np.max(labels, initial=1)) + 1
    opened = open_images(data, Classes(count), size, split="train")
    if len(opened.classes) < 2:
        raise ValueError(
            f"Expected data of at least two classes. Received: {opened.source.name}, whose images "
            f"are all of the class {opened.classes.names[0]}"
        )
    return opened.source, len(opened.classes)


class _Trainer:
    """Trains one network, over and over from new weights, and measures its gradients."""

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
        # Traced once for all seeds.
        self.run = tf.function(self._run)

    def _run(self, images: Any, labels: Any) -> Any:
        norms, gradients = self.probe.norms(images, labels)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return norms

    def step(self) -> np.ndarray:
        """Trains on one random batch; the loss and the norms before."""
        rows = self.random.integers(len(self.images), size=self.batch_size)
        return self.run(self.images[rows].astype(np.float32), self.labels[rows]).numpy()

    def start(self, model: keras.Model, seed: int) -> None:
        """Takes the weights of a new network."""
        _copy_weights(model, self.model)
        self.random = np.random.default_rng(seed)

    def train(self, steps: int) -> tuple[float, ...]:
        """Trains, and returns the loss of every step."""
        self._reset_optimizer()
        return tuple(float(self.step()[0]) for _ in range(steps))

    def measured(self) -> GradientNorms | None:
        """Norms as the weights are, averaged over a few batches; None if there are none."""
        self._reset_optimizer()
        # A step without rate and momentum changes nothing, and another function would be traced.
        self.optimizer.learning_rate = 0.0
        values = np.mean([self.step() for _ in range(_MEASURED)], axis=0)
        return self.probe.named(values) if np.isfinite(values).all() else None

    def _reset_optimizer(self) -> None:
        for variable, value in zip(self.optimizer.variables, self.state, strict=True):
            variable.assign(value)


def _geometric_mean(values: Iterable[float | None]) -> float | None:
    """Return the geometric mean of the values that are not None; None without any."""
    known = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(known)))) if known else None
