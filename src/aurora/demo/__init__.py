"""The demo: a sample application to back up, and a story that shows each step."""
