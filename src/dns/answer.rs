//! The answer to a question, from what the registry shows.
//!
//! * Who is not to be called is not in it. A service of which nobody is to be called is no name.
//! * A name that is there, but not with what was asked for, is answered with nothing, and not denied: who asks for IPv6 would
//!   else be told that there is no IPv4 either.
//! * Records come in another order each time, and where there are more than fit, others each time.
//! * Host names stand for addresses only where there is no address: beside a CNAME nothing else may be.

use std::net::IpAddr;

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        DNSClass, RData, RecordType,
        rdata::{A, AAAA, CNAME, NS, PTR, TXT},
    },
};
use rand::seq::index::sample;

use super::{
    offer::{Choice, Kept, Offers, Target},
    question::{Question, Reading},
    record::{Data, Line, Owner},
    reverse::Reverse,
    zone::Zone,
};
use crate::{
    model::{Metadata, WallTime},
    registry::Registry,
};

/// Fewest bytes of records: more than would fit are not made.
const A_BYTES: usize = 16;
const AAAA_BYTES: usize = 28;
const SRV_BYTES: usize = 32;
/// Longest piece of a TXT record, in bytes.
const PIECE: usize = 255;

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    /// Whether the name is ours.
    pub(super) ours: bool,
    /// Whether there are more answers than those here.
    pub(super) cut: bool,
    pub(super) answers: Vec<Line>,
    pub(super) authorities: Vec<Line>,
    pub(super) additionals: Vec<Line>,
}

impl Answer {
    /// With a code alone.
    pub(super) fn only(code: ResponseCode) -> Self {
        let (answers, authorities, additionals) = Default::default();
        Self { code, ours: false, cut: false, answers, authorities, additionals }
    }
}

/// What is known, as of a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) registry: &'a Registry,
    pub(super) now: WallTime,
}

/// Knows the answers.
#[derive(Debug)]
pub struct Oracle {
    zone: Zone,
    kept: Kept,
    reverse: Reverse,
}

impl Oracle {
    /// For a zone.
    #[must_use]
    pub fn new(zone: Zone) -> Self {
        Self { zone, kept: Kept::default(), reverse: Reverse::new() }
    }

    /// The answer to a question, with no more records than fit into so many bytes.
    pub(super) fn answer(&self, moment: Moment<'_>, query: &Query, room: usize) -> Answer {
        let wanted = query.query_type();
        let transfer = matches!(wanted, RecordType::AXFR | RecordType::IXFR);
        if transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return Answer::only(ResponseCode::Refused);
        }
        let mut sheet = Sheet { zone: &self.zone, wanted, room, answer: Answer::only(ResponseCode::NoError) };
        sheet.answer.ours = true;
        let known = match Question::of(query.name(), &self.zone) {
            Question::Foreign => return Answer::only(ResponseCode::Refused),
            Question::Apex => {
                sheet.apex(moment);
                Some(())
            }
            Question::Service(readings) => self.service(moment, &readings, &mut sheet),
            Question::Node(name) => sheet.node(moment, &name),
            Question::Literal(address) => {
                sheet.put(data(address));
                Some(())
            }
            Question::Reverse(address) => self.reverse(moment, address, &mut sheet),
            Question::Between => Some(()),
            Question::Nothing => None,
        };
        if known.is_none() {
            sheet.answer.code = ResponseCode::NXDomain;
        }
        if sheet.answer.answers.is_empty() && self.zone.domain().zone_of(query.name()) {
            let authority = self.zone.authority(serial(moment.now));
            sheet.answer.authorities.extend(authority.map(|data| sheet.line(sheet.top(), data)));
        }
        sheet.answer
    }

    fn service(&self, moment: Moment<'_>, readings: &[Reading], sheet: &mut Sheet<'_>) -> Option<()> {
        let spelt = |reading: &Reading| moment.registry.spelt(&reading.service).map(|name| (name, reading.tag.clone()));
        let (service, tag) = readings.iter().find_map(spelt)?;
        let offers = self.kept.offers(moment.registry, &service);
        sheet.service(&offers, offers.choice(tag.as_deref())?);
        Some(())
    }

    fn reverse(&self, moment: Moment<'_>, address: IpAddr, sheet: &mut Sheet<'_>) -> Option<()> {
        let services = self.reverse.services(moment.registry, address);
        let names: Vec<_> = services.iter().filter_map(|service| self.zone.service(service.as_str())).collect();
        if names.is_empty() {
            return None;
        }
        for name in names {
            sheet.put(RData::PTR(PTR(name)));
        }
        Some(())
    }
}

/// An answer that is being written. What writes into it returns `None` where there is no such name.
#[derive(Debug)]
struct Sheet<'a> {
    zone: &'a Zone,
    wanted: RecordType,
    room: usize,
    answer: Answer,
}

