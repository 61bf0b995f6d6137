//! The recording: what was asked of Consul 1.21.4, and what it answered.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// In order, all of one registry.
pub fn read() -> Vec<Exchange> {
    serde_json::from_str(include_str!("recorded.json")).unwrap()
}

#[derive(Debug, Deserialize)]
pub struct Exchange {
    pub request: Request,
    pub response: Answer,
    /// What the recorder did besides.
    #[serde(default)]
    pub note: String,
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

/// What came back, of Consul or of Callboard.
#[derive(Debug, Clone, Deserialize)]
pub struct Answer {
    pub status: u16,
    /// In their spelling.
    pub headers: BTreeMap<String, String>,
    /// Where it is no JSON, or empty, a string.
    pub body: Value,
    /// Until it was there.
    pub seconds: Option<f64>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn index(&self) -> Option<u64> {
        self.header("X-Consul-Index")?.parse().ok()
    }
}
