"""The command `g4f-websim emulator`."""

import argparse
import logging
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

from .fault import Fault
from .limit import RateLimit
from .server import Emulator

MAX_PORT = 65535


def serve(argv: Sequence[str]) -> int:
    """Run the emulator until Ctrl-C raises `KeyboardInterrupt`, and print a line on stderr for each request.

    Args:
        argv: the arguments after `g4f-websim emulator`.

    Returns:
        1 if the emulator cannot start.
    """
    options = _parse(argv)
    limit = replace(options.limit, max_in_flight=options.max_in_flight, retry_after=not options.no_retry_after)
    access_log = logging.getLogger("aiohttp.access")
    access_log.addHandler(logging.StreamHandler())
    access_log.setLevel(logging.INFO)
    try:
        with Emulator(options.port, limit, options.delay, access_log, options.reply) as emulator:
            for status, times in options.fail:
                emulator.inject(Fault(status=status), times)
            print(f"The emulator listens on {emulator.url}; press Ctrl-C to stop it.")
            print(f"To use it from another program, set WEBSIM_URL={emulator.url}", flush=True)
            threading.Event().wait()
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"g4f-websim: {error}; choose another --port", file=sys.stderr)
    return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "g4f-websim emulator",
        description="Run an emulator of Websim on loopback.",
        epilog="example: g4f-websim emulator --port 8765 --reply 42 --fail 503:2",
    )
    parser.add_argument("--port", type=_port, default=0, help="the port to listen on (default: a free one)")
    parser.add_argument(
        "--limit",
        type=_limit,
        default=RateLimit(),
        metavar="N/PERIOD",
        help="respond with 429 beyond this, as in 10/10s",
    )
    parser.add_argument(
        "--max-in-flight", type=int, metavar="N", help="respond with 429 to more than N requests at a time"
    )
    parser.add_argument("--no-retry-after", action="store_true", help="send no Retry-After header with a 429")
    parser.add_argument(
        "--delay", type=float, default=0.0, metavar="SECONDS", help="the time that each response takes (default: 0)"
    )
    parser.add_argument(
        "--reply", action="append", default=[], metavar="TEXT", help="respond to chats with TEXT; of several, in turn"
    )
    parser.add_argument(
        "--fail", action="append", type=_fault, default=[], metavar="STATUS[:N]",
        help="respond to N requests, or to all, with this status, as in 503:2",
    )  # fmt: skip
    return parser.parse_args(argv)


def _limit(text: str) -> RateLimit:
    try:
        return RateLimit.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _fault(text: str) -> tuple[int, int | None]:
    match = re.fullmatch(r"([345][0-9]{2})(?::([0-9]{1,6}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected the status of an error, as in 503 or 503:2, not {text!r}")
    return int(match[1]), int(match[2]) if match[2] else None


def is_port(text: str) -> bool:
    """Return whether `text` is the number of a port; 0 lets the operating system choose one."""
    return bool(re.fullmatch("[0-9]{1,5}", text)) and int(text) <= MAX_PORT


def _port(text: str) -> int:
    if not is_port(text):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {MAX_PORT}, not {text!r}")
    return int(text)
