"""Cases for the tests of scores."""

from __future__ import annotations

from tasks.case import Case
from tests.copies import copied


def with_metrics(case: Case, *metrics: str) -> Case:
    """The same case, whose injections say which metrics of the target name the fault."""
    injections = tuple(injection.model_copy(update={"metrics": metrics}) for injection in case.record.injections)
    return with_injections(case, injections)


def with_injections(case: Case, injections: tuple[object, ...]) -> Case:
    """The same case with other injections."""
    return copied(case, case.record.model_copy(update={"injections": injections}))
