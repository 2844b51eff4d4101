"""A backend in one folder, as another package could have it: a process that answers as a gateway with engines would.

Nothing outside this folder knows it; ``tests/backends/test_toy.py`` installs it by an entry point.
"""

from tests.backends.toy import backend as backend
