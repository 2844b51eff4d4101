"""Actions that may cure a fault: what each does and cures, and how it is carried out safely."""
