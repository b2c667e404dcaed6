"""The papers' claims on a network of one's own: lesions, responses, gradients, explanations."""
