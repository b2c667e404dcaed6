"""Single models: information that they carry, loading, inputs and outputs."""
