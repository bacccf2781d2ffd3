"""The pages: they draw and call. Decisions live in panel/, state in the database and in the URL."""
