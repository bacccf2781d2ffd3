"""The page Playground; what it draws is in panel/ui/chat."""

from panel.ui.chat.page import draw

draw()
