//! The answer to a question, from what the registry shows.
//!
//! * Who is not to be called is not in it. A service of which nobody is to be called is no name.
//! * A name that is there, but not with what was asked for, is answered with nothing, and not denied: who asks for IPv6 would
//!   else be told that there is no IPv4 either.
//! * Records come in another order each time, and where there are more than fit, others each time.
//! * Host names stand for addresses only where there is no address: beside a CNAME nothing else may be.
//! * A host name in the zone is followed, so that the answer has the addresses that it leads to.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType, rdata::PTR},
};

use super::{
    answer_builder::{AnswerBuilder, data},
    endpoints::{EndpointCache, ServiceEndpoints},
    node::DnsNode,
    question::{Question, Reading, ServiceQuestion},
    record::{Additional, DnsRecord, RecordOwner},
    reverse::{IndexBehind, ReverseIndex},
    zone::Zone,
};
use crate::{model::UnixMillis, registry::Registry};

/// Most aliases that are followed for one answer.
const MAX_HOPS: usize = 8;
/// Most bytes of addresses that are added for the host name of one SRV record: some of each family.
const HELP_BYTES: usize = 128;

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DnsAnswer {
    pub(super) code: ResponseCode,
    /// Whether the name is ours.
    pub(super) ours: bool,
    /// Whether there are more answers than those here.
    pub(super) cut: bool,
    pub(super) answers: Vec<DnsRecord>,
    pub(super) authorities: Vec<DnsRecord>,
    /// By the places of the answers that they help with.
    pub(super) additionals: Vec<Additional>,
}

impl DnsAnswer {
    /// With a code alone.
    pub(super) fn only(code: ResponseCode) -> Self {
        let (answers, authorities, additionals) = Default::default();
        Self { code, ours: false, cut: false, answers, authorities, additionals }
    }

    /// An empty answer about a name that is ours.
    pub(super) fn ours() -> Self {
        Self { ours: true, ..Self::only(ResponseCode::NoError) }
    }
}

/// What is known, as of a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerContext<'a> {
    pub(super) registry: &'a Registry,
    pub(super) now: UnixMillis,
}

/// Knows the answers.
#[derive(Debug)]
pub struct Authority {
    zone: Zone,
    kept: EndpointCache,
    reverse: ReverseIndex,
}

impl Authority {
    /// For a zone.
    #[must_use]
    pub fn new(zone: Zone) -> Self {
        Self { zone, kept: EndpointCache::default(), reverse: ReverseIndex::new() }
    }

