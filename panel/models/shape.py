"""What sizing needs to know of a model: layers, heads, parameters, KV per token.

Facts come from config.json and, where the weights are, from safetensors headers; nothing is guessed
from a name, and no tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from engine.footprint import LinearShape, kv_bytes_per_token
from panel.errors import ModelFolderError
from panel.models import catalog, families, hubs, library
from panel.models.count import ask_transformers
from panel.models.headers import Stored, read_config, read_headers
from panel.models.source import ModelSource, SourceKind

_NO_KV = ("linear_attention", "mamba", "mamba2", "conv", "recurrent", "moe", "mlp")
"""Layer types of hybrid models that keep no keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """One model's numbers.

    num_params: all parameters, a tied embedding once. linears: what int8 and int4 replace.
    head_dim, v_head_dim: width of a key and of a value as the engine caches them.
    latent_width: numbers a token of MLA's compressed cache a layer, for engines that keep it so.
    num_sliding_layers: layers that look back at most sliding_window tokens.
    stored_bytes: bytes on disk by safetensors type, where headers were read; exact says just that.
    """

    name: str
    model_type: str
    architectures: tuple[str, ...] = ()
    num_layers: int
    num_kv_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    vocab_size: int
    max_positions: int
    tied: bool
    num_params: int
    linears: tuple[LinearShape, ...]
    num_experts: int = 0
    latent_width: int | None = None
    sliding_window: int | None = None
    num_sliding_layers: int = 0
    has_vision: bool = False
    quant_method: str | None = None
    stored_bytes: Mapping[str, int] | None = None
    exact: bool = False

    def kv_bytes_per_token(self, dtype: str = "bfloat16") -> int:
        """Bytes of one token's keys and values in all layers, as our engine keeps them."""
        return kv_bytes_per_token(
            num_layers=self.num_kv_layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            v_head_dim=self.v_head_dim,
            dtype=dtype,
        )

    def compressed_kv_bytes_per_token(self, dtype: str = "bfloat16") -> int:
        """The same for an engine that caches MLA's latent; other models have no smaller form."""
        if self.latent_width is None:
            return self.kv_bytes_per_token(dtype)
        return kv_bytes_per_token(
            num_layers=self.num_kv_layers,
            num_kv_heads=1,
            head_dim=self.latent_width,
            v_head_dim=0,
            dtype=dtype,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        linears = tuple(LinearShape(**shape) for shape in values["linears"])
        return cls(
            **{**values, "linears": linears, "architectures": tuple(values["architectures"])}
        )


def shape_of_source(source: ModelSource, models_path: Path) -> ModelShape:
    """The shape of any source: from the folder if it is here, else the catalog, else the hub.

    Raises SourceError (hub unreachable, gated, not found) or ModelFolderError.
    """
    folder = library.find(source, models_path)
    if folder is not None:
        return replace(shape_of_folder(folder), name=source.display_name)
    entry = catalog.entry_of(source)
    if entry is not None:
        return shape_of_config(entry.config, source.display_name, counted=entry.counted)
    if source.kind is SourceKind.LOCAL:
        read_config(Path(source.name))  # says what is wrong with it
    return shape_of_hub(source)


def shape_of_folder(folder: Path) -> ModelShape:
    """Read config.json and the weight headers. Raises ModelFolderError with file and fix."""
    config, stored = read_config(folder), read_headers(folder)
    return _with_stored(shape_of_config(config, folder.name), stored)


def shape_of_hub(source: ModelSource) -> ModelShape:
    """Ask a hub for config.json and the headers of its weight files, some 100 kB each."""
    config, stored = hubs.read_config_and_headers(source)
    shape = shape_of_config(config, source.display_name)
    return _with_stored(shape, stored) if stored else shape


def shape_of_config(
    config: Mapping[str, Any], name: str, *, counted: families.Counted | None = None
) -> ModelShape:
    """Derive the shape from a parsed config.json: by formula, else by asking transformers.

    counted: parameters already known, as in the catalog. Raises ModelFolderError where neither
    the formula nor transformers knows the architecture.
    """
    try:
        shape = _derived(config, name, counted)
    except KeyError as error:
        raise ModelFolderError(
            f"The config of {name} lacks {error}.",
            fix="Check config.json; see the model's own page.",
        ) from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelFolderError(
            f"The config of {name} has a value that cannot be: {error}.",
            fix="Check config.json; see the model's own page.",
        ) from None
    return replace(
        shape,
        model_type=config["model_type"],
        architectures=tuple(config.get("architectures") or ()),
        has_vision="vision_config" in config,
        quant_method=(config.get("quantization_config") or {}).get("quant_method"),
    )


def _derived(config: Mapping[str, Any], name: str, counted: families.Counted | None) -> ModelShape:
    """The text model's shape. A config with nonsense in it raises what Python finds first."""
    counted = counted or families.count(config)
    text: Mapping[str, Any] = _text(config)
    if counted is not None:
        return _shape(text, name, families.is_tied(text), counted)
    answer = ask_transformers(config, name)
    linears = tuple(LinearShape(*shape) for shape in answer["linears"])
    counted = families.Counted(answer["num_params"], linears)
    return _shape(answer["config"], name, answer["tied"], counted)


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config; vision-language models nest it."""
    inner = config.get("text_config")
    if not inner:
        return config
    shared = {k: config[k] for k in ("model_type", "tie_word_embeddings") if k in config}
    return {**shared, **inner}


def _shape(text: Mapping[str, Any], name: str, tied: bool, counted: families.Counted) -> ModelShape:
    layers, heads = text["num_hidden_layers"], text["num_attention_heads"]
    latent, head_dim = text.get("kv_lora_rank"), families.head_dim(text)
    sliding = _num_sliding_layers(text)
    return ModelShape(
        name=name,
        model_type=text.get("model_type", ""),
        num_layers=layers,
        num_kv_layers=sum(kind not in _NO_KV for kind in text.get("layer_types") or [""] * layers),
        hidden_size=text["hidden_size"],
        intermediate_size=text.get("intermediate_size") or 4 * text["hidden_size"],
        num_heads=heads,
        num_kv_heads=_num_kv_heads(text, heads),
        head_dim=head_dim,
        v_head_dim=text["v_head_dim"] if latent else head_dim,
        vocab_size=text["vocab_size"],
        max_positions=text.get("max_position_embeddings") or text["max_seq_len"],
        tied=tied,
        num_params=counted.num_params,
        linears=counted.linears,
        num_experts=families.num_experts(text),
        latent_width=latent + text["qk_rope_head_dim"] if latent else None,
        sliding_window=text.get("sliding_window") if sliding else None,
        num_sliding_layers=sliding,
    )


def _num_kv_heads(text: Mapping[str, Any], heads: int) -> int:
    if text.get("num_key_value_heads"):
        return text["num_key_value_heads"]
    if text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1  # falcon-7b, gpt_bigcode
    return text.get("num_kv_heads") or heads


def _num_sliding_layers(text: Mapping[str, Any]) -> int:
    if not text.get("sliding_window") or text.get("use_sliding_window") is False:
        return 0
    if text.get("layer_types"):
        return sum(kind == "sliding_attention" for kind in text["layer_types"])
    layers, kind = text["num_hidden_layers"], text.get("model_type", "")
    if kind in ("gemma2", "gpt_oss"):
        return (layers + 1) // 2
    if kind.startswith("gemma3"):
        return layers - layers // (text.get("sliding_window_pattern") or 6)
    return layers if kind in ("mistral", "mixtral", "phi3") else 0


def _with_stored(shape: ModelShape, stored: Stored) -> ModelShape:
    """Prefer what the files say. Packed weights (a quantized checkpoint) hide their true count.

    Raises ModelFolderError where the files hold less than the config's Linear weights alone.
    """
    if shape.quant_method:
        return replace(shape, stored_bytes=stored.bytes_by_dtype, exact=True)
    needed, found = sum(s.num_params for s in shape.linears), stored.num_params(shape.tied)
    if found < needed:
        raise ModelFolderError(
            f"The weight files of {shape.name} hold {found:,} parameters; its config.json "
            f"describes at least {needed:,}.",
            fix="Files are missing, or belong to another model: download it again.",
        )
    return replace(
        shape,
        num_params=found,
        stored_bytes=stored.bytes_by_dtype,
        exact=True,
    )
