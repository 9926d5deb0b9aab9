"""``import autellix_sdk.auto`` switches the client on with the settings of the environment."""

from autellix_sdk._session import init

init()
