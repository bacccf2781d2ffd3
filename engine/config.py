"""Every option of the engine, written once: name, default, help and range of a field feed all else.

Flags, environment variables, the wizard's widgets, history rows and the README's table are derived
from `EngineConfig`; `parse(config.to_argv()) == config`. Standard library only, because the panel
imports this file. What is found out later (blocks that fit, the device chosen) is not stored here.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Self

from engine.errors import ConfigError


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] | None = None,
    lo: float | None = None,
    hi: float | None = None,
) -> Any:
    """Declare one option: a dataclass field that carries its help text and its allowed values.

    default: the value when nothing is given; `MISSING` makes the option required.
    choices: the only values allowed. lo, hi: inclusive limits of a number.
    """
    metadata = {"help": help, "choices": choices, "lo": lo, "hi": hi}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option as others show it: a row of the README, a widget of the wizard, a flag."""

    name: str
    flag: str
    kind: type
    optional: bool
    default: Any
    help: str
    choices: tuple[Any, ...] | None
    lo: float | None
    hi: float | None

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def allowed(self) -> str:
        """The allowed values in words, e.g. `1 … 1024`; empty where anything goes."""
        if self.choices:
            return ", ".join(str(choice) for choice in self.choices)
        if self.lo is not None and self.hi is not None:
            return f"{self.lo:g} … {self.hi:g}"
        if self.lo is not None:
            return f"≥ {self.lo:g}"
        return ""

    def convert(self, value: Any, named: str) -> Any:
        """Turn text (or an already typed value) into the option's type and check its range.

        named: how the person gave it (`--port`, `AUTOGLM_PORT`), for the message.
        Raises ConfigError with the name, the value and what is allowed.
        """
        if value is None or (self.optional and value == ""):
            if self.optional:
                return None
            raise ConfigError(f"{named} needs a value.", fix=f"Give {self.help.lower()}.")
        try:
            typed = _BOOLEANS[str(value).lower()] if self.kind is bool else self.kind(value)
        except (ValueError, KeyError):
            wanted = "true or false" if self.kind is bool else _KIND_WORDS[self.kind]
            raise ConfigError(f"{named} is {value!r}, which is not {wanted}.") from None
        out_of_range = (self.lo is not None and typed < self.lo) or (
            self.hi is not None and typed > self.hi
        )
        if out_of_range or (self.choices and typed not in self.choices):
            raise ConfigError(f"{named} is {typed!r}.", fix=f"Choose one of: {self.allowed}.")
        return typed


_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True}
_BOOLEANS |= {"0": False, "false": False, "no": False, "off": False}
_KIND_WORDS = {int: "a whole number", float: "a number", str: "text"}


