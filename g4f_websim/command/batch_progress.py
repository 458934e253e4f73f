"""Report on stderr how far a batch is: a progress bar on a terminal (tqdm), or else a line now and then."""

import importlib
import os
import sys
from contextlib import ExitStack
from time import monotonic
from typing import Any

from ..transport.log import logger
from .terminal import warn

# The seconds between two lines.
LINE_INTERVAL = 10.0

DEFAULT_COLUMNS, DEFAULT_LINES = 80, 24


class Progress:
    """The counts of a batch.

    Args:
        total: the number of rows.
        done: the number of rows that have a response already.

    Attributes:
        failed: the number of rows that failed.
        unsaved: the number of images that could not be saved.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._done = done
        self.failed = 0
        self.unsaved = 0
        self._last_failure = ""
        # The log lines of the bar's time are shown above the bar.
        self._log_above_bar = ExitStack()
        self._bar = _progress_bar(total, done)
        if self._bar is not None:
            redirect = importlib.import_module("tqdm.contrib.logging").logging_redirect_tqdm
            self._log_above_bar.enter_context(redirect([logger]))
        self._next_line = monotonic() + LINE_INTERVAL

    def row_done(self) -> None:
        """Count a row that has a response now."""
        self._done += 1
        self._show()

    def row_failed(self, message: str) -> None:
        """Count a row that failed, with the message of its error."""
        self.failed += 1
        self._last_failure = message
        self._show()

    def image_unsaved(self, message: str) -> None:
        """Count an image that could not be saved, and print why."""
        self.unsaved += 1
        if self._bar is not None:
            self._bar.clear()
        warn(message)

    def end(self) -> None:
        """Remove the progress bar and print a summary."""
        if self._bar is not None:
            self._bar.close()
        self._log_above_bar.close()
        summary = f"{self._done} of {self._total} rows have a response"
        if self.failed:
            summary += f", {self.failed} failed (the last: {self._last_failure})"
        if self.unsaved:
            summary += ", 1 image was not saved" if self.unsaved == 1 else f", {self.unsaved} images were not saved"
        if self._done < self._total or self.unsaved:
            summary += "; the same command continues"
        warn(summary)

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update()
            if self.failed:
                self._bar.set_postfix(failed=self.failed)
        elif monotonic() >= self._next_line:
            self._next_line = monotonic() + LINE_INTERVAL
            warn(f"{self._done} of {self._total} rows" + (f", {self.failed} failed" if self.failed else ""))


def _progress_bar(total: int, done: int) -> Any:
    """Return a progress bar, or None if stderr is not a terminal or tqdm is not installed."""
    if not (sys.stderr and sys.stderr.isatty()):
        return None
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        return None
    # A terminal may not say how large it is.
    is_known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    size: dict[str, Any] = {"dynamic_ncols": True} if is_known else {"ncols": DEFAULT_COLUMNS, "nrows": DEFAULT_LINES}
    return tqdm(total=total, initial=done, unit="row", file=sys.stderr, **size)
