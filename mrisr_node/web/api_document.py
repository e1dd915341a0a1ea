"""The OpenAPI document made complete: what an operation may answer, whatever it is for.

Routes say what they themselves answer. What the front door answers before or around them (who may,
how often, problem details) is known here alone, so no route can forget it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from mrisr_node.web.problems import Problem

__all__ = ["DocumentedAPI"]

_SAFE = frozenset({"get", "head", "options"})
_METHODS = _SAFE | {"post", "put", "patch", "delete"}
_SCHEMAS = "#/components/schemas/"
_RETRY_AFTER = {
    "Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 0}}
}
_CHALLENGE = {"WWW-Authenticate": {"schema": {"type": "string"}}}


class DocumentedAPI(FastAPI):
    """An application whose document holds for all that it answers."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            _complete(super().openapi())
        assert self.openapi_schema is not None  # noqa: S101 - FastAPI keeps what it returned
        return self.openapi_schema


def _complete(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
    schemas |= {**problem.pop("$defs", {}), "Problem": problem}
    # FastAPI's own form of an error, which nothing here answers with.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for item in document["paths"].values():
        for method in _METHODS & item.keys():
            operation = item[method]
            answers = _around(method, operation) | operation["responses"]
            operation["responses"] = dict(sorted(answers.items()))
            for parameter in operation.get("parameters", ()):
                _never_null(parameter)
            for status, answer in answers.items():
                if method == "head":  # an answer to it has no body
                    answer.pop("content", None)
                elif int(status) >= 400:
                    answer["content"] = {
                        "application/problem+json": {"schema": {"$ref": f"{_SCHEMAS}Problem"}}
                    }


def _around(method: str, operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is answered to an operation before its route is asked, or instead of it."""
    answers: dict[str, dict[str, Any]] = {
        "429": {"description": "too many requests", "headers": _RETRY_AFTER},
        "503": {
            "description": "the records, or the audit trail, cannot be written now",
            "headers": _RETRY_AFTER,
        },
    }
    security = operation.get("security")
    if security:
        answers["401"] = {"description": "no valid credentials", "headers": _CHALLENGE}
    if security and (method not in _SAFE or any(s for one in security for s in one.values())):
        answers["403"] = {"description": "without the permission; or by a cookie from another site"}
    if not security:
        answers["413"] = {"description": "longer than what signing in needs"}
    if "application/json" in operation.get("requestBody", {}).get("content", ()):
        answers["400"] = {"description": "the body cannot be read"}
    if operation["responses"].get("422"):
        # Whatever FastAPI says of it: the schema is replaced, with those of all other errors.
        operation["responses"]["422"] = {"description": "values that cannot be used"}
    return answers


def _never_null(parameter: dict[str, Any]) -> None:
    """Say of a parameter what is true of all: it can be left out, but text is never null."""
    schema = parameter["schema"]
    kinds = [one for one in schema.pop("anyOf", ()) if one != {"type": "null"}]
    if len(kinds) == 1:
        schema |= kinds[0]
    elif kinds:
        schema["anyOf"] = kinds
