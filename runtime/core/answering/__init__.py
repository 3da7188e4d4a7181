"""An answer, token by token or guess by guess."""
