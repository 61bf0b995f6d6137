//! Bytes to questions, and answers to bytes that fit.

use std::{iter::once, net::IpAddr};

use hickory_proto::{
    ProtoError,
    op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder},
};

use super::{
    answer::Answer,
    record::{Line, Owner},
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
const ASKED: u16 = 0xC000 | 0x0C;
/// Bytes of an SRV record whose owner is a pointer, before its target.
const BEFORE_TARGET: usize = 18;
/// How far pointers reach.
const REACH: usize = 0x4000;

/// How an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In a packet, over networks.
    Packet,
    /// In a packet to this machine itself.
    Local,
    /// Over a connection.
    Connection,
}

impl Way {
    /// Of a packet to this peer.
    pub(super) fn to(peer: IpAddr) -> Self {
        if peer.to_canonical().is_loopback() { Self::Local } else { Self::Packet }
    }
}

/// A question as it came.
#[derive(Debug)]
pub(super) struct Asked {
    id: u16,
    code: OpCode,
    recursion: bool,
    /// `None`: it could not be read.
    query: Option<Query>,
    /// Bytes that the answer may have over UDP, if it was offered any.
    offered: Option<u16>,
}

impl Asked {
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
    pub(super) fn room(&self, way: Way) -> u16 {
        let most = match way {
            Way::Packet => WHOLE,
            Way::Local => LOCAL,
            Way::Connection => return u16::MAX,
        };
        self.offered.map_or(USUAL, |offered| offered.clamp(USUAL, most))
    }

    /// The answer in no more than so many bytes. Answers that do not fit are left out, and that is said; what is only of help
    /// is left out silently.
    pub(super) fn reply(&self, answer: &Answer, room: u16) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = Vec::with_capacity(usize::from(room.min(WHOLE)));
        let mut encoder = BinEncoder::new(&mut bytes);
        let opt = if self.offered.is_some() { OPT } else { 0 };
        encoder.set_max_size(room - opt);
        let place = encoder.place::<Header>()?;
        let mut counts = HeaderCounts { queries: 0, answers: 0, authorities: 0, additionals: 0 };
        counts.queries = counted(encoder.emit_all(self.query.iter()))?;
        let mut starts = Vec::with_capacity(answer.answers.len());
        for line in &answer.answers {
            let start = encoder.offset();
            if counted(encoder.emit_all(once(&Written { line, answer, starts: &starts })))? == 0 {
                break;
            }
            starts.push(start);
        }
        counts.answers = u16::try_from(starts.len()).unwrap_or(u16::MAX);
        let cut = answer.cut || starts.len() < answer.answers.len();
        if !cut {
            let written = |lines: &'_ [Line], encoder: &mut BinEncoder<'_>| {
                let lines: Vec<_> = lines.iter().map(|line| Written { line, answer, starts: &starts }).collect();
                counted(encoder.emit_all(lines.iter()))
            };
            counts.authorities = written(&answer.authorities, &mut encoder)?;
            counts.additionals = written(&answer.additionals, &mut encoder)?;
        }
        encoder.set_max_size(room);
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
    Ok(u16::try_from(count).unwrap_or(u16::MAX))
}

/// A record as it is written: its owner is a pointer where that name is there already. hickory's own records give up looking
/// for such names after some dozens, and a large answer would be twice as long.
struct Written<'a> {
    line: &'a Line,
    answer: &'a Answer,
    /// Where each record of the answer begins.
    starts: &'a [usize],
}

impl BinEncodable for Written<'_> {
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        let Line { owner, ttl, data } = self.line;
        match owner {
            Owner::Asked => encoder.emit_u16(ASKED)?,
            Owner::Name(name) => name.emit(encoder)?,
            Owner::TargetOf(at) => {
                let there = self.starts.get(*at).map(|start| start + BEFORE_TARGET).filter(|there| *there < REACH);
                let target = self.answer.answers.get(*at).map(|line| line.data.record());
                match (there.and_then(|there| u16::try_from(there).ok()), target) {
                    (Some(there), _) => encoder.emit_u16(0xC000 | there)?,
                    (None, Some(RData::SRV(srv))) => srv.target.emit(encoder)?,
                    (None, _) => return Err(ProtoError::Message("no such target")),
                }
            }
        }
        data.record().record_type().emit(encoder)?;
        DNSClass::IN.emit(encoder)?;
        encoder.emit_u32(*ttl)?;
        let place = encoder.place::<u16>()?;
        if self.starts.is_empty() {
            // Of the first, the encoder learns where the ends of names are, for those that no pointer of ours reaches.
            data.record().emit(encoder)?;
        } else {
            data.emit(encoder)?;
        }
        let length = encoder.len_since_place(&place);
        place.replace(encoder, u16::try_from(length).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
#[path = "packet/tests.rs"]
mod tests;
