"""Plugin support: ``exaone::HybridAttention`` stays one node, which a user's plugin runs."""

from __future__ import annotations

import importlib
from typing import Any

from exaone_export.errors import TargetError
from exaone_export.graphs.hybrid_attention import DOMAIN, NAME, VERSION
from exaone_export.targets.flavour import Flavour
from exaone_export.targets.target import Target


def check_plugin_option(target: Target, flavour: Flavour, module: str | None) -> None:
    """Refuse a build whose plugin is missing, or given although the graph has no node for one.

    Raises:
        TargetError: It is so.
    """
    if target.needs_plugin and module is None:
        raise TargetError(
            f"target {target.name} leaves {DOMAIN}::{NAME} to a plugin, and none is given; "
            f"pass --plugin MODULE, a Python module that registers one with {flavour.title}."
        )
    if module is not None and not target.needs_plugin:
        raise TargetError(
            f"--plugin {module} is for target tensorrt-plugin, and the artifact's target is {target.name}; "
            f"leave the option out, or run: exaone-export export MODEL ARTIFACT --target tensorrt-plugin."
        )


def load_plugin(trt: Any, flavour: Flavour, module: str) -> None:
    """Import the user's module, and check that it has registered the plugin.

    Raises:
        TargetError: The module cannot be imported, or registers no creator of that name, version and namespace; or
            networks of this flavour hold no plugins.
    """
    if not flavour.plugins:  # Its parser would end the process.
        raise TargetError(f"{flavour.title} takes no plugins; run: pip install 'exaone-export[tensorrt]'.")
    try:
        importlib.import_module(module)
    except Exception as cause:  # The module is the user's: whatever it raises is theirs to read.
        raise TargetError(
            f"--plugin {module} cannot be imported ({type(cause).__name__}: {cause}); "
            f"give a module that python -c 'import {module}' takes."
        ) from cause
    if not is_registered(trt):
        raise TargetError(
            f"--plugin {module} registers no plugin {NAME} of version {VERSION} in namespace {DOMAIN!r}; "
            f"register its creator with {trt.__name__}.get_plugin_registry() when the module is imported."
        )


def is_registered(trt: Any) -> bool:
    """Whether a creator of the node's plugin is in the registry."""
    return trt.get_plugin_registry().get_creator(NAME, str(VERSION), DOMAIN) is not None
