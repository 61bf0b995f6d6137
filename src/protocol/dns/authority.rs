//! Answers to questions, from the current state of the registry.
//!
//! * Instances that are not routable are left out. A service without routable instances does not exist (NXDOMAIN).
//! * A name that exists, but has no records of the type asked for, gets an empty answer (NOERROR). NXDOMAIN to a question for AAAA
//!   would tell the resolver that there are no A records either (RFC 8020).
//! * The order of records is random. If more records exist than fit, their selection is random, too.
//! * A host name becomes a CNAME only where a service has no address: a name with a CNAME may have no other records.
//! * An alias of a name in the zone is followed, so that the answer has the addresses.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType, rdata::PTR},
};

use super::{
    answer::DnsAnswer,
    answer_builder::{AnswerBuilder, address_record},
    endpoints::{self, ServiceEndpoints},
    node::DnsNode,
    question::{Question, Reading, ServiceQuestion},
    record::{AdditionalRecord, DnsRecord, RecordOwner},
    reverse::{IndexBehind, ReverseIndex},
    zone::Zone,
};
use crate::{
    app::{EffectiveWeights, Views},
    model::UnixMillis,
    registry::Registry,
};

/// Maximum number of aliases that are followed for one answer.
const MAX_ALIAS_HOPS: usize = 8;
/// Maximum bytes of the addresses that are added for the host name of one SRV record: a few of each address family.
const MAX_TARGET_ADDRESS_BYTES: usize = 128;

/// State that an answer is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerContext<'a> {
    pub(super) registry: &'a Registry,
    pub(super) now: UnixMillis,
}

/// Authoritative server of a zone, without the sockets.
#[derive(Debug)]
pub struct Authority {
    zone: Zone,
    views: Arc<Views>,
    weights: Arc<EffectiveWeights>,
    reverse: ReverseIndex,
}

impl Authority {
    /// Returns the authority of a zone. It caches the endpoints of services in `views`. `weights`: weights of SRV records.
    #[must_use]
    pub fn new(zone: Zone, views: &Arc<Views>, weights: &Arc<EffectiveWeights>) -> Self {
        Self { zone, views: Arc::clone(views), weights: Arc::clone(weights), reverse: ReverseIndex::new() }
    }

