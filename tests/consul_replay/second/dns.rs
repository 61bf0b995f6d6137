//! Questions over DNS, and what differs between two answers.

use std::{fmt, net::SocketAddr};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record},
};
use serde_json::Value;

use super::super::{
    compare::{Findings, Found},
    recording::{DnsAnswer, Question},
};
use crate::dns::client::{DnsClient, query, with_edns};

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} over {}, EDNS {:?}", self.name, self.kind, self.transport, self.edns)
    }
}

pub async fn ask(server: SocketAddr, question: &Question) -> Message {
    let message = query(&question.name, question.kind.parse().unwrap());
    let message = match question.edns {
        Some(bytes) => with_edns(message, bytes),
        None => message,
    };
    let client = DnsClient::new(server).await;
    match question.transport.as_str() {
        "udp" => client.ask_udp(&message).await,
        "tcp" => client.ask_tcp(&message).await,
        other => panic!("{other} is no transport"),
    }
}

pub fn compare(recorded: &DnsAnswer, reply: &Message) -> Vec<Found> {
    let mut findings = Findings::default();
    let rcode = code(reply.metadata.response_code);
    let flags = [("rcode", recorded.rcode.clone(), rcode.to_owned())].into_iter().chain([
        ("aa", recorded.aa.to_string(), reply.metadata.authoritative.to_string()),
        ("tc", recorded.tc.to_string(), reply.metadata.truncation.to_string()),
    ]);
    for (at, recorded, actual) in flags.filter(|(_, recorded, actual)| recorded != actual) {
        findings.differ(at, &recorded, &actual);
    }
    for (at, recorded, actual) in [
        ("number of answers", recorded.answers, reply.answers.len()),
        ("number of additional records", recorded.additional.as_ref().and_then(number), reply.additionals.len()),
    ] {
        if let Some(recorded) = recorded.filter(|recorded| *recorded != actual) {
            findings.differ(at, &recorded, &actual);
        }
    }
    records(&mut findings, "answer", recorded.answer.as_deref(), &reply.answers);
    records(&mut findings, "authority", recorded.authority.as_deref(), &reply.authorities);
    let additional = recorded.additional.as_ref().and_then(Value::as_array);
    let additional: Option<Vec<_>> =
        additional.map(|all| all.iter().map(|one| one.as_str().unwrap().to_owned()).collect());
    records(&mut findings, "additional", additional.as_deref(), &reply.additionals);
    findings.differ
}

fn number(value: &Value) -> Option<usize> {
    value.as_u64()?.try_into().ok()
}

fn code(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::Refused => "REFUSED",
        _ => "another rcode",
    }
}

/// Compares a part of two answers, whatever its order.
fn records(findings: &mut Findings, part: &str, recorded: Option<&[String]>, actual: &[Record]) {
    let Some(recorded) = recorded else { return };
    let recorded: Vec<_> = recorded.iter().map(|line| without_time(line)).collect();
    let actual: Vec<_> = actual.iter().map(|record| without_time(&line(record))).collect();
    for line in recorded.iter().filter(|line| count(&recorded, line) > count(&actual, line)) {
        findings.differ(&at(part, line), line, &"none");
    }
    for line in actual.iter().filter(|line| count(&actual, line) > count(&recorded, line)) {
        findings.differ(&at(part, line), &"none", line);
    }
}

fn count(lines: &[String], line: &str) -> usize {
    lines.iter().filter(|other| *other == line).count()
}

/// The part and the type of a record.
fn at(part: &str, line: &str) -> String {
    format!("{part} {}", line.split(' ').nth(3).unwrap_or_default())
}

/// A record as `dig` prints it.
fn line(record: &Record) -> String {
    let data = match &record.data {
        RData::TXT(text) => {
            let strings = text.txt_data.iter().map(|text| format!("\"{}\"", String::from_utf8_lossy(text)));
            strings.collect::<Vec<_>>().join(" ")
        }
        data => data.to_string(),
    };
    format!("{} {} {} {} {data}", record.name.to_ascii(), record.ttl, record.dns_class, record.record_type())
}

/// The serial number of an SOA is the time of the answer.
fn without_time(line: &str) -> String {
    let mut words: Vec<_> = line.split(' ').collect();
    if words.get(3) == Some(&"SOA") && words.len() > 6 {
        words[6] = "*";
    }
    words.join(" ")
}

#[test]
fn records_are_compared_without_order_and_an_soa_without_its_time() {
    let soa = |time| format!("consul. 0 IN SOA ns.consul. hostmaster.consul. {time} 3600 600 86400 0");
    assert_eq!(without_time(&soa(5)), without_time(&soa(6)));
    assert_ne!(without_time("a. 0 IN A 127.0.0.1"), without_time("a. 0 IN A 127.0.0.2"));
    let mut findings = Findings::default();
    records(&mut findings, "answer", Some(&["a. 0 IN A 127.0.0.1".to_owned()]), &[]);
    assert_eq!(findings.differ.iter().map(|found| &*found.at).collect::<Vec<_>>(), ["answer A"]);
}
