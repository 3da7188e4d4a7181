"""One pass per file; `exaone_export.graphs.pipelines` says which target takes which."""
