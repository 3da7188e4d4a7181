"""What an export will do, decided before any weight is read."""
