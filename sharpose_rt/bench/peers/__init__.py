"""Programs that run a peer over the clip and the boxes of a comparison, each by the Python of its own environment."""
