//! Addresses of the listeners, and the rules for addresses that other machines can reach.
//!
//! | listener | may be reachable from other machines |
//! |---|---|
//! | `grpc`, `http` | with `--allow-insecure-remote` |
//! | `grpc_tls`, `http_tls` | with client certificates, or with `--allow-insecure-remote` |
//! | `dns` | with `--allow-insecure-remote`, because DNS authenticates no client |
//! | `health` | yes: it serves only the health of this process |

use std::net::SocketAddr;

use super::error::ConfigError;
use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;
use super::{Config, TlsFiles, read, value};

/// Listeners of a [`Config`].
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) grpc: Option<SocketAddr>,
    pub(super) http: Option<SocketAddr>,
    pub(super) grpc_tls: Option<SocketAddr>,
    pub(super) http_tls: Option<SocketAddr>,
    pub(super) health: Option<SocketAddr>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) dns: Option<SocketAddr>,
    pub(super) dns_may_fail: bool,
}

impl Listeners {
    /// Reads and validates the addresses of the listeners.
    pub(super) fn resolve(layers: &[RawSettings], default: &Config) -> Result<Self, ConfigError> {
        let allow_remote = read(layers, SettingKey::AllowInsecureRemote, value::switch)?.is_some_and(|(on, _)| on);
        let plain = |key, with_tls: SettingKey, otherwise| match read(layers, key, value::listener)? {
            Some((Some(address), origin)) if !allow_remote && !is_loopback(address) => {
                Err(ConfigError::NotLoopback { origin, address, instead: with_tls.flag() })
            }
            found => Ok(found.map_or(otherwise, |(address, _)| address)),
        };
        let (grpc, http) = (
            plain(SettingKey::Grpc, SettingKey::GrpcTls, default.grpc)?,
            plain(SettingKey::Http, SettingKey::HttpTls, default.http)?,
        );
        let grpc_tls = read(layers, SettingKey::GrpcTls, value::address)?;
        let http_tls = read(layers, SettingKey::HttpTls, value::address)?;
        let tls = tls(layers, [grpc_tls.as_ref(), http_tls.as_ref()].into_iter().flatten(), allow_remote)?;
        let address = |found: Option<(SocketAddr, SettingOrigin)>| found.map(|(address, _)| address);
        let (grpc_tls, http_tls) = (address(grpc_tls), address(http_tls));
        let health = address(read(layers, SettingKey::Health, value::address)?);
        let dns = read(layers, SettingKey::Dns, value::listener)?;
        let dns_may_fail = dns.is_none();
        let dns = match dns {
            Some((Some(address), origin)) if !allow_remote && !is_loopback(address) => {
                return Err(ConfigError::DnsNotLoopback { origin, address });
            }
            found => found.map_or(default.dns, |(address, _)| address),
        };
        if grpc.or(grpc_tls).is_none() {
            return Err(ConfigError::NoGrpc);
        }
        let found = Self { grpc, http, grpc_tls, http_tls, health, tls, dns, dns_may_fail };
        found.check_distinct()?;
        Ok(found)
    }

    /// Checks that no two listeners have the same address.
    fn check_distinct(&self) -> Result<(), ConfigError> {
        let all = [
            (SettingKey::Grpc, self.grpc),
            (SettingKey::Http, self.http),
            (SettingKey::GrpcTls, self.grpc_tls),
            (SettingKey::HttpTls, self.http_tls),
            (SettingKey::Health, self.health),
            (SettingKey::Dns, self.dns.filter(|_| !self.dns_may_fail)),
        ];
        for (at, (one, address)) in all.iter().enumerate() {
            let taken = address.filter(|address| address.port() != 0);
            let Some(address) = taken else { continue };
            if let Some((other, _)) = all[at + 1..].iter().find(|(_, other)| *other == Some(address)) {
                return Err(ConfigError::SameAddress { one: one.name(), other: other.name(), address });
            }
        }
        Ok(())
    }
}

/// Returns whether only this machine can reach an address.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Reads and validates the TLS files.
fn tls<'a>(
    layers: &[RawSettings],
    mut listeners: impl Iterator<Item = &'a (SocketAddr, SettingOrigin)> + Clone,
    allow_remote: bool,
) -> Result<Option<TlsFiles>, ConfigError> {
    let file = |key| read(layers, key, value::path);
    let (cert, key, client_ca) =
        (file(SettingKey::TlsCert)?, file(SettingKey::TlsKey)?, file(SettingKey::TlsClientCa)?);
    let Some((address, origin)) = listeners.clone().next().cloned() else {
        // The client commands read the same variables, so a variable alone is not an error.
        let given = [cert, key, client_ca].into_iter().flatten().map(|(_, origin)| origin);
        let mut not_variables = given.filter(|origin| !matches!(origin, SettingOrigin::Variable(_)));
        return not_variables.next().map_or(Ok(None), |origin| Err(ConfigError::NoTls { origin }));
    };
    let missing = |key: SettingKey| ConfigError::NoCertificate { origin, address, missing: key.flag() };
    let (cert, key) = match (cert, key) {
        (Some((cert, _)), Some((key, _))) => (cert, key),
        (None, _) => return Err(missing(SettingKey::TlsCert)),
        (Some(_), None) => return Err(missing(SettingKey::TlsKey)),
    };
    let client_ca = client_ca.map(|(path, _)| path);
    let unauthenticated = listeners.find(|(address, _)| client_ca.is_none() && !allow_remote && !is_loopback(*address));
    match unauthenticated.cloned() {
        Some((address, origin)) => Err(ConfigError::NoClientCa { origin, address }),
        None => Ok(Some(TlsFiles { cert, key, client_ca })),
    }
}
