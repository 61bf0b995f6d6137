//! Listeners: their addresses, and the routes of each.

use std::{net::SocketAddr, sync::Arc};

use super::{InheritedSockets, StartError};
use crate::{
    app::ServerContext,
    config::Config,
    health_check::HealthChecks,
    protocol::consul::Consul,
    protocol::grpc::GrpcApi,
    protocol::http::{AllowedHosts, HttpPages},
    protocol::xds::XdsApi,
    transport::{Listener, ListenerConfig, Protocol, WorkerDispatch, Workers, tls::TlsState},
};

/// Addresses of a server, each with the port that the operating system chose.
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
    /// `grpc.health.v1` alone, without TLS.
    pub health: Option<SocketAddr>,
    /// DNS, over UDP and TCP.
    pub dns: Option<SocketAddr>,
}

/// Name of a TCP listener.
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

    /// Name of the listener in messages, its name in metrics, and the flag that changes its address.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Grpc => ("gRPC", "grpc", "--grpc"),
            Self::Http => ("HTTP", "http", "--http"),
            Self::GrpcTls => ("gRPC with TLS", "grpc_tls", "--grpc-tls"),
            Self::HttpTls => ("HTTP with TLS", "http_tls", "--http-tls"),
            Self::Health => ("health", "health", "--health"),
        }
    }

    /// Name of the listener's accept loop in messages.
    pub(super) fn acceptor(self) -> &'static str {
        match self {
            Self::Grpc => "the gRPC acceptor",
            Self::Http => "the HTTP acceptor",
            Self::GrpcTls => "the gRPC acceptor with TLS",
            Self::HttpTls => "the HTTP acceptor with TLS",
            Self::Health => "the health acceptor",
        }
    }

    /// Configuration of the listener, and the workers that serve it.
    pub(super) fn configure(
        self,
        (context, checks): (&Arc<ServerContext>, &Arc<HealthChecks>),
        workers: &Arc<Workers>,
        tls: Option<&Arc<TlsState>>,
        (consul, xds): (&Arc<Consul>, &Arc<XdsApi>),
        config: &Config,
    ) -> Result<(ListenerConfig, WorkerDispatch), StartError> {
        let tls = match self {
            Self::Grpc | Self::Http | Self::Health => None,
            // A listener that is configured with TLS never starts without it.
            Self::GrpcTls | Self::HttpTls => Some(tls.ok_or(StartError::NoCertificate(self.names().0))?),
        }
        .cloned();
        let routes = match self {
            Self::Grpc | Self::GrpcTls => GrpcApi::routes(context, checks, xds.routes())?,
            Self::Http | Self::HttpTls => {
                let (context, workers, consul) = (Arc::clone(context), Arc::clone(workers), Arc::clone(consul));
                let hosts = match self {
                    Self::HttpTls => AllowedHosts::Any,
                    Self::Grpc | Self::Http | Self::GrpcTls | Self::Health => {
                        AllowedHosts::Named(config.http_hosts.as_slice().into())
                    }
                };
                HttpPages::new(context, workers, consul).routes(hosts).into()
            }
            Self::Health => GrpcApi::probes(context),
        };
        let protocol = match self {
            Self::Grpc | Self::GrpcTls | Self::Health => Protocol::Http2,
            Self::Http | Self::HttpTls => Protocol::Http1,
        };
        let dispatch = WorkerDispatch::new(workers, &context.clock, protocol);
        Ok((ListenerConfig { name: self.names().1, protocol, tls, routes }, dispatch))
    }
}

/// Bound listeners that accept no connection yet.
#[derive(Debug)]
pub(super) struct BoundListeners(Vec<(ListenerName, Listener)>);

impl BoundListeners {
    /// Binds all configured listeners. An inherited socket is used instead of a new one.
    pub(super) fn bind(config: &Config, mut inherited: InheritedSockets) -> Result<Self, StartError> {
        let mut bound = Vec::new();
        for listener_name in ListenerName::ALL {
            if let Some(address) = listener_name.address(config) {
                let (name, key, flag) = listener_name.names();
                let listener = match inherited.take(key)? {
                    Some(listener) => listener,
                    None => Listener::bind(address).map_err(|source| StartError::Listen {
                        listener: name,
                        flag,
                        address,
                        source,
                    })?,
                };
                bound.push((listener_name, listener));
            }
        }
        Ok(Self(bound))
    }

    pub(super) fn addresses(&self) -> ServerAddresses {
        let mut all = ServerAddresses::default();
        for (name, listener) in &self.0 {
            let address = match name {
                ListenerName::Grpc => &mut all.grpc,
                ListenerName::Http => &mut all.http,
                ListenerName::GrpcTls => &mut all.grpc_tls,
                ListenerName::HttpTls => &mut all.http_tls,
                ListenerName::Health => &mut all.health,
            };
            *address = Some(listener.address());
        }
        all
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (ListenerName, Listener)> {
        self.0.into_iter()
    }
}
