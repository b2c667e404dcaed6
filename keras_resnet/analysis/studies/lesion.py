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
    """Blocks that are deleted together, or swapped, and the top-1 error then.

    Attributes:
        deleted: names of the blocks without their residual branch.
        swapped: pairs of names of blocks, each of which runs in the other's place.
        error: 0 to 1.
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
    """Errors of a network with lesions, none of which was trained away.

    Attributes:
        names: of the blocks that can be deleted.
        errors: top-1 error without each of them, 0 to 1.
        error: top-1 error of the whole network.
        images: how many images were classified.
        kept: blocks that cannot be deleted, as they change the shape and have no shortcut.
        several: number of deleted blocks -> one lesion per random choice of them.
        swapped: number of swapped pairs -> one lesion per random choice of them.
        chosen: the lesions that were asked for by the names of blocks.
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
    """Delete every block in turn, and classify images without it (Veit et al. 2016, section 4).

    A residual block is deleted by cutting its residual branch: its shortcut stays, with projection
    and subsampling. Of a plain network, blocks that keep the shape are deleted whole.

    All deletions of a batch share the layers before the deleted block, so that they cost about half
    of what classifying with every network would.

    Args:
        model: a flat network of this package with a classifier.
        data: images `(n, height, width, channels)` as the model takes them, and labels `(n,)`; or a
            source, of whose validation part up to 1,000 images are taken.
        several: how many random blocks are deleted at once, besides.
        swaps: how many random pairs of blocks are swapped at once, besides. Both blocks of a pair
            are of one stage and keep the shape; each block is in one pair at most.
        delete: names of blocks, such as `("conv2_block2", "conv3_block3")`, that are deleted
            together, besides; any number of such lesions.
        swap: likewise, names of blocks that are swapped: the first with the second, the third
            with the fourth, and so on.
        draws: how many random choices of each number are made.
        seed: of the choices.
        batch_size: images that are run at once.
        begin: is given one step of the work, to be timed, before it begins.
        progress: is told after every batch.

    Raises:
        ValueError: the model or an argument is wrong.
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
    # In runs of the whole network: without block i, those before it do not run again.
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
        key: [dataclasses.replace(lesion, error=next(rest)) for lesion in several_lesions]
        for key, several_lesions in lesions.items()
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


#: Blocks in the order in which they run, and whether each keeps its residual branch.
_Steps = list[tuple[int, bool]]


def _lesions(network: Network, batch: np.ndarray, removable: Sequence[int]) -> Iterable[Any]:
    """Outputs of the whole network, and then without each of the blocks."""
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
    """The blocks in the order in which they run with a lesion."""
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
    """Return the lesions of several blocks that `lesion_study` measures, without their errors.

    Arguments and errors are those of `lesion_study`.

    Returns:
        `("several", number)`, `("swapped", number)` and `("chosen", 0)` -> lesions.
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
        _check_number("swaps", number, most, "pairs of blocks of one shape, each block in one")
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
                "Expected `swap` to be pairs of blocks of one stage that keep the shape, such "
                f"as {','.join(pairs[0]) if pairs else 'none of this network'}. Received: "
                f"{','.join(names)}"
            )
        chosen.append(Lesion((), swapped))
    return {**found, ("chosen", 0): chosen}


def _check_number(name: str, number: int, most: int, what: str) -> None:
    if not 1 <= check_integer(name, number) <= most:
        raise ValueError(
            f"Expected `{name}` to be numbers of 1 to {most} {what}. Received: {number}"
        )


def _known(name: str, given: Sequence[str], possible: Sequence[str]) -> tuple[str, ...]:
    """The names of blocks, each of which is possible and given once."""
    for block in given:
        if block not in possible:
            raise ValueError(
                f"Expected `{name}` to name blocks of {some_of(possible)}. Received: {block}"
                f"{did_you_mean(block, possible)}"
            )
    if not given or len(set(given)) < len(given):
        raise ValueError(
            f"Expected `{name}` to name blocks, each once. Received: {','.join(given) or 'none'}"
        )
    return tuple(given)


def _disjoint(
    random: np.random.Generator, pairs: Sequence[tuple[str, str]], number: int
) -> tuple[tuple[str, str], ...]:
    """Random pairs without a common block: each swap changes the order, and none undoes another."""
    found: list[tuple[str, str]] = []
    for _ in range(number):
        found.append(pairs[int(random.integers(len(pairs)))])
        pairs = [pair for pair in pairs if not set(pair) & set(found[-1])]
    return tuple(found)


def _errors(outputs: Any, labels: np.ndarray) -> int:
    values = np.asarray(keras.ops.convert_to_numpy(outputs))
    # A single unit is that of the second of two classes.
    return int((class_probabilities(values, logits=False, pairs=True).argmax(-1) != labels).sum())
