"""Studies of the degradation problem and of shortcut options (He et al. 2015)."""

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

#: Default depths and seeds of the studies, which take minutes on the digits.
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
    """Train plain and residual networks of several depths with the same recipe.

    Tests two claims of He et al. 2015, Figures 1, 4 and 6. `degradation`: a deeper plain network
    has a higher training error, so that overfitting is not the cause. `cure`: a deeper residual
    network whose shortcuts have no parameters (option A) does not. The deepest networks are
    compared with the shallowest ones by the training error of the last epoch, see `NetworkCurves`.

    Args:
        data: name of a source, as for `load_data`. The test errors are measured on its test split,
            or on the validation split if it has no test split.
        depths: at least two depths of 6n+2 layers (CIFAR networks), or 18 and 34 (ImageNet
            networks).
        seeds: seeds of initialization, data order and augmentation.
        recipe: a recipe or its name. None: `quick-digits` with 18 epochs, batches of 64 and a
            learning rate of 0.1 for the digits; otherwise `he2015-cifar10`, or `he2015-imagenet`
            for 18 and 34 layers.
        epochs: length of each training; None: that of the recipe. The schedule is scaled.
        size: height and width of the images in pixels. None: for 6n+2 layers, 8 for the digits and
            32 for other data; for 18 and 34 layers, 64 for the digits and 224 for other data.
        width: factor of the number of filters. None: 0.25 for the digits, which wider networks of
            any depth memorize; otherwise 1.
        max_bad_fraction: share of the training images that may be unreadable, 0 to 1; they are
            skipped. None: the default of `keras_resnet.train`.
        say: called with the estimated time before the first training, and with a sentence about
            every training that diverges.
        progress: called after every batch with a description and the share of the work.

    Returns:
        The study, with networks named `plain-DEPTH` and `residual-DEPTH`.

    Raises:
        ValueError: an argument is invalid, or the data, networks and recipe do not fit together.
        OSError: the data cannot be read.
        DivergedError: all trainings diverged; single ones are recorded in `NetworkCurves`.

    Examples:

    ```python
    study = degradation_study("digits", depths=(8, 32), seeds=(0, 1, 2))
    study.findings["degradation"].sentence
    ```
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
    """Train a plain network and networks with shortcuts A, B and C with the same recipe.

    Tests the claim `shortcuts` of He et al. 2015, Table 3: all three options have a lower test
    error than the plain network, and differ little from each other.

    All other arguments, and the errors, are those of `degradation_study`.

    Args:
        depth: 6n+2 layers (CIFAR networks), or 18 or 34 (ImageNet networks).
        recipe: as for `degradation_study`, but with 12 epochs for the digits.

    Returns:
        The study, with networks named `plain`, `A`, `B` and `C`.
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
    """Compare the training errors of the deepest and the shallowest networks of either kind."""
    plain = sorted((x for x in networks if x.shortcut is None), key=lambda x: x.depth)
    residual = sorted((x for x in networks if x.shortcut is not None), key=lambda x: x.depth)
    deep, shallow = plain[-1].train_error, plain[0].train_error
    degrades = _is_above(deep, shallow)
    cured = residual[-1].train_error[0] <= residual[0].train_error[0]
    helps = _is_above(deep, residual[-1].train_error)

    def errors(pair: Sequence[NetworkCurves]) -> str:
        values = [f"{in_percent(x.train_error)} with {x.depth} layers" for x in (pair[-1], pair[0])]
        return f"training error of {' and of '.join(values)}"

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
    """Compare the test error of every shortcut option with that of the plain network."""
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
    """Return whether a mean is above another one by more than the sum of their deviations."""
    return one[0] - (one[1] or 0) > other[0] + (other[1] or 0)


def _shown(is_shown: bool) -> str:
    return "shown" if is_shown else "not shown"


def _because(is_shown: bool, is_higher: bool, reason: str) -> str:
    """Return the end of a sentence: the reason if a claim is not shown."""
    if is_shown:
        return "."
    return "; the standard deviations overlap." if is_higher else f"; {reason}."


def _caution(networks: Sequence[NetworkCurves]) -> str:
    """Return the sentences about trainings that diverged, and about a single seed."""
    text = "".join(
        f" {x.name} diverged with seed {', '.join(map(str, x.diverged))}: counted as guessing."
        for x in networks
        if x.diverged
    )
    if len(networks[0].train_errors) > 1:
        return text
    return f"{text} With a single seed there is no standard deviation: this may be chance."
