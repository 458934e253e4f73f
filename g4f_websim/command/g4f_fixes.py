"""Change what g4f does in processes of the command `g4f-websim`; `import g4f_websim` alone changes none of it.

`FIXES` lists every change with its reason. uvicorn imports `create_app` in each process of g4f's server, so worker
processes and those of --reload are changed too.
"""

import importlib
import inspect
import json
import logging
import math
import os
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from .. import Websim
from ..offline import provider_list_settings
from ..transport.log import log
from .terminal import fail, show_log

# `docker stop` kills a server after 10 s.
SECONDS_TO_STOP = 8

# uvicorn's worker processes inherit the variable; what their parent has set in g4f is lost.
SETTINGS_VARIABLE = "G4F_WEBSIM_SERVER"

BAD_REQUEST, BAD_GATEWAY, GATEWAY_TIMEOUT = 400, 502, 504


class Fix(NamedTuple):
    """A change of g4f.

    Attributes:
        target: the module and the attribute.
        replace: returns the new value for the old one, or None if the old one is not what this package knows.
        reason: what g4f does without the change.
        seen: the release of g4f that does it.
    """

    target: str
    replace: Callable[[Any], Any]
    reason: str
    seen: str = "8.8.6"


_applied: set[str] = set()


def apply(fixes: Iterable[Fix]) -> list[Fix]:
    """Change g4f in this process, and warn once if this release of g4f lacks a target.

    Returns:
        The changes that this release of g4f allows, including earlier ones.
    """
    possible, missing = [], []
    for fix in fixes:
        if fix.target in _applied or _apply(fix):
            possible.append(fix)
            _applied.add(fix.target)
        else:
            missing.append(fix.target)
    if missing:
        log(logging.WARNING, f"g4f {version('g4f')} is not changed in {', '.join(missing)}: not found there")
    return possible


def _apply(fix: Fix) -> bool:
    module, _, attribute = fix.target.partition(":")
    path, _, name = attribute.rpartition(".")
    try:
        owner = importlib.import_module(module)
        owner = getattr(owner, path) if path else owner
        new = fix.replace(getattr(owner, name))
    except AttributeError:
        return False
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("g4f."):  # a package that g4f needs is not installed
            raise
        return False
    if new is not None:
        setattr(owner, name, new)
    return new is not None


# Chats


def _keep_request(optimize: Any) -> Any:
    return lambda messages, tools: (0, {})


def _pass_response_format(create: Any) -> Any:
    def create_with_format(self: Any, *args: Any, response_format: Any = None, provider: Any = None, **kw: Any) -> Any:
        if response_format and getattr(provider, "__name__", provider) == Websim.__name__:
            # g4f's emulation of tools passes a response_format of its own, which counts.
            generate = partial(Websim.create_async_generator, response_format=response_format)
            provider = type(Websim.__name__, (Websim,), {"create_async_generator": staticmethod(generate)})
            response_format = None
        return create(self, *args, response_format=response_format, provider=provider, **kw)

    return create_with_format


# Errors of the server


def _status(error: Any) -> int | None:
    """Return the status for an error of Websim or for a timeout, or None for another provider's error."""
    if isinstance(error, TimeoutError):  # with stream=True, g4f may notice the timeout before Websim does
        return GATEWAY_TIMEOUT
    if hasattr(error, "reason") and hasattr(error, "retry_after"):
        return error.status if error.status and error.status >= BAD_REQUEST else BAD_GATEWAY
    if type(error) is ValueError and _is_raised_by_package(error):
        return BAD_REQUEST
    return None


def _is_raised_by_package(error: ValueError) -> bool:
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].startswith(f"{__package__.partition('.')[0]}.")


