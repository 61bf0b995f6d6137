//! Record of a reader's request and of all messages that it received.

use callboard::pb::callboard::v1::{Instance, WatchRequest, WatchResponse};
use tonic::Code;

use super::Wall;

/// Services that a reader watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Names(Vec<String>),
    Prefix(String),
    Everything,
}

impl Scope {
    pub fn names(names: &[&str]) -> Self {
        Self::Names(names.iter().map(ToString::to_string).collect())
    }

    pub fn includes(&self, service: &str) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|name| name == service),
            Self::Prefix(prefix) => service.starts_with(prefix),
            Self::Everything => true,
        }
    }

    pub fn request(&self) -> WatchRequest {
        match self {
            Self::Names(names) => WatchRequest { services: names.clone(), ..WatchRequest::default() },
            Self::Prefix(prefix) => WatchRequest { prefix: prefix.clone(), ..WatchRequest::default() },
            Self::Everything => WatchRequest { everything: true, ..WatchRequest::default() },
        }
    }
}

/// A filter in the registry's language, and the same in Rust.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    pub text: &'static str,
    pub matches: fn(&Instance) -> bool,
}

impl Filter {
    pub const NONE: Self = Self { text: "", matches: |_| true };
}

/// Messages that one reader received.
#[derive(Debug, Clone)]
pub struct Record {
    pub reader: String,
    pub scope: Scope,
    pub filter: Filter,
    pub observations: Vec<Observation>,
}

impl Record {
    pub fn new(reader: &str, scope: Scope, filter: Filter) -> Self {
        Self { reader: reader.to_owned(), scope, filter, observations: Vec::new() }
    }
}

/// Message or stream event of a reader, with its time.
#[derive(Debug, Clone)]
pub struct Observation {
    pub at: Wall,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// The reader opened a stream, with its token if it resumes.
    Opened {
        resumes: bool,
    },
    Message(WatchResponse),
    /// The stream ended; `None`: the reader dropped it, or its connection broke.
    Ended(Option<Code>),
}
