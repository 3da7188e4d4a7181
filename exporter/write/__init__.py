"""Writing an artifact: graph, data file, small files, manifest, and the journal of an export's progress."""
