"""Numbers about an artifact, each measured on the thing it names; what cannot be measured says why."""
