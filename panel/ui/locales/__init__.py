"""The catalogues, and `python -m panel.ui.locales`, which collects the texts and compiles them."""
