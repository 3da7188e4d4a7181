"""What an export and a run take: memory, disk, and what fits."""