class Options:
    """Base of a frozen dataclass of `option` fields: checking, flags, environment, JSON."""

    def __post_init__(self) -> None:
        for info in self.options():
            value = getattr(self, info.name)
            if info.convert(value, info.flag) != value:
                raise ConfigError(f"{info.flag} is {value!r}, which has the wrong type.")

    @classmethod
    def options(cls) -> tuple[OptionInfo, ...]:
        hints = typing.get_type_hints(cls)
        return tuple(_describe(f, hints[f.name]) for f in fields(cls))  # type: ignore[arg-type]  # a dataclass by contract

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Self:
        """Read `--name value`, `--name=value` and, for booleans, `--name` / `--no-name`.

        Raises ConfigError for an unknown option (with the nearest known one), a missing value,
        a value out of range or a required option left out.
        """
        by_flag = {info.flag: info for info in cls.options()}
        values: dict[str, Any] = {}
        words = list(argv)
        while words:
            flag, equals, text = words.pop(0).partition("=")
            negated = by_flag.get("--" + flag.removeprefix("--no-"))
            if flag.startswith("--no-") and negated and negated.kind is bool and not equals:
                values[negated.name] = False
                continue
            info = by_flag.get(flag)
            if info is None:
                raise unknown_option(flag, list(by_flag))
            if not equals and info.kind is bool:
                values[info.name] = True
                continue
            if not equals:
                if not words or words[0].startswith("--"):
                    raise ConfigError(f"{flag} needs a value.", fix=f"{flag}: {info.help}.")
                text = words.pop(0)
            values[info.name] = info.convert(text, flag)
        return cls._from_typed(values)

    @classmethod
    def from_env(cls, env: Mapping[str, str], prefix: str = "AUTOGLM_") -> Self:
        """Read `PREFIX_NAME` variables. Raises ConfigError with the variable's name and value."""
        values = {
            info.name: info.convert(env[variable], variable)
            for info in cls.options()
            if (variable := prefix + info.name.upper()) in env
        }
        return cls._from_typed(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a JSON object, as stored with a deployment. Raises ConfigError for unknown names."""
        by_name = {info.name: info for info in cls.options()}
        for name in values:
            if name not in by_name:
                raise unknown_option(name, list(by_name))
        return cls._from_typed({n: by_name[n].convert(v, n) for n, v in values.items()})

    @classmethod
    def _from_typed(cls, values: dict[str, Any]) -> Self:
        for info in cls.options():
            if info.required and info.name not in values:
                raise ConfigError(f"{info.flag} is missing.", fix=f"{info.flag}: {info.help}.")
        return cls(**values)

    def to_argv(self) -> list[str]:
        """The flags that differ from their defaults, such that `parse` gives this object back."""
        argv: list[str] = []
        for info in self.options():
            value = getattr(self, info.name)
            if value == info.default:
                continue
            if info.kind is bool:
                argv.append(info.flag if value else "--no-" + info.flag[2:])
            else:
                argv += [info.flag, str(value)]
        return argv

    def to_dict(self) -> dict[str, Any]:
        return {info.name: getattr(self, info.name) for info in self.options()}


def _describe(f: Field[Any], hint: Any) -> OptionInfo:
    arguments = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = (a for a in arguments if a is not type(None))
    return OptionInfo(
        name=f.name,
        flag="--" + f.name.replace("_", "-"),
        kind=kind,
        optional=type(None) in arguments,
        default=f.default,
        **f.metadata,
    )


def unknown_option(name: str, known: list[str]) -> ConfigError:
    """The error for a name that is none of `known`, with the nearest of them."""
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Known options: " + ", ".join(known) + "."
    return ConfigError(f"Unknown option {name}.", fix=hint)


def options_table(cls: type[Options], env_prefix: str | None = None) -> str:
    """The options as a Markdown table: flag (or environment variable), default, allowed, help."""
    rows = ["| option | default | allowed | what it does |", "| --- | --- | --- | --- |"]
    for info in cls.options():
        default = "required" if info.required else f"`{info.default}`"
        default = "" if info.default in (None, "") else default
        name = info.flag if env_prefix is None else env_prefix + info.name.upper()
        rows.append(f"| `{name}` | {default} | {info.allowed} | {info.help} |")
    return "\n".join(rows)


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Options):
    """What a person can choose about one engine."""

    model_path: str = option(MISSING, "Folder with config.json, safetensors and tokenizer")
    served_model_name: str | None = option(None, "Name in the API; default: the folder's name")
    host: str = option("127.0.0.1", "Address to listen on")
    port: int = option(8080, "Port to listen on", lo=1, hi=65535)
    task: str = option(
        "auto",
        "What is served: text, vectors, or what the model's folder says it is made for",
        choices=("auto", "generate", "embed"),
    )
    device_map: str = option("auto", "Device for the model: auto, cpu, cuda or cuda:N")
    dtype: str = option(
        "auto",
        "Type of weights and KV; auto: the checkpoint's on a GPU, float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantization: str = option(
        "none",
        "Quantization of the Linear layers at load; int8_dynamic: inputs and head too, CPU only",
        choices=("none", "int8", "int8_dynamic", "int4"),
    )
    max_seq_length: int = option(4096, "Most tokens of one request, prompt and answer", lo=16)
    max_num_seqs: int = option(16, "Most requests computed together", lo=1, hi=1024)
    max_batch_tokens: int = option(1024, "Most tokens of one engine step", lo=16)
    batch_wait_ms: float = option(
        0.0, "How long an idle engine waits for more requests before its first step", lo=0, hi=10000
    )
    max_queue: int = option(
        1024, "Most requests that wait beside those computed; more are told to come later", lo=0
    )
    request_timeout_s: float | None = option(
        None, "Seconds after which a request ends with an error; default: never", lo=0.001
    )
    block_size: int = option(64, "Tokens in one KV block", lo=1, hi=1024)
    kv_cache_gib: float | None = option(
        None, "Memory for the KV cache in GiB; default: what the limits above can use", lo=0.001
    )
    memory_fraction: float = option(
        0.90, "Share of the device's memory the engine may fill", lo=0.10, hi=0.98
    )
    enable_prefix_cache: bool = option(True, "Reuse the KV of prompt beginnings already computed")
    enable_fast_blocks: bool = option(
        True, "Fuse each layer whose fused form gives the layer's own results at load"
    )
    enable_health_check: bool = option(False, "Let /health compute a real token when idle")
    api_key_file: str | None = option(
        None, "File with API keys or hashes of them, one a line; default: no key asked"
    )
    num_threads: int = option(
        0, "CPU threads for computing, of all replicas; 0: one per core", lo=0, hi=1024
    )
    replicas: int = option(
        1, "Copies of the model, each in a process (and on GPUs) of its own", lo=1, hi=64
    )
    tensor_parallel_size: int = option(
        1,
        "Processes (and GPUs) that compute each layer of a replica together",
        choices=(1, 2, 4, 8),
    )
    routing: str = option(
        "prefix_aware",
        "Which replica answers: in turn, the least loaded, or the one that knows the prompt",
        choices=("round_robin", "least_loaded", "prefix_aware"),
    )
    tool_parser: str = option(
        "auto",
        "How the model writes tool calls; auto: as its chat template shows, and models whose "
        "template knows no tools are told to write them as hermes does",
        choices=(
            "auto",
            "none",
            "deepseek-v3",
            "deepseek-v3.1",
            "glm4",
            "glm4.5",
            "hermes",
            "llama3-json",
            "mistral",
            "mistral-named",
            "qwen3-coder",
        ),
    )
    reasoning_parser: str = option(
        "auto",
        "The markers around the model's thoughts; auto: as its chat template shows",
        choices=("auto", "none", "deepseek-r1", "glm4.5", "mistral", "qwen3", "seed-oss"),
    )
    seed: int = option(0, "Seed for requests that bring none", lo=0)
    log_level: str = option(
        "info", "Least level that is logged", choices=("debug", "info", "warning", "error")
    )

    @property
    def model_name(self) -> str:
        """The name clients ask for."""
        return self.served_model_name or self.model_path.rstrip("/").rsplit("/", 1)[-1]
