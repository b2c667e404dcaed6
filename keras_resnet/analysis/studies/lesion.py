"""Errors of a trained network with blocks deleted or swapped (Veit et al. 2016)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_resnet.analysis.studies.blocks import Network, take_apart
from keras_resnet.analysis.studies.images import given_images
from keras_resnet.models.outputs import class_probabilities
from keras_resnet.support.checks import check_integer, some_of
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen
from keras_resnet.support.suggest import did_you_mean


@dataclass(frozen=True)
class Lesion:
    """Blocks that are deleted or swapped together, and the resulting top-1 error.

    Attributes:
        deleted: names of the blocks whose residual branch is deleted.
        swapped: pairs of names of blocks that are swapped.
        error: top-1 error, 0 to 1.
    """

    deleted: tuple[str, ...]
    swapped: tuple[tuple[str, str], ...]
    error: float = math.nan

    @property
    def words(self) -> str:
        """A phrase such as `Without conv2_block2 and conv3_block3`."""
        if self.deleted:
            return f"Without {' and '.join(self.deleted)}"
        return f"With {', '.join(f'{a} and {b}' for a, b in self.swapped)} swapped"


@dataclass(frozen=True)
class LesionStudy:
    """Errors of a trained network with blocks deleted or swapped, without further training.

    Attributes:
        names: names of the blocks that can be deleted.
        errors: top-1 error without each of these blocks, 0 to 1.
        error: top-1 error of the whole network, 0 to 1.
        images: number of classified images.
        kept: names of the blocks that cannot be deleted, because they change the shape and have no
            shortcut.
        several: number of deleted blocks -> a lesion for each random choice.
        swapped: number of swapped pairs -> a lesion for each random choice.
        chosen: the lesions requested by the names of blocks.
    """

    names: tuple[str, ...]
    errors: tuple[float, ...]
    error: float
    images: int
    kept: tuple[str, ...] = ()
    several: dict[int, list[Lesion]] = field(default_factory=dict)
    swapped: dict[int, list[Lesion]] = field(default_factory=dict)
    chosen: tuple[Lesion, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dataclasses.asdict(self)


def lesion_study(
    model: keras.Model,
    data: Any,
    *,
    several: Sequence[int] = (),
    swaps: Sequence[int] = (),
    delete: Sequence[Sequence[str]] = (),
    swap: Sequence[Sequence[str]] = (),
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 128,
    begin: Begin = unannounced,
    progress: Progress = unseen,
) -> LesionStudy:
    """Measure the error of a network without each of its blocks (Veit et al. 2016, section 4).

    To delete a residual block is to delete its residual branch; its shortcut stays, with projection
    and subsampling. In a plain network, whole blocks that keep the shape are deleted.

    All deletions reuse the feature maps before the deleted block, which halves the time.

    Args:
        model: a flat classifier of this package.
        data: images `(n, height, width, channels)` as the model takes them and labels `(n,)`; or a
            `Source` or its name, from whose validation split up to 1,000 images are used.
        several: numbers of random blocks to delete together.
        swaps: numbers of random pairs of blocks to swap together. The blocks of a pair are in the
            same stage and keep the shape; no block is in two pairs.
        delete: lesions by name: each is a sequence of blocks to delete together, such as
            `("conv2_block2", "conv3_block3")`.
        swap: lesions by name: each is a sequence of blocks to swap, the first with the second, the
            third with the fourth, and so on.
        draws: number of random choices for each number in `several` and `swaps`.
        seed: seed of the random choices.
        batch_size: images that are classified together.
        begin: called with one step of the work, to time it, before the work begins.
        progress: called after every batch with a description and the share of the images.

    Raises:
        ValueError: the model does not fit, or an argument is invalid.

    Examples:

    ```python
    study = lesion_study(model, "digits", several=(1, 2, 4), delete=[("conv2_block2",)])
    dict(zip(study.names, study.errors))
    ```
    """
    network = take_apart(model, compiled=True)
    images, labels = given_images(model, data, seed)
    lesions = chosen_lesions(
        network,
        several=several,
        swaps=swaps,
        delete=delete,
        swap=swap,
        draws=draws,
        seed=seed,
    )
    names = [block.name for block in network.blocks]
    orders = [_steps(names, lesion) for lesion in itertools.chain(*lesions.values())]
    removable = _removable(network)
    blocks, first = len(network.blocks), images[:batch_size]
    # The work in runs of the whole network: without block i, the blocks before it do not run again.
    runs = 1 + sum(1 - i / blocks for i in removable) + len(orders)
    whole_steps = [(index, True) for index in range(blocks)]
    begin(lambda: _run(network, first, whole_steps), runs * len(images) / len(first), 2)
    wrong = np.zeros(1 + len(removable) + len(orders), int)
    for start in range(0, len(images), batch_size):
        batch, right = images[start : start + batch_size], labels[start : start + batch_size]
        outputs = itertools.chain(
            _lesions(network, batch, removable), (_run(network, batch, steps) for steps in orders)
        )
        wrong += [_errors(output, right) for output in outputs]
        done = start + len(right)
        progress(f"{done} of {len(images)} images", done / len(images))
    whole, *errors = (wrong / len(images)).tolist()
    each, rest = errors[: len(removable)], iter(errors[len(removable) :])
    found: dict[tuple[str, int], list[Lesion]] = {
        key: [dataclasses.replace(lesion, error=next(rest)) for lesion in group]
        for key, group in lesions.items()
    }
    by_kind = {
        kind: {number: x for (key, number), x in found.items() if key == kind}
        for kind in ("several", "swapped")
    }
    return LesionStudy(
        tuple(names[i] for i in removable),
        tuple(each),
        whole,
        len(images),
        tuple(name for i, name in enumerate(names) if i not in removable),
        **by_kind,
        chosen=tuple(found["chosen", 0]),
    )


#: Indices of the blocks in the order in which they run, and whether each has its residual branch.
_Steps = list[tuple[int, bool]]


def _lesions(network: Network, batch: np.ndarray, removable: Sequence[int]) -> Iterable[Any]:
    """Yield the output of the whole network, then those without each removable block."""
    x = network.stem(batch.astype(np.float32))
    before = []
    for block in network.blocks:
        before.append(x)
        x = block.whole(x)
    yield network.head(x)
    for index in removable:
        x = network.blocks[index].without_residual(before[index])
        for block in network.blocks[index + 1 :]:
            x = block.whole(x)
        yield network.head(x)


def _run(network: Network, batch: np.ndarray, steps: _Steps) -> Any:
    x = network.stem(batch.astype(np.float32))
    for index, is_whole in steps:
        block = network.blocks[index]
        x = block.whole(x) if is_whole else block.without_residual(x)
    return network.head(x)


def _removable(network: Network) -> list[int]:
    return [i for i, block in enumerate(network.blocks) if block.shortcut is not None]


def _steps(names: Sequence[str], lesion: Lesion) -> _Steps:
    """Return the steps of a network with a lesion."""
    order = list(range(len(names)))
    for pair in lesion.swapped:
        a, b = map(names.index, pair)
        order[a], order[b] = b, a
    return [(index, names[index] not in lesion.deleted) for index in order]


def chosen_lesions(
    network: Network,
    *,
    several: Sequence[int] = (),
    swaps: Sequence[int] = (),
    delete: Sequence[Sequence[str]] = (),
    swap: Sequence[Sequence[str]] = (),
    draws: int = 5,
    seed: int = 0,
) -> dict[tuple[str, int], list[Lesion]]:
    """Return the lesions that `lesion_study` measures besides single blocks, without their errors.

    Arguments and errors are those of `lesion_study`.

    Returns:
        Lesions by the keys `("several", number)`, `("swapped", number)` and `("chosen", 0)`.
    """
    check_integer("draws", draws)
    random = np.random.default_rng(seed)
    removable = [network.blocks[i].name for i in _removable(network)]
    stages: dict[int, list[str]] = {}
    for block in network.blocks:
        if block.keeps_shape:
            stages.setdefault(block.stage, []).append(block.name)
    pairs = [pair for names in stages.values() for pair in itertools.combinations(names, 2)]
    found: dict[tuple[str, int], list[Lesion]] = {}
    for number in several:
        _check_number("several", number, len(removable), "blocks")
        choices = [random.choice(len(removable), number, replace=False) for _ in range(draws)]
        found["several", number] = [
            Lesion(tuple(removable[i] for i in sorted(choice)), ()) for choice in choices
        ]
    for number in swaps:
        most = sum(len(names) // 2 for names in stages.values())
        _check_number("swaps", number, most, "pairs of blocks, with each block in at most one pair")
        found["swapped", number] = [
            Lesion((), _disjoint(random, pairs, number)) for _ in range(draws)
        ]
    chosen = [Lesion(_known("delete", names, removable), ()) for names in delete]
    movable = list(itertools.chain(*stages.values()))
    for names in swap:
        known = _known("swap", names, movable)
        swapped = tuple(zip(known[::2], known[1::2], strict=False))
        ordered = [tuple(sorted(pair, key=movable.index)) for pair in swapped]
        if len(known) % 2 or not set(ordered) <= set(pairs):
            raise ValueError(
                "Expected `swap` to be pairs of blocks of one stage that keep the shape"
                + (f", such as {','.join(pairs[0])}" if pairs else ", which this network lacks")
                + f". Received: {','.join(names)}"
            )
        chosen.append(Lesion((), swapped))
    return {**found, ("chosen", 0): chosen}


def _check_number(name: str, number: int, most: int, what: str) -> None:
    if not 1 <= check_integer(name, number) <= most:
        raise ValueError(
            f"Expected `{name}` to be numbers from 1 to {most} of {what}. Received: {number}"
        )


def _known(name: str, given: Sequence[str], possible: Sequence[str]) -> tuple[str, ...]:
    """Return the given names of blocks; raise ValueError for unknown and repeated ones."""
    for block in given:
        if block not in possible:
            raise ValueError(
                f"Expected `{name}` to name blocks among {some_of(possible)}. Received: {block}"
                f"{did_you_mean(block, possible)}"
            )
    if not given or len(set(given)) < len(given):
        raise ValueError(
            f"Expected `{name}` to name different blocks. Received: {','.join(given) or 'none'}"
        )
    return tuple(given)


def _disjoint(
    random: np.random.Generator, pairs: Sequence[tuple[str, str]], number: int
) -> tuple[tuple[str, str], ...]:
    """Return random pairs without a common block, so that no swap undoes another one."""
    found: list[tuple[str, str]] = []
    for _ in range(number):
        found.append(pairs[int(random.integers(len(pairs)))])
        pairs = [pair for pair in pairs if not set(pair) & set(found[-1])]
    return tuple(found)


def _errors(outputs: Any, labels: np.ndarray) -> int:
    """Return the number of misclassified images."""
    values = np.asarray(keras.ops.convert_to_numpy(outputs))
    # A single unit is that of the second of two classes.
    return int((class_probabilities(values, logits=False, pairs=True).argmax(-1) != labels).sum())
