//! The recordings: what was asked of Consul 1.21.4, and what it answered.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use serde_json::Value;

/// In order, all of one registry.
pub fn read() -> Vec<Exchange> {
    serde_json::from_str(include_str!("recorded.json")).unwrap()
}

/// The second recording, in order, all of one registry.
pub fn read_second() -> Vec<Entry> {
    serde_json::from_str(include_str!("recorded_2.json")).unwrap()
}

/// An entry of the second recording.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// Headline of the entries after it.
    Section {
        section: String,
    },
    Dns {
        dns: Question,
        answer: DnsAnswer,
    },
    /// Distinct requests that the target of the HTTP checks received.
    Target {
        target_saw: Vec<Value>,
    },
    Exchange(Exchange),
}

/// A question over DNS.
#[derive(Debug, Deserialize)]
pub struct Question {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// Packet size that the asker offers.
    pub edns: Option<u16>,
    pub transport: String,
}

/// An answer over DNS. Of the largest, only the numbers of records were recorded.
#[derive(Debug, Deserialize)]
pub struct DnsAnswer {
    pub rcode: String,
    pub aa: bool,
    pub tc: bool,
    pub answer: Option<Vec<String>>,
    pub authority: Option<Vec<String>>,
    pub additional: Option<Value>,
    pub answers: Option<usize>,
}

#[derive(Debug, Deserialize)]
pub struct Exchange {
    pub request: Request,
    pub response: Answer,
    /// Actions of the recorder beside the request.
    #[serde(default)]
    pub note: String,
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { method, path, .. } = &self.request;
        write!(f, "{method} {path} {}", self.request.text())?;
        if self.note.is_empty() { Ok(()) } else { write!(f, " ({})", self.note) }
    }
}

#[derive(Debug, Deserialize)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// A string is sent as it is, all else as JSON.
    pub body: Option<Value>,
}

impl Request {
    /// Without what is asked about it.
    pub fn endpoint(&self) -> &str {
        self.path.split('?').next().unwrap()
    }

    pub fn text(&self) -> String {
        match &self.body {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(json) => json.to_string(),
        }
    }
}

/// Answer of Consul or of Callboard.
#[derive(Debug, Clone, Deserialize)]
pub struct Answer {
    pub status: u16,
    /// In their spelling. Of some answers they were not recorded.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body as JSON. A body that is not JSON is a string.
    pub body: Value,
    /// Until it was there.
    pub seconds: Option<f64>,
    /// True where a blocking query answered a higher index than it asked for.
    pub index_rose: Option<bool>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn index(&self) -> Option<u64> {
        self.header("X-Consul-Index")?.parse().ok()
    }
}
