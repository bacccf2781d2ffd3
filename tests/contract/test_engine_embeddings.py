"""/v1/embeddings: unit vectors from models made for it, a clear refusal from the others."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from engine.api.chat import Vocabulary
from engine.api.embedding import pooling_of
from engine.api.shapes import Embeddings
from engine.errors import RequestError
from tests.contract.fake_core import Harness, openai_client
from tests.contract.tiny_tokenizer import save_folder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("embedder") / "tiny"
    with Harness(folder, vocabulary, options={"task": "embed"}) as harness:
        harness.make_ready()
        yield harness


def test_the_official_client_gets_unit_vectors(embedder: Harness) -> None:
    with openai_client(embedder) as client:
        answer = client.embeddings.create(model="tiny", input=["Hé", "x"])
    # the scripted core reports sums of (1, first token of the part, 0) by part
    first, second = (entry.embedding for entry in answer.data)
    assert first == pytest.approx(_unit(1 + 2, ord("H") + "é".encode()[0], 0), rel=1e-5)
    assert second == pytest.approx(_unit(1, ord("x"), 0), rel=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4


def _unit(*values: float) -> list[float]:
    norm = sum(value**2 for value in values) ** 0.5
    return [value / norm for value in values]


def test_numbers_and_base64_are_the_same_vector(embedder: Harness) -> None:
    with httpx.Client(base_url=embedder.url, trust_env=False) as http:
        kinds = [
            http.post("/v1/embeddings", json={"input": [72, 101], "encoding_format": kind}).json()
            for kind in ("float", "base64")
        ]
    for kind in kinds:
        assert Embeddings.model_validate(kind).model_dump(exclude_unset=True) == kind
    numbers, text = (kind["data"][0]["embedding"] for kind in kinds)
    assert list(struct.unpack("<3f", base64.b64decode(text))) == numbers


def test_an_engine_for_vectors_writes_no_text(embedder: Harness) -> None:
    with httpx.Client(base_url=embedder.url, trust_env=False) as http:
        for path, body in (
            ("/v1/completions", {"prompt": "x"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ):
            response = http.post(path, json=body)
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "unsupported_task"


def test_a_chat_model_refuses_embeddings_unless_it_is_asked_to(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="--task embed") as refused:
        client.embeddings.create(model="tiny", input="x")
    assert refused.value.code == "unsupported_task"


def test_what_no_engine_can_embed_is_refused(embedder: Harness) -> None:
    with httpx.Client(base_url=embedder.url, trust_env=False) as http:
        for value in ("", [], [[]], [999], "x" * 300, 5):
            response = http.post("/v1/embeddings", json={"input": value})
            assert response.status_code == 400, value
            assert response.json()["error"]["param"].startswith("input")
        response = http.post("/v1/embeddings", json={"input": "x", "dimensions": 2})
        assert response.json()["error"]["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
    ],
)
def test_the_folder_says_how_to_pool(
    tmp_path: Path, config: dict[str, object], pooling: str
) -> None:
    folder = _sentence_transformer(tmp_path, config)
    assert pooling_of(folder) == pooling


def test_pooling_that_a_decoder_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="pooled"):
        pooling_of(_sentence_transformer(tmp_path, {"pooling_mode_cls_token": True}))
    assert pooling_of(tmp_path / "elsewhere") is None


def _sentence_transformer(tmp_path: Path, config: dict[str, object]) -> Path:
    folder = save_folder(tmp_path / "tiny")
    (folder / "1_Pooling").mkdir()
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder
