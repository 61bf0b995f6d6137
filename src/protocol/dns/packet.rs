//! Bytes to questions, and answers to bytes that fit.

use std::{borrow::Cow, iter::once, net::IpAddr};

use hickory_proto::{
    ProtoError,
    op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder, NameEncoding},
};

use super::{
    answer::DnsAnswer,
    record::{BEFORE_TARGET, DnsRecord, RecordOwner},
};

/// Bytes that everybody takes over UDP.
const USUAL: u16 = 512;
/// Bytes that go over every network in one piece; who offers more gets no more.
const WHOLE: u16 = 1_232;
/// Most bytes of a packet to this machine itself, as in Consul: nothing is cut in pieces there. HAProxy never asks over TCP: it takes
/// what a packet has for all there is, or, where addresses are cut, for nothing.
const LOCAL: u16 = u16::MAX - 68;
/// Bytes of an OPT record without options.
const OPT: u16 = 11;
/// A pointer to the name that was asked for, behind the header.
const ASKED: u16 = POINTER | 0x0C;
/// The bits that tell a pointer.
const POINTER: u16 = 0xC000;
/// Bytes of a record whose owner is a pointer, before its data.
const BEFORE_DATA: usize = 12;
/// How far pointers reach.
const REACH: usize = 0x4000;

/// How an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DnsTransport {
    /// In a packet, over networks.
    Packet,
    /// In a packet to this machine itself.
    Local,
    /// Over a connection.
    Connection,
}

impl DnsTransport {
    /// Of a packet to this peer.
    pub(super) fn to(peer: IpAddr) -> Self {
        if peer.to_canonical().is_loopback() { Self::Local } else { Self::Packet }
    }
}

/// A question as it came.
#[derive(Debug)]
pub(super) struct DnsQuery {
    id: u16,
    code: OpCode,
    recursion: bool,
    /// `None`: it could not be read.
    query: Option<Query>,
    /// Bytes that the answer may have over UDP, if it was offered any.
    offered: Option<u16>,
}

impl DnsQuery {
    /// Reads a packet: the question, or what is wrong with it. `None`: it is no question at all.
    pub(super) fn read(packet: &[u8]) -> Option<(Self, Result<Query, ResponseCode>)> {
        let mut decoder = BinDecoder::new(packet);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        if metadata.message_type == MessageType::Response {
            // Answering answers makes two servers talk for ever.
            return None;
        }
        let mut asked = Self {
            id: metadata.id,
            code: metadata.op_code,
            recursion: metadata.recursion_desired,
            query: None,
            offered: None,
        };
        let found =
            if asked.code == OpCode::Query { asked.question(&mut decoder, counts) } else { Err(ResponseCode::NotImp) };
        Some((asked, found))
    }

    fn question(&mut self, decoder: &mut BinDecoder<'_>, counts: HeaderCounts) -> Result<Query, ResponseCode> {
        if counts.queries != 1 {
            return Err(ResponseCode::FormErr);
        }
        let query = Query::read(decoder).map_err(|_| ResponseCode::FormErr)?;
        let mut edns = None;
        for (count, last) in [(counts.answers, false), (counts.authorities, false), (counts.additionals, true)] {
            let (_, found, _) =
                Message::read_records(decoder, count.into(), last, self.code).map_err(|_| ResponseCode::FormErr)?;
            edns = found;
        }
        self.query = Some(query.clone());
        self.offered = edns.as_ref().map(Edns::max_payload);
        if edns.is_some_and(|edns| edns.version() > 0) { Err(ResponseCode::BADVERS) } else { Ok(query) }
    }

    /// Bytes that the answer may have.
    pub(super) fn room(&self, way: DnsTransport) -> u16 {
        let most = match way {
            DnsTransport::Packet => WHOLE,
            DnsTransport::Local => LOCAL,
            DnsTransport::Connection => return u16::MAX,
        };
        self.offered.map_or(USUAL, |offered| offered.clamp(USUAL, most))
    }

    /// The answer in no more than so many bytes. Answers that do not fit with what helps with them are left out, and that is
    /// said.
    pub(super) fn reply(&self, answer: &DnsAnswer, room: u16) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = Vec::with_capacity(usize::from(room.min(WHOLE)));
        let mut encoder = BinEncoder::new(&mut bytes);
        let place = encoder.place::<Header>()?;
        let opt = if self.offered.is_some() { OPT } else { 0 };
        let queries = counted(encoder.emit_all(self.query.iter()))?;
        let mut counts = HeaderCounts { queries, answers: 0, authorities: 0, additionals: 0 };
        let FittedAnswer { starts, help, helping, cut } = fitting(&mut encoder, answer, room - opt)?;
        counts.answers = count(starts.len());
        if !cut {
            encoder.set_max_size(room.saturating_sub(opt).saturating_sub(count(help.len())));
            let lines: Vec<_> =
                answer.authorities.iter().map(|line| EncodedRecord { line, answer, starts: &starts }).collect();
            counts.authorities = counted(encoder.emit_all(lines.iter()))?;
        }
        encoder.set_max_size(room);
        encoder.emit_vec(&help)?;
        counts.additionals = helping;
        if self.offered.is_some() {
            counts.additionals += counted(encoder.emit_all(once(&edns(answer.code))))?;
        }
        let mut metadata = Metadata::new(self.id, MessageType::Response, self.code);
        metadata.authoritative = answer.ours;
        metadata.truncation = cut;
        metadata.recursion_desired = self.recursion;
        metadata.response_code = answer.code;
        let end = encoder.offset();
        place.replace(&mut encoder, Header { metadata, counts })?;
        // What did not fit was begun.
        bytes.truncate(end);
        Ok(bytes)
    }
}

/// The answers that fit.
#[derive(Debug, Default)]
struct FittedAnswer {
    /// Where each of them begins.
    starts: Vec<usize>,
    /// What helps with them, to be written behind them, and how many records that is.
    help: Vec<u8>,
    helping: u16,
    /// Whether something was left out.
    cut: bool,
}

/// Writes as many answers as fit into a packet of this size, each with all that helps with it: an SRV record without the address
/// of its target is worth little to a client that never asks over TCP. The first one comes without help, if that alone fits.
fn fitting(encoder: &mut BinEncoder<'_>, answer: &DnsAnswer, size: u16) -> Result<FittedAnswer, ProtoError> {
    let mut found = FittedAnswer { cut: answer.cut, ..FittedAnswer::default() };
    let mut additionals = answer.additionals.iter().peekable();
    for (at, line) in answer.answers.iter().enumerate() {
        let start = encoder.offset();
        encoder.set_max_size(size.saturating_sub(count(found.help.len())));
        if counted(encoder.emit_all(once(&EncodedRecord { line, answer, starts: &found.starts })))? == 0 {
            found.cut = true;
            break;
        }
        found.starts.push(start);
        let (before, mut helping) = (found.help.len(), 0);
        while let Some(additional) = additionals.next_if(|additional| additional.of <= at) {
            help(&additional.line, answer, &found.starts, &mut found.help)?;
            helping += 1;
        }
        if encoder.offset() + found.help.len() <= usize::from(size) {
            found.helping += helping;
            continue;
        }
        found.cut = true;
        found.help.truncate(before);
        if at > 0 {
            found.starts.pop();
            encoder.set_offset(start);
            encoder.trim();
        }
        break;
    }
    Ok(found)
}

/// Appends a record that helps. It stands behind all answers, wherever these end: so it has no pointers but to them.
fn help(line: &DnsRecord, answer: &DnsAnswer, starts: &[usize], to: &mut Vec<u8>) -> Result<(), ProtoError> {
    match &line.owner {
        RecordOwner::Asked => to.extend(ASKED.to_be_bytes()),
        RecordOwner::Name(name) => to.extend(plain(name)?),
        RecordOwner::TargetOf(at) => match pointer(answer, starts, *at) {
            Some(there) => to.extend(there.to_be_bytes()),
            None => to.extend(far_target(answer, starts, *at)?),
        },
    }
    let record = line.data.record();
    to.extend(u16::from(record.record_type()).to_be_bytes());
    to.extend(u16::from(DNSClass::IN).to_be_bytes());
    to.extend(line.ttl.to_be_bytes());
    let mut put = |data: &[u8]| {
        to.extend(count(data.len()).to_be_bytes());
        to.extend(data);
    };
    match record {
        RData::A(address) => put(&address.0.octets()),
        RData::AAAA(address) => put(&address.0.octets()),
        other => put(&plain(other)?),
    }
    Ok(())
}

