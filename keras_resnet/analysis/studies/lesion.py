"""What a trained network loses with blocks that are deleted or swapped (Veit et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_resnet.analysis.studies.blocks import Network, take_apart
from keras_resnet.analysis.studies.images import given_images
from keras_resnet.models.outputs import class_probabilities
from keras_resnet.support.checks import check_integer
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen


@dataclass(frozen=True)
class LesionStudy:
    """Errors of a network with lesions, none of which was trained away.

    Attributes:
        names: of the blocks that can be deleted.
        errors: top-1 error without each of them, 0 to 1.
        error: top-1 error of the whole network.
        images: how many images were classified.
        kept: blocks that cannot be deleted, as they change the shape and have no shortcut.
        several: number of deleted blocks -> top-1 errors, one per random choice of them.
        swapped: number of swaps -> top-1 errors, one per random order of blocks of one shape.
    """

    names: tuple[str, ...]
    errors: tuple[float, ...]
    error: float
    images: int
    kept: tuple[str, ...] = ()
    several: dict[int, list[float]] = field(default_factory=dict)
    swapped: dict[int, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


def lesion_study(
    model: keras.Model,
    data: Any,
    *,
    several: Sequence[int] = (),
    swaps: Sequence[int] = (),
    draws: int = 5,
    seed: int = 0,
    batch_size: int = 128,
    begin: Begin = unannounced,
    progress: Progress = unseen,
) -> LesionStudy:
    """Deletes every block in turn, and classifies images without it.

    A residual block is deleted by cutting its residual branch: its shortcut stays, with projection
    and subsampling. Of a plain network, blocks that keep the shape are deleted whole.

    All deletions of a batch share the layers before the deleted block, so that they cost about half
    of what classifying with every network would.

    Args:
        model: a flat network of this package with a classifier.
        data: images `(n, height, width, channels)` as the model takes them, and labels `(n,)`; or a
            source, of whose validation part up to 1,000 images are taken.
        several: how many random blocks are deleted at once, besides.
        swaps: how many random pairs of neighbouring blocks of one shape are swapped, besides.
        draws: how many random choices of each number are made.
        seed: of the choices.
        batch_size: images that are run at once.
        begin: is given one step of the work, to be timed, before it begins.
        progress: is told after every batch.

    Raises:
        ValueError: the model or an argument is wrong.
    """
    check_integer("draws", draws)
    network = take_apart(model, compiled=True)
    images, labels = given_images(model, data, seed)
    removable = [i for i, block in enumerate(network.blocks) if block.shortcut is not None]
    random = np.random.default_rng(seed)
    orders = {
        "several": _deletions(random, removable, len(network.blocks), several, draws),
        "swapped": _swaps(random, network, swaps, draws),
    }
    blocks, first = len(network.blocks), images[:batch_size]
    # In runs of the whole network: without block i, those before it do not run again.
    runs = 1 + sum(1 - i / blocks for i in removable) + sum(map(len, orders.values()))
    whole_steps = [(index, True) for index in range(blocks)]
    begin(lambda: _run(network, first, whole_steps), runs * len(images) / len(first), 2)
    wrong = np.zeros(1 + len(removable), int)
    wrong_by_order = {kind: np.zeros(len(rows), int) for kind, rows in orders.items()}
    for start in range(0, len(images), batch_size):
        batch, right = images[start : start + batch_size], labels[start : start + batch_size]
        wrong += [_errors(output, right) for output in _lesions(network, batch, removable)]
        for kind, rows in orders.items():
            found = [_errors(_run(network, batch, steps), right) for _, steps in rows]
            wrong_by_order[kind] += np.array(found, int)
        progress(
            f"{start + len(right)} of {len(images)} images", (start + len(right)) / len(images)
        )
    whole, *each = (wrong / len(images)).tolist()
    by_number: dict[str, dict[int, list[float]]] = {"several": {}, "swapped": {}}
    for kind, rows in orders.items():
        for (number, _), count in zip(rows, wrong_by_order[kind].tolist(), strict=True):
            by_number[kind].setdefault(number, []).append(count / len(images))
    names = [block.name for block in network.blocks]
    return LesionStudy(
        tuple(names[i] for i in removable),
        tuple(each),
        whole,
        len(images),
        tuple(name for i, name in enumerate(names) if i not in removable),
        **by_number,
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


def _deletions(
    random: np.random.Generator,
    removable: Sequence[int],
    blocks: int,
    numbers: Sequence[int],
    draws: int,
) -> list[tuple[int, _Steps]]:
    found = []
    for number in numbers:
        if not 1 <= check_integer("several", number) <= len(removable):
            raise ValueError(
                f"Expected `several` to be numbers of 1 to {len(removable)} blocks. Received: "
                f"{number}"
            )
        for _ in range(draws):
            gone = set(random.choice(removable, number, replace=False).tolist())
            found.append((number, [(index, index not in gone) for index in range(blocks)]))
    return found


def _swaps(
    random: np.random.Generator, network: Network, numbers: Sequence[int], draws: int
) -> list[tuple[int, _Steps]]:
    """Orders of the blocks after so many swaps of two blocks of one stage that keep the shape."""
    stages: dict[int, list[int]] = {}
    for index, block in enumerate(network.blocks):
        if block.keeps_shape:
            stages.setdefault(block.stage, []).append(index)
    movable = [places for places in stages.values() if len(places) > 1]
    if numbers and not movable:
        raise ValueError(
            "Expected a network with at least two blocks of one shape, to swap them. Received: none"
        )
    found = []
    for number in numbers:
        check_integer("swaps", number)
        for _ in range(draws):
            order = list(range(len(network.blocks)))
            for _ in range(number):
                places = movable[random.integers(len(movable))]
                a, b = random.choice(places, 2, replace=False)
                order[a], order[b] = order[b], order[a]
            found.append((number, [(index, True) for index in order]))
    return found


def _errors(outputs: Any, labels: np.ndarray) -> int:
    values = np.asarray(keras.ops.convert_to_numpy(outputs))
    # A single unit is that of the second of two classes.
    return int((class_probabilities(values, logits=False, pairs=True).argmax(-1) != labels).sum())
