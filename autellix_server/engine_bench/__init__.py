"""The CPU engine beside SGLang as it is shipped, and beside other servers: speed, start-up, memory, and the floor."""
