"""The table of scores on many data sets (``rcarena benchmark``, docs/datasets.md)."""
