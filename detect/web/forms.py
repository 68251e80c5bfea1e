"""What a form sends, taken from the stream part by part: large files lie on disk, in no folder, until they are read."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from detect.errors import SmearError
from detect.web.intake import RefusedError

_DRIVE = re.compile(rb'filename="?(?:[A-Za-z]:|\\\\)')
_FIELDS, _LONG = 8, 4096  # fields besides files, and characters of one


class KeptError(SmearError):
    """What was sent cannot be kept: the disk is full, or too much is open."""


class _Parser(MultiPartParser):
    """Starlette's, but for names: one that is no UTF-8 is refused, where it would be read as something else."""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._current_part.content_disposition)
        # That parser takes the last part of a path of Windows, as one browser of old sent them.
        if _DRIVE.search(self._current_part.content_disposition or b""):
            raise MultiPartException("the name of a file leads out of its folder; rename it")
        try:
            options.get(b"filename", b"").decode()
        except UnicodeDecodeError:
            raise MultiPartException("the name of a file is no UTF-8; rename it") from None
        super().on_headers_finished()


@asynccontextmanager
async def posted(request: Request, most: int = 1) -> AsyncIterator[tuple[list[tuple[str, BinaryIO]], dict[str, str]]]:
    """The files of a form, each with its name, and its other fields.

    Args:
        most: files that it may bring.

    Raises:
        RefusedError: it is no form, or not whole, or cannot be kept.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise RefusedError("not a form with files", where="upload", remedy="send multipart/form-data, files as 'files'")
    parser = _Parser(request.headers, request.stream(), max_files=most, max_fields=_FIELDS, max_part_size=_LONG)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, KeyError, UnicodeDecodeError, LookupError) as error:
        told = getattr(error, "message", None) or "not a whole form"
        raise RefusedError(str(told), where="upload", remedy="send it again") from error
    except OSError as error:
        raise KeptError(
            f"it cannot be kept: {error.strerror}", remedy="send it again later, or less at once"
        ) from error
    try:
        files, fields = [], {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                # A form of a page brings an empty file where none was chosen.
                if name == "files" and (value.filename or value.size):
                    files.append((value.filename or "", value.file))
            else:
                fields[name] = value
        yield files, fields
    finally:
        await form.close()
