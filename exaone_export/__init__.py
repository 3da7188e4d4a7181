"""EXAONE 4 from a Hugging Face checkpoint to production runtimes.

The package's rooms are imported by name (``exaone_export.exporter``, ``exaone_export.graphs``,
``exaone_export.runtime``); importing the package itself loads neither torch nor a runtime.
"""

__version__ = "0.1.0"
