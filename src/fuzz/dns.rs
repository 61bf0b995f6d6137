//! DNS packets.

use std::{sync::Arc, time::Duration};

use crate::{
    app::Views,
    engine::Memory,
    metrics::{DnsResponseCode, Metrics},
    model::Incarnation,
    protocol::dns::{Authority, DnsTransport, Zone, respond},
    registry::{
        Command,
        test_support::{NoListener, at, register},
    },
};

thread_local! {
    static SERVER: (Memory, Authority) = server();
}

/// Answers any packet. The response must be within the size limit and have the id of the request, or there is none.
pub(super) fn run(input: &[u8]) {
    SERVER.with(|(engine, authority)| {
        for (transport, most) in
            [(DnsTransport::Udp, 1_232), (DnsTransport::LoopbackUdp, 65_507), (DnsTransport::Tcp, 65_535)]
        {
            let (bytes, how) = loop {
                if let Ok(answered) = respond(authority, engine.registry(), at(0).wall, input, transport) {
                    break answered;
                }
            };
            let Some(bytes) = bytes else {
                assert_eq!(how, DnsResponseCode::Dropped);
                continue;
            };
            assert!((12..=most).contains(&bytes.len()), "{} bytes", bytes.len());
            assert_eq!(bytes[..2], input[..2], "the id of the request");
            assert!(bytes[2] & 0x80 != 0 && input[2] & 0x80 == 0, "a response to a request");
        }
    });
}

fn server() -> (Memory, Authority) {
    let engine = Memory::new(Incarnation(7), at(0), Arc::new(NoListener));
    for n in 0..100 {
        let registration = register("web", &format!("i{n}"), "boot", n);
        assert!(engine.submit(Command::Register(registration), at(0)).is_ok());
    }
    // A dotted name, an alias of a service, an alias of itself, and two aliases of each other.
    let hosts = [("v1.web", "2001:db8::1"), ("al", "web.service.consul"), ("me", "me.service.consul")];
    let loops = [("ab", "ba.service.consul"), ("ba", "ab.service.consul"), ("Web", "n1.node.consul")];
    for (service, host) in hosts.into_iter().chain(loops) {
        let mut registration = register(service, "a", "boot", 1_000);
        registration.description.addresses[0].host = host.into();
        assert!(engine.submit(Command::Register(registration), at(0)).is_ok());
    }
    let zone = Zone::new("consul", "dc1", "n1", Duration::ZERO, [127, 0, 0, 1].into());
    (engine, Authority::new(zone, &Views::new(&Metrics::new().views), &Arc::default()))
}
