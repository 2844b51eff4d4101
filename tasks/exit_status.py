"""Exit statuses of the commands, as parents read them."""

FAILED = 1
"""The next try may succeed."""

HOPELESS = 2
"""Wrong usage or parameters, or a fault that this stack cannot have: the next try will end the same way."""
