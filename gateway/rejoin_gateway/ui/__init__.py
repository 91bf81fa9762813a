"""The pages that a gateway serves: playground, inspector, API documentation, and their static files."""
