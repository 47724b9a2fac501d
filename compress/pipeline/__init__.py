"""Plan, execute, deliver: a run from its request to its folder."""
