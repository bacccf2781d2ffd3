"""The commands of `autoglm`, one module for each thing people do."""
