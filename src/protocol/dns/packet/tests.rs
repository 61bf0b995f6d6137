use std::{iter::repeat_n, net::Ipv4Addr};

use hickory_proto::rr::{
    Name, RecordType,
    rdata::{A, SRV},
};
use proptest::prelude::*;

use super::*;
use crate::protocol::dns::record::{Additional, EncodedData, RecordData};

fn query(name: &str, payload: Option<u16>) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::SRV));
    if let Some(payload) = payload {
        message.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(payload);
    }
    message
}

fn asked(message: &Message) -> DnsQuery {
    let (asked, found) = DnsQuery::read(&message.to_vec().unwrap()).unwrap();
    assert!(found.is_ok(), "{found:?}");
    asked
}

fn line(owner: RecordOwner, data: RData) -> DnsRecord {
    DnsRecord { owner, ttl: 0, data: RecordData::Once(data) }
}

/// So many SRV records, each with an address.
fn answer(number: u32) -> DnsAnswer {
    let mut answer = unprepared(number);
    for line in &mut answer.answers {
        line.data = RecordData::Prepared(EncodedData::new(line.data.record().clone()).unwrap().into());
    }
    answer
}

fn unprepared(number: u32) -> DnsAnswer {
    let mut answer = DnsAnswer::only(ResponseCode::NoError);
    for n in 0..number {
        let target = Name::from_ascii(format!("{n:08x}.addr.dc1.consul.")).unwrap();
        let at = answer.answers.len();
        answer.answers.push(line(RecordOwner::Asked, RData::SRV(SRV::new(1, 1, 80, target))));
        answer
            .additionals
            .push(Additional { of: at, line: line(RecordOwner::TargetOf(at), RData::A(A(Ipv4Addr::from_bits(n)))) });
    }
    answer
}

#[test]
fn what_is_prepared_is_written_as_what_is_not() {
    let asked = asked(&query("_Web._tcp.Service.consul.", Some(4_096)));
    for number in [1, 10, 900] {
        assert_eq!(asked.reply(&answer(number), 60_000).unwrap(), asked.reply(&unprepared(number), 60_000).unwrap());
    }
    assert_eq!(EncodedData::new(RData::A(A(Ipv4Addr::LOCALHOST))), None, "of others, names may be pointers");
}

#[test]
fn what_is_written_can_be_read() {
    let asked = asked(&query("_Web._tcp.Service.consul.", Some(4_096)));
    assert_eq!(asked.room(DnsTransport::Packet), WHOLE);
    let bytes = asked.reply(&answer(10), asked.room(DnsTransport::Packet)).unwrap();
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.recursion_desired, reply.metadata.truncation), (7, true, false));
    assert_eq!(reply.queries[0].name().to_ascii(), "_Web._tcp.Service.consul.", "as it was spelt");
    for (n, (srv, address)) in reply.answers.iter().zip(&reply.additionals).enumerate() {
        assert_eq!(srv.name.to_ascii(), "_Web._tcp.Service.consul.");
        let RData::SRV(data) = &srv.data else { panic!("{srv:?}") };
        assert_eq!(data.target, address.name);
        assert_eq!(address.data, RData::A(A(Ipv4Addr::from_bits(n.try_into().unwrap()))));
    }
    assert_eq!((reply.answers.len(), reply.additionals.len()), (10, 10));
    assert_eq!(reply.edns.unwrap().max_payload(), WHOLE);
}

/// Each SRV record that was kept has its address, and no other address is there.
fn assert_complete(reply: &Message) {
    assert_eq!(reply.answers.len(), reply.additionals.len(), "{reply:?}");
    for (srv, address) in reply.answers.iter().zip(&reply.additionals) {
        let RData::SRV(srv) = &srv.data else { panic!("{srv:?}") };
        assert_eq!(srv.target, address.name);
    }
}

#[test]
fn cut_answer_keeps_the_addresses_of_its_records() {
    let plain = asked(&query("web.service.consul.", None));
    let wide = asked(&query("web.service.consul.", Some(9_000)));
    // A record takes 44 bytes, its address 16.
    for (asked, room, number) in [(&plain, 512, 7), (&wide, 512, 7), (&wide, 1_232, 19), (&wide, 4_096, 67)] {
        for more in [number + 1, number + 2, 900] {
            let bytes = asked.reply(&answer(more), room).unwrap();
            assert!(bytes.len() <= usize::from(room));
            let reply = Message::from_vec(&bytes).unwrap();
            assert!(reply.metadata.truncation, "{more} of them in {room} bytes");
            assert_eq!(reply.answers.len(), usize::try_from(number).unwrap(), "in {room} bytes");
            assert_eq!(reply.edns.is_some(), asked.offered.is_some());
            assert_complete(&reply);
        }
        let reply = Message::from_vec(&asked.reply(&answer(number), room).unwrap()).unwrap();
        assert!(!reply.metadata.truncation);
        assert_complete(&reply);
    }
}

