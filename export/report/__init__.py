"""What an export is told of afterwards: its figures, their page, and how they are timed."""
