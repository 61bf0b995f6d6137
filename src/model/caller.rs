//! Originators of commands.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

/// Originator of a command, kept with the event that the command causes.
///
/// Callers are shared: each connection has one, and each part of the server has one, so an event holds a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A client of a protocol.
    Client {
        /// Protocol of the request.
        protocol: CallerProtocol,
        /// Remote address of the connection.
        peer: SocketAddr,
        /// Identity that the client's certificate proved. `None` where no certificate is asked for.
        identity: Option<Arc<str>>,
    },
    /// A part of the server itself.
    Server(ServerActor),
}

/// Protocol through which a client writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerProtocol {
    /// The native gRPC API.
    Grpc,
    /// Consul's HTTP API.
    Consul,
}

/// Part of the server that submits commands of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerActor {
    /// Removal of instances whose leases have run out.
    Expiry,
    /// Health checks: probes, TTL checks without a report in time, removal of instances that stay critical.
    HealthCheck,
    /// Completion of writes that the end of an earlier process interrupted.
    Recovery,
    /// Self-preservation: marking instances as suspect, and clearing the mark.
    SelfPreservation,
    /// Code that uses an engine without a protocol, such as tests and benchmarks.
    InProcess,
}

impl ServerActor {
    const ALL: [Self; 5] = [Self::Expiry, Self::HealthCheck, Self::Recovery, Self::SelfPreservation, Self::InProcess];

    /// Returns the shared caller that stands for this part of the server.
    #[must_use]
    pub fn caller(self) -> &'static Arc<Caller> {
        static CALLERS: LazyLock<[Arc<Caller>; 5]> =
            LazyLock::new(|| ServerActor::ALL.map(|actor| Arc::new(Caller::Server(actor))));
        &CALLERS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_actor_has_one_shared_caller_of_its_own() {
        for actor in ServerActor::ALL {
            assert_eq!(**actor.caller(), Caller::Server(actor));
            assert!(Arc::ptr_eq(actor.caller(), actor.caller()));
        }
    }
}
