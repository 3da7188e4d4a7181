"""The artifact: reading, writing, checking and signing a folder."""
