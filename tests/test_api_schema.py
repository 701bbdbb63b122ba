from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.openapi import HOT_PATHS
from tests.support import WebInstance

METHODS = ("get", "post", "delete")
OPERATIONS = [(path, method) for path, item in HOT_PATHS.items() for method in METHODS if method in item]
OPERATIONS += [("/livez", "get"), ("/readyz", "get")]
CASES = [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
CASES += [(path, method, GenerationMode.NEGATIVE) for path, method in OPERATIONS if method == "post"]
"""What fits the document; and what does not, where that is possible: any text is a path's parameter."""


@pytest.fixture(scope="module")
def api(instance: WebInstance) -> Any:
    """The document that the running instance serves."""
    return schemathesis.openapi.from_url(f"http://{instance.address[0]}:{instance.address[1]}/openapi.json")


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
        reused = response.status_code == 422 and response.json()["code"] == "idempotency_key_reused"
        # A key that came before with another body fits the document, which cannot know what came before.
        case.validate_response(response, excluded_checks=[positive_data_acceptance] if reused else [])

    ask()
    assert asked


def test_the_tested_operations_are_all_there_are(api: Any):
    """A new route is tested, too."""
    documented = {(operation.ok().path, operation.ok().method) for operation in api.get_all_operations()}
    assert documented == set(OPERATIONS)
