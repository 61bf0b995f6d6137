//! The doors: which there are, where, and what is behind each.

use std::{net::SocketAddr, sync::Arc};

use super::{InheritedSockets, StartError};
use crate::{
    app::ServerContext,
    config::Config,
    health_check::HealthChecks,
    protocol::consul::Consul,
    protocol::grpc::GrpcApi,
    protocol::http::{AllowedHosts, HttpPages},
    transport::{Listener, ListenerConfig, Protocol, WorkerDispatch, Workers, tls::TlsState},
};

/// Where a server listens, each with the port that the system chose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerAddresses {
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
pub(super) enum ListenerName {
    Grpc,
    Http,
    GrpcTls,
    HttpTls,
    Health,
}

impl ListenerName {
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
        (shared, checks): (&Arc<ServerContext>, &Arc<HealthChecks>),
        workers: &Arc<Workers>,
        tls: Option<&Arc<TlsState>>,
        consul: &Arc<Consul>,
        config: &Config,
    ) -> Result<(ListenerConfig, WorkerDispatch), StartError> {
        let tls = match self {
            Self::Grpc | Self::Http | Self::Health => None,
            // What is meant to be behind TLS is not served without.
            Self::GrpcTls | Self::HttpTls => Some(tls.ok_or(StartError::NoCertificate(self.names().0))?),
        }
        .cloned();
        let routes = match self {
            Self::Grpc | Self::GrpcTls => GrpcApi::routes(shared, checks)?,
            Self::Http | Self::HttpTls => {
                let (shared, workers, consul) = (Arc::clone(shared), Arc::clone(workers), Arc::clone(consul));
                let hosts = match self {
                    Self::HttpTls => AllowedHosts::Any,
                    Self::Grpc | Self::Http | Self::GrpcTls | Self::Health => {
                        AllowedHosts::Named(config.http_hosts.as_slice().into())
                    }
                };
                HttpPages::new(shared, workers, consul).routes(hosts).into()
            }
            Self::Health => GrpcApi::probes(shared),
        };
        let protocol = match self {
            Self::Grpc | Self::GrpcTls | Self::Health => Protocol::Http2,
            Self::Http | Self::HttpTls => Protocol::Http1,
        };
        let dealer = WorkerDispatch::new(workers, &shared.clock, protocol);
        Ok((ListenerConfig { name: self.names().1, protocol, tls, routes }, dealer))
    }
}

/// Bound doors, which nobody has come through yet.
#[derive(Debug)]
pub(super) struct BoundListeners(Vec<(ListenerName, Listener)>);

impl BoundListeners {
    /// All that are configured. A socket that was inherited is used instead of one of our own.
    pub(super) fn bind(config: &Config, mut inherited: InheritedSockets) -> Result<Self, StartError> {
        let mut bound = Vec::new();
        for door in ListenerName::ALL {
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

    pub(super) fn addresses(&self) -> ServerAddresses {
        let mut all = ServerAddresses::default();
        for (door, listener) in &self.0 {
            let place = match door {
                ListenerName::Grpc => &mut all.grpc,
                ListenerName::Http => &mut all.http,
                ListenerName::GrpcTls => &mut all.grpc_tls,
                ListenerName::HttpTls => &mut all.http_tls,
                ListenerName::Health => &mut all.health,
            };
            *place = Some(listener.address());
        }
        all
    }

    pub(super) fn open(self) -> impl Iterator<Item = (ListenerName, Listener)> {
        self.0.into_iter()
    }
}
