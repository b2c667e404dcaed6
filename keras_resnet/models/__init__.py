"""Single models: what they know about themselves, loading, inputs and outputs."""
