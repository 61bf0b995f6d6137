//! Responses: status, headers and JSON bodies.

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
        header::{AGE, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY},
    },
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::{ConsulError, blocking::AnswerIndex, error_status::STATUSES, query::Query};
use crate::app::EncodedView;

/// Maximum number of headers of an answer. The map of headers is allocated with this capacity, so that it never grows.
const MAX_HEADERS: usize = 12;
/// Maximum number of headers of an empty answer.
const MAX_EMPTY_HEADERS: usize = 3;

const JSON: &str = "application/json";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
const DEFAULT_ACL_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");

/// Response of an endpoint.
#[derive(Debug)]
pub(super) struct ConsulResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl ConsulResponse {
    pub(super) fn new(status: StatusCode, body: Bytes) -> Self {
        Self::with_capacity(MAX_HEADERS, status, body)
    }

    fn with_capacity(headers: usize, status: StatusCode, body: Bytes) -> Self {
        let mut headers = HeaderMap::with_capacity(headers);
        headers.insert(DEFAULT_ACL_POLICY, HeaderValue::from_static("allow"));
        Self { status, headers, body }
    }

    /// Returns the response of a successful write at the agent.
    pub(super) fn empty() -> Self {
        Self::with_capacity(MAX_EMPTY_HEADERS, StatusCode::OK, Bytes::new()).with(CONTENT_TYPE, JSON)
    }

    pub(super) fn json(body: Bytes) -> Self {
        Self::new(StatusCode::OK, body).with(CONTENT_TYPE, JSON)
    }

    pub(super) fn with(mut self, name: impl Into<HeaderName>, value: &'static str) -> Self {
        self.headers.insert(name.into(), HeaderValue::from_static(value));
        self
    }

    /// Adds a header with a computed value. A value that HTTP cannot carry is left out.
    pub(super) fn with_text(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Adds the headers of an answer from the catalog, with its index.
    pub(super) fn with_index(self, query: &Query, index: AnswerIndex, streaming: bool) -> Self {
        let AnswerIndex { index, has_leader, last_contact } = index;
        let backend = if streaming { "streaming" } else { "blocking-query" };
        let last_contact = u64::try_from(last_contact.as_millis()).unwrap_or(u64::MAX);
        let mut response = self
            .with(const { HeaderName::from_static("x-consul-knownleader") }, if has_leader { "true" } else { "false" })
            .with(const { HeaderName::from_static("x-consul-effective-consistency") }, query.consistency.as_str())
            .with(const { HeaderName::from_static("x-consul-query-backend") }, backend);
        for (name, value) in [
            (const { HeaderName::from_static("x-consul-lastcontact") }, last_contact),
            (const { HeaderName::from_static("x-consul-index") }, index),
        ] {
            response.headers.insert(name, HeaderValue::from(value));
        }
        response
    }

    /// Adds the headers of an answer that Consul may give from its agent's cache. Every answer here is current, so its age is 0.
    pub(super) fn with_cache(self, hit: bool) -> Self {
        let response = self.with(const { HeaderName::from_static("x-cache") }, if hit { "HIT" } else { "MISS" });
        if hit { response.with(AGE, "0") } else { response }
    }

    /// Returns the HTTP response.
    pub(super) fn into_http(self) -> Response<Body> {
        let Self { status, headers, body } = self;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

impl From<EncodedView> for ConsulResponse {
    fn from(view: EncodedView) -> Self {
        let response = Self::json(view.bytes);
        if view.gzip { response.with(CONTENT_ENCODING, "gzip").with(VARY, "Accept-Encoding") } else { response }
    }
}

impl From<ConsulError> for ConsulResponse {
    fn from(error: ConsulError) -> Self {
        let status = error.status();
        debug_assert!(STATUSES.iter().any(|(known, _)| *known == status), "{status} is not in STATUSES");
        let mut response = Self::new(status, error.to_string().into()).with(CONTENT_TYPE, PLAIN_TEXT);
        if let ConsulError::Method(_, allowed) = &error {
            return response.with(ALLOW, allowed);
        }
        if matches!(error, ConsulError::NoSuchPath) {
            // In Consul, this answer comes from the router, before ACLs are looked at.
            response.headers.remove(DEFAULT_ACL_POLICY);
        }
        if error.is_temporary() {
            return response.with(RETRY_AFTER, "1");
        }
        response
    }
}

/// Returns JSON, indented if `pretty` is set.
pub(super) fn encode(value: &impl Serialize, pretty: bool) -> Result<Bytes, ConsulError> {
    let failed = |error: serde_json::Error| ConsulError::Server(format!("the answer cannot be encoded: {error}"));
    if !pretty {
        // Without spare capacity: the bytes may stay in the cache, or wait for a slow reader.
        return serde_json::to_vec(value).map(Vec::into_boxed_slice).map(Bytes::from).map_err(failed);
    }
    let mut text = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    ")))
        .map_err(failed)?;
    text.push(b'\n');
    Ok(text.into())
}
