"""Cache memory and steps: buffers, eviction, rollback, cancellation; needs neither torch nor a runtime."""
