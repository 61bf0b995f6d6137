//! Answers as bytes. What many ask for is made once for each state of its service, and shared by all of them.

use std::{
    io::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{AGE, CONTENT_ENCODING, CONTENT_TYPE, VARY},
};
use bytes::Bytes;
use dashmap::DashMap;
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::{ConsulError, query::Query};

/// Answers shorter than this are not worth packing, in bytes.
const WORTH_PACKING: usize = 1_400;
/// Most answers that are kept, and most bytes of them. Then all are forgotten: the next who ask have them made.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// How long an answer with what checks said may be kept, in microseconds: what they say may change without anybody noticing.
const FRESH: u64 = 1_000_000;

/// Headers of an answer, and of one that tells nothing: room for all of them from the start, and for no more.
const HEADERS: usize = 12;
const FEW_HEADERS: usize = 3;

const JSON: &str = "application/json";

/// An answer.
#[derive(Debug)]
pub(super) struct ConsulResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl ConsulResponse {
    pub(super) fn new(status: StatusCode, body: Bytes) -> Self {
        Self::with_room(HEADERS, status, body)
    }

    fn with_room(headers: usize, status: StatusCode, body: Bytes) -> Self {
        let mut headers = HeaderMap::with_capacity(headers);
        let policy = const { HeaderName::from_static("x-consul-default-acl-policy") };
        headers.insert(policy, HeaderValue::from_static("allow"));
        Self { status, headers, body }
    }

    /// What agents answer when all is well and there is nothing to tell.
    pub(super) fn empty() -> Self {
        Self::with_room(FEW_HEADERS, StatusCode::OK, Bytes::new()).with(CONTENT_TYPE, JSON)
    }

    pub(super) fn json(body: Bytes) -> Self {
        Self::new(StatusCode::OK, body).with(CONTENT_TYPE, JSON)
    }

    pub(super) fn with(mut self, name: impl Into<HeaderName>, value: &'static str) -> Self {
        self.headers.insert(name.into(), HeaderValue::from_static(value));
        self
    }

    /// The same with a header whose value is made up. One that cannot be sent is left out.
    pub(super) fn with_text(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// The same with what a query of the catalog is told beside its answer.
    pub(super) fn of_query(self, query: &Query, index: u64, streaming: bool) -> Self {
        let backend = if streaming { "streaming" } else { "blocking-query" };
        let mut reply = self
            .with(const { HeaderName::from_static("x-consul-knownleader") }, "true")
            .with(const { HeaderName::from_static("x-consul-lastcontact") }, "0")
            .with(const { HeaderName::from_static("x-consul-effective-consistency") }, query.consistency.as_str())
            .with(const { HeaderName::from_static("x-consul-query-backend") }, backend);
        reply.headers.insert(const { HeaderName::from_static("x-consul-index") }, HeaderValue::from(index));
        reply
    }

    /// The same with what a query that may be answered from a cache is told of it. What is in it is up to date, so its age is 0.
    pub(super) fn with_cache(self, hit: bool) -> Self {
        let reply = self.with(const { HeaderName::from_static("x-cache") }, if hit { "HIT" } else { "MISS" });
        if hit { reply.with(AGE, "0") } else { reply }
    }
}

/// JSON as it was asked for.
pub(super) fn encode(value: &impl Serialize, pretty: bool) -> Result<Bytes, ConsulError> {
    let failed = |error: serde_json::Error| ConsulError::Server(format!("the answer cannot be written: {error}"));
    if !pretty {
        // It may be kept, or wait for its reader: as long as it is, and not as the vector has grown.
        return serde_json::to_vec(value).map(Vec::into_boxed_slice).map(Bytes::from).map_err(failed);
    }
    let mut text = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    ")))
        .map_err(failed)?;
    text.push(b'\n');
    Ok(text.into())
}

/// An answer that is kept.
#[derive(Debug)]
pub(super) struct CachedResponse {
    /// Index of what it was made of.
    state: u64,
    /// When it was made, in microseconds, if it will not do for ever.
    made: Option<u64>,
    body: Bytes,
    packed: OnceLock<Option<Bytes>>,
}

impl CachedResponse {
    /// An answer that is not kept.
    pub(super) fn once(body: Bytes) -> Self {
        Self { state: 0, made: None, body, packed: OnceLock::new() }
    }

    /// As this client takes it.
    pub(super) fn reply(&self, query: &Query) -> ConsulResponse {
        if query.gzip
            && let Some(packed) = self.packed.get_or_init(|| pack(&self.body))
        {
            return ConsulResponse::json(packed.clone()).with(CONTENT_ENCODING, "gzip").with(VARY, "Accept-Encoding");
        }
        ConsulResponse::json(self.body.clone())
    }
}

/// Packed bytes. `None`: not worth it.
fn pack(body: &Bytes) -> Option<Bytes> {
    if body.len() < WORTH_PACKING {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Vec::into_boxed_slice).map(Bytes::from)
}

/// Answers that are kept, by what was asked.
#[derive(Debug, Default)]
pub(super) struct ResponseCache {
    kept: DashMap<Box<str>, Arc<CachedResponse>>,
    bytes: AtomicUsize,
}

impl ResponseCache {
    /// The answer to a question in this state, made now if there is none. `make` tells the bytes, and whether they have in them
    /// what checks said.
    pub(super) fn get(
        &self,
        question: &str,
        state: u64,
        now: u64,
        make: impl FnOnce() -> Result<(Bytes, bool), ConsulError>,
    ) -> Result<Arc<CachedResponse>, ConsulError> {
        if let Some(kept) = self.kept.get(question)
            && kept.state == state
            && kept.made.is_none_or(|made| now.saturating_sub(made) < FRESH)
        {
            return Ok(Arc::clone(&kept));
        }
        let (body, volatile) = make()?;
        let size = body.len() + question.len();
        let kept = Arc::new(CachedResponse { state, made: volatile.then_some(now), body, packed: OnceLock::new() });
        if self.kept.len() >= MOST || self.bytes.fetch_add(size, Relaxed) + size > MOST_BYTES {
            self.kept.clear();
            self.bytes.store(size, Relaxed);
        }
        if let Some(old) = self.kept.insert(question.into(), Arc::clone(&kept)) {
            let old = old.body.len() + question.len();
            let _ = self.bytes.fetch_update(Relaxed, Relaxed, |bytes| Some(bytes.saturating_sub(old)));
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_made_once_for_each_state() {
        let answers = ResponseCache::default();
        let count = AtomicUsize::new(0);
        let get = |state, now, volatile| {
            let make = || {
                count.fetch_add(1, Relaxed);
                Ok((Bytes::from_static(b"[]"), volatile))
            };
            answers.get("q", state, now, make).unwrap();
            count.load(Relaxed)
        };
        assert_eq!((get(1, 0, false), get(1, 9_000_000, false)), (1, 1));
        assert_eq!((get(2, 0, true), get(2, 999_999, true), get(2, 1_000_000, true)), (2, 2, 3));
        assert_eq!(get(3, 0, true), 4);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let answers = ResponseCache::default();
        let large = Bytes::from(vec![b'x'; 1024 * 1024]);
        for n in 0..200 {
            answers.get(&n.to_string(), 0, 0, || Ok((large.clone(), false))).unwrap();
            assert!(answers.kept.len() <= 64, "{}", answers.kept.len());
        }
    }
}
