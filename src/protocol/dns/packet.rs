//! Wire format: decodes questions, and encodes answers into packets of limited size.

use std::{borrow::Cow, iter::once, net::IpAddr};

use hickory_proto::{
    ProtoError,
    op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder, NameEncoding},
};

use super::{
    answer::DnsAnswer,
    record::{DnsRecord, RecordOwner, SRV_HEADER_BYTES},
};

/// Maximum bytes of a response over UDP to a client without EDNS (RFC 1035).
const DEFAULT_UDP_BYTES: u16 = 512;
/// Maximum bytes of a response over UDP, even if the client offers more: larger packets are fragmented on some
/// networks.
const MAX_UDP_BYTES: u16 = 1_232;
/// Maximum bytes of a response over UDP on loopback, as in Consul: nothing is fragmented there. HAProxy never retries over TCP, so it
/// takes a truncated response for the complete one.
const MAX_LOOPBACK_UDP_BYTES: u16 = u16::MAX - 68;
/// Bytes of an OPT record without options.
const OPT_BYTES: u16 = 11;
/// Bits that mark a compression pointer (RFC 1035, 4.1.4).
const POINTER_FLAG: u16 = 0xC000;
/// Compression pointer to the name in the question, which follows the header.
const QUERY_NAME_POINTER: u16 = POINTER_FLAG | 0x0C;
/// End of the offsets that compression pointers reach.
const POINTER_OFFSET_END: usize = 0x4000;
/// Bytes of a record before its data, if its owner is a pointer.
const RECORD_HEADER_BYTES: usize = 12;

/// Transport of a response, which limits its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DnsTransport {
    /// UDP over a network.
    Udp,
    /// UDP to this host.
    LoopbackUdp,
    /// TCP.
    Tcp,
}

impl DnsTransport {
    /// Returns the transport of UDP packets to a peer.
    pub(super) fn udp_to(peer: IpAddr) -> Self {
        if peer.to_canonical().is_loopback() { Self::LoopbackUdp } else { Self::Udp }
    }
}

/// Header fields of a request that its response repeats or depends on.
#[derive(Debug)]
pub(super) struct DnsQuery {
    id: u16,
    op_code: OpCode,
    recursion_desired: bool,
    /// The question. `None`: it was not decoded.
    query: Option<Query>,
    /// Maximum bytes of the response over UDP that the client offers by EDNS.
    offered_bytes: Option<u16>,
}

impl DnsQuery {
    /// Decodes a request: its question, or the error that the response carries. `None`: the packet gets no response.
    pub(super) fn decode(packet: &[u8]) -> Option<(Self, Result<Query, ResponseCode>)> {
        let mut decoder = BinDecoder::new(packet);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        if metadata.message_type == MessageType::Response {
            // Two servers that answered each other's responses would never stop.
            return None;
        }
        let mut request = Self {
            id: metadata.id,
            op_code: metadata.op_code,
            recursion_desired: metadata.recursion_desired,
            query: None,
            offered_bytes: None,
        };
        let query = match request.op_code {
            OpCode::Query => request.decode_question(&mut decoder, counts),
            _ => Err(ResponseCode::NotImp),
        };
        Some((request, query))
    }

    fn decode_question(&mut self, decoder: &mut BinDecoder<'_>, counts: HeaderCounts) -> Result<Query, ResponseCode> {
        if counts.queries != 1 {
            return Err(ResponseCode::FormErr);
        }
        let query = Query::read(decoder).map_err(|_| ResponseCode::FormErr)?;
        let mut edns = None;
        let sections = [(counts.answers, false), (counts.authorities, false), (counts.additionals, true)];
        for (count, is_additional) in sections {
            let (_, found, _) = Message::read_records(decoder, count.into(), is_additional, self.op_code)
                .map_err(|_| ResponseCode::FormErr)?;
            edns = found;
        }
        self.query = Some(query.clone());
        self.offered_bytes = edns.as_ref().map(Edns::max_payload);
        if edns.is_some_and(|edns| edns.version() > 0) { Err(ResponseCode::BADVERS) } else { Ok(query) }
    }

    /// Returns the maximum bytes of the response.
    pub(super) fn max_response_bytes(&self, transport: DnsTransport) -> u16 {
        let max = match transport {
            DnsTransport::Udp => MAX_UDP_BYTES,
            DnsTransport::LoopbackUdp => MAX_LOOPBACK_UDP_BYTES,
            DnsTransport::Tcp => return u16::MAX,
        };
        self.offered_bytes.map_or(DEFAULT_UDP_BYTES, |offered| offered.clamp(DEFAULT_UDP_BYTES, max))
    }

