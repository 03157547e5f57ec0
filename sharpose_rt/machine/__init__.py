"""The machine that this runs on: its cores and processor, files and downloads, and what was found out about it."""
