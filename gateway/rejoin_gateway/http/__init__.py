"""What all routes share: route table, middleware, request bodies, errors, limits, OpenAPI."""
