//! An answer that is being written.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hickory_proto::rr::{
    Name, RData, RecordType,
    rdata::{A, AAAA, CNAME, NS, TXT},
};
use rand::seq::index::sample;

use super::{
    answer::DnsAnswer,
    endpoints::{EndpointChoice, EndpointTarget, ServiceEndpoints, SrvTarget},
    node::DnsNode,
    record::{Additional, DnsRecord, RecordData, RecordOwner},
    zone::Zone,
};

/// Fewest bytes of records: more than would fit are not made.
const A_BYTES: usize = 16;
const AAAA_BYTES: usize = 28;
/// Longest piece of a TXT record, in bytes.
const PIECE: usize = 255;

/// An answer that is being written.
#[derive(Debug)]
pub(super) struct AnswerBuilder<'a> {
    pub(super) zone: &'a Zone,
    pub(super) wanted: RecordType,
    /// Bytes for all records.
    room: usize,
    /// Owner of the records that are written next, and its name.
    owner: RecordOwner,
    name: Name,
    pub(super) answer: DnsAnswer,
}

impl<'a> AnswerBuilder<'a> {
    /// An empty answer for a name.
    pub(super) fn new(zone: &'a Zone, name: &Name, wanted: RecordType, room: usize) -> Self {
        Self { zone, wanted, room, owner: RecordOwner::Asked, name: name.clone(), answer: DnsAnswer::ours() }
    }

    /// Name of the records that are written next.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Goes on with the records of the name that an alias leads to.
    pub(super) fn go_on(&mut self, alias: usize, name: Name) {
        (self.owner, self.name) = (RecordOwner::TargetOf(alias), name);
    }

    /// The place of the last record and the name that it leads to, if it is an alias.
    pub(super) fn alias_at_end(&self) -> Option<(usize, Name)> {
        let last = self.answer.answers.last()?;
        let RData::CNAME(CNAME(name)) = last.data.record() else { return None };
        Some((self.answer.answers.len() - 1, name.clone()))
    }

    /// Answers with a record, if one of its type was asked for.
    pub(super) fn put(&mut self, data: RData) {
        if self.wants(data.record_type()) {
            self.push(data);
        }
    }

    fn push(&mut self, data: RData) {
        let line = DnsRecord { owner: self.owner.clone(), ttl: self.zone.ttl, data: RecordData::Once(data) };
        self.answer.answers.push(line);
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.wanted == kind || self.wanted == RecordType::ANY
    }

    /// Returns whether addresses were asked for, so that an alias is followed to them.
    pub(super) fn wants_addresses(&self) -> bool {
        self.wants(RecordType::A) || self.wants(RecordType::AAAA)
    }

    /// Adds a record that helps with the answer at this place.
    pub(super) fn help(&mut self, of: usize, owner: RecordOwner, data: RData) {
        let line = DnsRecord { owner, ttl: self.zone.ttl, data: RecordData::Once(data) };
        self.answer.additionals.push(Additional { of, line });
    }

    /// So many of them, in any order.
    fn some(&mut self, number: usize, bytes: usize) -> Vec<usize> {
        let most = number.min(self.room / bytes);
        self.answer.cut |= most < number;
        sample(&mut rand::rng(), number, most).into_vec()
    }

    /// The start of the zone's authority.
    pub(super) fn authority(&mut self, serial: u32) {
        let owner = RecordOwner::Name(self.zone.domain().clone());
        let authority = self.zone.authority(serial);
        let line = |data| DnsRecord { owner: owner.clone(), ttl: self.zone.ttl, data: RecordData::Once(data) };
        self.answer.authorities.extend(authority.map(line));
    }

    /// Records of the zone itself.
    pub(super) fn apex(&mut self, local: &DnsNode, serial: u32) {
        self.zone.authority(serial).into_iter().for_each(|authority| self.put(authority));
        if let Some(own) = self.zone.own().filter(|_| self.wants(RecordType::NS)) {
            let at = self.answer.answers.len();
            self.put(RData::NS(NS(own.clone())));
            if let Some(address) = local.address(self.zone) {
                self.help(at, RecordOwner::Name(own), data(address));
            }
        }
    }

