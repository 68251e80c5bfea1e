"""From what somebody sends to the fields of one slide in a private folder.

Kinds are told by content. Names are kept to be shown and never used as paths: files are numbered. Nothing is decoded
here beyond headers; a picture that turns out to be damaged is a field with a reason, as in any run.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from detect.errors import DataError, ImageError
from detect.images import decode
from detect.web.records import Picture
from detect.web.settings import MIB, WebSettings

SLIDE = "slide"  # name of the one slide of an upload
_SUFFIX = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "TIFF": ".tif", "BMP": ".bmp", "WEBP": ".webp"}
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_READ = 1 << 20
_ZIP, _END = b"PK\x03\x04", b"PK\x05\x06"
_END_WITHIN, _DIRECTORY = 66_000, 4 * MIB  # bytes at the end of a zip that hold its last record; of its list of files
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffd\udc80-\udcff]")
_LITTER = re.compile(r"(^|/)(__MACOSX/|\.|thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
_LONGEST = 200


class RefusedError(DataError):
    """An upload that is not taken. `where` names the file."""


@dataclass
class _Room:
    """What an upload may still bring."""

    files: int
    size: int


def check_name(name: str) -> str:
    """A name as it may be shown; RefusedError where it is made to be more than a name."""
    shown = _CONTROL.sub("?", name)[:80]
    remedy = "rename the file"
    if not name.strip():
        raise RefusedError("a file without a name", where="upload", remedy=remedy)
    if len(name) > _LONGEST:
        raise RefusedError(f"its name has {len(name)} characters, the limit is {_LONGEST}", where=shown, remedy=remedy)
    if _CONTROL.search(name):
        raise RefusedError("its name holds bytes that are no text, or control characters", where=shown, remedy=remedy)
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name) or "\\" in name:
        raise RefusedError("its name leads out of its folder", where=shown, remedy=remedy)
    return name


def take(sent: Sequence[tuple[str, BinaryIO]], folder: Path, settings: WebSettings) -> list[Picture]:
    """Write the pictures of an upload into a folder.

    Args:
        sent: name and content of each file, read from its beginning: pictures, and zips of pictures.

    Returns:
        They in the order of their names.

    Raises:
        RefusedError: with the file, what is wrong with it and what to do. What was written is the caller's to delete.
    """
    if not sent:
        raise RefusedError(
            "nothing was sent", where="upload", remedy="choose one or many pictures, or a zip of a slide"
        )
    home = folder / SLIDE
    home.mkdir(parents=True)
    room = _Room(settings.fields, settings.unpacked_mib * MIB)
    found: list[tuple[str, Path]] = []
    for name, file in sent:
        check_name(name)
        first = file.read(4)
        file.seek(0)
        if first == _ZIP:
            found += [
                (inner, _write(inner, stream, home, len(found) + i, room, settings))
                for i, (inner, stream) in enumerate(_unpacked(name, file, room, settings))
            ]
        else:
            found.append((name, _write(name, file, home, len(found), room, settings)))
    if not found:
        raise RefusedError("no pictures in it", where=sent[0][0], remedy="send JPEG, PNG, TIFF, BMP or WebP")
    found.sort(key=lambda one: one[0])
    taken = []
    for number, (name, path) in enumerate(found, 1):
        taken.append(_checked(number, name, path, settings))
    return taken


def _write(name: str, file: BinaryIO, home: Path, number: int, room: _Room, settings: WebSettings) -> Path:
    """A file under a number; its size is counted while it is read, whatever it says of itself."""
    room.files -= 1
    if room.files < 0:
        raise RefusedError(f"more than {settings.fields} pictures", where=name, remedy="send them in several uploads")
    path, size, most = home / f".{number:05d}.partial", 0, settings.file_mib * MIB
    with path.open("xb") as out:
        while data := _read(name, file):
            size += len(data)
            room.size -= len(data)
            if size > most:
                what = f"larger than {settings.file_mib} MiB"
                raise RefusedError(what, where=name, remedy="send fields, not whole slides; or raise --file-mib")
            if room.size < 0:
                what = f"the upload comes to more than {settings.unpacked_mib} MiB"
                raise RefusedError(what, where=name, remedy="send it in several uploads")
            out.write(data)
    if not size:
        raise RefusedError("empty file (0 bytes)", where=name, remedy="copy the image again")
    return path


def _read(name: str, file: BinaryIO) -> bytes:
    try:
        return file.read(_READ)
    except Exception as error:  # zipfile and zlib raise many kinds for a damaged member
        raise RefusedError(f"cannot be unpacked: {error}", where=name, remedy="make the zip again") from error


def _unpacked(name: str, file: BinaryIO, room: _Room, settings: WebSettings) -> Iterator[tuple[str, BinaryIO]]:
    """The pictures of a zip, each as a stream. It is refused as a whole for what no honest zip of a slide holds."""
    _check_directory(name, file, settings)
    try:
        packed = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:  # the last: unknown packings
        raise RefusedError(f"damaged zip: {error}", where=name, remedy="make the zip again") from error
    with packed:
        for member in packed.infolist():
            check_name(member.filename)
        members = [m for m in packed.infolist() if not m.is_dir() and not _LITTER.search(m.filename)]
        if len(members) > room.files:
            what = f"{len(members)} files in it, the limit is {settings.fields} pictures an upload"
            raise RefusedError(what, where=name, remedy="send them in several zips")
        places: list[tuple[int, int]] = []
        for member in members:
            _check_member(name, member, settings)
            places.append((member.header_offset, member.header_offset + member.compress_size))
        places.sort()
        if any(end > begin for (_, end), (begin, _) in pairwise(places)):
            raise RefusedError("a zip whose files lie over each other", where=name, remedy="make the zip again")
        if sum(m.file_size for m in members) > room.size:
            what = f"it unpacks to more than {settings.unpacked_mib} MiB"
            raise RefusedError(what, where=name, remedy="send it in several uploads")
        for member in members:
            try:
                stream = packed.open(member)
            except Exception as error:  # zipfile raises many kinds for a damaged member
                where = f"{name}: {member.filename}"
                raise RefusedError(f"cannot be unpacked: {error}", where=where, remedy="make the zip again") from error
            with stream:
                yield member.filename, stream  # type: ignore[misc]


def _check_directory(name: str, file: BinaryIO, settings: WebSettings) -> None:
    """Refuse a zip whose list of files is longer than any that is taken, before that list is read into memory."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END_WITHIN))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise RefusedError("damaged zip: its list of files is missing", where=name, remedy="make the zip again")
    count, length = struct.unpack("<HI", tail[at + 10 : at + 16])
    if count > 4 * settings.fields + 100 or length > _DIRECTORY:  # the largest number stands for more than fits
        what = f"a zip of {count} entries or more, the limit is {settings.fields} pictures an upload"
        raise RefusedError(what, where=name, remedy="send them in several zips")


