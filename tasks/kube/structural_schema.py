"""The schema of a custom resource, from its pydantic model, as a CustomResourceDefinition takes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_KEPT = ("type", "format", "description", "enum", "minLength", "minimum", "maximum", "required")
_RULES = "x-kubernetes-validations"


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of ``model`` by its aliases: without references, ``null`` and titles.

    A field that may be None may be absent, as in the documents of the API.
    """
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.get("$defs", {}))


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in node:
        (given,) = (each for each in node["anyOf"] if each.get("type") != "null")
        node = {**given, **{key: value for key, value in node.items() if key != "anyOf"}}
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    found = {key: node[key] for key in (*_KEPT, _RULES) if key in node}
    if "exclusiveMinimum" in node:
        found |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
    if "properties" in node:
        found["properties"] = {name: _structural(each, definitions) for name, each in node["properties"].items()}
    if "items" in node:
        found["items"] = _structural(node["items"], definitions)
    return found
