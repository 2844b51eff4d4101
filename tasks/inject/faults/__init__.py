"""One file per fault kind; each registers itself with the catalogue."""
