//! Where the registry listens, and who may be let in there.
//!
//! | listener | may be beyond loopback |
//! |---|---|
//! | `grpc`, `http` | by consent |
//! | `grpc_tls`, `http_tls` | when clients have to show a certificate; else by consent |
//! | `dns` | by consent: it knows nobody |
//! | `health` | yes: it tells whether this process serves, and nothing else |

use std::net::SocketAddr;

use super::error::ConfigError;
use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;
use super::{Config, TlsFiles, read, value};

/// The part of [`Config`] that is decided here.
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
    pub(super) fn resolve(layers: &[RawSettings], default: &Config) -> Result<Self, ConfigError> {
        let consent = read(layers, SettingKey::AllowInsecureRemote, value::switch)?.is_some_and(|(on, _)| on);
        let plain = |key, with_tls: SettingKey, otherwise| match read(layers, key, value::listener)? {
            Some((Some(address), origin)) if !consent && !is_loopback(address) => {
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
        let tls = tls(layers, [grpc_tls.as_ref(), http_tls.as_ref()].into_iter().flatten(), consent)?;
        let address = |found: Option<(SocketAddr, SettingOrigin)>| found.map(|(address, _)| address);
        let (grpc_tls, http_tls) = (address(grpc_tls), address(http_tls));
        let health = address(read(layers, SettingKey::Health, value::address)?);
        let dns = read(layers, SettingKey::Dns, value::listener)?;
        let dns_may_fail = dns.is_none();
        let dns = match dns {
            Some((Some(address), origin)) if !consent && !is_loopback(address) => {
                return Err(ConfigError::DnsNotLoopback { origin, address });
            }
            found => found.map_or(default.dns, |(address, _)| address),
        };
        if grpc.or(grpc_tls).is_none() {
            return Err(ConfigError::NoGrpc);
        }
        let found = Self { grpc, http, grpc_tls, http_tls, health, tls, dns, dns_may_fail };
        found.apart()?;
        Ok(found)
    }

    /// No two on one address.
    fn apart(&self) -> Result<(), ConfigError> {
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

pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The files of the listeners that speak TLS.
fn tls<'a>(
    layers: &[RawSettings],
    mut listeners: impl Iterator<Item = &'a (SocketAddr, SettingOrigin)> + Clone,
    consent: bool,
) -> Result<Option<TlsFiles>, ConfigError> {
    let file = |key| read(layers, key, value::path);
    let (cert, key, client_ca) =
        (file(SettingKey::TlsCert)?, file(SettingKey::TlsKey)?, file(SettingKey::TlsClientCa)?);
    let Some((address, origin)) = listeners.clone().next().cloned() else {
        // The variables are those of the clients' verbs as well, and may be meant for them.
        let given = [cert, key, client_ca].into_iter().flatten().map(|(_, origin)| origin);
        let mut meant = given.filter(|origin| !matches!(origin, SettingOrigin::Variable(_)));
        return meant.next().map_or(Ok(None), |origin| Err(ConfigError::NoTls { origin }));
    };
    let missing = |key: SettingKey| ConfigError::NoCertificate { origin, address, missing: key.flag() };
    let (cert, key) = match (cert, key) {
        (Some((cert, _)), Some((key, _))) => (cert, key),
        (None, _) => return Err(missing(SettingKey::TlsCert)),
        (Some(_), None) => return Err(missing(SettingKey::TlsKey)),
    };
    let client_ca = client_ca.map(|(path, _)| path);
    let open = listeners.find(|(address, _)| client_ca.is_none() && !consent && !is_loopback(*address));
    match open.cloned() {
        Some((address, origin)) => Err(ConfigError::NoClientCa { origin, address }),
        None => Ok(Some(TlsFiles { cert, key, client_ca })),
    }
}
