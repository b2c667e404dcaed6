"""Tools of the documentation: `build.py` builds the site, `refresh.py` renews outputs and pictures."""
