//! The doors: which there are, where, and what is behind each.

use std::{net::SocketAddr, sync::Arc};

use super::{Inherited, StartError};
use crate::{
    config::Config,
    protocol::consul::Consul,
    protocol::grpc::{Api, Shared},
    protocol::http::Web,
    transport::{Dealer, Listener, Port, Protocol, Workers, tls::Tls},
};

/// Where a server listens, each with the port that the system chose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC without TLS.
    pub grpc: Option<SocketAddr>,
    /// HTTP without TLS.
    pub http: Option<SocketAddr>,
    /// gRPC with TLS.
    pub grpc_tls: Option<SocketAddr>,
    /// HTTP with TLS.
    pub http_tls: Option<SocketAddr>,
    /// Health alone, without TLS.
    pub health: Option<SocketAddr>,
    /// DNS, over UDP and TCP.
    pub dns: Option<SocketAddr>,
}

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Grpc,
    Http,
    GrpcTls,
    HttpTls,
    Health,
}

impl Door {
    const ALL: [Self; 5] = [Self::Grpc, Self::Http, Self::GrpcTls, Self::HttpTls, Self::Health];

    fn address(self, config: &Config) -> Option<SocketAddr> {
        match self {
            Self::Grpc => config.grpc,
            Self::Http => config.http,
            Self::GrpcTls => config.grpc_tls,
            Self::HttpTls => config.http_tls,
            Self::Health => config.health,
        }
    }

    /// As messages name it, as metrics do, and the flag that moves it.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Grpc => ("gRPC", "grpc", "--grpc"),
            Self::Http => ("HTTP", "http", "--http"),
            Self::GrpcTls => ("gRPC with TLS", "grpc_tls", "--grpc-tls"),
            Self::HttpTls => ("HTTP with TLS", "http_tls", "--http-tls"),
            Self::Health => ("health", "health", "--health"),
        }
    }

    /// Who accepts there, should it end.
    pub(super) fn acceptor(self) -> &'static str {
        match self {
            Self::Grpc => "the acceptor",
            Self::Http => "the HTTP listener",
            Self::GrpcTls => "the acceptor with TLS",
            Self::HttpTls => "the HTTP listener with TLS",
            Self::Health => "the health listener",
        }
    }

    /// What is behind it, and who serves it.
    pub(super) fn furnish(
        self,
        shared: &Arc<Shared>,
        workers: &Arc<Workers>,
        tls: Option<&Arc<Tls>>,
        consul: &Arc<Consul>,
    ) -> Result<(Port, Dealer), StartError> {
        let tls = match self {
            Self::Grpc | Self::Http | Self::Health => None,
            // What is meant to be behind TLS is not served without.
            Self::GrpcTls | Self::HttpTls => Some(tls.ok_or(StartError::NoCertificate(self.names().0))?),
        }
        .cloned();
        let routes = match self {
            Self::Grpc | Self::GrpcTls => Api::routes(shared)?,
            Self::Http | Self::HttpTls => {
                let (shared, workers, consul) = (Arc::clone(shared), Arc::clone(workers), Arc::clone(consul));
                Web::new(shared, workers, consul).routes().into()
            }
            Self::Health => Api::probes(shared),
        };
        let protocol = match self {
            Self::Grpc | Self::GrpcTls | Self::Health => Protocol::Http2,
            Self::Http | Self::HttpTls => Protocol::Http1,
        };
        let dealer = Dealer::new(workers, &shared.clock, protocol);
        Ok((Port { name: self.names().1, protocol, tls, routes }, dealer))
    }
}

/// Bound doors, which nobody has come through yet.
#[derive(Debug)]
pub(super) struct Doors(Vec<(Door, Listener)>);

impl Doors {
    /// All that are configured. A socket that was inherited is used instead of one of our own.
    pub(super) fn bind(config: &Config, mut inherited: Inherited) -> Result<Self, StartError> {
        let mut bound = Vec::new();
        for door in Door::ALL {
            if let Some(address) = door.address(config) {
                let (name, key, flag) = door.names();
                let listener = match inherited.take(key)? {
                    Some(listener) => listener,
                    None => Listener::bind(address).map_err(|source| {
                        let door = name;
                        StartError::Listen { door, flag, address, source }
                    })?,
                };
                bound.push((door, listener));
            }
        }
        Ok(Self(bound))
    }

    pub(super) fn addresses(&self) -> Addresses {
        let mut all = Addresses::default();
        for (door, listener) in &self.0 {
            let place = match door {
                Door::Grpc => &mut all.grpc,
                Door::Http => &mut all.http,
                Door::GrpcTls => &mut all.grpc_tls,
                Door::HttpTls => &mut all.http_tls,
                Door::Health => &mut all.health,
            };
            *place = Some(listener.address());
        }
        all
    }

    pub(super) fn open(self) -> impl Iterator<Item = (Door, Listener)> {
        self.0.into_iter()
    }
}
