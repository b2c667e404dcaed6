"""Files of vectors, and the finished batches of files that are being written."""

from __future__ import annotations

import csv
import importlib
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_resnet.support.files import check_new, finish_publishing, publish
from keras_resnet.support.fingerprints import fingerprint_of_file
from keras_resnet.support.unfinished import UnfinishedWork, read_json, write_durably, write_json

#: Suffixes of the supported files of vectors.
FORMATS = (".parquet", ".npz")


def check_output(output: Path, overwrite: bool) -> None:
    """Raise an error if vectors cannot be written to a file.

    Raises:
        ValueError: If its suffix is not in `FORMATS`, or it is a directory.
        FileExistsError: If the file exists and must not be overwritten, unless there is unfinished
            work for it.
        ImportError: If it is a Parquet file and pyarrow is not installed.
    """
    if output.suffix not in FORMATS or output.is_dir():
        raise ValueError(f"Expected a {' or '.join(FORMATS)} file as output. Received: {output}")
    if not _work_directory(output).exists():
        check_new(output, overwrite)
    if output.suffix == ".parquet":
        _pyarrow()


def _work_directory(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


class Part(NamedTuple):
    """A file of vectors of the images `start` to `stop` except unreadable ones.

    `bad` maps the indices of unreadable images to reasons.
    """

    start: int
    stop: int
    path: Path
    bad: Mapping[int, str]


class UnfinishedVectors(UnfinishedWork):
    """The finished batches of a file of vectors, in a folder beside it.

    A part consists of two files: the vectors, and a description, which is written second and so
    shows that both files are complete.

    Attributes:
        parts: finished parts in the order of the images, without gaps.
    """

    _journal = "job.json"

    def __init__(self, output: Path, channels: int) -> None:
        """Initialize without reading files.

        Args:
            output: the output file, with a suffix in `FORMATS`.
            channels: length of a vector.
        """
        super().__init__(_work_directory(output), output)
        self.parts: list[Part] = []
        self._channels = channels
        #: File with the fingerprint of the output that was made here last.
        self._made = self.directory / "output.json"

    def check_new(self, job: Mapping[str, Any], overwrite: bool) -> None:
        """Finish publishing after a killed process, and check that the output may be written.

        Args:
            job: as for `resume`.
            overwrite: whether any output may be replaced.

        Raises:
            FileExistsError: If the output exists, and was not written by the same job.
        """
        finish_publishing(self.directory)
        made = read_json(self._made)
        published = self._output.is_file() and made == fingerprint_of_file(self._output)
        if published and self.arguments() == job:
            return  # A process was killed just before it removed this folder.
        if published and not overwrite:
            self.remove()
        check_new(self._output, overwrite)

    def resume(self, job: Mapping[str, Any]) -> int:
        """Load the finished parts if they belong to the same job, or discard them with a warning.

        Args:
            job: everything that the vectors depend on, with the images as `"files"`, as read from
                JSON.

        Returns:
            The number of finished images, counted from the first one.
        """
        before = self.arguments()
        if before != job:
            if any(self.directory.glob("*.npy")):
                images = {**(before or {}), "files": ""} == {**job, "files": ""}
                origin = "other or changed images" if images else "another model, level or protocol"
                warnings.warn(
                    f"The unfinished work in {self.directory} belongs to {origin}: it is discarded",
                    stacklevel=3,
                )
            self.begin(job)
        done = 0
        while part := self._part(done):
            self.parts.append(part)
            done = part.stop
        return done

    def _part(self, start: int) -> Part | None:
        """Return the part that begins at image `start`, if it is complete."""
        path = self.directory / f"{start:09}.npy"
        described = read_json(path.with_suffix(".json"))
        if described is None:
            return None
        part = Part(start, described["stop"], path, dict(described["bad"]))
        try:
            shape = np.load(path, mmap_mode="r").shape
        except (OSError, ValueError):
            return None
        whole = shape == (part.stop - start - len(part.bad), self._channels)
        return part if whole else None

    def add(self, start: int, stop: int, vectors: np.ndarray, bad: Mapping[int, str]) -> None:
        """Write the next part; the arguments are those of `Part`."""
        path = self.directory / f"{start:09}.npy"
        write_durably(path, lambda path: _save(path, vectors))
        write_json(path.with_suffix(".json"), {"stop": stop, "bad": list(bad.items())})
        self.parts.append(Part(start, stop, path, bad))

    def publish(self, names: Sequence[str], bad: Mapping[str, str]) -> Path | None:
        """Write the output and the list of unreadable images, and remove the folder.

        Args:
            names: names of all images.
            bad: name -> reason, for unreadable images.

        Returns:
            The file that lists unreadable images; None if there are none.
        """
        bad_file = self._output.with_name(f"{self._output.name}.bad.csv")
        if bad:
            write_durably(self.directory / bad_file.name, lambda path: _write_bad(path, bad))
        new = self.directory / self._output.name
        write = _write_parquet if self._output.suffix == ".parquet" else _write_npz
        write_durably(new, lambda path: write(path, self.parts, names, self._channels))
        write_json(self._made, fingerprint_of_file(new))
        # Without unreadable images, the list of an earlier run is removed.
        listed = [bad_file.name] if bad else []
        publish(self.directory, [*listed, new.name], [bad_file.name])
        self.remove()
        return bad_file if bad else None


def _names_of(part: Part, names: Sequence[str]) -> list[str]:
    return [names[index] for index in range(part.start, part.stop) if index not in part.bad]


def _write_parquet(path: Path, parts: Sequence[Part], names: Sequence[str], channels: int) -> None:
    arrow, parquet = _pyarrow()
    kind = arrow.list_(arrow.float32(), channels)
    schema = arrow.schema([("file", arrow.string()), ("vector", kind)])
    # For vectors, dictionaries and statistics would be large and useless.
    settings = {"use_dictionary": False, "write_statistics": ["file"]}
    with parquet.ParquetWriter(path, schema, **settings) as writer:
        for part in parts:
            if files := _names_of(part, names):
                flat = arrow.array(np.load(part.path).reshape(-1), arrow.float32())
                vectors = arrow.FixedSizeListArray.from_arrays(flat, channels)
                columns = [arrow.array(files, arrow.string()), vectors]
                writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _write_npz(path: Path, parts: Sequence[Part], names: Sequence[str], channels: int) -> None:
    files = np.array([name for part in parts for name in _names_of(part, names)], np.str_)
    # `numpy.savez` would need all vectors in memory.
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(files), channels)}
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(zipfile.ZipInfo("files.npy"), "w", force_zip64=True) as file:
            np.lib.format.write_array(file, files, allow_pickle=False)
        with archive.open(zipfile.ZipInfo("vectors.npy"), "w", force_zip64=True) as file:
            np.lib.format.write_array_header_2_0(file, header)
            for part in parts:
                file.write(np.load(part.path).astype("<f4").tobytes())


