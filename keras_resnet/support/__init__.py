"""What every part needs and no network is in: files, terminal, processes, versions."""
