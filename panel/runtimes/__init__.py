"""What runs on a target: a Plan turned into a command line."""
