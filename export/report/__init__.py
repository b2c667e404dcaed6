"""Reports of exports: figures, pages and timing."""
