//! Comparison of an answer with the recorded one.

use serde_json::{Map, Value, json};

use super::{indexes::Seen, recording::Answer};
use crate::harness::Engine;

/// Headers of the transport, which the recording leaves out.
const LEFT_OUT: [&str; 5] = ["Connection", "Content-Length", "Date", "Transfer-Encoding", "Vary"];
/// Seconds that an answer may take longer on a busy machine.
const SLACK: f64 = 0.9;
/// Seconds by which an answer may be early because of rounding.
const ROUNDING: f64 = 0.01;

/// Difference at one place.
#[derive(Debug)]
pub struct Found {
    pub at: String,
    pub expected: String,
    pub got: String,
}

/// Result of a comparison: the differences, and the indexes of both answers.
#[derive(Debug, Default)]
pub struct Findings {
    pub differ: Vec<Found>,
    pub indexes: Vec<Seen>,
}

/// Compares everything but indexes, which are compared with those of other answers later.
pub fn answers(endpoint: &str, recorded: &Answer, actual: &Answer) -> Findings {
    let mut findings = Findings::default();
    if recorded.status != actual.status {
        findings.differ("status", &recorded.status, &actual.status);
    }
    findings.values("body", &comparable(endpoint, &recorded.body), &comparable(endpoint, &actual.body));
    // After the body, so that the index is compared with those in it.
    if !recorded.headers.is_empty() {
        findings.headers(recorded, actual);
    }
    if recorded.index_rose != actual.index_rose {
        findings.differ("index rose", &format!("{:?}", recorded.index_rose), &format!("{:?}", actual.index_rose));
    }
    if let (Some(recorded), Some(actual)) = (recorded.seconds, actual.seconds) {
        // A wait is up to a sixteenth longer than asked for.
        let in_time = recorded - ROUNDING..=recorded * 1.0625 + SLACK;
        if !in_time.contains(&actual) {
            findings.differ("seconds", &format!("{in_time:?}"), &actual);
        }
    }
    findings
}

/// Returns whether this is the milliseconds since a replica last heard from etcd, which it does every few seconds. The recorded
/// leader, and the other engines, have no such time.
fn is_recent_contact(name: &str, value: Option<&str>) -> bool {
    let contact = || value.and_then(|value| value.parse().ok()).is_some_and(|contact: u64| contact < 4_000);
    name == "X-Consul-Lastcontact" && Engine::usual() == Engine::Etcd && contact()
}

impl Findings {
    pub fn differ(&mut self, at: &str, expected: &impl ToString, got: &impl ToString) {
        self.differ.push(Found { at: at.to_owned(), expected: expected.to_string(), got: got.to_string() });
    }

    fn headers(&mut self, recorded: &Answer, actual: &Answer) {
        if let (Some(recorded), Some(actual)) = (recorded.index(), actual.index()) {
            self.indexes.push(Seen { at: "header X-Consul-Index".to_owned(), recorded, actual });
        }
        for (name, value) in &recorded.headers {
            let got = actual.header(name);
            let index = name == "X-Consul-Index" && got.is_some();
            if got != Some(value) && !index && !is_recent_contact(name, got) {
                self.differ(&format!("header {name}"), value, &got.unwrap_or("none"));
            }
        }
        for (name, value) in &actual.headers {
            if !recorded.headers.contains_key(name) && !LEFT_OUT.contains(&&**name) {
                self.differ(&format!("header {name}"), &"none", value);
            }
        }
    }

    fn values(&mut self, at: &str, recorded: &Value, actual: &Value) {
        match (recorded, actual) {
            (Value::Object(recorded), Value::Object(actual)) => self.objects(at, recorded, actual),
            (Value::Array(recorded), Value::Array(actual)) if recorded.len() == actual.len() => {
                for (number, (recorded, actual)) in recorded.iter().zip(actual).enumerate() {
                    self.values(&format!("{at}[{number}]"), recorded, actual);
                }
            }
            _ if recorded == actual => {}
            _ => match indexes(at, recorded, actual) {
                Some(seen) => self.indexes.push(seen),
                None => self.differ(at, recorded, actual),
            },
        }
    }

