"""The backend inside of a FastAPI application."""