#[test]
fn large_answer_keeps_the_addresses_of_its_records() {
    let wide = asked(&query("web.service.consul.", Some(9_000)));
    let bytes = wide.reply(&answer(140), wide.room(DnsTransport::Local)).unwrap();
    assert!((1_233..=9_000).contains(&bytes.len()));
    let reply = Message::from_vec(&bytes).unwrap();
    assert!(!reply.metadata.truncation, "this machine takes what it offers to take");
    assert_eq!(reply.answers.len(), 140);
    assert_complete(&reply);

    // Also where pointers do not reach.
    for (number, kept) in [(900, 900..901), (4_000, 950..1_100)] {
        let reply = Message::from_vec(&wide.reply(&answer(number), u16::MAX).unwrap()).unwrap();
        assert_eq!(reply.metadata.truncation, number == 4_000);
        assert!(kept.contains(&reply.answers.len()), "{}", reply.answers.len());
        assert_complete(&reply);
    }
}

#[test]
fn record_whose_address_does_not_fit_is_kept_alone_and_cut() {
    let asked = asked(&query("web.service.consul.", None));
    let mut answer = answer(3);
    let help = answer.additionals.remove(0).line;
    let more = (0..40).map(|_| Additional { of: 0, line: help.clone() });
    answer.additionals = more.chain(answer.additionals.drain(..)).collect();
    let bytes = asked.reply(&answer, 512).unwrap();
    assert!(bytes.len() <= 512);
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.answers.len(), reply.additionals.len(), reply.metadata.truncation), (1, 0, true));
}

#[test]
fn what_is_no_question() {
    let refusal = |bytes: &[u8]| {
        DnsQuery::read(bytes).map(|(asked, found)| {
            let code = found.unwrap_err();
            let bytes = asked.reply(&DnsAnswer::only(code), 512).unwrap();
            // Two codes are the one number.
            assert_eq!(u16::from(Message::from_vec(&bytes).unwrap().metadata.response_code), u16::from(code));
            code
        })
    };
    let good = query("web.service.consul.", Some(512));
    assert_eq!(refusal(&[]), None);
    assert_eq!(refusal(&good.to_vec().unwrap()[..11]), None);
    assert_eq!(refusal(&good.to_vec().unwrap()[..20]), Some(ResponseCode::FormErr));
    let mut twice = good.clone();
    twice.add_query(good.queries[0].clone());
    assert_eq!(refusal(&twice.to_vec().unwrap()), Some(ResponseCode::FormErr));
    let mut none = good.clone();
    none.queries.clear();
    assert_eq!(refusal(&none.to_vec().unwrap()), Some(ResponseCode::FormErr));
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(refusal(&update.to_vec().unwrap()), Some(ResponseCode::NotImp));
    let mut version = good.clone();
    version.edns.as_mut().unwrap().set_version(1);
    assert_eq!(refusal(&version.to_vec().unwrap()), Some(ResponseCode::BADVERS));
    let mut response = good;
    response.metadata.message_type = MessageType::Response;
    assert_eq!(refusal(&response.to_vec().unwrap()), None);
}

/// A name of about so many bytes, at most 255, in labels that are as long as they may be.
fn long_name(bytes: usize, first: u8) -> Name {
    let letters: Vec<u8> = once(first).chain(repeat_n(b'x', bytes.clamp(3, 252) - 3)).collect();
    Name::from_labels(letters.chunks(63)).unwrap()
}

proptest! {
    /// However long the names are, a packet has no more bytes than it may, can be read, and has the address of each record.
    #[test]
    fn no_name_is_too_long(
        asked_bytes in 1..256_usize,
        targets in prop::collection::vec(1..256_usize, 0..40),
        offered in prop::option::of(0..5_000_u16),
        room in prop::sample::select(vec![DnsTransport::Packet, DnsTransport::Local, DnsTransport::Connection]),
    ) {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(long_name(asked_bytes, b'q'), RecordType::SRV));
        if let Some(offered) = offered {
            message.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(offered);
        }
        let asked = asked(&message);
        let mut answer = DnsAnswer::only(ResponseCode::NoError);
        for (at, bytes) in targets.iter().enumerate() {
            let srv = RData::SRV(SRV::new(1, 1, 80, long_name(*bytes, b't')));
            answer.answers.push(DnsRecord { owner: RecordOwner::Asked, ttl: 0, data: RecordData::Prepared(EncodedData::new(srv).unwrap().into()) });
            answer.additionals.push(Additional { of: at, line: line(RecordOwner::TargetOf(at), RData::A(A(Ipv4Addr::LOCALHOST))) });
        }
        let room = asked.room(room);
        let bytes = asked.reply(&answer, room).unwrap();
        prop_assert!(bytes.len() <= usize::from(room));
        let reply = Message::from_vec(&bytes).unwrap();
        prop_assert_eq!(reply.metadata.truncation, reply.answers.len() < targets.len() || reply.additionals.len() < targets.len());
        if reply.answers.len() > 1 {
            assert_complete(&reply);
        }
    }

    /// Whatever comes, what goes out is within bounds and can be read.
    #[test]
    fn anything(
        noise in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        flip in any::<u8>(),
        number in 0..60_u32,
    ) {
        let mut spoilt = query("_web._tcp.service.consul.", Some(1_000)).to_vec().unwrap();
        let at = at.index(spoilt.len());
        spoilt[at] ^= flip;
        for packet in [noise, spoilt] {
            let Some((asked, found)) = DnsQuery::read(&packet) else { continue };
            let answer = found.map_or_else(DnsAnswer::only, |_| answer(number));
            let bytes = asked.reply(&answer, asked.room(DnsTransport::Packet)).unwrap();
            prop_assert!(bytes.len() <= usize::from(asked.room(DnsTransport::Packet)));
            prop_assert!(Message::from_vec(&bytes).is_ok());
        }
    }
}
