"""Settings for every test."""

from hypothesis import settings

settings.register_profile("rcarena", deadline=None)
settings.load_profile("rcarena")
