"""Utilities for all packages: files, locks, terminal, processes, versions."""
