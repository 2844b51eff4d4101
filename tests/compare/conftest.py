"""The finished campaign that recording is tested with."""

from tests.record.conftest import campaign, finished

__all__ = ["campaign", "finished"]
