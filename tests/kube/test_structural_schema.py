from typing import Annotated

from pydantic import BaseModel, Field

from tasks.kube.structural_schema import structural_schema


class Inner(BaseModel):
    """What an inner object is."""

    size: Annotated[int, Field(ge=1, le=9)]


class Outer(BaseModel):
    inner: Inner
    maybe: Annotated[Inner | None, Field(description="One more.")] = None
    many: tuple[Inner, ...] = ()
    share: Annotated[float | None, Field(gt=0)] = None


def test_references_null_titles_and_defaults_are_gone() -> None:
    inner = {
        "type": "object",
        "description": "What an inner object is.",
        "required": ["size"],
        "properties": {"size": {"type": "integer", "minimum": 1, "maximum": 9}},
    }
    assert structural_schema(Outer) == {
        "type": "object",
        "required": ["inner"],
        "properties": {
            "inner": inner,
            "maybe": inner | {"description": "One more."},
            "many": {"type": "array", "items": inner},
            "share": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        },
    }
