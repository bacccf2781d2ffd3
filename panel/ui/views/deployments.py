"""The page Deployments; what it draws is in panel/ui/listing."""

from panel.ui.listing.page import draw

draw()
