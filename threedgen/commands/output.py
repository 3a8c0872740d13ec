"""Standard output and standard error whose reader may go away, be missing, or have no space left."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from threedgen.core.errors import UserError


class ReaderGone(Exception):
    """Nobody reads the output any more, as after `| head -1`."""


class _Watched:
    """A stream that says why it cannot be written. Everything but writing is as of the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _explained():
            try:
                return self._stream.write(text)
            except UnicodeEncodeError as error:  # a terminal that has no such letters
                return self._stream.write(
                    text.encode(error.encoding, "backslashreplace").decode(error.encoding)
                )

    def flush(self) -> None:
        with _explained():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside it, and at its end, output that cannot be written raises ReaderGone or UserError, and never a bare
    OSError, which could also come from a file or from another program."""
    with contextlib.ExitStack() as streams:
        # The shell has closed what is None; what is printed then goes nowhere.
        out, err = (
            streams.enter_context(open(os.devnull, "w")) if stream is None else stream
            for stream in (sys.stdout, sys.stderr)
        )
        streams.enter_context(contextlib.redirect_stdout(_Watched(out)))  # pyright: ignore[reportArgumentType]
        streams.enter_context(contextlib.redirect_stderr(_Watched(err)))  # pyright: ignore[reportArgumentType]
        try:
            try:
                yield
            except SystemExit:  # of argparse, after --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()  # a reader that has gone is noticed here, and not after the end
        except BaseException:
            _give_up(out)
            raise


def _give_up(stream: TextIO) -> None:
    """Sends what a stream could not write nowhere: Python would try it again at the end of the process."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise UserError(
            f"cannot write the output: {error.strerror or error}; send it to another place"
        ) from error
