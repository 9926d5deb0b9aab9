"""KV between a device and host memory, in as few and as large transfers as the hardware likes.

```python
from autellix_kernels import DevicePool, HostPool, swap_in, swap_out

device_pool = DevicePool.mha(keys, values)  # of each layer, [slots, heads, dim]
host_pool = HostPool.beside(device_pool, "page_first", pages=4096, page_size=16)
swap_out(device_pool, host_pool, device_slots, host_slots)
for layer in range(device_pool.layers):
    swap_in(device_pool, host_pool, device_slots, host_slots, layer)
```

`reference` says in plain indexing what a swap is; every other implementation has to leave the same bits.
"""

from autellix_kernels.errors import SwapError
from autellix_kernels.layout import HostLayout
from autellix_kernels.pools import DevicePool, HostPool
from autellix_kernels.route import Route
from autellix_kernels.select import Choice
from autellix_kernels.sums import PageSums
from autellix_kernels.swap import choice, swap_in, swap_out
from autellix_kernels.transfer import Direction

__all__ = [
    "Choice",
    "DevicePool",
    "Direction",
    "HostLayout",
    "HostPool",
    "PageSums",
    "Route",
    "SwapError",
    "choice",
    "swap_in",
    "swap_out",
]
