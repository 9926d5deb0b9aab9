"""The only place that imports SGLang: CPU platform, hooks, accounting, ordering, HTTP side.

SGLang 0.5.23 loads `platform.activate` and `plugin.register` through its own entry points in every process it starts.
Configuration reaches all of them through environment variables (`settings`).
"""
