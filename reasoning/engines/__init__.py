"""Engines: one seam (base.py), one file or folder for each kind of server or library."""
