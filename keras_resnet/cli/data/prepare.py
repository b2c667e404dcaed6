"""`keras-resnet data prepare`: conversion of data sets to TFRecord shards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_resnet.cli.checks import check_data, check_file
from keras_resnet.cli.data import data
from keras_resnet.cli.options import Group, LogEvery, Overwrite, Seed
from keras_resnet.support.files import check_writable
from keras_resnet.support.progress import Progress
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar

if TYPE_CHECKING:
    from keras_resnet.data.sources.base import Source

prepare = typer.Typer(
    cls=Group,
    help="Write a data set as shuffled TFRecord shards with checksums. Run again to resume.",
    rich_markup_mode=None,
)
data.add_typer(prepare, name="prepare")

#: The numbers of shards of TensorFlow's ImageNet scripts.
_IMAGENET_SHARDS = {"train": 1024, "validation": 128}

Output = Annotated[Path, typer.Option(help="Directory for the shards.")]
Shards = Annotated[
    int | None, typer.Option(min=1, help="Training shards. [default: one per 150 MB]")
]
ShortSide = Annotated[
    int | None,
    typer.Option(min=1, help="Shrink larger images to this short side, as JPEG of quality 95."),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable images out and list them.")
]


@prepare.command()
def imagenet(
    output: Output,
    train_tar: Annotated[
        Path | None, typer.Option(help="ILSVRC2012_img_train.tar, a tar of one tar per class.")
    ] = None,
    train_dir: Annotated[
        Path | None, typer.Option(help="Instead: a directory with a folder per class.")
    ] = None,
    val_tar: Annotated[Path | None, typer.Option(help="ILSVRC2012_img_val.tar.")] = None,
    val_dir: Annotated[
        Path | None, typer.Option(help="Instead: a directory of images, or of class folders.")
    ] = None,
    val_labels: Annotated[
        Path | None,
        typer.Option(
            help="WordNet id per line, LOC_val_solution.csv, or ILSVRC2012_devkit_t12.tar.gz."
        ),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Training shards. [default: 1024]")
    ] = None,
    short_side: ShortSide = None,
    seed: Seed = 0,
    no_check_counts: Annotated[
        bool, typer.Option("--no-check-counts", help="Accept a subset of ImageNet.")
    ] = False,
    skip_unreadable: SkipUnreadable = False,
    log_every: LogEvery = 60.0,
    overwrite: Overwrite = False,
) -> None:
    """Prepare ILSVRC-2012 from its two tars, without extracting them."""
    train = _one_of("train", train_tar, train_dir)
    validation = _one_of("val", val_tar, val_dir)
    check_file("val-labels", val_labels)
    numbers = {} if no_check_counts else dict(_IMAGENET_SHARDS)
    if shards is not None:
        numbers["train"] = shards

    def load(progress: Progress) -> dict[str, Source]:
        from keras_resnet.data.sources.imagenet import load_imagenet

        splits = load_imagenet(
            train, validation, val_labels, check_counts=not no_check_counts, progress=progress
        )
        return dict(zip(("train", "validation"), splits, strict=True))

    _prepare(load, output, numbers, short_side, seed, skip_unreadable, overwrite)


@prepare.command()
def folder(
    source: Annotated[
        str, typer.Argument(help="A directory of class folders, or a source such as csv:FILE.")
    ],
    output: Output,
    shards: Shards = None,
    short_side: ShortSide = None,
    seed: Seed = 0,
    skip_unreadable: SkipUnreadable = False,
    log_every: LogEvery = 60.0,
    overwrite: Overwrite = False,
) -> None:
    """Prepare a directory with a folder of images per class, or any other source.

    Splits stay as they are: loading the shards divides off a validation split if there is none.
    """

    check_data(source)

    def load(progress: Progress) -> dict[str, Source]:
        from keras_resnet.data.sources.load import load_every_split

        return load_every_split(source)

    numbers = {} if shards is None else {"train": shards}
    _prepare(load, output, numbers, short_side, seed, skip_unreadable, overwrite)


def _one_of(split: str, tar: Path | None, directory: Path | None) -> Path:
    given = [path for path in (tar, directory) if path is not None]
    if len(given) != 1:
        raise ValueError(
            f"Expected either --{split}-tar or --{split}-dir. Received: "
            f"{'both' if given else 'neither'}"
        )
    if given[0].is_dir() == (directory is None) or not given[0].exists():
        kind = "tar" if directory is None else "dir"
        raise ValueError(
            f"Expected a {'file' if kind == 'tar' else 'directory'} as --{split}-{kind}. "
            f"Received: {given[0]}"
        )
    return given[0]


def _prepare(
    load: Callable[[Progress], Mapping[str, Source]],
    output: Path,
    shards: Mapping[str, int],
    short_side: int | None,
    seed: int,
    skip_unreadable: bool,
    overwrite: bool,
) -> None:
    from keras_resnet.data.shards.prepare import WORK_DIRECTORY, prepare, refuse_existing

    check_writable(output)
    # Checked before listing the source, which takes minutes, unless this may be a resumed command.
    if not (output / WORK_DIRECTORY).exists():
        refuse_existing(output, overwrite)
    _hide_accelerators()
    with progress_bar("prepare") as progress:
        dataset = prepare(
            load(progress),
            output,
            shards=shards,
            short_side=short_side,
            seed=seed,
            skip_unreadable=skip_unreadable,
            overwrite=overwrite,
            progress=progress,
        )
    for split, described in dataset["parts"].items():
        files, skipped = described["shards"], len(described["skipped"])
        size = sum(shard["bytes"] for shard in files) / 1e6
        left_out = f"; {skipped} unreadable ones are listed in dataset.json" if skipped else ""
        console.print(
            f"{split}: {described['records']:,} images in {len(files):,} shards, {size:,.1f} MB"
            f"{left_out}"
        )
    console.print(f"Written: {output}")


def _hide_accelerators() -> None:
    """Keep TensorFlow from reserving GPU memory, which a training may need at the same time."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # HIP ignores an empty list.
    os.environ["HIP_VISIBLE_DEVICES"] = "-1"
    with quiet():
        import tensorflow as tf

        # Raises RuntimeError if TensorFlow is already initialized.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
