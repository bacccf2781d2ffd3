"""A tokenizer of single bytes with a chat template, made in a moment, for tests of the engine.

Every character outside ASCII takes several tokens, so text is split in the worst possible places.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<|im_start|>", "<|im_end|>"
BOS_ID, EOS_ID = 256, 257
VOCAB_SIZE = 258

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if messages[0]['content'] == 'refuse me' %}{{ raise_exception('no thanks') }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Token ids 0 … 255 are the bytes."""
    characters = _byte_characters()
    tokenizer = Tokenizer(models.BPE(vocab=characters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (BOS, EOS)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)
    fast.chat_template = TEMPLATE
    return fast


def save_folder(folder: Path, config: dict[str, object] | None = None) -> Path:
    """A model's folder as far as the API process reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer().save_pretrained(folder)
    values = config or {"model_type": "llama", "eos_token_id": EOS_ID}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def _byte_characters() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
