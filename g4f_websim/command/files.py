"""What the commands `image` and `batch` share: names of files, complete files, a lock, and an end by signals."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import unicodedata
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, BinaryIO

# Names that Windows reserves for devices, with any suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin|conout|com\d|lpt\d)", re.IGNORECASE)
# File systems limit a name to 255 bytes. The rest is room for a number and a suffix.
MAX_STEM_BYTES = 120


class FileError(Exception):
    """The input or the output of a batch cannot be used; the message names the file."""


def stem_of(prompt: str) -> str:
    """Return a file name without a suffix that is made from a prompt and valid on every system."""
    # NFKC: macOS and Windows treat some different characters as the same.
    characters = (
        char if char.isalnum() or unicodedata.category(char).startswith("M") else "-"
        for char in unicodedata.normalize("NFKC", prompt)
    )
    words = "-".join(filter(None, "".join(characters).split("-")))
    stem = words.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    if stem != words:
        stem = stem.rpartition("-")[0] or stem
    return f"image-{stem}".rstrip("-") if not stem or _RESERVED.fullmatch(stem) else stem


def create_file(stem: str, suffix: str, count: int, data: bytes) -> Path:
    """Write one of `count` images under a name that no file has, and return the name.

    The names are cat.png, cat-2.png, ... for one image, and cat-1.png, cat-2.png, ... for several.
    """
    for number in itertools.count(1):
        file = Path(f"{stem}{suffix}" if number == count == 1 else f"{stem}-{number}{suffix}")
        with contextlib.suppress(FileExistsError):
            file.touch(exist_ok=False)
            break
    try:
        replace_file(file, data)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return file


def replace_file(file: Path, data: bytes) -> None:
    """Write a file, or replace it as a whole: if this fails, the old file is unchanged."""
    if file.exists() and not file.is_file():  # a device or a pipe, such as /dev/stdout
        file.write_bytes(data)
        return
    with replacing(file) as opened:
        opened.write(data)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `file` at the end, unless the block raises an exception.

    A link stays, and the file that the link names is replaced.
    """
    file = Path(os.path.realpath(file))
    temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        if file.exists():
            shutil.copymode(file, temporary)  # the user may have made the file private
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(output: Path) -> Iterator[None]:
    """Hold the lock of an output: that of a file beside it, which is deleted at the end.

    A file that a killed process left behind does no harm: its lock ended with the process.
    """
    file = output.with_name(f"{output.name}.lock")
    with file.open("ab") as opened:
        is_locked = _lock(opened.fileno())
        # A batch that has just ended may have deleted the file after it was opened here.
        is_in_place = file.exists() and os.path.samestat(os.fstat(opened.fileno()), file.stat())
        if not (is_locked and is_in_place):
            raise FileError("another g4f-websim batch writes this output: wait for it to end, or stop it")
        try:
            yield
        finally:
            # Windows does not delete an open file. Elsewhere it is deleted while it is locked, so that no other
            # process has locked it already.
            if os.name == "nt":  # pragma: no cover
                opened.close()
            with contextlib.suppress(OSError):
                file.unlink()


def _lock(descriptor: int) -> bool:
    """Lock an open file, and return whether no other process had locked it."""
    try:
        if os.name == "nt":  # pragma: no cover
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run the coroutine of a command; Ctrl-C and SIGTERM cancel it, and it can keep what has arrived.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed. `asyncio.run` cancels the coroutine then.
    """
    try:
        return asyncio.run(_cancel_at_sigterm(command))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


async def _cancel_at_sigterm(command: Coroutine[Any, Any, int]) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    # The handler of main.py would raise SystemExit in one of several tasks, and the others would go on. The method
    # add_signal_handler() of the loop does not exist on Windows.
    before = signal.signal(signal.SIGTERM, lambda number, frame: loop.call_soon_threadsafe(task.cancel) and None)
    try:
        return await command
    finally:
        signal.signal(signal.SIGTERM, before)
