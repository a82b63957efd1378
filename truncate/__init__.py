"""truncate: the model, stopped at a layer."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truncate._public import *  # noqa: F403

    __version__: str
else:
    # Imported when the first of them is asked for: importing torch takes seconds, and help and completion do without.
    def __getattr__(name):
        if name == "__version__":  # stated in setup.cfg; a copy that is not installed has none
            try:
                return metadata.version("torch-truncate")
            except metadata.PackageNotFoundError:
                pass
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("truncate._public"), name)

    def __dir__():
        return import_module("truncate._public").__all__
