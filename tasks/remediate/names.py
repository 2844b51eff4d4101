"""Names of policies that others than the policies know: readers of results import no policy."""

NONE, ORACLE = "none", "oracle"
FORGED = "forged"
"""The family of policies that act by the table on a diagnosis that is wrong on purpose."""