def _respond_with_own_error(from_exception: Any) -> Any:
    def respond(error: Exception, config: Any = None, status_code: int = 500) -> Any:
        status = _status(error)
        if status is None:
            return from_exception(error, config, status_code)
        api = importlib.import_module("g4f.api")
        seconds = getattr(error, "retry_after", None)
        headers = {"Retry-After": str(math.ceil(seconds))} if seconds else None
        return api.ErrorResponse(api.format_exception(str(error), config), status, headers)

    return respond


def _show_own_message(format_exception: Any) -> Any:
    def format_error(error: Any, *args: Any, **kw: Any) -> Any:
        return format_exception(error if _status(error) is None else str(error), *args, **kw)

    return format_error


def _leave_out_provider(model_dump: Any) -> Any:
    return lambda self, **kw: model_dump(self, **kw | {"exclude": {"provider"}})


# Processes of the server


def _start_with_create_app(run: Any) -> Any:
    def run_app(app: str, **options: Any) -> None:
        config = vars(importlib.import_module("g4f.api").AppConfig).items()
        config = {name: value for name, value in config if name[0] != "_" and type(value) in (str, int, float, bool)}
        has_list = all(getattr(owner, name) is not value for owner, name, value in provider_list_settings())
        os.environ[SETTINGS_VARIABLE] = json.dumps({"app": app, "config": config, "has_list": has_list})
        run(f"{__name__}:create_app", **options | {"timeout_graceful_shutdown": SECONDS_TO_STOP})

    return run_app


def create_app() -> Any:
    """Return g4f's web application, with the changes and with the settings of the parent process."""
    show_log()
    apply(SERVER_FIXES)
    settings = json.loads(os.environ[SETTINGS_VARIABLE])
    if not settings["has_list"]:
        for owner, name, value in provider_list_settings():
            setattr(owner, name, value)
    module, _, factory = settings["app"].partition(":")
    api = importlib.import_module(module)
    api.AppConfig.set_config(**settings["config"])
    return getattr(api, factory)()


# g4f's client


def _write(file: str, text: str) -> int:
    return Path(file).write_text(text, encoding="utf-8")


def _save_whole_text(save: Any) -> Any:
    if not inspect.iscoroutinefunction(save):
        return None

    async def save_or_fail(content: Any, media: Any, file: str, *args: Any) -> bool:
        if media and not await save(content, media, file, *args):
            fail(f"nothing was saved in {file}", status=1)
        return bool(media or _write(file, str(content)))

    return save_or_fail


def _raise_errors(module: Any) -> Any:
    def format_exc() -> NoReturn:
        raise  # the error that g4f's client has caught

    return SimpleNamespace(format_exc=format_exc)


FIXES = (
    Fix(
        "g4f.tools.run_tools:optimize_request",
        _keep_request,
        "g4f drops repeated messages, blank lines, old messages and tools from every request",
    ),
)
CLIENT_FIXES = (
    *FIXES,
    Fix("g4f.cli.client:traceback", _raise_errors, "g4f's client prints a traceback for every error"),
)
OUTPUT_FIXES = (
    Fix("g4f.cli.client:save_content", _save_whole_text, "-O saves code blocks only; without any, exit status 0"),
)
SERVER_FIXES = (
    *FIXES,
    Fix(
        "g4f.client:AsyncCompletions.create",
        _pass_response_format,
        "g4f's client does not pass response_format to the provider",
    ),
    Fix(
        "g4f.api:ErrorResponse.from_exception",
        _respond_with_own_error,
        "the server hides the message of an error and Retry-After, and responds with 500 to most errors",
    ),
    Fix("g4f.api:format_exception", _show_own_message, "the same in a response that is streamed"),
    Fix(
        "g4f.api:ImageGenerationConfig.model_dump",
        _leave_out_provider,
        "/v1/images/generations fails if the body names a provider: the server passes it twice",
    ),
    Fix(
        "uvicorn:run",
        _start_with_create_app,
        "worker processes lack these changes and the server's settings, --g4f-api-key too; a server stops after 600 s",
    ),
)
