//! Construction of answers.

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
    endpoints::{EndpointChoice, ServiceEndpoints, SrvTarget},
    node::DnsNode,
    record::{AdditionalRecord, DnsRecord, RecordData, RecordOwner},
    target::EndpointTarget,
    zone::Zone,
};

/// Minimum bytes of an encoded A record.
const MIN_A_BYTES: usize = 16;
/// Minimum bytes of an encoded AAAA record.
const MIN_AAAA_BYTES: usize = 28;
/// Maximum bytes of one string of a TXT record.
const MAX_TXT_STRING_BYTES: usize = 255;
/// Prefix of the metadata keys whose values become TXT records without the key, as in Consul.
const RAW_TXT_PREFIX: &str = "rfc1035-";

/// Answer under construction. It takes no more records than can fit into the packet, chosen at random where there are more.
#[derive(Debug)]
pub(super) struct AnswerBuilder<'a> {
    pub(super) zone: &'a Zone,
    /// Record type in the question.
    pub(super) record_type: RecordType,
    /// Bytes that the answer may take.
    max_bytes: usize,
    /// Owner of the next records.
    owner: RecordOwner,
    /// Name of that owner.
    name: Name,
    pub(super) answer: DnsAnswer,
}

impl<'a> AnswerBuilder<'a> {
    /// Returns a builder for the answer to a question.
    pub(super) fn new(zone: &'a Zone, name: &Name, record_type: RecordType, max_bytes: usize) -> Self {
        let (owner, name, answer) = (RecordOwner::QueryName, name.clone(), DnsAnswer::authoritative());
        Self { zone, record_type, max_bytes, owner, name, answer }
    }

    /// Returns the owner name of the next records.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Sets the target of the CNAME record at an index as the owner of the next records.
    pub(super) fn continue_at_alias(&mut self, index: usize, target: Name) {
        (self.owner, self.name) = (RecordOwner::TargetOf(index), target);
    }

    /// Returns index and target of the last record, if that is a CNAME.
    pub(super) fn trailing_alias(&self) -> Option<(usize, Name)> {
        let last = self.answer.answers.last()?;
        let RData::CNAME(CNAME(name)) = last.data.rdata() else { return None };
        Some((self.answer.answers.len() - 1, name.clone()))
    }

    /// Adds a record, if the question asks for its type.
    pub(super) fn add(&mut self, data: RData) {
        if self.asks_for(data.record_type()) {
            self.push(RecordData::Plain(data));
        }
    }

    fn push(&mut self, data: RecordData) {
        self.answer.answers.push(DnsRecord { owner: self.owner.clone(), ttl: self.zone.ttl, data });
    }

    fn asks_for(&self, record_type: RecordType) -> bool {
        self.record_type == record_type || self.record_type == RecordType::ANY
    }

    /// Returns whether the question asks for addresses, so that aliases are followed.
    pub(super) fn asks_for_addresses(&self) -> bool {
        self.asks_for(RecordType::A) || self.asks_for(RecordType::AAAA)
    }

    fn add_additional(&mut self, answer: usize, owner: RecordOwner, data: RData) {
        let record = DnsRecord { owner, ttl: self.zone.ttl, data: RecordData::Plain(data) };
        self.answer.additionals.push(AdditionalRecord { answer, record });
    }

    /// Returns as many of the indexes below `number` as can fit, in random order. `record_bytes`: minimum bytes of one
    /// record.
    fn sample_fitting(&mut self, number: usize, record_bytes: usize) -> Vec<usize> {
        let fitting = number.min(self.max_bytes / record_bytes);
        self.answer.truncated |= fitting < number;
        sample(&mut rand::rng(), number, fitting).into_vec()
    }

    /// Adds the SOA record of the zone to the authority section: resolvers need it to cache the absence of records.
    pub(super) fn add_authority(&mut self, serial: u32) {
        let owner = RecordOwner::Name(self.zone.domain().clone());
        let soa = self.zone.soa(serial).map(RecordData::Plain);
        self.answer.authorities.extend(soa.map(|data| DnsRecord { owner, ttl: self.zone.ttl, data }));
    }

    /// Adds the records of the zone itself.
    pub(super) fn add_apex(&mut self, local: &DnsNode, serial: u32) {
        if let Some(soa) = self.zone.soa(serial) {
            self.add(soa);
        }
        if let Some(name) = self.zone.local_node_name().filter(|_| self.asks_for(RecordType::NS)) {
            let index = self.answer.answers.len();
            self.add(RData::NS(NS(name.clone())));
            if let Some(address) = local.address(self.zone) {
                self.add_additional(index, RecordOwner::Name(name), address_record(address));
            }
        }
    }

