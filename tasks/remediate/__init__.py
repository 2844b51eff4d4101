"""Recovery driven by a diagnosis: guards, policies, the loop from alarm to recovery, and the experiment with them."""
