"""Images as vectors: the pooled feature maps of a network, for search, clusters and probes."""

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

#: Batches that are decoded while one is in the network.
_AHEAD = 2

Paths = Sequence[str | os.PathLike[str]]

#: A network, or a file of one.
Model: TypeAlias = keras.Model | str | os.PathLike[str]


@dataclass(frozen=True)
class EmbeddingReport:
    """The report of `embed_to_file`.

    Attributes:
        output: the file.
        vectors: how many there are in it.
        channels: numbers in each.
        resumed: images that an earlier, interrupted call had finished.
        images_per_second: of the images of this call, with reading and decoding.
        unreadable: name of each image that could not be read -> reason.
        bad_file: where these are listed; None if there are none.
        notes: of a model of other origin, how it was run and why, in sentences.
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
        """Everything in it, as JSON takes it."""
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
    """Turn image files into vectors, batch by batch, in their order.

    A few batches are decoded ahead, in threads; nothing else is held.

    Args:
        model: a network as `pooled` takes it; or the path of a `.keras`, `.h5`, `.onnx` or
            `.tflite` file of a classifier, of this package or of others, or of a SavedModel of this
            package.
        images: paths of image files.
        batch_size: images that go through the network at once.
        level: `"avg"` for what the classifier sees, or, of a Keras model, a level of
            `feature_extractor`.
        protocol: how images are resized and cropped; by default what the model knows about itself.
        pixels: how images are normalized before the model gets them, as of `Predictor`.
        bad: gets path -> reason of images that cannot be read, which are then left out.
        progress: is told after every batch.

    Yields:
        Paths as given, and their vectors, `(images of the batch, channels)`, float32. Of a batch
        without readable images, both are empty.

    Raises:
        ValueError: If an argument is wrong; or, without `bad`, an image cannot be read (an
            `UnreadableImageError`).
    """
    paths = _checked(images, batch_size)
    network = _Network(model, level, protocol, pixels)
    for batch in network.batches(paths, batch_size):
        if batch.bad and bad is None:
            index, reason = next(iter(batch.bad.items()))
            raise UnreadableImageError(
                f"Expected images that can be read. Received: {paths[index]} ({reason}). Remove "
                "it, or pass a dict as `bad` to leave such images out"
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
    """Write the vectors of image files to a Parquet or `.npz` file: the whole file, or none.

    Parquet has the columns `file`, a string, and `vector`, a list of fixed size of float32, and a
    row group per batch. `.npz` has the arrays `files`, strings `(n,)`, and `vectors`, float32 `(n,
    channels)`. Images that cannot be read are left out and listed in `<output>.bad.csv`.

    Finished batches lie in `<output>.partial/` until all are. The same call after an interruption,
    even by SIGKILL, goes on from there, with the same result; the batch size may be another one.
    What lies there of another model, level or protocol, or of other or changed images, is
    discarded with a warning.

    All other arguments are those of `embed`.

    Args:
        output: a new file, `.parquet` or `.npz`.
        names: what the file calls the images, one per image; by default their paths.
        overwrite: whether a file that is there is replaced.

    Raises:
        ValueError: If an argument is wrong, or another process is writing the same file.
        FileExistsError: If the file is there.
        ImportError: If there is no pyarrow for Parquet.
        OSError: If the disk is full or cannot be written to.
    """
    output, paths = Path(output), _checked(images, batch_size)
    # Names of files may be any bytes; those of both formats are text.
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
        full = map(os.path.abspath, paths)  # Leaves links alone.
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
    """Vectors of `images[start:stop]`, but for the bad ones: index -> reason."""

    start: int
    stop: int
    vectors: np.ndarray
    bad: Mapping[int, str]


def _checked(images: Paths, batch_size: int) -> list[str]:
    """Return the paths as text; refuses a single one, none, and impossible sizes of batches."""
    check_integer("batch_size", batch_size)
    single = isinstance(images, (str, os.PathLike))
    if single or not len(images):
        given = repr(images) if single else "none"
        raise ValueError(f"Expected a list of at least one image file. Received: {given}")
    return [os.fspath(image) for image in images]


class _Network:
    """A network up to its vectors, and how images become what it takes.

    Attributes:
        channels: numbers in a vector.
        notes: of a model of other origin, how it is run and why.
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
        """Return what the vectors depend on besides the images, fit for JSON."""
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
        """Vectors of `paths[begin:]`."""
        # Of one size always: compiled once, and an image's vector is the same to the bit after an
        # interruption.
        rows = min(size, len(paths))
        decoded = results_in_order(self._decoded, paths[begin:], _AHEAD * size)
        for start in range(begin, len(paths), size):
            count = min(size, len(paths) - start)
            yield self._run(start, list(itertools.islice(decoded, count)), rows)

    def _decoded(self, path: str) -> np.ndarray | str:
        """Pixels as the network takes them, or why there are none."""
        try:
            return self._input.prepared(path)
        except UnreadableImageError as error:
            said = str(error)
            return said.partition(f"Received: {path} (")[2].removesuffix(")") or said

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
    """Return a runner for a network that outputs vectors."""
    if keras.backend.backend() != "tensorflow":
        return OtherBackend(network)
    from keras_resnet.export.runtime import KerasRunner

    return KerasRunner(network)


def _runner_of_file(path: Path, level: str, pixels: str | None) -> Any:
    """Return a runner for the model in a file up to its vectors."""
    if path.suffix not in MODEL_SUFFIXES:
        if level != "avg":
            raise ValueError(
                "Expected `level` to be 'avg' for an artifact, whose feature maps are not to be "
                f"had. Received: level={level!r} for {path}. Pass the Keras file of the model"
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
