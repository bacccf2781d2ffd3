"""The page Set up; what it draws is in panel/ui/setup."""

from panel.ui.setup.wizard import draw

draw()
