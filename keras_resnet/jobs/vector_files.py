"""Files of vectors, and the finished parts of those that are being written."""

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

#: Kinds of files that vectors are written to, by suffix.
FORMATS = (".parquet", ".npz")


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses a file that vectors cannot be written to.

    Raises:
        ValueError: If it has another suffix than those of `FORMATS`, or is a directory.
        FileExistsError: If it is there, is not to be overwritten, and there is no unfinished work
            that it may be of.
        ImportError: If there is no pyarrow for Parquet.
    """
    if output.suffix not in FORMATS or output.is_dir():
        raise ValueError(f"Expected a file {' or '.join(FORMATS)} as output. Received: {output}")
    if not _work_directory(output).exists():
        check_new(output, overwrite)
    if output.suffix == ".parquet":
        _pyarrow()


def _work_directory(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


class Part(NamedTuple):
    """Vectors of the images `start` to `stop`, but for the bad ones: index -> reason."""

    start: int
    stop: int
    path: Path
    bad: Mapping[int, str]


class UnfinishedVectors(UnfinishedWork):
    """The finished batches of a file of vectors, in a folder beside it.

    A part is two files: vectors, and what they are of, which is written second and so says that
    both are whole.

    Attributes:
        parts: those that are finished, in the order of the images, without gaps.
    """

    _journal = "job.json"

    def __init__(self, output: Path, channels: int) -> None:
        """Look nowhere yet.

        Args:
            output: the file, with a suffix of `FORMATS`.
            channels: numbers in a vector.
        """
        super().__init__(_work_directory(output), output)
        self.parts: list[Part] = []
        self._channels = channels
        #: Says what the output is that was made here last.
        self._made = self.directory / "output.json"

    def check_new(self, job: Mapping[str, Any], overwrite: bool) -> None:
        """Finishes what a killed process has begun to publish; refuses to replace another output.

        Args:
            job: as for `resume`.
            overwrite: whether any output may be replaced.

        Raises:
            FileExistsError: If the output is there, and was not made here by the same job.
        """
        finish_publishing(self.directory)
        made = read_json(self._made)
        published = self._output.is_file() and made == fingerprint_of_file(self._output)
        if published and self.arguments() == job:
            return  # A process was killed when nothing was left to do but to remove this folder.
        if published and not overwrite:
            self.remove()
        check_new(self._output, overwrite)

    def resume(self, job: Mapping[str, Any]) -> int:
        """Take up what is there if it is of the same job; else discards it, with a warning.

        Args:
            job: everything that the vectors depend on, with the images as `"files"`, as JSON gives
                it back.

        Returns:
            How many images are finished, from the first on.
        """
        before = self.arguments()
        if before != job:
            if any(self.directory.glob("*.npy")):
                images = {**(before or {}), "files": ""} == {**job, "files": ""}
                of = "other or changed images" if images else "another model, level or protocol"
                warnings.warn(
                    f"The unfinished work in {self.directory} is of {of}: starting anew",
                    stacklevel=3,
                )
            self.begin(job)
        done = 0
        while part := self._part(done):
            self.parts.append(part)
            done = part.stop
        return done

    def _part(self, start: int) -> Part | None:
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
        """Write a part that follows on those before; arguments as in `Part`."""
        path = self.directory / f"{start:09}.npy"
        write_durably(path, lambda path: _save(path, vectors))
        write_json(path.with_suffix(".json"), {"stop": stop, "bad": list(bad.items())})
        self.parts.append(Part(start, stop, path, bad))

    def publish(self, names: Sequence[str], bad: Mapping[str, str]) -> Path | None:
        """Write the output from the parts, and the list of bad images; removes the folder.

        Args:
            names: of all images.
            bad: name -> reason, of those that could not be read.

        Returns:
            Where these are listed; None if there are none.
        """
        bad_file = self._output.with_name(f"{self._output.name}.bad.csv")
        if bad:
            write_durably(self.directory / bad_file.name, lambda path: _write_bad(path, bad))
        new = self.directory / self._output.name
        write = _write_parquet if self._output.suffix == ".parquet" else _write_npz
        write_durably(new, lambda path: write(path, self.parts, names, self._channels))
        write_json(self._made, fingerprint_of_file(new))
        # Without bad images, the list of an earlier run would be wrong.
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
    # Of vectors, dictionaries and statistics are as large as they are and tell nothing.
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
    # `numpy.savez` would need all vectors at once.
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
    # Given a name, `numpy.save` would append another suffix.
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
    """Read a file of vectors, as `embed_to_file` writes it.

    Args:
        path: a `.parquet` or `.npz` file.

    Returns:
        Names of the images, and their vectors, `(n, channels)`, float32.

    Raises:
        ValueError: If there is no such file, or it is another kind of file.
        ImportError: If there is no pyarrow for Parquet.
    """
    path = Path(path)
    wrong = f"Expected a file of vectors as `embed` writes it, .parquet or .npz. Received: {path}"
    if path.suffix not in FORMATS:
        raise ValueError(wrong)
    if not path.is_file():
        raise ValueError(f"{wrong}, which is not there")
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
    # Whatever numpy, zipfile and pyarrow raise of a file of another kind.
    except Exception as error:
        raise ValueError(f"{wrong} ({error})") from error
    if vectors.ndim != 2 or len(files) != len(vectors):
        raise ValueError(f"{wrong}, with {len(files)} names for an array of {vectors.shape}")
    return files, np.asarray(vectors, np.float32)
