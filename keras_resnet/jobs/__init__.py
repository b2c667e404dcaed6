"""Jobs behind single commands, which combine training, export and reports."""
