"""The wizard: hardware, model and size, launch, ready."""
