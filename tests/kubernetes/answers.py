"""Answers of the emulated API server that are no success, worded as the real one does."""

from __future__ import annotations

from typing import Any

from tasks.kube.resources import Resource

Object = dict[str, Any]


class ApiError(Exception):
    def __init__(self, status: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.details = status, reason, message, details or {}

    def document(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.status,
        }


def unknown_kind() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{_plural(resource)} "{name}" not found', details(resource, name))


def already_exists(resource: Resource, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{_plural(resource)} "{name}" already exists', details(resource, name))


def modified(resource: Resource, name: str) -> ApiError:
    message = (
        f'Operation cannot be fulfilled on {_plural(resource)} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return ApiError(409, "Conflict", message, details(resource, name))


def other_uid(resource: Resource, name: str, wanted: str, found: str) -> ApiError:
    message = f"the UID in the precondition ({wanted}) does not match the UID in record ({found})"
    return ApiError(409, "Conflict", f'{_plural(resource)} "{name}": {message}', details(resource, name))


def owned_by_others(resource: Resource, name: str, fields: list[str]) -> ApiError:
    causes = [{"reason": "FieldManagerConflict", "message": "conflict", "field": field} for field in fields]
    message = f"Apply failed with {len(fields)} conflicts: {', '.join(fields)}"
    return ApiError(409, "Conflict", message, {**details(resource, name), "causes": causes})


def invalid(resource: Resource, name: str, problems: list[tuple[str, str]]) -> ApiError:
    """``problems``: (field, what is wrong)."""
    causes = [{"reason": "FieldValueInvalid", "message": text, "field": field} for field, text in problems]
    listed = ", ".join(f"{field}: {text}" for field, text in problems)
    message = f'{resource.kind} "{name}" is invalid: {listed}'
    return ApiError(422, "Invalid", message, {**details(resource, name), "causes": causes})


def details(resource: Resource, name: str) -> Object:
    return {"name": name, "group": resource.group, "kind": resource.plural}


def _plural(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural
