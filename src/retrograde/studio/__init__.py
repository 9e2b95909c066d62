"""A page in the browser that shows what a plan does: its samples as they form, its levels, its table, a fit.

`retrograde studio` serves it on this machine. The page is files of this package; it asks nothing of other hosts.
"""

from retrograde.errors import MissingExtra

try:
    from retrograde.studio.app import create
    from retrograde.studio.serve import serve
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith("retrograde"):
        raise
    raise MissingExtra(error.name, "studio") from error

__all__ = ["create", "serve"]
