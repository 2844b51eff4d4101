"""Which cases a campaign has, when each of its phases is, and how a case is recorded."""