    fn objects(&mut self, at: &str, recorded: &Map<String, Value>, actual: &Map<String, Value>) {
        for (key, value) in recorded {
            let at = format!("{at}.{key}");
            match actual.get(key) {
                Some(got) => match indexes(&at, value, got) {
                    Some(seen) => self.indexes.push(seen),
                    None => self.values(&at, value, got),
                },
                None => self.differ(&at, value, &"no such key"),
            }
        }
        for (key, value) in actual.iter().filter(|(key, _)| !recorded.contains_key(*key)) {
            self.differ(&format!("{at}.{key}"), &"no such key", value);
        }
    }
}

/// Adds two indexes, which may be different numbers. 0: there is none.
fn indexes(at: &str, recorded: &Value, actual: &Value) -> Option<Seen> {
    let index = at.ends_with(".CreateIndex") || at.ends_with(".ModifyIndex");
    let (recorded, actual) = (recorded.as_u64()?, actual.as_u64()?);
    (index && recorded != 0 && actual != 0).then(|| Seen { at: at.to_owned(), recorded, actual })
}

/// Returns the parts of a body that can be compared.
fn comparable(endpoint: &str, body: &Value) -> Value {
    match (endpoint, body) {
        // The recording has no more of it than this.
        ("/v1/agent/self", Value::Object(all)) if !all.contains_key("keys") => {
            json!({ "keys": all.keys().collect::<Vec<_>>(), "Config": all.get("Config") })
        }
        // What comes from a map of Go's has no order.
        ("/v1/catalog/services", Value::Object(services)) => {
            services.iter().map(|(name, tags)| (name.clone(), sorted(tags))).collect()
        }
        (agent, _) if agent.starts_with("/v1/agent/health/service/") => checks_sorted(body),
        _ => body.clone(),
    }
}

/// One service with its checks, or several.
fn checks_sorted(body: &Value) -> Value {
    match body {
        Value::Array(services) => services.iter().map(checks_sorted).collect(),
        Value::Object(service) => {
            let field = |(name, value): (&String, &Value)| {
                let value = if name == "Checks" { sorted(value) } else { value.clone() };
                (name.clone(), value)
            };
            service.iter().map(field).collect()
        }
        _ => body.clone(),
    }
}

fn sorted(values: &Value) -> Value {
    let Value::Array(values) = values else { return values.clone() };
    let mut values = values.clone();
    // A check begins with its id.
    values.sort_by_key(Value::to_string);
    Value::Array(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&str, &str)], body: Value, seconds: f64) -> Answer {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Answer { status: 200, headers, body, seconds: Some(seconds), index_rose: None }
    }

    fn places(endpoint: &str, recorded: &Answer, actual: &Answer) -> Vec<String> {
        answers(endpoint, recorded, actual).differ.into_iter().map(|found| found.at).collect()
    }

    #[test]
    fn nulls_keys_spellings_and_waits_are_told_apart() {
        let recorded = answer(&[("X-Cache", "MISS")], json!({ "Tags": [], "Meta": null }), 2.0);
        assert!(places("/", &recorded, &recorded).is_empty());
        let actual = answer(&[("x-cache", "MISS"), ("Date", "today")], json!({ "Tags": null, "Kind": "" }), 1.0);
        let differ = ["body.Meta", "body.Tags", "body.Kind", "header X-Cache", "header x-cache", "seconds"];
        assert_eq!(places("/", &recorded, &actual), differ);
    }

    #[test]
    fn only_what_comes_from_a_map_is_without_order() {
        let one = answer(&[], json!({ "web": ["a", "b"] }), 0.0);
        let other = answer(&[], json!({ "web": ["b", "a"] }), 0.0);
        assert!(places("/v1/catalog/services", &one, &other).is_empty());
        assert_eq!(places("/v1/agent/services", &one, &other), ["body.web[0]", "body.web[1]"]);
    }

    #[test]
    fn indexes_are_left_to_be_compared_with_others_unless_one_is_none() {
        let recorded = answer(&[("X-Consul-Index", "7")], json!({ "ModifyIndex": 5, "CreateIndex": 0 }), 0.0);
        let actual = answer(&[("X-Consul-Index", "70")], json!({ "ModifyIndex": 50, "CreateIndex": 3 }), 0.0);
        let findings = answers("/", &recorded, &actual);
        let seen: Vec<_> = findings.indexes.iter().map(|seen| (seen.recorded, seen.actual)).collect();
        assert_eq!(seen, [(5, 50), (7, 70)]);
        assert_eq!(findings.differ.iter().map(|found| &*found.at).collect::<Vec<_>>(), ["body.CreateIndex"]);
    }
}
