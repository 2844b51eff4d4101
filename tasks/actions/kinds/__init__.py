"""The actions: one file each, with its executors for every backend."""
