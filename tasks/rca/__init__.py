"""RCA methods: the contract that they keep, their registry, their building blocks, and what runs them."""
