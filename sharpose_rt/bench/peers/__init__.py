"""Programs that run a peer on the frames and boxes of a comparison, each with the Python of its own environment."""
