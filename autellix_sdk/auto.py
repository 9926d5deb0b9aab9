"""``import autellix_sdk.auto`` switches the client on with the settings of the environment.

With ``AUTELLIX_WATCH=1`` it also watches: one line on standard error for each program that finishes.
"""

import os

from autellix_sdk._api import init, watch
from autellix_sdk.errors import ConfigurationError

_watched = os.environ.get("AUTELLIX_WATCH", "")
if _watched not in ("", "0", "1"):
    raise ConfigurationError(f"AUTELLIX_WATCH={_watched!r} is not 0 or 1; correct or unset it")
init()
if _watched == "1":
    watch()
