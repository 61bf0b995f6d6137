use std::{iter::repeat_n, net::Ipv4Addr};

use hickory_proto::rr::{
    Name, RecordType,
    rdata::{A, SRV},
};
use proptest::prelude::*;

use super::*;
use crate::protocol::dns::record::{AdditionalRecord, EncodedData, RecordData};

fn query(name: &str, payload: Option<u16>) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::SRV));
    if let Some(payload) = payload {
        message.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(payload);
    }
    message
}

fn request(message: &Message) -> DnsQuery {
    let (request, query) = DnsQuery::decode(&message.to_vec().unwrap()).unwrap();
    assert!(query.is_ok(), "{query:?}");
    request
}

fn record(owner: RecordOwner, data: RData) -> DnsRecord {
    DnsRecord { owner, ttl: 0, data: RecordData::Plain(data) }
}

/// Returns an answer of `number` SRV records, encoded beforehand, each with the address of its target.
fn answer(number: u32) -> DnsAnswer {
    let mut answer = plain_answer(number);
    for record in &mut answer.answers {
        record.data = RecordData::Encoded(EncodedData::new(record.data.rdata().clone()).unwrap().into());
    }
    answer
}

/// Returns the same answer without data that is encoded beforehand.
fn plain_answer(number: u32) -> DnsAnswer {
    let mut answer = DnsAnswer::with_code(ResponseCode::NoError);
    for n in 0..number {
        let target = Name::from_ascii(format!("{n:08x}.addr.dc1.consul.")).unwrap();
        let index = answer.answers.len();
        answer.answers.push(record(RecordOwner::QueryName, RData::SRV(SRV::new(1, 1, 80, target))));
        let address = record(RecordOwner::TargetOf(index), RData::A(A(Ipv4Addr::from_bits(n))));
        answer.additionals.push(AdditionalRecord { answer: index, record: address });
    }
    answer
}

#[test]
fn data_encoded_beforehand_gives_the_same_response() {
    let request = request(&query("_Web._tcp.Service.consul.", Some(4_096)));
    for number in [1, 10, 900] {
        let encode = |answer| request.encode_response(&answer, 60_000).unwrap();
        assert_eq!(encode(answer(number)), encode(plain_answer(number)));
    }
    assert_eq!(EncodedData::new(RData::A(A(Ipv4Addr::LOCALHOST))), None, "only the bytes of SRV data never change");
}

#[test]
fn response_has_all_records_and_repeats_the_question() {
    let request = request(&query("_Web._tcp.Service.consul.", Some(4_096)));
    assert_eq!(request.max_response_bytes(DnsTransport::Udp), MAX_UDP_BYTES);
    let bytes = request.encode_response(&answer(10), request.max_response_bytes(DnsTransport::Udp)).unwrap();
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.recursion_desired, reply.metadata.truncation), (7, true, false));
    assert_eq!(reply.queries[0].name().to_ascii(), "_Web._tcp.Service.consul.", "in the spelling of the question");
    for (n, (srv, address)) in reply.answers.iter().zip(&reply.additionals).enumerate() {
        assert_eq!(srv.name.to_ascii(), "_Web._tcp.Service.consul.");
        let RData::SRV(data) = &srv.data else { panic!("{srv:?}") };
        assert_eq!(data.target, address.name);
        assert_eq!(address.data, RData::A(A(Ipv4Addr::from_bits(n.try_into().unwrap()))));
    }
    assert_eq!((reply.answers.len(), reply.additionals.len()), (10, 10));
    assert_eq!(reply.edns.unwrap().max_payload(), MAX_UDP_BYTES);
}

/// Asserts that the additional records are the addresses of the SRV records, in the same order.
fn assert_complete(reply: &Message) {
    assert_eq!(reply.answers.len(), reply.additionals.len(), "{reply:?}");
    for (srv, address) in reply.answers.iter().zip(&reply.additionals) {
        let RData::SRV(srv) = &srv.data else { panic!("{srv:?}") };
        assert_eq!(srv.target, address.name);
    }
}

#[test]
fn truncated_answer_keeps_the_addresses_of_its_records() {
    let plain = request(&query("web.service.consul.", None));
    let edns = request(&query("web.service.consul.", Some(9_000)));
    // A record takes 44 bytes, its address 16.
    for (request, max_bytes, number) in [(&plain, 512, 7), (&edns, 512, 7), (&edns, 1_232, 19), (&edns, 4_096, 67)] {
        for more in [number + 1, number + 2, 900] {
            let bytes = request.encode_response(&answer(more), max_bytes).unwrap();
            assert!(bytes.len() <= usize::from(max_bytes));
            let reply = Message::from_vec(&bytes).unwrap();
            assert!(reply.metadata.truncation, "{more} answers in {max_bytes} bytes");
            assert_eq!(reply.answers.len(), usize::try_from(number).unwrap(), "in {max_bytes} bytes");
            assert_eq!(reply.edns.is_some(), request.offered_bytes.is_some());
            assert_complete(&reply);
        }
        let reply = Message::from_vec(&request.encode_response(&answer(number), max_bytes).unwrap()).unwrap();
        assert!(!reply.metadata.truncation);
        assert_complete(&reply);
    }
}

