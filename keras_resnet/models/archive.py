"""Reading of zip archives from untrusted files, with every claimed size checked."""

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

#: Limit of the list of members, in bytes: ten times that of ResNet-1202 with its optimizer.
_LONGEST_LIST = 2**23


def check_model_file(path: Path) -> None:
    """Raise ValueError unless `path` is a `.keras` or `.h5` file.

    Only the suffix and the first bytes are checked, which show text files in place of a model.
    """
    if path.is_dir():
        raise ValueError(
            f"Expected a `.keras` file. Received: the directory {path}. If it is a SavedModel, run "
            "it with `keras_resnet.export.load_runner`; training takes the `.keras` file"
        )
    if path.suffix not in MODEL_SUFFIXES or not path.is_file():
        raise ValueError(
            f"Expected the path of an existing `.keras` or `.h5` file. Received: {path}"
            + did_you_mean_beside(path, lambda other: other.suffix in MODEL_SUFFIXES)
        )
    refuse_text(path, f"a readable `{path.suffix}` file")


class Archive:
    """A zip archive whose members unpack to no more bytes than weights can.

    Attributes:
        members: the members by name.
        is_compressed: whether any member is compressed.
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
        # Half of the weights of an untrained network are zeros and ones, which compress well;
        # trained weights hardly compress.
        if packed > size or unpacked > (max(2**26, 50 * size) if self.is_compressed else packed):
            raise ValueError(f"an archive of {size} bytes that claims to hold {unpacked}")

    def read(self, name: str) -> bytes:
        """Return the content of a member.

        Raises:
            ValueError: there is no such member, or it has another size than it claims.
        """
        if name not in self.members:
            raise ValueError(f"an archive without {name}")
        size = self.members[name].file_size
        # `ZipFile.read` unpacks up to 2 GiB before it checks the size. Reading one byte more than
        # claimed shows whether the claim is true.
        member = copy.copy(self.members[name])
        member.file_size += 1
        with self._archive.open(member) as file:
            content = file.read(size + 1)
        if len(content) != size:
            raise ValueError(f"an archive whose {name} has another size than {size} bytes")
        return content


class _File(io.FileIO):
    """A file that refuses large reads until the list of members has been read."""

    most: float = _LONGEST_LIST

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise ValueError(f"an archive with a list of members of {size} bytes")
        return super().read(size) or b""


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open a zip archive.

    Raises:
        ValueError: two members have the same name, a name leads out of the archive, or sizes cannot
            be true.
        zipfile.BadZipFile: the file is not a zip archive.
    """
    with _File(path) as file, zipfile.ZipFile(file) as archive:
        file.most = float("inf")
        yield Archive(archive, os.fstat(file.fileno()).st_size)


def describe_damage(error: Exception) -> str:
    """Describe an error of reading a file, shortened and without control characters.

    ValueErrors come from checks of this package and are sentences; damaged files make libraries
    raise any other exception.
    """
    reason = str(error) if type(error) is ValueError else f"damaged or too large: {error!r}"
    return sentence(reason[:400])
