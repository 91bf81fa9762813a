"""What all routes share.

gateway_service  the state of a gateway process
middleware       before and after each handler: request id, authentication, limits, errors
request          what handlers read: body, idempotency key, view, agent, session
response         what handlers return: JSON, streams
request_body     reads bodies, and bounds the memory of large ones
routes           the route table: handler, scope, error format, documentation
errors           the table from errors to HTTP, and the error formats
cors             cross-origin rules and security headers
rate_limit       request rates of credentials and tenants
disconnect       cancels a run when its client disconnects
instrumentation  metrics and trace spans of requests
readiness        health checks
openapi          the OpenAPI document
"""
