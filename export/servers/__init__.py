"""SavedModels, and directories for TF Serving, Triton and KServe."""
