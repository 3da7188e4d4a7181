"""The graph, its data file, and the journal that lets an export go on."""