    /// Answers a question with as many records as can fit into `max_bytes`.
    ///
    /// # Errors
    ///
    /// [`IndexBehind`] if the index of addresses has more changes to read than one call reads: call again, after a yield.
    pub(super) fn answer(
        &self,
        context: AnswerContext<'_>,
        query: &Query,
        max_bytes: usize,
    ) -> Result<DnsAnswer, IndexBehind> {
        let record_type = query.query_type();
        let is_transfer = matches!(record_type, RecordType::AXFR | RecordType::IXFR);
        if is_transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return Ok(DnsAnswer::with_code(ResponseCode::Refused));
        }
        let AnswerContext { registry, now } = context;
        let mut builder = AnswerBuilder::new(&self.zone, query.name(), record_type, max_bytes);
        let exists = match Question::of(query.name(), &self.zone) {
            Question::OutOfZone => return Ok(DnsAnswer::with_code(ResponseCode::Refused)),
            Question::Apex => {
                builder.add_apex(&DnsNode::local(registry), serial(now));
                true
            }
            Question::Service(question) => self.answer_service(registry, &question, &mut builder),
            Question::Node(name) => self.answer_node(registry, &name, &mut builder),
            Question::Address(address) => {
                builder.add(address_record(address));
                true
            }
            Question::Reverse(address) => self.answer_reverse(registry, address, &mut builder)?,
            Question::EmptyNonTerminal => true,
            Question::Nonexistent => false,
        };
        if !exists {
            builder.answer.code = ResponseCode::NXDomain;
        }
        if builder.answer.answers.is_empty() {
            builder.add_authority(serial(now));
        }
        Ok(builder.answer)
    }

    /// Answers a question about a service. Returns whether the name exists.
    fn answer_service(&self, registry: &Registry, question: &ServiceQuestion, builder: &mut AnswerBuilder<'_>) -> bool {
        let found = self.find_endpoints(registry, &question.readings);
        let choice = found.as_ref().and_then(|(endpoints, tag)| Some((endpoints, endpoints.choice(*tag)?)));
        let Some((endpoints, choice)) = choice else { return self.is_empty_non_terminal(registry, question) };
        match builder.record_type {
            RecordType::SRV => {
                let host_names = builder.add_srv(endpoints, choice);
                self.add_target_addresses(registry, host_names, builder);
            }
            RecordType::TXT => builder.add_texts(choice),
            _ => {
                builder.add_addresses(&choice.v4, &choice.v6, &choice.hosts);
                self.follow_aliases(registry, builder);
            }
        }
        true
    }

    /// Returns the endpoints of the first reading whose service exists, and the tag of that reading.
    fn find_endpoints<'a>(
        &self,
        registry: &Registry,
        readings: &'a [Reading],
    ) -> Option<(Arc<ServiceEndpoints>, Option<&'a str>)> {
        readings.iter().find_map(|reading| {
            let endpoints = self.endpoints_of(registry, &reading.service)?;
            Some((endpoints, reading.tag.as_deref()))
        })
    }

    fn endpoints_of(&self, registry: &Registry, service: &str) -> Option<Arc<ServiceEndpoints>> {
        endpoints::of_service(&self.views, (registry, &self.weights), &self.zone, service)
    }

    /// Returns whether a name without records is above a name that has some.
    fn is_empty_non_terminal(&self, registry: &Registry, question: &ServiceQuestion) -> bool {
        let is_above_tag = |reading: &Reading| {
            let endpoints = self.endpoints_of(registry, &reading.service);
            endpoints.zip(reading.tag.as_ref()).is_some_and(|(endpoints, tag)| endpoints.is_tag_suffix(tag))
        };
        registry.is_service_suffix(&question.prefix)
            || registry.is_tag_suffix(&question.prefix)
            || question.service_suffix().is_some_and(|suffix| registry.is_service_suffix(suffix))
            || question.readings.iter().any(is_above_tag)
    }

    /// Answers a question about a node. Returns whether the name exists.
    fn answer_node(&self, registry: &Registry, name: &str, builder: &mut AnswerBuilder<'_>) -> bool {
        let Some(node) = DnsNode::find(registry, &self.zone, name) else {
            return self.zone.is_above_local_node(name) || registry.is_node_suffix(name);
        };
        builder.add_metadata(&node);
        if let Some(target) = node.target(&self.zone) {
            builder.add_target(&target);
        }
        self.follow_aliases(registry, builder);
        true
    }

    /// Answers with the nodes that have an address or, if there are none, with the services. Returns whether there are any.
    fn answer_reverse(
        &self,
        registry: &Registry,
        address: IpAddr,
        builder: &mut AnswerBuilder<'_>,
    ) -> Result<bool, IndexBehind> {
        let address = address.to_canonical();
        let nodes = DnsNode::with_address(registry, &self.zone, address);
        let mut names: Vec<Name> = nodes.iter().filter_map(|node| node.name(&self.zone)).collect();
        if names.is_empty() {
            let services = self.reverse.services(registry, address)?;
            names = services.iter().filter_map(|service| self.zone.service_name(service.as_str())).collect();
            // Services whose names differ in case have one name in DNS.
            names.sort_unstable();
            names.dedup();
        }
        let exists = !names.is_empty();
        for name in names {
            builder.add(RData::PTR(PTR(name)));
        }
        Ok(exists)
    }

    /// Adds the records of the name that a trailing alias points to, repeatedly, until the name is outside the zone or was
    /// followed before.
    fn follow_aliases(&self, registry: &Registry, builder: &mut AnswerBuilder<'_>) {
        if !builder.asks_for_addresses() || builder.trailing_alias().is_none() {
            return;
        }
        let mut followed = vec![builder.name().clone()];
        while let Some((index, name)) = builder.trailing_alias()
            && followed.len() <= MAX_ALIAS_HOPS
            && !followed.contains(&name)
        {
            followed.push(name.clone());
            builder.continue_at_alias(index, name.clone());
            self.add_hosts(registry, &Question::of(&name, &self.zone), builder);
            if builder.trailing_alias().is_some_and(|(last, _)| last == index) {
                return;
            }
        }
    }

    /// Adds the addresses of a name, or its alias.
    fn add_hosts(&self, registry: &Registry, question: &Question, builder: &mut AnswerBuilder<'_>) {
        match question {
            Question::Service(question) => {
                if let Some((endpoints, tag)) = self.find_endpoints(registry, &question.readings)
                    && let Some(choice) = endpoints.choice(tag)
                {
                    builder.add_addresses(&choice.v4, &choice.v6, &choice.hosts);
                }
            }
            Question::Node(name) => {
                let node = DnsNode::find(registry, &self.zone, name);
                if let Some(target) = node.and_then(|node| node.target(&self.zone)) {
                    builder.add_target(&target);
                }
            }
            Question::Address(address) => builder.add(address_record(*address)),
            Question::Apex
            | Question::Reverse(_)
            | Question::EmptyNonTerminal
            | Question::Nonexistent
            | Question::OutOfZone => {}
        }
    }

    /// Adds the addresses of SRV targets that are host names in the zone as additional records. `targets`: indexes of the SRV
    /// records and their targets.
    fn add_target_addresses(&self, registry: &Registry, targets: Vec<(usize, Name)>, builder: &mut AnswerBuilder<'_>) {
        let mut added = false;
        for (answer, name) in targets {
            let question = Question::of(&name, &self.zone);
            if question == Question::OutOfZone {
                continue;
            }
            let mut host = AnswerBuilder::new(&self.zone, &name, RecordType::ANY, MAX_TARGET_ADDRESS_BYTES);
            self.add_hosts(registry, &question, &mut host);
            self.follow_aliases(registry, &mut host);
            let records = host.answer.answers;
            if records.last().is_none_or(|record| record.data.rdata().record_type() == RecordType::CNAME) {
                continue;
            }
            let owners: Vec<RecordOwner> =
                records.iter().map(|record| owner_in_answer(&record.owner, answer, &records)).collect();
            for (record, owner) in records.into_iter().zip(owners) {
                let record = DnsRecord { owner, ..record };
                builder.answer.additionals.push(AdditionalRecord { answer, record });
            }
            added = true;
        }
        if added {
            builder.answer.additionals.sort_by_key(|additional| additional.answer);
        }
    }
}