    /// The answer to a question, with no more records than fit into so many bytes.
    ///
    /// # Errors
    ///
    /// When more changes have to be read first than one question should wait for: ask again.
    pub(super) fn answer(
        &self,
        moment: AnswerContext<'_>,
        query: &Query,
        room: usize,
    ) -> Result<DnsAnswer, IndexBehind> {
        let wanted = query.query_type();
        let transfer = matches!(wanted, RecordType::AXFR | RecordType::IXFR);
        if transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return Ok(DnsAnswer::only(ResponseCode::Refused));
        }
        let AnswerContext { registry, now } = moment;
        let mut sheet = AnswerBuilder::new(&self.zone, query.name(), wanted, room);
        let known = match Question::of(query.name(), &self.zone) {
            Question::OutOfZone => return Ok(DnsAnswer::only(ResponseCode::Refused)),
            Question::Apex => {
                sheet.apex(&DnsNode::local(registry), serial(now));
                true
            }
            Question::Service(asked) => self.service(registry, &asked, &mut sheet),
            Question::Node(name) => self.node(registry, &name, &mut sheet),
            Question::Literal(address) => {
                sheet.put(data(address));
                true
            }
            Question::Reverse(address) => self.reverse(registry, address, &mut sheet)?,
            Question::EmptyNonTerminal => true,
            Question::Nothing => false,
        };
        if !known {
            sheet.answer.code = ResponseCode::NXDomain;
        }
        if sheet.answer.answers.is_empty() {
            sheet.authority(serial(now));
        }
        Ok(sheet.answer)
    }

    /// Answers about a service. Returns whether there is such a name.
    fn service(&self, registry: &Registry, asked: &ServiceQuestion, sheet: &mut AnswerBuilder<'_>) -> bool {
        let found = self.offers(registry, &asked.readings);
        let choice = found.as_ref().and_then(|(offers, tag)| offers.choice(*tag).map(|choice| (offers, choice)));
        let Some((offers, choice)) = choice else { return self.is_between(registry, asked) };
        match sheet.wanted {
            RecordType::SRV => {
                let unknown = sheet.srv(offers, choice);
                self.help(registry, unknown, sheet);
            }
            RecordType::TXT => sheet.texts(choice),
            _ => {
                sheet.hosts(&choice.v4, &choice.v6, &choice.hosts);
                self.follow(registry, sheet);
            }
        }
        true
    }

    /// The service that a name means, and the tag.
    fn offers<'a>(
        &self,
        registry: &Registry,
        readings: &'a [Reading],
    ) -> Option<(Arc<ServiceEndpoints>, Option<&'a str>)> {
        readings.iter().find_map(|reading| {
            let offers = self.kept.offers(registry, &self.zone, &reading.service)?;
            Some((offers, reading.tag.as_deref()))
        })
    }

    /// Returns whether a name that nobody has is above one that somebody has.
    fn is_between(&self, registry: &Registry, asked: &ServiceQuestion) -> bool {
        let above_tag = |reading: &Reading| {
            let offers = self.kept.offers(registry, &self.zone, &reading.service);
            offers.zip(reading.tag.as_ref()).is_some_and(|(offers, tag)| offers.is_tag_suffix(tag))
        };
        registry.is_service_suffix(&asked.text)
            || registry.is_tag_suffix(&asked.text)
            || asked.above_service().is_some_and(|service| registry.is_service_suffix(service))
            || asked.readings.iter().any(above_tag)
    }

    fn node(&self, registry: &Registry, name: &str, sheet: &mut AnswerBuilder<'_>) -> bool {
        let Some(node) = DnsNode::named(registry, &self.zone, name) else {
            return self.zone.is_above_node(name) || registry.is_node_suffix(name);
        };
        sheet.metadata(&node);
        sheet.target(node.target(&self.zone).as_ref());
        self.follow(registry, sheet);
        true
    }

    /// Whose address that is: nodes, or, where there is none, services.
    fn reverse(
        &self,
        registry: &Registry,
        address: IpAddr,
        sheet: &mut AnswerBuilder<'_>,
    ) -> Result<bool, IndexBehind> {
        let address = address.to_canonical();
        let nodes = DnsNode::at(registry, &self.zone, address);
        let mut names: Vec<Name> = nodes.iter().filter_map(|node| node.name(&self.zone)).collect();
        if names.is_empty() {
            let services = self.reverse.services(registry, address)?;
            names = services.iter().filter_map(|service| self.zone.service(service.as_str())).collect();
            // In DNS, the spellings of a service are one name.
            names.sort_unstable();
            names.dedup();
        }
        let known = !names.is_empty();
        for name in names {
            sheet.put(RData::PTR(PTR(name)));
        }
        Ok(known)
    }

    /// Goes on where an alias leads to, as long as that is a name in the zone which has not been passed yet.
    fn follow(&self, registry: &Registry, sheet: &mut AnswerBuilder<'_>) {
        if !sheet.wants_addresses() || sheet.alias_at_end().is_none() {
            return;
        }
        let mut passed = vec![sheet.name().clone()];
        while let Some((at, name)) = sheet.alias_at_end()
            && passed.len() <= MAX_HOPS
            && !passed.contains(&name)
        {
            passed.push(name.clone());
            sheet.go_on(at, name.clone());
            self.hosts(registry, &Question::of(&name, &self.zone), sheet);
            if sheet.alias_at_end().is_some_and(|(last, _)| last == at) {
                return;
            }
        }
    }

    /// The addresses of a name, or the name that it is an alias of.
    fn hosts(&self, registry: &Registry, question: &Question, sheet: &mut AnswerBuilder<'_>) {
        match question {
            Question::Service(asked) => {
                if let Some((offers, tag)) = self.offers(registry, &asked.readings)
                    && let Some(choice) = offers.choice(tag)
                {
                    sheet.hosts(&choice.v4, &choice.v6, &choice.hosts);
                }
            }
            Question::Node(name) => {
                let node = DnsNode::named(registry, &self.zone, name);
                sheet.target(node.and_then(|node| node.target(&self.zone)).as_ref());
            }
            Question::Literal(address) => sheet.put(data(*address)),
            Question::Apex
            | Question::Reverse(_)
            | Question::EmptyNonTerminal
            | Question::Nothing
            | Question::OutOfZone => {}
        }
    }

    /// Adds the addresses of targets that are host names in the zone.
    fn help(&self, registry: &Registry, targets: Vec<(usize, Name)>, sheet: &mut AnswerBuilder<'_>) {
        let mut added = false;
        for (of, name) in targets {
            let question = Question::of(&name, &self.zone);
            if question == Question::OutOfZone {
                continue;
            }
            let mut host = AnswerBuilder::new(&self.zone, &name, RecordType::ANY, HELP_BYTES);
            self.hosts(registry, &question, &mut host);
            self.follow(registry, &mut host);
            let lines = host.answer.answers;
            if lines.last().is_none_or(|line| line.data.record().record_type() == RecordType::CNAME) {
                continue;
            }
            let owners: Vec<RecordOwner> = lines.iter().map(|line| absolute(&line.owner, of, &lines)).collect();
            for (line, owner) in lines.into_iter().zip(owners) {
                sheet.answer.additionals.push(Additional { of, line: DnsRecord { owner, ..line } });
            }
            added = true;
        }
        if added {
            sheet.answer.additionals.sort_by_key(|additional| additional.of);
        }
    }
}

/// The owner of a record among the answers to a question for the target of an SRV record, seen from the answer that has the SRV
/// record at this place.
fn absolute(owner: &RecordOwner, srv: usize, lines: &[DnsRecord]) -> RecordOwner {
    match owner {
        RecordOwner::Asked => RecordOwner::TargetOf(srv),
        RecordOwner::Name(name) => RecordOwner::Name(name.clone()),
        RecordOwner::TargetOf(at) => match lines.get(*at).map(|line| line.data.record()) {
            Some(RData::CNAME(name)) => RecordOwner::Name(name.0.clone()),
            Some(_) | None => RecordOwner::TargetOf(srv),
        },
    }
}

/// The time in seconds, for what it is worth: it says that the zone has changed.
fn serial(now: UnixMillis) -> u32 {
    u32::try_from(now.0 / 1_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "answer/between_tests.rs"]
mod between_tests;
#[cfg(test)]
#[path = "answer/name_tests.rs"]
mod name_tests;
#[cfg(test)]
#[path = "answer/tests.rs"]
mod tests;
