"""Embedding of images: pooled feature maps of a network, for search, clustering and probes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from keras_resnet.data.identity import states_of
from keras_resnet.images.decode import UnreadableImageError
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.jobs.predictor import OtherBackend
from keras_resnet.jobs.vector_files import UnfinishedVectors, check_output
from keras_resnet.models.foreign import adapt
from keras_resnet.models.info import get_info, set_info
from keras_resnet.models.input import ModelInput
from keras_resnet.models.pixels import find_pixel_format
from keras_resnet.models.untrained import untrained_part, warn_if_untrained
from keras_resnet.networks.features import pooled
from keras_resnet.support.ahead import results_in_order
from keras_resnet.support.checks import MODEL_SUFFIXES, check_integer
from keras_resnet.support.fingerprints import fingerprint, fingerprint_of_artifact
from keras_resnet.support.progress import Progress, unseen

#: Batches that are decoded ahead while the network runs.
_AHEAD = 2

Paths = Sequence[str | os.PathLike[str]]

#: A network, or the path of its file.
Model: TypeAlias = keras.Model | str | os.PathLike[str]


@dataclass(frozen=True)
class EmbeddingReport:
    """The report of `embed_to_file`.

    Attributes:
        output: the output file.
        vectors: number of vectors in the file.
        channels: length of a vector.
        resumed: number of images that an earlier, interrupted call had finished.
        images_per_second: speed of this call, including reading and decoding.
        unreadable: name -> reason, for images that could not be read.
        bad_file: file that lists unreadable images; None if there are none.
        notes: for models from elsewhere, sentences about how the model was run and why.
    """

    output: Path
    vectors: int
    channels: int
    resumed: int
    images_per_second: float
    unreadable: Mapping[str, str]
    bad_file: Path | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as JSON-serializable data."""
        bad_file = None if self.bad_file is None else str(self.bad_file)
        unreadable = dict(self.unreadable)
        values = {"output": str(self.output), "unreadable": unreadable, "bad_file": bad_file}
        return {**vars(self), **values}


