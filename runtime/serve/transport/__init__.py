"""What every request passes before its route, and how answers leave: connections, keys, strict JSON, events."""
