"""From a request's fields to the engine's sampling parameters; pure.

What a request leaves open comes from the model's generation_config.json, then from OpenAI's
defaults. What cannot fit is refused here, with both numbers, before the core hears of it.
"""

from __future__ import annotations

from engine.api.chat import Vocabulary
from engine.api.protocol import GenerationRequest
from engine.core.messages import SamplingParams
from engine.errors import ContextLengthExceeded, RequestError


def sampling_params(
    request: GenerationRequest,
    vocabulary: Vocabulary,
    *,
    max_new_tokens: int,
    choice: int,
    grammar: str | None = None,
) -> SamplingParams:
    """The parameters of one choice. Raises RequestError for a bias on a token that is not there."""
    defaults = vocabulary.sampling_defaults

    def chosen(name: str, otherwise: float) -> float:
        value = getattr(request, name)
        return defaults.get(name, otherwise) if value is None else value

    return SamplingParams(
        max_new_tokens=max_new_tokens,
        temperature=float(chosen("temperature", 1.0)),
        top_p=float(chosen("top_p", 1.0)),
        top_k=max(0, int(chosen("top_k", 0))),
        min_p=float(chosen("min_p", 0.0)),
        presence_penalty=float(request.presence_penalty),
        frequency_penalty=float(request.frequency_penalty),
        repetition_penalty=float(chosen("repetition_penalty", 1.0)),
        seed=None if request.seed is None else (request.seed + choice) % 2**63,
        stop_token_ids=() if request.ignore_eos else vocabulary.stop_ids,
        logit_bias=_logit_bias(request, vocabulary),
        logprobs=request.num_logprobs,
        grammar=grammar,
        prompt_logprobs=request.num_prompt_logprobs,
    )


def timeout_s(request: GenerationRequest, limit_s: float | None) -> float | None:
    """Seconds that the request may take: what it asks for, within the engine's own limit."""
    wished = [seconds for seconds in (request.timeout, limit_s) if seconds is not None]
    return min(wished, default=None)


def room_for(request: GenerationRequest, *, num_prompt_tokens: int, max_seq_length: int) -> int:
    """How many tokens the answer may have.

    Raises ContextLengthExceeded where the prompt, or the prompt with the asked answer, is longer
    than the engine's limit.
    """
    param = "messages" if hasattr(request, "messages") else "prompt"
    room = room_after(num_prompt_tokens, max_seq_length=max_seq_length, param=param)
    limit = request.token_limit
    if limit is None:
        return room
    if limit > room:
        raise ContextLengthExceeded(
            f"{limit} tokens were asked for after a prompt of {num_prompt_tokens} tokens; this "
            f"engine takes {max_seq_length} tokens for both together.",
            fix=f"Ask for at most {room} tokens.",
            param="max_tokens",
            code="context_length_exceeded",
        )
    return limit


def room_after(num_prompt_tokens: int, *, max_seq_length: int, param: str) -> int:
    """Tokens that are left, at least one. Raises RequestError for an empty prompt,
    ContextLengthExceeded for one that fills the engine's limit."""
    if num_prompt_tokens == 0:
        raise RequestError("The prompt is empty.", fix="Send at least one token.", param=param)
    room = max_seq_length - num_prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"The prompt has {num_prompt_tokens} tokens; this engine takes {max_seq_length} tokens "
            f"for prompt and answer together.",
            fix="Shorten the prompt, or start the engine with a larger --max-seq-length.",
            param=param,
            code="context_length_exceeded",
        )
    return room


def _logit_bias(
    request: GenerationRequest, vocabulary: Vocabulary
) -> tuple[tuple[int, float], ...]:
    biases: list[tuple[int, float]] = []
    for name, bias in request.logit_bias.items():
        if not name.isascii() or not name.isdigit() or int(name) >= vocabulary.size:
            raise RequestError(
                f"logit_bias names the token {name!r}; token ids are 0 … {vocabulary.size - 1}.",
                param="logit_bias",
            )
        biases.append((int(name), float(bias)))
    return tuple(biases)
