"""Balancers: which engine runs a call. Pure: they see engines' loads as values and never ask an engine.

| balancer | choose it when |
|---|---|
| `autellix` | programs have histories worth keeping near; short calls still spread (the default) |
| `prefix` | programs share long prompts with one another: the same documents, the same tools |
| `least-used` | calls share nothing with one another |
| `round-robin` | calls are alike; the baseline that knows nothing |
| `hash` | gateways must agree without talking; uneven when few programs are heavy |
"""
