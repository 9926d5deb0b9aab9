"""What an engine loads its model from, as ``SGLANG_EXTERNAL_MODEL_PACKAGE``, to have host memory that loses KV."""
