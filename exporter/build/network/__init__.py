"""The parsed network, held to the model: its attention, caches and inputs."""