    /// SRV records, with the addresses of their targets as far as they are known; that of a node comes once. Returns the places of the
    /// others, and their targets, each once.
    pub(super) fn srv(&mut self, offers: &ServiceEndpoints, choice: &EndpointChoice) -> Vec<(usize, Name)> {
        let mut unknown = Vec::new();
        let mut helped = offers.shares_targets().then(HashSet::new);
        for at in self.some(choice.all.len(), choice.srv_bytes.max(1)) {
            let Some(SrvTarget { data: record, place, target }) = offers.record(choice.all[at], self.zone) else {
                continue;
            };
            let of = self.answer.answers.len();
            self.answer.answers.push(DnsRecord { owner: self.owner.clone(), ttl: self.zone.ttl, data: record });
            let mut is_first = || helped.as_mut().is_none_or(|helped| helped.insert(place));
            match target {
                // With each record: HAProxy uses an address for one server, and looks the target of another server up itself.
                EndpointTarget::Address(address) => self.help(of, RecordOwner::TargetOf(of), data(*address)),
                EndpointTarget::Node(_, address) if is_first() => {
                    self.help(of, RecordOwner::TargetOf(of), data(*address))
                }
                EndpointTarget::Host(name) if is_first() => unknown.push((of, name.clone())),
                EndpointTarget::Node(..) | EndpointTarget::Host(_) => {}
            }
        }
        unknown
    }

    /// Addresses, or one of the host names where there is no address.
    pub(super) fn hosts(&mut self, v4: &[Ipv4Addr], v6: &[Ipv6Addr], hosts: &[Name]) {
        if v4.is_empty() && v6.is_empty() {
            return self.alias(hosts);
        }
        if self.wants(RecordType::A) {
            for at in self.some(v4.len(), A_BYTES) {
                self.push(RData::A(A(v4[at])));
            }
        }
        if self.wants(RecordType::AAAA) {
            for at in self.some(v6.len(), AAAA_BYTES) {
                self.push(RData::AAAA(AAAA(v6[at])));
            }
        }
    }

    /// Where one thing is.
    pub(super) fn target(&mut self, target: Option<&EndpointTarget>) {
        match target {
            Some(EndpointTarget::Address(address) | EndpointTarget::Node(_, address)) => self.put(data(*address)),
            Some(EndpointTarget::Host(name)) => self.alias(std::slice::from_ref(name)),
            None => {}
        }
    }

    /// One of the host names, for all records of it are those of one other name. A name is no alias of itself.
    fn alias(&mut self, hosts: &[Name]) {
        let others: Vec<&Name> = hosts.iter().filter(|host| **host != self.name).collect();
        let fits = self.wants_addresses() || self.wanted == RecordType::CNAME;
        if let Some(at) = sample(&mut rand::rng(), others.len(), others.len().min(1)).iter().next()
            && fits
        {
            self.push(RData::CNAME(CNAME(others[at].clone())));
        }
    }

    /// The addresses of a service as texts.
    pub(super) fn texts(&mut self, choice: &EndpointChoice) {
        let places = choice.v4.iter().map(ToString::to_string).chain(choice.v6.iter().map(ToString::to_string));
        let all: Vec<String> = places.chain(choice.hosts.iter().map(ToString::to_string)).collect();
        for at in self.some(all.len(), A_BYTES) {
            self.put(text(&all[at]));
        }
    }

    /// The metadata of a node as texts.
    pub(super) fn metadata(&mut self, node: &DnsNode) {
        for (key, value) in node.metadata().into_iter().flat_map(crate::model::Metadata::iter) {
            // Consul's word for a text that is no pair.
            let whole = key.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("rfc1035-"));
            self.put(text(&if whole { value.to_owned() } else { format!("{key}={value}") }));
        }
    }
}

/// A record of an address.
pub(super) fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// A text of any length, in pieces of which DNS makes one.
fn text(whole: &str) -> RData {
    RData::TXT(TXT::from_bytes(whole.as_bytes().chunks(PIECE).collect()))
}
