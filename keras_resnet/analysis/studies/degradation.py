"""The degradation problem and its cure, and the options for shortcuts (He et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from keras_resnet.analysis.studies.curves import (
    Finding,
    MeanAndDeviation,
    NetworkCurves,
    TrainingStudy,
    in_percent,
)
from keras_resnet.analysis.studies.families import (
    basic_config,
    check_depths,
    check_seeds,
    default_width,
)
from keras_resnet.analysis.studies.training import make_setting, train_networks
from keras_resnet.networks.config import Shortcut
from keras_resnet.support.progress import Progress, Say, unsaid, unseen
from keras_resnet.training.recipes.recipe import Recipe

#: What the studies compare by default, on the digits within minutes.
DEPTHS, DEPTH, SEEDS = (8, 32), 32, (0, 1, 2)


def degradation_study(
    data: str = "digits",
    *,
    depths: Sequence[int] = DEPTHS,
    seeds: Sequence[int] = SEEDS,
    recipe: Recipe | str | None = None,
    epochs: float | None = None,
    size: int | None = None,
    width: float | None = None,
    max_bad_fraction: float | None = None,
    say: Say = unsaid,
    progress: Progress = unseen,
) -> TrainingStudy:
    """Train plain and residual networks of several depths under one recipe.

    He et al. 2015, Figures 1, 4 and 6: a deeper plain network has the higher training error, which
    is no overfitting (`degradation`); with shortcuts that have no parameters (option A), it does
    not (`cure`). The deepest networks are compared with the shallowest ones by the training errors
    of the last epoch; see `NetworkCurves` for what these are.

    Args:
        data: a source, as for `load_data`. The test errors are of its test part if it has one, else
            of the validation part.
        depths: two or more of 6n+2 layers, or 18 and 34, the ImageNet networks.
        seeds: of initialisation, data order and augmentation.
        recipe: how to train, or its name. None: for the digits `quick-digits` with 18 epochs,
            batches of 64 and a learning rate of 0.1; for other data `he2015-cifar10`, or
            `he2015-imagenet` for 18 and 34 layers.
        epochs: length of training instead of the recipe's, whose schedule is compressed.
        size: height and width of the images. None: of networks of 6n+2 layers, 8 for the digits
            and 32 for other data; of 18 and 34 layers, 64 for the digits and 224 for other data.
        width: multiplies the width of the networks. None: 0.25 for the digits, which wider networks
            of any depth learn by heart, else 1.
        max_bad_fraction: share of the training images that may be unreadable; they are skipped.
            None: as of `keras_resnet.train`.
        say: is told, before the first training, about how long all of them will take, and of every
            training that diverges.
        progress: is told after every batch.

    Returns:
        The study, with the networks `plain-DEPTH` and `residual-DEPTH`.

    Raises:
        ValueError: an argument is wrong, or data, networks and recipe do not go together.
        OSError: the data cannot be read.
        DivergedError: every training diverged; single ones are recorded in `NetworkCurves`.
    """
    depths, seeds = check_depths(depths), check_seeds(seeds)
    width = width or default_width(data)
    kinds: dict[str, Shortcut | None] = {"plain": None, "residual": "A"}
    configs = {
        f"{kind}-{depth}": basic_config(depth, shortcut, width=width)
        for kind, shortcut in kinds.items()
        for depth in depths
    }
    first = configs[f"plain-{depths[0]}"]
    setting = make_setting("degradation", data, first, size, recipe, epochs, say, max_bad_fraction)
    networks = train_networks(configs, setting, seeds, say, progress)
    found = degradation_findings(networks)
    return TrainingStudy(networks, seeds, found, {**setting.facts(), "width": width})


def shortcut_study(
    data: str = "digits",
    *,
    depth: int = DEPTH,
    seeds: Sequence[int] = SEEDS,
    recipe: Recipe | str | None = None,
    epochs: float | None = None,
    size: int | None = None,
    width: float | None = None,
    max_bad_fraction: float | None = None,
    say: Say = unsaid,
    progress: Progress = unseen,
) -> TrainingStudy:
    """Train a plain network and those with shortcuts A, B and C of one depth under one recipe.

    He et al. 2015, Table 3: all three have a lower test error than the plain network
    (`shortcuts`), and differ little from each other.

    All other arguments are those of `degradation_study`.

    Args:
        depth: 6n+2 layers, or 18 or 34, the ImageNet networks.
        recipe: as for `degradation_study`, but for the digits with 12 epochs.

    Returns:
        The study, with the networks `plain`, `A`, `B` and `C`.

    Raises:
        ValueError: an argument is wrong, or data, networks and recipe do not go together.
        OSError: the data cannot be read.
        DivergedError: every training diverged; single ones are recorded in `NetworkCurves`.
    """
    seeds, width = check_seeds(seeds), width or default_width(data)
    configs = {"plain": basic_config(depth, None, width=width)}
    for option in get_args(Shortcut):
        configs[option] = basic_config(depth, option, width=width)
    setting = make_setting(
        "shortcuts", data, configs["plain"], size, recipe, epochs, say, max_bad_fraction
    )
    networks = train_networks(configs, setting, seeds, say, progress)
    found = shortcut_findings(networks)
    return TrainingStudy(networks, seeds, found, {**setting.facts(), "width": width})


def degradation_findings(networks: Sequence[NetworkCurves]) -> dict[str, Finding]:
    """Compare the deepest with the shallowest networks, plain and residual, in training error."""
    plain = sorted((x for x in networks if x.shortcut is None), key=lambda x: x.depth)
    residual = sorted((x for x in networks if x.shortcut is not None), key=lambda x: x.depth)
    deep, shallow = plain[-1].train_error, plain[0].train_error
    degrades = _is_above(deep, shallow)
    cured = residual[-1].train_error[0] <= residual[0].train_error[0]
    helps = _is_above(deep, residual[-1].train_error)

    def errors(pair: Sequence[NetworkCurves]) -> str:
        values = [f"{in_percent(x.train_error)} with {x.depth} layers" for x in (pair[-1], pair[0])]
        return f"training error {values[0]}, {values[1]}"

    return {
        "degradation": Finding(
            degrades,
            f"Degradation {_shown(degrades)}: plain networks have a {errors(plain)}"
            + _because(degrades, deep[0] > shallow[0], "the deeper one's is not higher")
            + _caution((plain[0], plain[-1])),
        ),
        "cure": Finding(
            cured and helps,
            f"Cure {_shown(cured and helps)}: residual networks have a {errors(residual)}"
            + ("" if cured else "; the deeper one's is higher")
            + (
                ""
                if helps
                else f"; the plain network's with {plain[-1].depth} is not clearly higher"
            )
            + "."
            + _caution((plain[-1], residual[0], residual[-1])),
        ),
    }


def shortcut_findings(networks: Sequence[NetworkCurves]) -> dict[str, Finding]:
    """Compare the test error of every option with the plain network's, and name the order."""
    (plain,) = (network for network in networks if network.shortcut is None)
    options = sorted(
        (network for network in networks if network is not plain), key=lambda x: x.test_error[0]
    )
    worse = [x.name for x in options if not _is_above(plain.test_error, x.test_error)]
    values = ", ".join(f"{x.name} {in_percent(x.test_error)}" for x in options)
    first, last = options[0].test_error, options[-1].test_error
    text = (
        f"Gain by shortcuts {_shown(not worse)}: test error of the plain network "
        f"{in_percent(plain.test_error)}, of the options {values}"
    )
    if worse:
        text += f"; {' and '.join(sorted(worse))} not clearly lower than the plain network's"
    apart = "clearly" if _is_above(last, first) else "not clearly"
    text += f". {options[0].name} and {options[-1].name} are {apart} apart."
    return {"shortcuts": Finding(not worse, text + _caution([plain, *options]))}


def _is_above(one: MeanAndDeviation, other: MeanAndDeviation) -> bool:
    """Whether a mean is above another one so that their standard deviations do not overlap."""
    return one[0] - (one[1] or 0) > other[0] + (other[1] or 0)


def _shown(is_shown: bool) -> str:
    return "shown" if is_shown else "not shown"


def _because(is_shown: bool, is_higher: bool, reason: str) -> str:
    """The end of a sentence: why something is not shown, if it is not."""
    if is_shown:
        return "."
    return "; the standard deviations overlap." if is_higher else f"; {reason}."


def _caution(networks: Sequence[NetworkCurves]) -> str:
    """Return the caveats about trainings that diverged, and about a single seed."""
    text = "".join(
        f" {x.name} diverged with seed {', '.join(map(str, x.diverged))}: counted as guessing."
        for x in networks
        if x.diverged
    )
    if len(networks[0].train_errors) > 1:
        return text
    return f"{text} This is a single seed, without standard deviations: it may be chance."
