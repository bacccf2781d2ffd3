"""The playground: talk to a deployment, see what each answer cost, find the chat again."""
