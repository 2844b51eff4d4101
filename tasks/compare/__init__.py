"""Two campaigns side by side, and whether one is worse by more than luck."""
