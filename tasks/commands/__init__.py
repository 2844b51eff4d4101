"""The commands of ``rcarena``, one file each; ``tasks.cli`` puts them together."""
