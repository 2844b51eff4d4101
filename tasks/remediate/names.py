"""Names of policies that others than the policies know: readers of results import no policy."""

NONE, ORACLE = "none", "oracle"
FORGED = "forged"
"""The family of policies that act by the table on a diagnosis that is wrong on purpose."""


def is_variant(policy: str) -> bool:
    """Return whether it is compared with its own kind only: it waits for longer, or acts on forged diagnoses."""
    return "@" in policy or policy.startswith(f"{FORGED}:")
