"""What is compared."""

STOCK_VARIABLES = {"AUTELLIX_CPU_OPS": "off"}
STOCK_ARGUMENTS = ("--attention-backend", "torch_native")