    /// Adds SRV records, and the addresses of their targets as additional records. Returns the targets that are host names, each
    /// once, with the index of the first record that has it.
    ///
    /// The address of a node is added once. That of an instance is added with each record: HAProxy uses an additional record for one
    /// server, and resolves the targets of its other servers by itself.
    pub(super) fn add_srv(&mut self, endpoints: &ServiceEndpoints, choice: &EndpointChoice) -> Vec<(usize, Name)> {
        let mut host_names = Vec::new();
        let mut seen = endpoints.shares_targets().then(HashSet::new);
        for at in self.sample_fitting(choice.all.len(), choice.srv_bytes.max(1)) {
            let Some(SrvTarget { data, target_index, target }) = endpoints.record(choice.all[at], self.zone) else {
                continue;
            };
            let index = self.answer.answers.len();
            self.push(data);
            let mut is_first = || seen.as_mut().is_none_or(|seen| seen.insert(target_index));
            match target {
                EndpointTarget::Address(address) => {
                    self.add_additional(index, RecordOwner::TargetOf(index), address_record(*address));
                }
                EndpointTarget::Node(_, address) if is_first() => {
                    self.add_additional(index, RecordOwner::TargetOf(index), address_record(*address));
                }
                EndpointTarget::Host(name) if is_first() => host_names.push((index, name.clone())),
                EndpointTarget::Node(..) | EndpointTarget::Host(_) => {}
            }
        }
        host_names
    }

    /// Adds addresses or, if there are none, an alias of one of the host names.
    pub(super) fn add_addresses(&mut self, v4: &[Ipv4Addr], v6: &[Ipv6Addr], hosts: &[Name]) {
        if v4.is_empty() && v6.is_empty() {
            return self.add_alias(hosts);
        }
        if self.asks_for(RecordType::A) {
            for at in self.sample_fitting(v4.len(), MIN_A_BYTES) {
                self.push(RecordData::Plain(RData::A(A(v4[at]))));
            }
        }
        if self.asks_for(RecordType::AAAA) {
            for at in self.sample_fitting(v6.len(), MIN_AAAA_BYTES) {
                self.push(RecordData::Plain(RData::AAAA(AAAA(v6[at]))));
            }
        }
    }

    /// Adds the address of a target, or an alias of its host name.
    pub(super) fn add_target(&mut self, target: &EndpointTarget) {
        match target {
            EndpointTarget::Address(address) | EndpointTarget::Node(_, address) => self.add(address_record(*address)),
            EndpointTarget::Host(name) => self.add_alias(std::slice::from_ref(name)),
        }
    }

    /// Adds a CNAME record for one of the host names: a name has at most one alias (RFC 1034), and is not an alias of
    /// itself.
    fn add_alias(&mut self, hosts: &[Name]) {
        if !self.asks_for_addresses() && self.record_type != RecordType::CNAME {
            return;
        }
        let others: Vec<&Name> = hosts.iter().filter(|host| **host != self.name).collect();
        if let Some(at) = sample(&mut rand::rng(), others.len(), others.len().min(1)).iter().next() {
            self.push(RecordData::Plain(RData::CNAME(CNAME(others[at].clone()))));
        }
    }

    /// Adds the addresses and host names of a service as TXT records.
    pub(super) fn add_texts(&mut self, choice: &EndpointChoice) {
        let addresses = choice.v4.iter().map(ToString::to_string).chain(choice.v6.iter().map(ToString::to_string));
        let all: Vec<String> = addresses.chain(choice.hosts.iter().map(ToString::to_string)).collect();
        for at in self.sample_fitting(all.len(), MIN_A_BYTES) {
            self.add(txt_record(&all[at]));
        }
    }

    /// Adds the metadata of a node as TXT records.
    pub(super) fn add_metadata(&mut self, node: &DnsNode) {
        for (key, value) in node.metadata().into_iter().flat_map(crate::model::Metadata::iter) {
            let prefix = key.get(..RAW_TXT_PREFIX.len());
            let is_raw = prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(RAW_TXT_PREFIX));
            self.add(txt_record(&if is_raw { value.to_owned() } else { format!("{key}={value}") }));
        }
    }
}

/// Returns the A or AAAA record of an address.
pub(super) fn address_record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// Returns a TXT record, its text divided into strings, which resolvers join.
fn txt_record(text: &str) -> RData {
    RData::TXT(TXT::from_bytes(text.as_bytes().chunks(MAX_TXT_STRING_BYTES).collect()))
}
