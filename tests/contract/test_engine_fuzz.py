"""Thousands of requests made from the served OpenAPI document, good and bad: none makes a 5xx,
and every answer is one that the document foretells."""

from __future__ import annotations

from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.fake_core import Harness, Script

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
CASES = {"chat": 40, "tokenize": 40, "completions": 180, "embeddings": 250, "detokenize": 500}
"""For each handler with a body, as often good as bad: 2,020 in all. Making a conversation with
tools and schemas takes 28 ms, making a list of tokens 8."""
CASES_WITHOUT_BODY = 3


def test_no_request_that_the_document_allows_or_forbids_makes_the_engine_fail(
    harness: Harness,
) -> None:
    harness.core.script = Script(per_step=100)
    schema = schemathesis.openapi.from_url(harness.url + "/openapi.json")
    counts: Counter[int] = Counter()
    with requests.Session() as session:
        session.trust_env = False
        for result in schema.get_all_operations():
            operation = result.ok()
            modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
            for mode in modes if operation.method == "post" else modes[:1]:
                try_cases(operation, mode, session, counts)
    assert sum(counts.values()) >= 2000, counts
    assert counts[200] >= 100
    assert harness.link.num_open == 0


def try_cases(
    operation: Any, mode: GenerationMode, session: requests.Session, counts: Counter[int]
) -> None:
    name = operation.definition.raw["operationId"]

    @settings(
        max_examples=CASES.get(name, CASES_WITHOUT_BODY),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def try_case(case: Any) -> None:
        response = case.call(session=session)
        counts[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    try_case()