#[test]
fn large_answer_keeps_the_addresses_of_its_records() {
    let edns = request(&query("web.service.consul.", Some(9_000)));
    let bytes = edns.encode_response(&answer(140), edns.max_response_bytes(DnsTransport::LoopbackUdp)).unwrap();
    assert!((1_233..=9_000).contains(&bytes.len()));
    let reply = Message::from_vec(&bytes).unwrap();
    assert!(!reply.metadata.truncation, "a client on this host gets as many bytes as it offers");
    assert_eq!(reply.answers.len(), 140);
    assert_complete(&reply);

    // Some of these records are beyond the reach of compression pointers.
    for (number, kept) in [(900, 900..901), (4_000, 950..1_100)] {
        let reply = Message::from_vec(&edns.encode_response(&answer(number), u16::MAX).unwrap()).unwrap();
        assert_eq!(reply.metadata.truncation, number == 4_000);
        assert!(kept.contains(&reply.answers.len()), "{}", reply.answers.len());
        assert_complete(&reply);
    }
}

#[test]
fn first_answer_without_room_for_its_addresses_comes_alone_and_truncated() {
    let request = request(&query("web.service.consul.", None));
    let mut answer = answer(3);
    let address = answer.additionals.remove(0).record;
    let addresses = (0..40).map(|_| AdditionalRecord { answer: 0, record: address.clone() });
    answer.additionals = addresses.chain(answer.additionals.drain(..)).collect();
    let bytes = request.encode_response(&answer, 512).unwrap();
    assert!(bytes.len() <= 512);
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.answers.len(), reply.additionals.len(), reply.metadata.truncation), (1, 0, true));
}

#[test]
fn invalid_request_gets_error_code_or_no_response() {
    let error = |bytes: &[u8]| {
        DnsQuery::decode(bytes).map(|(request, query)| {
            let code = query.unwrap_err();
            let bytes = request.encode_response(&DnsAnswer::with_code(code), 512).unwrap();
            // BADVERS and BADSIG have the same number.
            assert_eq!(u16::from(Message::from_vec(&bytes).unwrap().metadata.response_code), u16::from(code));
            code
        })
    };
    let good = query("web.service.consul.", Some(512));
    assert_eq!(error(&[]), None);
    assert_eq!(error(&good.to_vec().unwrap()[..11]), None);
    assert_eq!(error(&good.to_vec().unwrap()[..20]), Some(ResponseCode::FormErr));
    let mut twice = good.clone();
    twice.add_query(good.queries[0].clone());
    assert_eq!(error(&twice.to_vec().unwrap()), Some(ResponseCode::FormErr));
    let mut none = good.clone();
    none.queries.clear();
    assert_eq!(error(&none.to_vec().unwrap()), Some(ResponseCode::FormErr));
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(error(&update.to_vec().unwrap()), Some(ResponseCode::NotImp));
    let mut version = good.clone();
    version.edns.as_mut().unwrap().set_version(1);
    assert_eq!(error(&version.to_vec().unwrap()), Some(ResponseCode::BADVERS));
    let mut response = good;
    response.metadata.message_type = MessageType::Response;
    assert_eq!(error(&response.to_vec().unwrap()), None);
}

/// Returns a name of about `bytes` bytes, at most 255, in labels of 63 bytes.
fn long_name(bytes: usize, first: u8) -> Name {
    let letters: Vec<u8> = once(first).chain(repeat_n(b'x', bytes.clamp(3, 252) - 3)).collect();
    Name::from_labels(letters.chunks(63)).unwrap()
}

proptest! {
    /// With names of any length, the response is not too large, can be decoded, and has the address of each SRV record.
    #[test]
    fn response_with_long_names_is_within_its_limit(
        query_name_bytes in 1..256_usize,
        targets in prop::collection::vec(1..256_usize, 0..40),
        offered in prop::option::of(0..5_000_u16),
        transport in prop::sample::select(vec![DnsTransport::Udp, DnsTransport::LoopbackUdp, DnsTransport::Tcp]),
    ) {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(long_name(query_name_bytes, b'q'), RecordType::SRV));
        if let Some(offered) = offered {
            message.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(offered);
        }
        let request = request(&message);
        let mut answer = DnsAnswer::with_code(ResponseCode::NoError);
        for (index, bytes) in targets.iter().enumerate() {
            let srv = RData::SRV(SRV::new(1, 1, 80, long_name(*bytes, b't')));
            let data = RecordData::Encoded(EncodedData::new(srv).unwrap().into());
            answer.answers.push(DnsRecord { owner: RecordOwner::QueryName, ttl: 0, data });
            let address = record(RecordOwner::TargetOf(index), RData::A(A(Ipv4Addr::LOCALHOST)));
            answer.additionals.push(AdditionalRecord { answer: index, record: address });
        }
        let max_bytes = request.max_response_bytes(transport);
        let bytes = request.encode_response(&answer, max_bytes).unwrap();
        prop_assert!(bytes.len() <= usize::from(max_bytes));
        let reply = Message::from_vec(&bytes).unwrap();
        let complete = reply.answers.len() == targets.len() && reply.additionals.len() == targets.len();
        prop_assert_eq!(reply.metadata.truncation, !complete);
        if reply.answers.len() > 1 {
            assert_complete(&reply);
        }
    }

    /// The response to any bytes, and to any damaged request, is within its limit and can be decoded.
    #[test]
    fn response_to_arbitrary_bytes_can_be_decoded(
        noise in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        flip in any::<u8>(),
        number in 0..60_u32,
    ) {
        let mut damaged = query("_web._tcp.service.consul.", Some(1_000)).to_vec().unwrap();
        let at = at.index(damaged.len());
        damaged[at] ^= flip;
        for packet in [noise, damaged] {
            let Some((request, query)) = DnsQuery::decode(&packet) else { continue };
            let answer = query.map_or_else(DnsAnswer::with_code, |_| answer(number));
            let max_bytes = request.max_response_bytes(DnsTransport::Udp);
            let bytes = request.encode_response(&answer, max_bytes).unwrap();
            prop_assert!(bytes.len() <= usize::from(max_bytes));
            prop_assert!(Message::from_vec(&bytes).is_ok());
        }
    }
}
