"""Strict checks of documents that go to the API server, without one.

Kinds that the ``kubernetes`` client has models for are checked against those: a field that no model has is an error, at
any depth, and so is a value of the wrong type. Other kinds are checked against the JSON schemas in ``schemas/``, which
hold only the fields that are used; where such a kind embeds a part of Kubernetes (a pod template) the schema says
``x-kubernetes-model``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tasks.deploy.kubernetes.charts import ChartRelease
from tasks.text import suggest

SCHEMAS = Path(__file__).with_name("schemas")
CHART_VALUES = "chart-values.json"
MODEL_KEYWORD = "x-kubernetes-model"
MANIFEST_KEYWORD = "x-kubernetes-manifest"

_GROUPS = {"rbac.authorization.k8s.io", "networking.k8s.io", "apiextensions.k8s.io", "storage.k8s.io", "apps", "batch"}
_SCALARS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "datetime": str,
}
_LIST = re.compile(r"^[Ll]ist\[(.+)\]$")
_MAP = re.compile(r"^[Dd]ict[\[(]str, (.+)[\])]$")
_NAME = re.compile(r"^[a-z0-9]([a-z0-9.\-]{0,251}[a-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9_.\-]{0,61}[A-Za-z0-9])?)?$")


def manifest_problems(document: dict[str, Any]) -> list[str]:
    """One line per field that is unknown, missing or of a wrong type, each with its path; empty if valid."""
    identity = [key for key in ("apiVersion", "kind") if not isinstance(document.get(key), str)]
    if identity:
        return [f"{key}: missing" for key in identity]
    api_version, kind = document["apiVersion"], document["kind"]
    schema = _kind_schemas().get((api_version, kind))
    if schema is not None:
        return [*_schema_problems(document, schema), *_metadata_problems(document)]
    model = _core_model(api_version, kind)
    if model is None:
        return [f"kind: '{kind}' of {api_version} has neither a model nor a schema in {SCHEMAS.name}/"]
    return [*_model_problems(document, model, ""), *_metadata_problems(document)]


def values_problems(release: ChartRelease) -> list[str]:
    """What is wrong with the values of a release, as far as our own list of each chart's values can tell."""
    schema = _read(CHART_VALUES)["$defs"].get(release.chart)
    if schema is None:
        return [f"chart '{release.chart}' is not in {SCHEMAS.name}/{CHART_VALUES}"]
    return [f"{release.name}: {problem}" for problem in _schema_problems(release.values, schema)]


@cache
def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    return document


@cache
def _kind_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    schemas = [_read(file.name) for file in sorted(SCHEMAS.glob("*.json")) if file.name != CHART_VALUES]
    return {
        (schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"]): schema
        for schema in schemas
    }


def _schema_problems(document: Any, schema: dict[str, Any]) -> list[str]:
    validator = _validator_class()(schema)
    errors = sorted(validator.iter_errors(document), key=lambda error: [str(part) for part in error.absolute_path])
    return [line for error in errors for line in _lines(error)]


def _lines(error: Any) -> Iterator[str]:
    path = _path(error.absolute_path)
    if error.validator in (MODEL_KEYWORD, MANIFEST_KEYWORD):
        yield f"{path}{error.message}" if error.message.startswith(("[", ":")) else _join(path, error.message)
    elif error.validator == "additionalProperties" and isinstance(error.instance, dict):
        allowed = error.schema.get("properties", {})
        for key in error.instance.keys() - allowed.keys():
            yield f"{_join(path, str(key))}: unknown field; {suggest(str(key), allowed)}"
    else:
        yield f"{path or 'document'}: {error.message}"


def _path(parts: Any) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


@cache
def _validator_class() -> Any:
    """JSON Schema with two keywords more, which hand a part of the document to the client's models."""
    from jsonschema import Draft202012Validator, ValidationError, validators

    def by_model(_validator: Any, name: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
        for problem in _model_problems(instance, _model(name), ""):
            yield ValidationError(problem)

    def by_kind(_validator: Any, _true: bool, instance: Any, _schema: Any) -> Iterator[ValidationError]:
        for problem in manifest_problems(instance) if isinstance(instance, dict) else ["must be an object"]:
            yield ValidationError(problem)

    return validators.extend(Draft202012Validator, {MODEL_KEYWORD: by_model, MANIFEST_KEYWORD: by_kind})


def _core_model(api_version: str, kind: str) -> Any | None:
    """The client's class for a kind, such as ``V1Deployment`` for Deployment of apps/v1."""
    from kubernetes.client import models

    group, _, version = api_version.rpartition("/")
    if group and group not in _GROUPS:
        return None
    return getattr(models, f"{version.capitalize()}{kind}", None)


def _model(name: str) -> Any:
    from kubernetes.client import models

    return getattr(models, name)


def _model_problems(value: Any, model: Any, path: str) -> list[str]:
    """Walks ``value`` along a model of the client, by the names that go over the wire."""
    if not isinstance(value, dict):
        return [f"{path or model.__name__}: must be an object (got {value!r})"]
    attributes = {wire: attribute for attribute, wire in model.attribute_map.items()}
    problems = [
        f"{_join(path, str(key))}: unknown field; {suggest(str(key), attributes)}"
        for key in value
        if key not in attributes
    ]
    for key in value.keys() & attributes.keys():
        problems += _typed_problems(value[key], model.openapi_types[attributes[key]], _join(path, key))
    return problems + _missing(value, model, path)


def _typed_problems(value: Any, declared: str, path: str) -> list[str]:
    if declared == "object":
        return []
    if match := _LIST.match(declared):
        if not isinstance(value, list):
            return [f"{path}: must be a list (got {value!r})"]
        return [line for i, item in enumerate(value) for line in _typed_problems(item, match[1], f"{path}[{i}]")]
    if match := _MAP.match(declared):
        if not isinstance(value, dict):
            return [f"{path}: must be an object (got {value!r})"]
        return [line for key, item in value.items() for line in _typed_problems(item, match[1], f"{path}[{key}]")]
    if declared in _SCALARS:
        right = isinstance(value, _SCALARS[declared]) and (declared == "bool" or not isinstance(value, bool))
        return [] if right else [f"{path}: must be of type {declared} (got {value!r})"]
    return _model_problems(value, _model(declared), path)


def _missing(value: dict[str, Any], model: Any, path: str) -> list[str]:
    """Required fields. Clients older than 37 keep them in code, not in data: there they are not checked."""
    fields = getattr(model, "model_fields", {})
    required = (model.attribute_map[name] for name, field in fields.items() if field.is_required())
    return [f"{_join(path, key)}: missing" for key in required if value.get(key) is None]


def _metadata_problems(document: dict[str, Any]) -> list[str]:
    """Names and labels that the API server refuses."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return ["metadata: missing"]
    name = metadata.get("name")
    problems = (
        [] if isinstance(name, str) and _NAME.match(name) else [f"metadata.name: not a valid name (got {name!r})"]
    )
    labels = metadata.get("labels")
    for key, value in labels.items() if isinstance(labels, dict) else ():
        if not isinstance(value, str) or not _LABEL_VALUE.match(value):
            problems.append(f"metadata.labels[{key}]: not a valid label value (got {value!r})")
    return problems
