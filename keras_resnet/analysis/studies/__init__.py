"""Studies of the papers' claims: degradation, shortcuts, lesions, paths, gradients, responses."""
