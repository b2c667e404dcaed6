"""Archives from elsewhere: no size that one claims is believed before it is compared."""

from __future__ import annotations

import copy
import io
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_resnet.support.checks import MODEL_SUFFIXES
from keras_resnet.support.placeholders import refuse_text
from keras_resnet.support.suggest import did_you_mean_beside
from keras_resnet.support.text import sentence

#: Bytes of the list of what is in an archive: ten times that of ResNet-1202 and its optimizer.
_LONGEST_LIST = 2**23


def check_model_file(path: Path) -> None:
    """Raise ValueError if there is no file of a Keras model (`.keras`, `.h5`) at `path`.

    Whether it can be read is not looked at, but a text in its place is refused.
    """
    if path.is_dir():
        raise ValueError(
            f"Expected a `.keras` file. Received: the directory {path}. A SavedModel can be run by "
            "`keras_resnet.export.load_runner`, but not trained; that takes the `.keras` file"
        )
    if path.suffix not in MODEL_SUFFIXES or not path.is_file():
        raise ValueError(
            f"Expected the path of an existing `.keras` or `.h5` file. Received: {path}"
            + did_you_mean_beside(path, lambda other: other.suffix in MODEL_SUFFIXES)
        )
    refuse_text(path, f"a readable `{path.suffix}` file")


class Archive:
    """A zip archive whose members unfold to no more than weights can.

    Attributes:
        members: what is in it, by name.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        self.members = {member.filename: member for member in archive.infolist()}
        members = self.members.values()
        if len(members) < len(archive.infolist()):
            raise ValueError("an archive with two files of the same name")
        if any(
            name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name)
            for name in self.members
        ):
            raise ValueError("an archive with names that lead out of it")
        kinds = {member.compress_type for member in members}
        if kinds - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError("an archive that is compressed in an unusual way")
        self.is_compressed = kinds != {zipfile.ZIP_STORED}
        packed = sum(member.compress_size for member in members)
        unpacked = sum(member.file_size for member in members)
        # A fresh network is half zeros and ones; a trained one hardly gets smaller.
        if packed > size or unpacked > (max(2**26, 50 * size) if self.is_compressed else packed):
            raise ValueError(f"an archive of {size} bytes that claims to hold {unpacked}")

    def read(self, name: str) -> bytes:
        """A member, which has just the size that it claims.

        Raises:
            ValueError: it has another size, or there is none.
        """
        if name not in self.members:
            raise ValueError(f"an archive without {name}")
        size = self.members[name].file_size
        # `ZipFile.read` unfolds up to 2 GiB before it looks at the size. Only one byte more is
        # asked for here, which no honest member has.
        member = copy.copy(self.members[name])
        member.file_size += 1
        with self._archive.open(member) as file:
            content = file.read(size + 1)
        if len(content) != size:
            raise ValueError(f"an archive whose {name} has another size than {size} bytes")
        return content


class _File(io.FileIO):
    """A file of which nothing large is read until its list of members has been."""

    most: float = _LONGEST_LIST

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise ValueError(f"an archive with a list of members of {size} bytes")
        return super().read(size) or b""


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Opens a zip archive.

    Raises:
        ValueError: names are twice there or lead out of the archive, or sizes cannot be true.
        zipfile.BadZipFile: it is no archive.
    """
    with _File(path) as file, zipfile.ZipFile(file) as archive:
        file.most = float("inf")
        yield Archive(archive, os.fstat(file.fileno()).st_size)


def words(error: Exception) -> str:
    """Describe what is wrong with a file, fit for a terminal: the error may quote the file.

    Checks of this package raise ValueErrors in words; each library, and each kind of damage, has
    errors of its own.
    """
    reason = str(error) if type(error) is ValueError else f"damaged or too large: {error!r}"
    return sentence(reason[:400])
