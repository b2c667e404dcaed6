"""Utilities that every part needs: files, terminal, processes, versions."""
