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
import re
import traceback
from collections.abc import Callable, Iterable
from functools import cache, partial, reduce
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from .. import Websim, WebsimError
from ..errors import Reason
from ..offline import provider_list_settings
from ..transport.log import log
from ..transport.rate_limit import end_waiting
from .terminal import fail, show_log

# `docker stop` kills a server after 10 s.
SECONDS_TO_STOP = 8

# uvicorn's worker processes inherit the variable; what their parent has set in g4f is lost.
SETTINGS_VARIABLE = "G4F_WEBSIM_SERVER"

BAD_REQUEST, BAD_GATEWAY, UNAVAILABLE, GATEWAY_TIMEOUT = 400, 502, 503, 504

_is_stopping = False


class Fix(NamedTuple):
    """A change of g4f.

    Attributes:
        target: the module and the attribute.
        replace: returns the new value for the old one.
        reason: what g4f, seen in 8.8.6, does without the change.
        since: the first release line that does it.
    """

    target: str
    replace: Callable[[Any], Any]
    reason: str
    since: tuple[int, int] = (0, 4)


def apply(fixes: Iterable[Fix]) -> list[Fix]:
    """Change g4f in this process, and warn once if this release of g4f lacks a target.

    Returns:
        The changes that this release of g4f allows, including earlier ones.
    """
    release = version("g4f")
    line = tuple(map(int, re.findall(r"\d+", release)[:2]))
    # g4f calls itself 0.0.0 if it was built from its repository.
    applied = {fix: _apply(fix) for fix in fixes if line >= fix.since or not any(line)}
    missing = [fix.target for fix in applied if not applied[fix]]
    if missing:
        log(logging.WARNING, f"g4f {release} is not changed in {', '.join(missing)}: not found there")
    return [fix for fix in applied if applied[fix]]


@cache
def _apply(fix: Fix) -> bool:
    """Change g4f unless this was done before, and return whether the target exists."""
    module, _, path = fix.target.partition(":")
    *owners, name = path.split(".")
    try:
        owner = reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, name, fix.replace(getattr(owner, name)))
    except AttributeError:
        return False
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("g4f."):  # a package that g4f needs is not installed
            raise
        return False
    return True


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


def _accept_any_tool_choice(config: Any) -> Any:
    return importlib.import_module("pydantic").create_model(config.__name__, __base__=config, tool_choice=(Any, None))


# Errors of the server


def _describe(error: Any) -> tuple[int | None, str]:
    """Return the status and the message for an error; the status is None unless it is Websim's or a timeout."""
    if isinstance(error, TimeoutError):  # with stream=True, g4f may notice the timeout before Websim does
        return GATEWAY_TIMEOUT, str(error) or "no response in time"
    if isinstance(error, WebsimError):
        if _is_stopping and error.reason is Reason.RATE_LIMITED:
            return UNAVAILABLE, "the server is stopping: send the request again later"
        return error.status if error.status and error.status >= BAD_REQUEST else BAD_GATEWAY, str(error)
    if type(error) is ValueError and _is_raised_by_package(error):
        return BAD_REQUEST, str(error)
    return None, ""


def _is_raised_by_package(error: ValueError) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("g4f_websim.")


def _own_error(from_exception: Any) -> Any:
    def respond(error: Exception, config: Any = None, status_code: int = 500) -> Any:
        from g4f.api import ErrorResponse, format_exception

        status, message = _describe(error)
        if not status:
            return from_exception(error, config, status_code)
        seconds = getattr(error, "retry_after", None)
        headers = {"Retry-After": str(math.ceil(seconds))} if seconds else None
        return ErrorResponse(format_exception(message, config), status, headers)

    return respond


def _leave_out_provider(model_dump: Any) -> Any:
    return lambda self, **kw: model_dump(self, **kw | {"exclude": {"provider"}})


# Processes of the server


def _start_with_create_app(run: Any) -> Any:
    def run_app(app: str, **options: Any) -> None:
        from g4f.api import AppConfig

        settings = vars(AppConfig).items()
        config = {name: value for name, value in settings if name[0] != "_" and type(value) in (str, int, float, bool)}
        has_list = all(getattr(owner, name) is not value for owner, name, value in provider_list_settings())
        os.environ[SETTINGS_VARIABLE] = json.dumps({"app": app, "config": config, "has_list": has_list})
        run(f"{__name__}:create_app", **options | {"timeout_graceful_shutdown": SECONDS_TO_STOP})

    return run_app


def _end_queue(shutdown: Any) -> Any:
    async def end_queue_and_shut_down(self: Any, *args: Any, **kw: Any) -> None:
        global _is_stopping
        _is_stopping = True
        end_waiting()
        await shutdown(self, *args, **kw)

    return end_queue_and_shut_down


def create_app() -> Any:
    """Return g4f's web application, with the changes and with the settings of the parent process."""
    show_log()
    settings = json.loads(os.environ[SETTINGS_VARIABLE])
    if not settings["has_list"]:
        for owner, name, value in provider_list_settings():
            setattr(owner, name, value)
    apply(SERVER_FIXES)
    module, _, factory = settings["app"].partition(":")
    api = importlib.import_module(module)
    api.AppConfig.set_config(**settings["config"])
    return getattr(api, factory)()


# g4f's client


def _write(file: str, text: str) -> int:
    return Path(file).write_text(text, encoding="utf-8")


def _save_whole_text(save: Any) -> Any:
    def check(saved: object, file: str) -> bool:
        return bool(saved) or fail(f"nothing was saved in {file}", status=1)

    def save_now(content: Any, media: Any, file: str, *args: Any) -> bool:  # in g4f up to 7.6
        return check(save(content, media, file, *args) if media else _write(file, str(content)), file)

    async def save_later(content: Any, media: Any, file: str, *args: Any) -> bool:
        return check(await save(content, media, file, *args) if media else _write(file, str(content)), file)

    return save_later if inspect.iscoroutinefunction(save) else save_now


def _raise_errors(module: Any) -> Any:
    def format_exc() -> NoReturn:
        raise  # the error that g4f's client has caught

    return SimpleNamespace(format_exc=format_exc)


FIXES = (Fix("g4f.tools.run_tools:optimize_request", _keep_request, "drops messages and tools", since=(7, 8)),)
CLIENT_FIXES = (*FIXES, Fix("g4f.cli.client:traceback", _raise_errors, "prints a traceback for every error"))
OUTPUT_FIXES = (Fix("g4f.cli.client:save_content", _save_whole_text, "-O saves code blocks only, or nothing"),)
SERVER_FIXES = (
    *FIXES,
    Fix("g4f.client:AsyncCompletions.create", _pass_response_format, "does not pass response_format to providers"),
    Fix("g4f.api:ChatCompletionsConfig", _accept_any_tool_choice, "422 for a tool_choice that names a function"),
    Fix("g4f.api:ErrorResponse.from_exception", _own_error, "500 for most errors, without a message or Retry-After"),
    Fix("g4f.api:ImageGenerationConfig.model_dump", _leave_out_provider, "a provider in the body is passed on twice"),
    Fix("uvicorn:run", _start_with_create_app, "workers lack these changes and the settings, --g4f-api-key too"),
    Fix("uvicorn:Server.shutdown", _end_queue, "a server that stops waits for the queue of a rate limit"),
)