def embed(
    model: Model,
    images: Paths,
    *,
    batch_size: int = 64,
    level: str = "avg",
    protocol: EvalProtocol | None = None,
    pixels: str | None = None,
    bad: dict[str, str] | None = None,
    progress: Progress = unseen,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Compute the vectors of image files batch by batch, in their order.

    Only the current batch and a few batches that are decoded ahead are in memory.

    Args:
        model: a network of this package as for `feature_extractor`; or the path of a `.keras`,
            `.h5`, `.onnx` or `.tflite` file of a classifier, or of a SavedModel of this package.
        images: paths of image files.
        batch_size: images that are run at once.
        level: `"avg"` for the inputs of the classifier, or, for Keras models, a level of
            `feature_extractor`, such as `"C4"`.
        protocol: how images are resized and cropped; None: as the model says.
        pixels: normalization of the pixels for the model; see `Predictor`.
        bad: dict that gets path -> reason for unreadable images, which are skipped. None: an
            unreadable image raises an error.
        progress: called after every batch with a text and the share that is done.

    Yields:
        Paths, as given, and their vectors `(images in the batch, channels)`, float32. Both are
        empty if no image of a batch is readable.

    Raises:
        ValueError: If an argument has an invalid value; or, without `bad`, an image cannot be read
            (an `UnreadableImageError`).
    """
    paths = _checked(images, batch_size)
    network = _Network(model, level, protocol, pixels)
    for batch in network.batches(paths, batch_size):
        if batch.bad and bad is None:
            index, reason = next(iter(batch.bad.items()))
            raise UnreadableImageError(
                f"Expected readable images. Received: {paths[index]} ({reason}). Remove it, or "
                "pass a dict as `bad` to skip unreadable images"
            )
        if bad is not None:
            bad.update({paths[index]: reason for index, reason in batch.bad.items()})
        progress(f"{batch.stop} of {len(paths)} images", batch.stop / len(paths))
        rows = (index for index in range(batch.start, batch.stop) if index not in batch.bad)
        yield [paths[index] for index in rows], batch.vectors


def embed_to_file(
    model: Model,
    images: Paths,
    output: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    batch_size: int = 64,
    level: str = "avg",
    protocol: EvalProtocol | None = None,
    pixels: str | None = None,
    overwrite: bool = False,
    progress: Progress = unseen,
) -> EmbeddingReport:
    """Write the vectors of image files to a Parquet or `.npz` file, which is complete or absent.

    A Parquet file has the columns `file` (string) and `vector` (fixed-size list of float32), and
    one row group per batch. A `.npz` file has the arrays `files`, strings `(n,)`, and `vectors`,
    float32 `(n, channels)`. Unreadable images are skipped and listed in `<output>.bad.csv`.

    Finished batches are kept in `<output>.partial/` until all are finished. The same call resumes
    from them after an interruption, even after SIGKILL, with the same result; the batch size may
    differ. Batches of another model, level or protocol, or of other or changed images, are
    discarded with a warning.

    All other arguments are those of `embed`.

    Args:
        output: path of a new file, `.parquet` or `.npz`.
        names: names of the images in the file, one per image; None: their paths.
        overwrite: whether to replace an existing file.

    Returns:
        Counts, speed and unreadable images.

    Raises:
        ValueError: If an argument has an invalid value, or another process is writing the file.
        FileExistsError: If the file exists.
        ImportError: If `output` is a Parquet file and pyarrow is not installed.
        OSError: If the disk is full or not writable.
    """
    output, paths = Path(output), _checked(images, batch_size)
    # File names may be arbitrary bytes, but both formats store text.
    chosen = paths if names is None else names
    names = [os.fspath(name).encode(errors="backslashreplace").decode() for name in chosen]
    if len(names) != len(paths):
        raise ValueError(
            f"Expected one of `names` per image. Received: {len(names)} for {len(paths)} images"
        )
    check_output(output, overwrite)
    network = _Network(model, level, protocol, pixels)
    begin = time.perf_counter()
    work = UnfinishedVectors(output, network.channels)
    with work.held():
        full = map(os.path.abspath, paths)  # Does not resolve links.
        files = [list(pair) for pair in zip(full, states_of(paths), strict=True)]
        job = {**network.identity(), "files": files}
        work.check_new(job, overwrite)
        resumed = work.resume(job)
        if resumed:
            progress(f"{resumed} of {len(paths)} images", resumed / len(paths))
        for batch in network.batches(paths, batch_size, resumed):
            work.add(*batch)
            progress(f"{batch.stop} of {len(paths)} images", batch.stop / len(paths))
        seconds = time.perf_counter() - begin
        bad = {names[index]: reason for part in work.parts for index, reason in part.bad.items()}
        bad_file = work.publish(names, bad)
    return EmbeddingReport(
        output,
        len(paths) - sum(len(part.bad) for part in work.parts),
        network.channels,
        resumed,
        (len(paths) - resumed) / seconds,
        bad,
        bad_file,
        network.notes,
    )


class _Batch(NamedTuple):
    """Vectors of `images[start:stop]` except the unreadable ones in `bad`: index -> reason."""

    start: int
    stop: int
    vectors: np.ndarray
    bad: Mapping[int, str]


def _checked(images: Paths, batch_size: int) -> list[str]:
    """Return the paths as strings; raise ValueError if they are not a list, or for bad sizes."""
    check_integer("batch_size", batch_size)
    single = isinstance(images, (str, os.PathLike))
    if single or not len(images):
        given = repr(images) if single else "none"
        raise ValueError(f"Expected a list of at least one image file. Received: {given}")
    return [os.fspath(image) for image in images]


class _Network:
    """A network up to its vectors, and the preparation of its images.

    Attributes:
        channels: length of a vector.
        notes: for models from elsewhere, sentences about how the model is run and why.
    """

    def __init__(
        self, model: Model, level: str, protocol: EvalProtocol | None, pixels: str | None
    ) -> None:
        self._level = level
        self.notes: tuple[str, ...] = ()
        self._runner: Any
        if isinstance(model, keras.Model):
            network = pooled(model, level)
            if untrained_part(model) == "weights":
                warn_if_untrained(model.name, "weights", stacklevel=3)
            self._runner, self._info = _runner_of(network), get_info(model)
            self._runner.pixels = find_pixel_format(pixels or "raw", network.input_shape[-1])
        else:
            self._runner = _runner_of_file(Path(model), level, pixels)
            self._info, self.notes = self._runner.info, self._runner.notes
        if hasattr(self._runner, "model"):
            weights = self._runner.model.weights
            values = (keras.ops.convert_to_numpy(weight.value) for weight in weights)
            self._weights = fingerprint(*values)
        else:
            self._weights = fingerprint_of_artifact(Path(model))
        self._input = ModelInput((None, *self._runner.input_shape[1:]), self._info, protocol)
        self.channels = int(self._runner.width)

    def identity(self) -> dict[str, Any]:
        """Return everything that the vectors depend on besides the images, for JSON."""
        identity = {
            "weights": self._weights,
            # Networks of different strides may have the same weights.
            "config": self._info.config,
            "level": self._level,
            "protocol": dataclasses.asdict(self._input.protocol),
        }
        if self._runner.pixels.name != "raw":
            identity["pixels"] = self._runner.pixels.name
        return json.loads(json.dumps(identity))

    def batches(self, paths: Sequence[str], size: int, begin: int = 0) -> Iterator[_Batch]:
        """Yield the vectors of `paths[begin:]`."""
        # Always the same number of rows: the network is compiled once, and vectors do not change
        # after an interruption.
        rows = min(size, len(paths))
        decoded = results_in_order(self._decoded, paths[begin:], _AHEAD * size)
        for start in range(begin, len(paths), size):
            count = min(size, len(paths) - start)
            yield self._run(start, list(itertools.islice(decoded, count)), rows)

    def _decoded(self, path: str) -> np.ndarray | str:
        """Return the prepared pixels of an image, or the reason why it cannot be read."""
        try:
            return self._input.prepared(path)
        except UnreadableImageError as error:
            message = str(error)
            return message.partition(f"Received: {path} (")[2].removesuffix(")") or message

    def _run(self, start: int, decoded: Sequence[np.ndarray | str], rows: int) -> _Batch:
        bad = {start + i: image for i, image in enumerate(decoded) if isinstance(image, str)}
        images = [image for image in decoded if not isinstance(image, str)]
        vectors = np.zeros((0, self.channels), np.float32)
        if images:
            full = np.zeros((rows, *images[0].shape), np.float32)
            full[: len(images)] = images
            (found,) = self._runner.compute(full, rows).values()
            vectors = found[: len(images)]
        return _Batch(start, start + len(decoded), vectors, bad)


def _runner_of(network: keras.Model) -> Any:
    """Return a runner for a network whose outputs are vectors."""
    if keras.backend.backend() != "tensorflow":
        return OtherBackend(network)
    from keras_resnet.export.runtime import KerasRunner

    return KerasRunner(network)


def _runner_of_file(path: Path, level: str, pixels: str | None) -> Any:
    """Return a runner for the model in a file, cut off after its vectors."""
    if path.suffix not in MODEL_SUFFIXES:
        if level != "avg":
            raise ValueError(
                "Expected `level` to be 'avg' for an artifact, whose feature maps are not "
                f"accessible. Received: level={level!r} for {path}. Pass the Keras file of the "
                "model"
            )
        from keras_resnet.export.runtime import load_runner

        return load_runner(path, pixels=pixels, cut=True)

    def cut(model: keras.Model) -> keras.Model:
        network = pooled(model, level)
        set_info(network, get_info(model))
        return network

    if keras.backend.backend() != "tensorflow":
        return OtherBackend.of_file(path, pixels, cut)
    from keras_resnet.export.runtime import KerasRunner

    runner = KerasRunner.of_file(path, cut)
    adapt(runner, path, pixels)
    return runner