/// Returns the owner that a record has in the whole answer. `owner`: its owner in `records`, which answer a question for the target
/// of the SRV record at index `srv` of the whole answer.
fn owner_in_answer(owner: &RecordOwner, srv: usize, records: &[DnsRecord]) -> RecordOwner {
    match owner {
        RecordOwner::QueryName => RecordOwner::TargetOf(srv),
        RecordOwner::Name(name) => RecordOwner::Name(name.clone()),
        RecordOwner::TargetOf(at) => match records.get(*at).map(|record| record.data.rdata()) {
            Some(RData::CNAME(name)) => RecordOwner::Name(name.0.clone()),
            Some(_) | None => RecordOwner::TargetOf(srv),
        },
    }
}

/// Returns the serial number of the zone: the time in seconds, since the zone may change at any time.
fn serial(now: UnixMillis) -> u32 {
    u32::try_from(now.0 / 1_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "authority/empty_non_terminal_tests.rs"]
mod empty_non_terminal_tests;
#[cfg(test)]
#[path = "authority/name_tests.rs"]
mod name_tests;
#[cfg(test)]
#[path = "authority/scale_tests.rs"]
mod scale_tests;
#[cfg(test)]
#[path = "authority/test_support.rs"]
mod test_support;
#[cfg(test)]
#[path = "authority/tests.rs"]
mod tests;
