"""The one command: a recipe, its resumable steps, and what it says at the end."""
