"""What the commands of ``rcarena`` do, by concern; ``tasks.cli`` puts them together."""
