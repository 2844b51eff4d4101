"""Building blocks that methods share: features of metrics, spans and calls."""
