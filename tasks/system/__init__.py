"""What operating systems give: locks, files that survive a crash, processes, scratch directories."""
