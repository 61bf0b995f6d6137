//! Statuses of errors of Consul's HTTP API, for the reference page.

use axum::http::StatusCode;

/// Statuses that errors have, and what each means.
pub(crate) const STATUSES: &[(StatusCode, &str)] = &[
    (StatusCode::BAD_REQUEST, "A parameter, a header or the body is invalid."),
    (StatusCode::FORBIDDEN, "A browser page of another site tried to read or write."),
    (StatusCode::NOT_FOUND, "The path, the service or the check does not exist."),
    (StatusCode::METHOD_NOT_ALLOWED, "The path does not support the method. `Allow` lists those that it supports."),
    (StatusCode::REQUEST_TIMEOUT, "The request did not arrive completely in time. Nothing was done."),
    (StatusCode::CONFLICT, "The id is registered by another program, or in several services."),
    (StatusCode::PAYLOAD_TOO_LARGE, "The request is larger than `--max-message-size`."),
    (
        StatusCode::MISDIRECTED_REQUEST,
        "The `Host` of the request is not an address, `localhost` or a name of `--http-host`.",
    ),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "A limit of this client is reached: streams, unread responses or blocking queries. `Retry-After` is set.",
    ),
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "The request is invalid in a way for which Consul answers 500, the datacenter is unknown, or the registry cannot reach its \
         store and the query asks for consistency.",
    ),
    (StatusCode::NOT_IMPLEMENTED, "The path belongs to a part of Consul's API that Callboard does not have."),
    (StatusCode::SERVICE_UNAVAILABLE, "The registry is settling, overloaded or shutting down. `Retry-After` is set."),
    (
        StatusCode::GATEWAY_TIMEOUT,
        "The write may or may not have been done. Repeating it is safe. `Retry-After` is set.",
    ),
];
