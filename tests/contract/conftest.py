"""The engine's API with a scripted core behind the real socket, and clients for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import openai
import pytest

from engine.api.chat import Vocabulary, load
from tests.contract.fake_core import Harness, openai_client
from tests.contract.tiny_tokenizer import save_folder


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return load(save_folder(tmp_path_factory.mktemp("vocabulary") / "tiny"))


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary
) -> Iterator[Callable[[], Harness]]:
    """Gives a ready engine: the one of the tests before, unless they killed its core."""
    with ExitStack() as stack:
        engines: list[Harness] = []

        def get() -> Harness:
            if not engines or engines[-1].link.lost.is_set():
                folder = tmp_path_factory.mktemp("engine") / "tiny"
                engines.append(stack.enter_context(Harness(folder, vocabulary)))
                engines[-1].make_ready()
            return engines[-1]

        yield get


@pytest.fixture
def harness(running: Callable[[], Harness]) -> Harness:
    engine = running()
    engine.call(engine.core.forget)
    return engine


@pytest.fixture
def http(harness: Harness) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=harness.url, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def client(harness: Harness) -> Iterator[openai.OpenAI]:
    with openai_client(harness) as client:
        yield client