def _check_member(name: str, member: zipfile.ZipInfo, settings: WebSettings) -> None:
    where = f"{name}: {_CONTROL.sub('?', member.filename)[:80]}"
    again = "make the zip again, of the pictures alone"
    if not member.flag_bits & 0x800 and any(ord(c) > 127 for c in member.orig_filename):
        raise RefusedError(
            "a zip with names that are no UTF-8", where=where, remedy="rename the files, or send them alone"
        )
    if "\x00" in member.orig_filename:
        raise RefusedError("its name holds bytes that are no text", where=where, remedy=again)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise RefusedError("a zip with a link or a device in it", where=where, remedy=again)
    if member.flag_bits & 1:
        raise RefusedError("a zip with a password", where=where, remedy="make it without one")
    if member.file_size > settings.file_mib * MIB:
        what = f"unpacks to more than {settings.file_mib} MiB"
        raise RefusedError(what, where=where, remedy="send fields, not whole slides; or raise --file-mib")
    if member.file_size > settings.zip_ratio * max(1, member.compress_size):
        raise RefusedError("unpacks to far more than it is: no picture is packed so well", where=where, remedy=again)


def _checked(number: int, name: str, path: Path, settings: WebSettings) -> Picture:
    """A file that was written, as a picture under its number; RefusedError where it is none."""
    data = path.read_bytes()
    try:
        found = decode.header(data)
    except ImageError as error:
        raise RefusedError(error.problem, where=name, remedy=error.remedy) from error
    if found.format not in _SUFFIX:
        kinds = "JPEG, PNG, TIFF, BMP or WebP"
        raise RefusedError(f"a picture of kind {found.format}", where=name, remedy=f"export it as {kinds}")
    if found.width * found.height > settings.mega_pixels * 1e6:
        what = f"{found.width} x {found.height} pixels, the limit is {settings.mega_pixels:g} million"
        raise RefusedError(what, where=name, remedy="cut it into fields; or raise --mega-pixels")
    if min(found.width, found.height) < 16:
        what = f"{found.width} x {found.height} pixels: too small to show a cell"
        raise RefusedError(what, where=name, remedy="send the field as the camera took it")
    ends = _ENDS.get(found.format)
    if ends is not None and not data.rstrip(b"\x00\r\n").endswith(ends):
        what = "it is cut off" if data.rfind(ends) < 0 else "something else follows the picture in this file"
        raise RefusedError(what, where=name, remedy="open it in a viewer, export it again")
    if zipfile.is_zipfile(io.BytesIO(data)):
        raise RefusedError("a picture and a zip in one file", where=name, remedy="open it in a viewer, export it again")
    file = f"{SLIDE}/{number:05d}{_SUFFIX[found.format]}"
    path.rename(path.parent.parent / file)
    return Picture(number, name, file, hashlib.sha256(data).hexdigest(), found.width, found.height)
