"""The machine that this runs on: cores, processor, files, downloads, and a cache of what was measured on it."""
