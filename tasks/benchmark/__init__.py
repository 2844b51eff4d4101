"""Many data sets in one table: the scores of docs/datasets.md, from a command that anyone can run."""
