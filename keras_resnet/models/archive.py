"""Archives from elsewhere: no size that one claims is believed before it is compared."""

from __future__ import annotations

import os
import re
import zipfile


def checked_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What is in a zip archive, by name; it unfolds to no more than weights can.

    Raises:
        ValueError: names are twice there or lead out of the archive, or sizes cannot be true.
    """
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("an archive with two files of the same name")
    if any(name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) for name in members):
        raise ValueError("an archive with names that lead out of it")
    size = os.fstat(archive.fp.fileno()).st_size if archive.fp is not None else 0
    packed = sum(member.compress_size for member in members.values())
    unpacked = sum(member.file_size for member in members.values())
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members.values())
    # A fresh network is half zeros and ones; a trained one hardly gets smaller.
    if packed > size or unpacked > (packed if stored else max(2**28, 50 * size)):
        raise ValueError(f"an archive of {size} bytes that claims to hold {unpacked}")
    return members


def words(error: Exception) -> str:
    """What is wrong with a file, fit for a terminal: it may quote the file, at any length.

    Checks of this package raise ValueErrors in words; each library, and each kind of damage, has
    errors of its own.
    """
    reason = str(error) if type(error) is ValueError else f"damaged or too large: {error!r}"
    return "".join(char if char.isprintable() else " " for char in reason[:400])
