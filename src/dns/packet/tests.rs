use std::net::Ipv4Addr;

use hickory_proto::rr::{
    Name, RecordType,
    rdata::{A, SRV},
};
use proptest::prelude::*;

use super::*;
use crate::dns::record::{Data, Prepared};

fn query(name: &str, payload: Option<u16>) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::SRV));
    if let Some(payload) = payload {
        message.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(payload);
    }
    message
}

fn asked(message: &Message) -> Asked {
    let (asked, found) = Asked::read(&message.to_vec().unwrap()).unwrap();
    assert!(found.is_ok(), "{found:?}");
    asked
}

fn line(owner: Owner, data: RData) -> Line {
    Line { owner, ttl: 0, data: Data::Once(data) }
}

/// So many SRV records, each with an address.
fn answer(number: u32) -> Answer {
    let mut answer = unprepared(number);
    for line in &mut answer.answers {
        line.data = Data::Prepared(Prepared::new(line.data.record().clone()).unwrap().into());
    }
    answer
}

fn unprepared(number: u32) -> Answer {
    let mut answer = Answer::only(ResponseCode::NoError);
    for n in 0..number {
        let target = Name::from_ascii(format!("{n:08x}.addr.dc1.consul.")).unwrap();
        let at = answer.answers.len();
        answer.answers.push(line(Owner::Asked, RData::SRV(SRV::new(1, 1, 80, target))));
        answer.additionals.push(line(Owner::TargetOf(at), RData::A(A(Ipv4Addr::from_bits(n)))));
    }
    answer
}

#[test]
fn what_is_prepared_is_written_as_what_is_not() {
    let asked = asked(&query("_Web._tcp.Service.consul.", Some(4_096)));
    for number in [1, 10, 900] {
        assert_eq!(asked.reply(&answer(number), 60_000).unwrap(), asked.reply(&unprepared(number), 60_000).unwrap());
    }
    assert_eq!(Prepared::new(RData::A(A(Ipv4Addr::LOCALHOST))), None, "of others, names may be pointers");
}

#[test]
fn what_is_written_can_be_read() {
    let asked = asked(&query("_Web._tcp.Service.consul.", Some(4_096)));
    assert_eq!(asked.room(Way::Packet), WHOLE);
    let bytes = asked.reply(&answer(10), asked.room(Way::Packet)).unwrap();
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

#[test]
fn what_does_not_fit_is_left_out() {
    let plain = asked(&query("web.service.consul.", None));
    let small = plain.reply(&answer(100), plain.room(Way::Local)).unwrap();
    assert!(small.len() <= 512);
    let reply = Message::from_vec(&small).unwrap();
    assert!(reply.metadata.truncation && reply.answers.len() > 8 && reply.additionals.is_empty());
    assert!(reply.edns.is_none());

    let wide = asked(&query("web.service.consul.", Some(9_000)));
    let bytes = wide.reply(&answer(24), wide.room(Way::Packet)).unwrap();
    assert!(bytes.len() <= 1_232);
    let reply = Message::from_vec(&bytes).unwrap();
    assert!(!reply.metadata.truncation, "only help is missing");
    assert_eq!(reply.answers.len(), 24);
    assert!(reply.edns.is_some() && (1..24).contains(&reply.additionals.len()));

    let bytes = wide.reply(&answer(140), wide.room(Way::Local)).unwrap();
    assert!((1_233..=9_000).contains(&bytes.len()));
    let reply = Message::from_vec(&bytes).unwrap();
    assert!(!reply.metadata.truncation, "this machine takes what it offers to take");
    assert_eq!((reply.answers.len(), reply.additionals.len()), (140, 140));

    let bytes = wide.reply(&answer(900), u16::MAX).unwrap();
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.answers.len(), reply.additionals.len()), (900, 900), "also where pointers do not reach");
    assert!(reply.answers.iter().zip(&reply.additionals).all(|(srv, address)| match &srv.data {
        RData::SRV(srv) => srv.target == address.name,
        _ => false,
    }));
    let bytes = wide.reply(&answer(4_000), u16::MAX).unwrap();
    assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);
}

#[test]
fn what_is_no_question() {
    let refusal = |bytes: &[u8]| {
        Asked::read(bytes).map(|(asked, found)| {
            let code = found.unwrap_err();
            let bytes = asked.reply(&Answer::only(code), 512).unwrap();
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

proptest! {
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
            let Some((asked, found)) = Asked::read(&packet) else { continue };
            let answer = found.map_or_else(Answer::only, |_| answer(number));
            let bytes = asked.reply(&answer, asked.room(Way::Packet)).unwrap();
            prop_assert!(bytes.len() <= usize::from(asked.room(Way::Packet)));
            prop_assert!(Message::from_vec(&bytes).is_ok());
        }
    }
}
