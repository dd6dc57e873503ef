"""Families of files made by the libraries themselves, for `foreign_files.py`; add a module for another."""
