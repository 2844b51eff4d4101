"""The simulated backend: cases that are computed, with the load, the faults and the contract of real ones."""

from tasks.backends.simulated import backend as backend
