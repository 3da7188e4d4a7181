"""Writing an artifact: graph, data file, small files, manifest, and the journal that lets an interrupted export continue."""