def _write_bad(path: Path, bad: Mapping[str, str]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "reason"))
        rows.writerows(bad.items())


def _save(path: Path, vectors: np.ndarray) -> None:
    # Passed a path, `numpy.save` would append a suffix.
    with path.open("wb") as file:
        np.save(file, vectors)


def _pyarrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ImportError(
            "Writing Parquet needs the package `pyarrow`, which is not installed: run `pip install "
            "pyarrow`, or choose a .npz file",
            name="pyarrow",
        ) from error


def load_vectors(path: str | os.PathLike[str]) -> tuple[list[str], np.ndarray]:
    """Read a file of vectors that `embed_to_file` wrote.

    Args:
        path: a `.parquet` or `.npz` file.

    Returns:
        Names of the images, and their vectors `(n, channels)`, float32.

    Raises:
        ValueError: If there is no such file, or it is not a file of vectors.
        ImportError: If it is a Parquet file and pyarrow is not installed.
    """
    path = Path(path)
    wrong = f"Expected a .parquet or .npz file of vectors from `embed`. Received: {path}"
    if path.suffix not in FORMATS:
        raise ValueError(wrong)
    if not path.is_file():
        raise ValueError(f"{wrong}, which does not exist")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                files, vectors = arrays["files"].tolist(), arrays["vectors"]
        else:
            table = _pyarrow()[1].read_table(path, columns=["file", "vector"])
            files = table["file"].to_pylist()
            column = table["vector"].combine_chunks()
            vectors = column.flatten().to_numpy().reshape(len(files), -1)
    except ImportError:
        raise
    # Numpy, zipfile and pyarrow raise various errors for other files.
    except Exception as error:
        raise ValueError(f"{wrong} ({error})") from error
    if vectors.ndim != 2 or len(files) != len(vectors):
        raise ValueError(f"{wrong}, with {len(files)} names for an array of {vectors.shape}")
    return files, np.asarray(vectors, np.float32)
