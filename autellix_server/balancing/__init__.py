"""Balancers: which engine runs a call. Pure: they see engines' loads as values and never ask an engine.

| balancer | choose it when |
|---|---|
| `affinity` | programs have histories worth keeping near; calls leave an engine that is busier (the default) |
| `autellix` | the paper's Algorithm 2 is wanted: short calls spread always |
| `prefix` | programs share long prompts with one another: the same documents, the same tools |
| `least-used` | calls share nothing with one another |
| `round-robin` | calls are alike; the baseline that knows nothing |
| `hash` | gateways must agree without talking; uneven when few programs are heavy |
"""
