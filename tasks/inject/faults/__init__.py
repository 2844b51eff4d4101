"""The fault kinds: one file each, which registers itself."""
