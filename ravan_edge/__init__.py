"""The kit that runs on a device or a laptop: train, merge, simulate. Never imports a training framework."""
