"""Tools of the documentation: `build` makes the site, `refresh` renews outputs and pictures."""