/// Bytes without pointers.
fn plain(what: &impl BinEncodable) -> Result<Vec<u8>, ProtoError> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    what.emit(&mut encoder)?;
    Ok(bytes)
}

/// A pointer to the name that the answer at this place leads to, if that is within reach.
fn pointer(answer: &DnsAnswer, starts: &[usize], at: usize) -> Option<u16> {
    let before = match answer.answers.get(at)?.data.record() {
        RData::SRV(_) => BEFORE_DATA + BEFORE_TARGET,
        _ => BEFORE_DATA,
    };
    let there = starts.get(at).map(|start| start + before).filter(|there| *there < REACH)?;
    u16::try_from(there).ok().map(|there| POINTER | there)
}

/// The target of the SRV record at this place, which is beyond the reach of pointers: all but its first label is mostly that of
/// the first record's target.
fn far_target(answer: &DnsAnswer, starts: &[usize], at: usize) -> Result<Vec<u8>, ProtoError> {
    let target = target(answer, at)?;
    let first = target_label(&target);
    let (label, rest) = target.split_at(first);
    let nearest = self::target(answer, 0)?;
    let skipped = target_label(&nearest);
    match pointer(answer, starts, 0) {
        Some(there) if rest.len() > 1 && nearest.get(skipped..) == Some(rest) => {
            Ok([label, &(there + count(skipped)).to_be_bytes()].concat())
        }
        Some(_) | None => Ok(target.into_owned()),
    }
}

/// Bytes of the target of the SRV record at this place.
fn target(answer: &DnsAnswer, at: usize) -> Result<Cow<'_, [u8]>, ProtoError> {
    let line = answer.answers.get(at);
    match line.map(|line| (line.data.target(), line.data.record())) {
        Some((Some(target), _)) => Ok(Cow::Borrowed(target)),
        Some((None, RData::SRV(srv))) => plain(&srv.target).map(Cow::Owned),
        _ => Err(ProtoError::Message("no such target")),
    }
}

/// Bytes of the first label of a name, its length included.
fn target_label(target: &[u8]) -> usize {
    target.first().map_or(0, |length| 1 + usize::from(*length)).min(target.len())
}

fn count(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn edns(code: ResponseCode) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(WHOLE).set_rcode_high(code.high());
    edns
}

/// How many were written: not all, if there was no room.
fn counted(written: Result<usize, ProtoError>) -> Result<u16, ProtoError> {
    let count = match written {
        Ok(count) | Err(ProtoError::NotAllRecordsWritten { count, .. }) => count,
        Err(error) => return Err(error),
    };
    Ok(self::count(count))
}

/// A record as it is written: its owner is a pointer where that name is there already. hickory's own records give up looking
/// for such names after some dozens, and a large answer would be twice as long.
struct EncodedRecord<'a> {
    line: &'a DnsRecord,
    answer: &'a DnsAnswer,
    /// Where each record of the answer begins.
    starts: &'a [usize],
}

impl BinEncodable for EncodedRecord<'_> {
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        let DnsRecord { owner, ttl, data } = self.line;
        match owner {
            RecordOwner::Asked => encoder.emit_u16(ASKED)?,
            RecordOwner::Name(name) => name.emit(encoder)?,
            RecordOwner::TargetOf(at) => match pointer(self.answer, self.starts, *at) {
                Some(there) => encoder.emit_u16(there)?,
                None => return Err(ProtoError::Message("an alias is too far away")),
            },
        }
        data.record().record_type().emit(encoder)?;
        DNSClass::IN.emit(encoder)?;
        encoder.emit_u32(*ttl)?;
        let place = encoder.place::<u16>()?;
        data.emit(encoder)?;
        let length = encoder.len_since_place(&place);
        place.replace(encoder, u16::try_from(length).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
#[path = "packet/tests.rs"]
mod tests;
