"""What API process and core send each other arrives as it was."""

from __future__ import annotations

import struct

import pytest

from engine.core.messages import (
    MAX_FRAME_BYTES,
    Abort,
    Decoder,
    Failed,
    Fatal,
    Loading,
    Message,
    Output,
    Ready,
    SamplingParams,
    Stats,
    Step,
    Submit,
    encode,
)

STATS = Stats(1, 2, 3, 4, 5, 6, 7, 8, 9)
SAMPLING = SamplingParams(
    max_new_tokens=5, seed=2**62, stop_token_ids=(1, 2), logit_bias=((3, 0.5), (4, -1.0))
)
MESSAGES: list[Message] = [
    Submit("r-1", [1, 2, 3], SAMPLING),
    Submit("r-2", [7], SamplingParams(max_new_tokens=1, temperature=0.0, logprobs=3)),
    Abort("r-1"),
    Loading("load", 0.5, "1 of 2 層"),
    Ready("llama", "cpu", "float32", "reference", 1, 2, 3, 64, 256, 0.5, 0.1, 2**40),
    Step([], STATS),
    Step([Output("r-1", [5]), Output("r-2", [6], "stop", [[-0.5, [[6, -0.5]]]], 64)], STATS),
    Failed("r-1", "request", "too long"),
    Fatal("ModelTooLarge", "14 GiB", "Choose int8."),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert Decoder().feed(encode(message)) == [message]


@pytest.mark.parametrize("size", [1, 3, 17, 10_000])
def test_messages_arrive_whole_however_the_bytes_are_cut(size: int) -> None:
    data = b"".join(map(encode, MESSAGES))
    decoder = Decoder()
    got = [m for at in range(0, len(data), size) for m in decoder.feed(data[at : at + size])]
    assert got == MESSAGES


def test_a_frame_above_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match=str(MAX_FRAME_BYTES)):
        Decoder().feed(struct.pack(">I", MAX_FRAME_BYTES + 1))
