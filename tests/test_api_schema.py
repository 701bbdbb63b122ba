from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.openapi import HOT_PATHS
from tests.support import ready_instance

METHODS = ("get", "post", "delete")
OPERATIONS = [(path, method) for path, item in HOT_PATHS.items() for method in METHODS if method in item]
OPERATIONS += [("/livez", "get"), ("/readyz", "get")]
CASES = [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
CASES += [(path, method, GenerationMode.NEGATIVE) for path, method in OPERATIONS if method == "post"]
"""What fits the document; and what does not, where that is possible: any text is a path's parameter."""

BEYOND_THE_DOCUMENT = {
    "batch_invalid",
    "idempotency_key_reused",
    "cursor_invalid",
    "invalid_parameter",
    "patient_index_off",
    "too_many_windows",
}
"""What fits the document, which cannot know what came before, that a strict batch takes usages alone, which cursors there are, or that from is after to."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document that a running instance serves: one that lists no other test's usages, which may be more than a parser takes."""
    with ready_instance(tmp_path_factory.mktemp("schema")) as instance:
        yield schemathesis.openapi.from_url(f"http://{instance.address[0]}:{instance.address[1]}/openapi.json")


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_every_answer_is_one_that_the_document_promises(api: Any, path: str, method: str, mode: GenerationMode):
    """No 5xx, no undocumented status, type, header or shape, whether a request fits the document or not."""
    asked = []

    @seed(20161101)
    @settings(
        max_examples=20,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
        database=None,
    )
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        response = case.call(timeout=20)
        asked.append(response)
        refused = response.status_code in (400, 422) and response.json()["code"] in BEYOND_THE_DOCUMENT
        case.validate_response(response, excluded_checks=[positive_data_acceptance] if refused else [])

    ask()
    assert asked


def test_the_tested_operations_are_all_there_are(api: Any):
    """A new route is tested, too."""
    documented = {(operation.ok().path, operation.ok().method) for operation in api.get_all_operations()}
    assert documented == set(OPERATIONS)