    /// Encodes the response in at most `max_bytes`. Answers that do not fit together with their additional records are left out, and
    /// the response is marked as truncated.
    pub(super) fn encode_response(&self, answer: &DnsAnswer, max_bytes: u16) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = Vec::with_capacity(usize::from(max_bytes.min(MAX_UDP_BYTES)));
        let mut encoder = BinEncoder::new(&mut bytes);
        let header = encoder.place::<Header>()?;
        let opt_bytes = if self.offered_bytes.is_some() { OPT_BYTES } else { 0 };
        let queries = encoded_count(encoder.emit_all(self.query.iter()))?;
        let mut counts = HeaderCounts { queries, answers: 0, authorities: 0, additionals: 0 };
        let fitted = encode_fitting(&mut encoder, answer, max_bytes - opt_bytes)?;
        let FittedAnswer { offsets, additionals, additional_count, truncated } = fitted;
        counts.answers = saturating_u16(offsets.len());
        if !truncated {
            let reserved = opt_bytes.saturating_add(saturating_u16(additionals.len()));
            encoder.set_max_size(max_bytes.saturating_sub(reserved));
            let authorities = answer.authorities.iter();
            let records: Vec<_> =
                authorities.map(|record| EncodableRecord { record, answer, offsets: &offsets }).collect();
            counts.authorities = encoded_count(encoder.emit_all(records.iter()))?;
        }
        encoder.set_max_size(max_bytes);
        encoder.emit_vec(&additionals)?;
        counts.additionals = additional_count;
        if self.offered_bytes.is_some() {
            counts.additionals += encoded_count(encoder.emit_all(once(&edns(answer.code))))?;
        }
        let mut metadata = Metadata::new(self.id, MessageType::Response, self.op_code);
        metadata.authoritative = answer.authoritative;
        metadata.truncation = truncated;
        metadata.recursion_desired = self.recursion_desired;
        metadata.response_code = answer.code;
        let end = encoder.offset();
        header.replace(&mut encoder, Header { metadata, counts })?;
        // Removes the beginning of a record that did not fit.
        bytes.truncate(end);
        Ok(bytes)
    }
}

/// Part of an answer that fits into a packet.
#[derive(Debug, Default)]
struct FittedAnswer {
    /// Offset of each encoded answer.
    offsets: Vec<usize>,
    /// Encoded additional records, which follow the answers and authorities.
    additionals: Vec<u8>,
    additional_count: u16,
    /// True if records were left out.
    truncated: bool,
}

/// Encodes as many answers as fit into `max_bytes`, each with all its additional records: a client that never retries over TCP cannot
/// use an SRV record without the address of its target. The first answer comes without additional records if only that fits.
fn encode_fitting(
    encoder: &mut BinEncoder<'_>,
    answer: &DnsAnswer,
    max_bytes: u16,
) -> Result<FittedAnswer, ProtoError> {
    let mut fitted = FittedAnswer { truncated: answer.truncated, ..FittedAnswer::default() };
    let mut additionals = answer.additionals.iter().peekable();
    for (index, record) in answer.answers.iter().enumerate() {
        let start = encoder.offset();
        encoder.set_max_size(max_bytes.saturating_sub(saturating_u16(fitted.additionals.len())));
        let encodable = EncodableRecord { record, answer, offsets: &fitted.offsets };
        if encoded_count(encoder.emit_all(once(&encodable)))? == 0 {
            fitted.truncated = true;
            break;
        }
        fitted.offsets.push(start);
        let (bytes_before, mut count) = (fitted.additionals.len(), 0);
        while let Some(additional) = additionals.next_if(|additional| additional.answer <= index) {
            encode_additional(&additional.record, answer, &fitted.offsets, &mut fitted.additionals)?;
            count += 1;
        }
        if encoder.offset() + fitted.additionals.len() <= usize::from(max_bytes) {
            fitted.additional_count += count;
            continue;
        }
        fitted.truncated = true;
        fitted.additionals.truncate(bytes_before);
        if index > 0 {
            fitted.offsets.pop();
            encoder.set_offset(start);
            encoder.trim();
        }
        break;
    }
    Ok(fitted)
}

/// Appends an additional record. Its offset in the packet is not known yet, so its names are pointers to answers, or not compressed.
fn encode_additional(
    record: &DnsRecord,
    answer: &DnsAnswer,
    offsets: &[usize],
    to: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    match &record.owner {
        RecordOwner::QueryName => to.extend(QUERY_NAME_POINTER.to_be_bytes()),
        RecordOwner::Name(name) => to.extend(uncompressed(name)?),
        RecordOwner::TargetOf(index) => match target_pointer(answer, offsets, *index) {
            Some(pointer) => to.extend(pointer.to_be_bytes()),
            None => to.extend(distant_target(answer, offsets, *index)?),
        },
    }
    let data = record.data.rdata();
    to.extend(u16::from(data.record_type()).to_be_bytes());
    to.extend(u16::from(DNSClass::IN).to_be_bytes());
    to.extend(record.ttl.to_be_bytes());
    let mut append = |bytes: &[u8]| {
        to.extend(saturating_u16(bytes.len()).to_be_bytes());
        to.extend(bytes);
    };
    match data {
        RData::A(address) => append(&address.0.octets()),
        RData::AAAA(address) => append(&address.0.octets()),
        other => append(&uncompressed(other)?),
    }
    Ok(())
}

