"""English sentences for a fit and its notes, for the command line; pages translate the codes."""

from __future__ import annotations

from panel.sizing.fit import Fit, Note, Verdict

SENTENCES = {
    "context_beyond_model": "The model itself handles {max_positions:,} tokens at most.",
    "cpu_is_slow": "On a CPU a model of {billions:.1f} billion parameters answers slowly.",
    "cpu_without_bfloat16": "This CPU has no bfloat16 instructions: float32 or int8 is faster.",
    "gpu_without_bfloat16": "This GPU has no bfloat16 units; the engine emulates it, slowly.",
    "sliding_window": (
        "{num_layers} layers look back only {window:,} tokens; "
        "an engine that uses this needs less KV cache than is counted here."
    ),
    "latent_kv": (
        "An engine that caches the compressed form needs {bytes_per_token:,} bytes a token of KV."
    ),
    "experts_not_quantized": "The {num_experts} experts of a layer are not quantized.",
    "quantized_checkpoint": (
        "The files are already quantized ({method}); sizes here are those of the full weights."
    ),
    "vision_not_sized": "Memory for images is not counted yet.",
    "hybrid_layers": "Only {num_kv_layers} layers keep keys and values.",
    "bf16_needs_more": (
        "In bfloat16 its weights alone are {weights_gib:.1f} GiB; "
        "{device} with {capacity_gib:.1f} GiB takes it in {precisions} only."
    ),
    "cpu_only": "There is no GPU: choose the demo model, or be patient with a 7B one.",
    "below_small_tier": (
        "The 7B class asks for {gpu_gb} GB of GPU memory and {ram_gb} GB of RAM; this machine "
        "has {has_gpu_gb:.0f} and {has_ram_gb:.0f} GB."
    ),
}

_VERDICTS = {
    Verdict.FITS: "fits",
    Verdict.TIGHT: "fits tightly",
    Verdict.TOO_LARGE: "does not fit",
}


def gib(num_bytes: float) -> str:
    """Bytes as GiB with one decimal, the way memory is sold and reported."""
    return f"{num_bytes / 2**30:.1f}"


def sentence(note: Note) -> str:
    """One note in English."""
    values = dict(note.values)
    if "num_params" in values:
        values["billions"] = values["num_params"] / 1e9
    return SENTENCES[note.code].format(**values)


def summary(fit: Fit) -> str:
    """One line: what it needs, what there is, the verdict, and the most that would fit."""
    need = f"{gib(fit.total_bytes)} ± {gib(fit.error_bytes)} GiB"
    line = (
        f"{fit.precision} {_VERDICTS[fit.verdict]}: {need} of {gib(fit.budget_bytes)} GiB "
        f"on {fit.device_name}."
    )
    if fit.max_context_tokens == 0:
        return f"{line} Its weights leave no room for a context."
    return (
        f"{line} Largest context {fit.max_context_tokens:,} tokens, "
        f"most parallel requests {fit.max_parallel_requests:,}."
    )
