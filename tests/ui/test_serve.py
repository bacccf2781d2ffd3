"""Starting the panel: its settings reach Streamlit, and what cannot work is said at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit import config as streamlit_config

from panel.errors import PortInUse, SettingsError
from panel.settings import Settings
from panel.ui import serve

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def streamlits_own_options() -> Iterator[None]:
    """Streamlit's options belong to the process; put them back."""
    before = streamlit_config._main_script_path
    yield
    streamlit_config._main_script_path = before
    streamlit_config.get_config_options(force_reparse=True)


def test_streamlit_gets_the_panels_settings_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=str(tmp_path), port=8765)
    streamlit_config._main_script_path = None
    serve.create_app(settings, token=None)
    serve.configure_streamlit(settings)
    option = streamlit_config.get_option
    assert option("runner.postScriptGC") is False
    assert option("browser.gatherUsageStats") is False
    assert option("server.enableStaticServing") is True
    assert option("server.address") == "127.0.0.1"
    assert option("server.allowedHosts") == ["127.0.0.1", "::1", "localhost"]


def test_without_the_options_file_it_refuses_to_start(tmp_path: Path) -> None:
    streamlit_config._main_script_path = str(tmp_path / "elsewhere.py")
    with pytest.raises(SettingsError, match="postScriptGC"):
        serve.configure_streamlit(Settings(home=str(tmp_path)))


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=str(port)):
            serve.bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        serve.bind("192.0.2.1", 0)


def test_the_printed_address_carries_the_token_beyond_loopback() -> None:
    there = Settings(host="192.168.1.5", port=8600)
    assert serve.address(there, "abc") == "http://192.168.1.5:8600/?token=abc"
    assert serve.address(Settings(), None) == "http://127.0.0.1:8501/"


def test_the_program_ends_with_2_and_one_clear_line_when_its_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "panel.ui.serve"],
            cwd=ROOT,
            env={**os.environ, "AUTOGLM_HOME": str(tmp_path), "AUTOGLM_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: Port {port} on 127.0.0.1 is in use")
