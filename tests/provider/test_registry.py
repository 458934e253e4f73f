"""Registration with the installed g4f; tests/compat covers the older release lines."""

import sys

import g4f.Provider
import pytest
from g4f.client.service import convert_to_provider

import g4f_websim
from g4f_websim import Websim, register, unregister
from tests.support.interpreter import run_python


@pytest.fixture(autouse=True)
def register_again():
    yield
    unregister()
    register()


def registered():
    """Return all of g4f that registration changes."""
    loader = g4f.Provider.ProviderLoader
    return list(loader.names), dict(loader.loaded), list(g4f.Provider.__all__), list(sys.meta_path)


def test_package_exports_five_names():
    assert set(g4f_websim.__all__) == {"Websim", "WebsimError", "register", "unregister", "__version__"}


def test_import_registers_websim_under_each_form_of_its_name():
    assert {convert_to_provider(name) for name in ("Websim", "websim", "web-sim")} == {Websim}
    assert Websim in convert_to_provider("Websim Yqcloud").providers


def test_registering_and_unregistering_twice_changes_nothing():
    before = registered()
    assert register() is Websim
    assert registered() == before
    unregister()
    without = registered()
    assert unregister() is Websim
    assert registered() == without
    assert "Websim" not in g4f.Provider.ProviderUtils.convert


def test_unregistering_restores_g4f():
    unregister()
    before = registered()
    register()
    register("Another-Name")
    register("Third_Name")
    assert convert_to_provider("anothername") is Websim
    assert convert_to_provider("thirdname") is Websim
    unregister()
    assert registered() == before


def test_replaces_builtin_websim_and_restores_it():
    class Builtin:
        pass

    unregister()
    g4f.Provider.ProviderLoader.loaded["Websim"] = Builtin
    register()
    assert convert_to_provider("Websim") is Websim
    unregister()
    assert g4f.Provider.ProviderLoader.loaded.pop("Websim") is Builtin


GUI_PROGRAM = """
import pathlib, g4f
file = pathlib.Path(g4f.__file__).parent / "providers.json"
before = file.read_bytes()
{imports}
def websim_entries():
    return [entry for entry in Api.get_providers() if entry["name"] == "Websim"]
(entry,) = websim_entries()
other = next(entry for entry in Api.get_providers() if entry["name"] != "Websim")
assert entry.keys() == other.keys(), entry.keys() ^ other.keys()
assert entry["image"] == 1 and entry["vision"] is True and entry["auth"] is False and entry["nodriver"] is False
assert file.read_bytes() == before
g4f_websim.unregister()
assert not websim_entries()
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import g4f_websim; g4f_websim.register('Other'); from g4f.gui.server.api import Api",
        "from g4f.gui.server.api import Api; import g4f_websim",
    ],
    ids=["before the GUI", "after the GUI"],
)
def test_gui_lists_websim_once_and_leaves_file_unchanged(imports):
    run_python("-c", GUI_PROGRAM.format(imports=imports))