/// Encodes a name or data without compression.
fn uncompressed(value: &impl BinEncodable) -> Result<Vec<u8>, ProtoError> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    value.emit(&mut encoder)?;
    Ok(bytes)
}

/// Returns a compression pointer to the target of the answer at an index. `None`: pointers do not reach it.
fn target_pointer(answer: &DnsAnswer, offsets: &[usize], index: usize) -> Option<u16> {
    let before = match answer.answers.get(index)?.data.rdata() {
        RData::SRV(_) => RECORD_HEADER_BYTES + SRV_HEADER_BYTES,
        _ => RECORD_HEADER_BYTES,
    };
    let offset = offsets.get(index).map(|start| start + before).filter(|offset| *offset < POINTER_OFFSET_END)?;
    u16::try_from(offset).ok().map(|offset| POINTER_FLAG | offset)
}

/// Encodes the target of the SRV record at an index that pointers do not reach. All but the first label is usually the same as in the
/// target of the first record, and becomes a pointer to that.
fn distant_target(answer: &DnsAnswer, offsets: &[usize], index: usize) -> Result<Vec<u8>, ProtoError> {
    let target = srv_target(answer, index)?;
    let (label, rest) = target.split_at(first_label_bytes(&target));
    let first_target = srv_target(answer, 0)?;
    let skipped = first_label_bytes(&first_target);
    match target_pointer(answer, offsets, 0) {
        Some(pointer) if rest.len() > 1 && first_target.get(skipped..) == Some(rest) => {
            Ok([label, &(pointer + saturating_u16(skipped)).to_be_bytes()].concat())
        }
        Some(_) | None => Ok(target.into_owned()),
    }
}

/// Returns the encoded target of the SRV record at an index.
fn srv_target(answer: &DnsAnswer, index: usize) -> Result<Cow<'_, [u8]>, ProtoError> {
    let record = answer.answers.get(index);
    match record.map(|record| (record.data.encoded_target(), record.data.rdata())) {
        Some((Some(target), _)) => Ok(Cow::Borrowed(target)),
        Some((None, RData::SRV(srv))) => uncompressed(&srv.target).map(Cow::Owned),
        _ => Err(ProtoError::Message("not an SRV record")),
    }
}

/// Returns the bytes of the first label of an encoded name, with its length byte.
fn first_label_bytes(name: &[u8]) -> usize {
    name.first().map_or(0, |length| 1 + usize::from(*length)).min(name.len())
}

fn saturating_u16(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn edns(code: ResponseCode) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_BYTES).set_rcode_high(code.high());
    edns
}

/// Returns the number of records that were encoded: fewer than given, if they do not fit.
fn encoded_count(result: Result<usize, ProtoError>) -> Result<u16, ProtoError> {
    match result {
        Ok(count) | Err(ProtoError::NotAllRecordsWritten { count, .. }) => Ok(saturating_u16(count)),
        Err(error) => Err(error),
    }
}

/// Record that can be encoded. Its owner becomes a pointer where the packet has that name already: hickory's own records stop looking
/// for names to point to after a few dozen names, which doubles the size of a large answer.
struct EncodableRecord<'a> {
    record: &'a DnsRecord,
    answer: &'a DnsAnswer,
    /// Offsets of the answers that are encoded so far.
    offsets: &'a [usize],
}

impl BinEncodable for EncodableRecord<'_> {
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        let DnsRecord { owner, ttl, data } = self.record;
        match owner {
            RecordOwner::QueryName => encoder.emit_u16(QUERY_NAME_POINTER)?,
            RecordOwner::Name(name) => name.emit(encoder)?,
            RecordOwner::TargetOf(index) => match target_pointer(self.answer, self.offsets, *index) {
                Some(pointer) => encoder.emit_u16(pointer)?,
                None => return Err(ProtoError::Message("the alias is beyond the reach of pointers")),
            },
        }
        data.rdata().record_type().emit(encoder)?;
        DNSClass::IN.emit(encoder)?;
        encoder.emit_u32(*ttl)?;
        let length = encoder.place::<u16>()?;
        data.emit(encoder)?;
        let bytes = encoder.len_since_place(&length);
        length.replace(encoder, saturating_u16(bytes))
    }
}

#[cfg(test)]
#[path = "packet/tests.rs"]
mod tests;
