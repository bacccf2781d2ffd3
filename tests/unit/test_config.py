"""One field feeds flags, environment, JSON and the README's table; bad input says what and how."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig, OptionInfo, options_table
from engine.errors import ConfigError
from panel.settings import Settings

ROOT = Path(__file__).parents[2]


def values_of(info: OptionInfo) -> st.SearchStrategy[object]:
    """Any value that an option allows."""
    if info.choices:
        return st.sampled_from(info.choices)
    lo, hi = info.lo, info.hi
    if info.kind is bool:
        return st.booleans()
    if info.kind is int:
        return st.integers(
            int(lo) if lo is not None else None, int(hi) if hi is not None else 2**40
        )
    if info.kind is float:
        return st.floats(lo, hi if hi is not None else 1e6, allow_nan=False)
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
        lambda text: not text.startswith("--")
    )


@st.composite
def configs(draw: st.DrawFn) -> EngineConfig:
    chosen = {"model_path": "/models/any"}
    for info in EngineConfig.options():
        if draw(st.booleans()):
            chosen[info.name] = draw(values_of(info))  # type: ignore[assignment]  # each of its own type
    return EngineConfig(**chosen)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs())
def test_flags_and_json_give_the_same_config_back(config: EngineConfig) -> None:
    assert EngineConfig.parse(config.to_argv()) == config
    assert EngineConfig.from_dict(config.to_dict()) == config


def test_the_readme_lists_every_option_as_the_config_has_it() -> None:
    readme = (ROOT / "README.md").read_text()
    assert options_table(EngineConfig) in readme
    assert options_table(Settings, env_prefix="AUTOGLM_") in readme


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model-path", "m", "--prot", "1"], ["--prot", "--port"]),
        (["--model-path", "m", "--port", "0"], ["--port", "0", "1 … 65535"]),
        (["--model-path", "m", "--port", "http"], ["--port", "'http'", "whole number"]),
        (["--model-path", "m", "--dtype", "bf16"], ["--dtype", "bf16", "bfloat16"]),
        (["--model-path", "m", "--enable-health-check=maybe"], ["maybe", "true or false"]),
        (["--model-path"], ["--model-path needs a value"]),
        (["--model-path", "--port", "80"], ["--model-path needs a value"]),
        ([], ["--model-path is missing"]),
        (["model"], ["Unknown option model"]),
    ],
)
def test_a_wrong_flag_is_refused_with_its_name_and_what_is_allowed(
    argv: list[str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineConfig.parse(argv)
    for word in words:
        assert word in str(caught.value)


def test_an_environment_variable_is_parsed_once_and_named_when_wrong() -> None:
    assert Settings.from_environment({"AUTOGLM_PORT": "9000", "OTHER": "x"}).port == 9000
    with pytest.raises(ConfigError, match="AUTOGLM_PORT"):
        Settings.from_environment({"AUTOGLM_PORT": "0"})


def test_a_boolean_zero_means_false() -> None:
    argv = ["--model-path", "m", "--enable-prefix-cache=0"]
    assert EngineConfig.parse(argv).enable_prefix_cache is False


def test_a_child_process_reads_the_same_settings() -> None:
    settings = Settings(port=9123, home="/srv/autoglm")
    assert Settings.from_environment(settings.child_environment()) == settings
