"""The one process that acts: it looks at the world, decides by pure rules, and makes it so."""
