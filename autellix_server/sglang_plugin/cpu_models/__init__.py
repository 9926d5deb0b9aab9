"""The model classes a CPU engine looks in first, as SGLang's ``SGLANG_EXTERNAL_MODEL_PACKAGE`` takes them.

With such a package SGLang imports its own 200 model files only when it is asked for an architecture that is not here.
"""
