"""The changes of g4f that the commands make; tests/compat covers the older release lines."""

import logging

import pytest

from g4f_websim.command.g4f_fixes import Fix, apply

UNKNOWN = [
    Fix("g4f.client:unknown", str, "no such attribute"),
    Fix("g4f.unknown.module:name", str, "no such module"),
    Fix("g4f.client:Client.unknown", str, "no such method"),
]


def test_warns_once_about_what_g4f_lacks(caplog):
    with caplog.at_level(logging.WARNING):
        assert apply(UNKNOWN) == []
    (message,) = caplog.messages
    assert message.endswith(
        "is not changed in g4f.client:unknown, g4f.unknown.module:name, g4f.client:Client.unknown: not found there"
    )


def test_leaves_older_release_as_it_is(caplog):
    assert apply([Fix("g4f.client:unknown", str, "not in this release", since=(99, 0))]) == []
    assert caplog.messages == []


@pytest.mark.parametrize("version", ["8.9rc1", "0.0.0", "0.0.0.dev3+g12ab"])
def test_changes_prerelease_and_development_version(monkeypatch, caplog, version):
    monkeypatch.setattr("g4f_websim.command.g4f_fixes.version", lambda name: version)
    assert apply([Fix("g4f.client:unknown", str, "no such attribute", since=(8, 8))]) == []
    assert f"g4f {version} is not changed in g4f.client:unknown" in caplog.text


def test_missing_package_is_an_error():
    with pytest.raises(ModuleNotFoundError, match="unknown_package"):
        apply([Fix("unknown_package:name", str, "not installed")])


def test_import_of_package_changes_nothing():
    from g4f.tools import optimize_request, run_tools

    assert run_tools.optimize_request is optimize_request.optimize_request
