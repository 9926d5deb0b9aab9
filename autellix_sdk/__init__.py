"""Autellix client: two lines that make an agent's calls one program.

```python
import autellix_sdk as autellix

autellix.init("http://127.0.0.1:8700/v1")

with autellix.program("research") as p:
    ...  # OpenAI and httpx calls made in here, in tasks and in threads, are one program
print(p.bill())
```

Importing changes nothing; `init` wraps what has to be wrapped, `shutdown` puts it back. Nothing of ours is ever raised
into a call of yours.
"""

from autellix_sdk._aiohttp import aiohttp_trace_config
from autellix_sdk._api import current, headers, init, shutdown, watch, wrap
from autellix_sdk._carry import extract, inject
from autellix_sdk._handles import Attachment, Handle, bind, capture
from autellix_sdk._middleware import asgi, wsgi
from autellix_sdk._programs import Program
from autellix_sdk._scope import Scope, program
from autellix_sdk._spawns import task_factory
from autellix_sdk._watch import Finished, Watch
from autellix_sdk.bill import ProgramBill, TimeSplit
from autellix_sdk.errors import AutellixError, ConfigurationError, UsageError

__all__ = [
    "Attachment",
    "AutellixError",
    "ConfigurationError",
    "Finished",
    "Handle",
    "Program",
    "ProgramBill",
    "Scope",
    "TimeSplit",
    "UsageError",
    "Watch",
    "aiohttp_trace_config",
    "asgi",
    "bind",
    "capture",
    "current",
    "extract",
    "headers",
    "init",
    "inject",
    "program",
    "shutdown",
    "task_factory",
    "watch",
    "wrap",
    "wsgi",
]
