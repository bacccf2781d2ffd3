"""Where an engine runs. One module a target; `process` needs nothing but this machine."""