impl Sheet<'_> {
    fn line(&self, owner: Owner, data: RData) -> Line {
        Line { owner, ttl: self.zone.ttl, data: Data::Once(data) }
    }

    fn top(&self) -> Owner {
        Owner::Name(self.zone.domain().clone())
    }

    /// Answers with a record, if one of its type was asked for.
    fn put(&mut self, data: RData) {
        if self.wants(data.record_type()) {
            self.answer.answers.push(self.line(Owner::Asked, data));
        }
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.wanted == kind || self.wanted == RecordType::ANY
    }

    fn add(&mut self, owner: Owner, address: IpAddr) {
        let line = self.line(owner, data(address));
        self.answer.additionals.push(line);
    }

    /// So many of them, in any order.
    fn some(&mut self, number: usize, bytes: usize) -> Vec<usize> {
        let most = number.min(self.room / bytes);
        self.answer.cut |= most < number;
        sample(&mut rand::rng(), number, most).into_vec()
    }

    fn apex(&mut self, moment: Moment<'_>) {
        self.zone.authority(serial(moment.now)).into_iter().for_each(|authority| self.put(authority));
        let own = self.zone.own().filter(|_| self.wants(RecordType::NS));
        if let Some(own) = own {
            self.put(RData::NS(NS(own.clone())));
            if let Some(Target::Address(address)) = Node::own(moment, self.zone).target {
                self.add(Owner::Name(own), address);
            }
        }
    }

    fn service(&mut self, offers: &Offers, choice: &Choice) {
        match self.wanted {
            RecordType::SRV => self.srv(offers, choice),
            RecordType::TXT => self.texts(choice),
            _ if choice.v4.is_empty() && choice.v6.is_empty() => self.alias(choice),
            _ => {
                if self.wants(RecordType::A) {
                    for at in self.some(choice.v4.len(), A_BYTES) {
                        self.put(RData::A(A(choice.v4[at])));
                    }
                }
                if self.wants(RecordType::AAAA) {
                    for at in self.some(choice.v6.len(), AAAA_BYTES) {
                        self.put(RData::AAAA(AAAA(choice.v6[at])));
                    }
                }
            }
        }
    }

    fn srv(&mut self, offers: &Offers, choice: &Choice) {
        for at in self.some(choice.all.len(), SRV_BYTES) {
            let Some((data, address)) = offers.record(choice.all[at], self.zone) else { continue };
            if let Some(address) = address {
                self.add(Owner::TargetOf(self.answer.answers.len()), address);
            }
            self.answer.answers.push(Line { owner: Owner::Asked, ttl: self.zone.ttl, data });
        }
    }

    /// One of the host names, for all records of it are those of one other name.
    fn alias(&mut self, choice: &Choice) {
        let Some(at) = sample(&mut rand::rng(), choice.hosts.len(), choice.hosts.len().min(1)).iter().next() else {
            return;
        };
        let fits = [RecordType::A, RecordType::AAAA, RecordType::CNAME, RecordType::ANY].contains(&self.wanted);
        if fits {
            let alias = self.line(Owner::Asked, RData::CNAME(CNAME(choice.hosts[at].clone())));
            self.answer.answers.push(alias);
        }
    }

    fn texts(&mut self, choice: &Choice) {
        let places = choice.v4.iter().map(ToString::to_string).chain(choice.v6.iter().map(ToString::to_string));
        let all: Vec<String> = places.chain(choice.hosts.iter().map(ToString::to_string)).collect();
        for at in self.some(all.len(), A_BYTES) {
            self.put(text(&all[at]));
        }
    }

    fn node(&mut self, moment: Moment<'_>, name: &str) -> Option<()> {
        let node = Node::find(moment, self.zone, name)?;
        match node.target {
            Some(Target::Address(address)) => self.put(data(address)),
            Some(Target::Host(host)) if matches!(self.wanted, RecordType::A | RecordType::AAAA | RecordType::CNAME) => {
                let alias = self.line(Owner::Asked, RData::CNAME(CNAME(host)));
                self.answer.answers.push(alias);
            }
            Some(Target::Host(_)) | None => {}
        }
        for (key, value) in node.metadata.iter() {
            // Consul's word for a text that is no pair.
            let whole = key.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("rfc1035-"));
            self.put(text(&if whole { value.to_owned() } else { format!("{key}={value}") }));
        }
        Some(())
    }
}

/// What is known of a node.
#[derive(Debug, Default)]
struct Node {
    target: Option<Target>,
    metadata: Metadata,
}

impl Node {
    fn find(moment: Moment<'_>, zone: &Zone, name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case(&zone.node) {
            return Some(Self::own(moment, zone));
        }
        moment.registry.node(name).map(|node| Self::of(&node.instance))
    }

    fn own(moment: Moment<'_>, zone: &Zone) -> Self {
        let known = moment.registry.node("").map(|node| Self::of(&node.instance)).unwrap_or_default();
        Self { target: known.target.or(zone.address.map(Target::Address)), ..known }
    }

    fn of(node: &crate::model::Instance) -> Self {
        let target = node.addresses.first().and_then(|first| Target::of(&first.host));
        Self { target, metadata: node.metadata.clone() }
    }
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// A text of any length, in pieces of which DNS makes one.
fn text(whole: &str) -> RData {
    RData::TXT(TXT::from_bytes(whole.as_bytes().chunks(PIECE).collect()))
}

/// The time in seconds, for what it is worth: it says that the zone has changed.
fn serial(now: WallTime) -> u32 {
    u32::try_from(now.0 / 1_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "answer/tests.rs"]
mod tests;
