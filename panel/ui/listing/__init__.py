"""The page Deployments: those that run, the history, and everything about one of them."""
