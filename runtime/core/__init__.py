"""Cache memory and steps: buffers, eviction, rollback, guesses, cancellation."""
