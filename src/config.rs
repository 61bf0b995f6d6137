//! Configuration of `callboard serve`: first as written, then validated.
//!
//! Every setting has one name and can be set in three places. For `max_message_size`:
//!
//! | place | example |
//! |---|---|
//! | file (`--config FILE`, TOML) | `max_message_size = "256KiB"` |
//! | environment | `CALLBOARD_MAX_MESSAGE_SIZE=256KiB` |
//! | flag | `--max-message-size 256KiB` |
//!
//! A flag wins over the environment, the environment over the file, the file over the default. An empty variable counts as
//! not set. The same parser reads the value from every place, and its error names the place.
//!
//! clap therefore only collects the flags. It could read the variables, too, but could not report which of the two an
//! invalid value came from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, thread};

pub use self::args::{ReadyFormat, ServeArgs};
pub use self::description::{SettingDescription, descriptions};
use self::environment::environment;
pub use self::environment::misspelt_variables;
pub use self::error::ConfigError;
pub use self::etcd::{EtcdArgs, EtcdConfig};
use self::key::SettingKey;
pub use self::key::SettingOrigin;
use self::listeners::Listeners;
use self::raw_settings::RawSettings;
pub use self::value::ValueError;
use crate::engine::Durability;
use crate::model::Metadata;
use crate::telemetry::{LogFilter, LogFormat};

mod args;
mod description;
mod environment;
mod error;
mod etcd;
mod file;
mod key;
mod listeners;
mod raw_settings;
mod socket;
#[cfg(test)]
mod tests;
mod value;

/// Maximum number of workers: a writer marks the workers to wake in 64 bits, one of which is for the HTTP worker.
const MAX_WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(62);

/// Maximum length of a node name, in bytes.
const MAX_NODE_NAME_BYTES: usize = 128;

/// Validated configuration of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Address of the gRPC listener without TLS. Port 0 means any free port.
    pub grpc: Option<SocketAddr>,
    /// Address of the HTTP listener without TLS. Port 0 means any free port.
    pub http: Option<SocketAddr>,
    /// Host names, in lower case, that an HTTP request without TLS may have besides addresses and `localhost`.
    pub http_hosts: Vec<String>,
    /// Directory in which the registry is stored. `None` means in memory only.
    pub data_dir: Option<PathBuf>,
    /// Durability of an acknowledged change on disk.
    pub durability: Durability,
    /// Export that a registry in memory reads at the start. `None` means that it starts empty.
    pub import: Option<PathBuf>,
    /// Settings of etcd, in which several replicas store the registry. `None` means that there is only this process.
    pub etcd: Option<EtcdConfig>,
    /// Address of the gRPC listener with TLS. Requires [`Config::tls`].
    pub grpc_tls: Option<SocketAddr>,
    /// Address of the HTTP listener with TLS. Requires [`Config::tls`].
    pub http_tls: Option<SocketAddr>,
    /// Address of the listener that serves only health checks, without TLS.
    pub health: Option<SocketAddr>,
    /// Files of the listeners with TLS.
    pub tls: Option<TlsFiles>,
    /// Number of threads that serve gRPC connections.
    pub workers: NonZeroUsize,
    /// Maximum size of a request, in bytes.
    pub max_message_size: usize,
    /// Maximum number of open calls and streams on one connection.
    pub max_streams_per_connection: NonZeroU32,
    /// Maximum number of open connections. `None` means as many as the file descriptors permit.
    pub max_connections: Option<NonZeroU32>,
    /// Maximum number of open connections from one address. `None` means 200, and no limit for this machine.
    pub max_connections_per_address: Option<NonZeroU32>,
    /// Maximum number of open calls and streams.
    pub max_streams: NonZeroU32,
    /// Maximum number of open calls and streams from one address. `None` means 20,000, and no limit for this machine.
    pub max_streams_per_address: Option<NonZeroU32>,
    /// Maximum number of calls that one connection may cancel within a second, in addition to four for each completed call.
    pub max_cancelled_calls_per_second: NonZeroU32,
    /// Memory for responses that clients have not read yet, in bytes.
    pub max_unread_responses: usize,
    /// Maximum age of a connection before GOAWAY (±10 %). `None` means no limit.
    pub max_connection_age: Option<Duration>,
    /// Time that streams have to end after their connection reached its maximum age.
    pub max_connection_age_grace: Duration,
    /// Timeout from accepting a connection to its first request.
    pub handshake_timeout: Duration,
    /// Interval at which an idle watch receives the newest revision.
    pub bookmark_interval: Duration,
    /// Time for which readers that remember lost registrations wait after a start. Zero turns settling off.
    pub settle: Duration,
    /// Networks that health checks may connect to. Empty means that none were configured.
    pub check_allow_cidr: Vec<ipnet::IpNet>,
    /// Settings of Consul's HTTP API.
    pub consul: ConsulConfig,
    /// Address of the DNS listener, for UDP and TCP.
    pub dns: Option<SocketAddr>,
    /// True for the default DNS address: if it is taken, the registry starts without DNS.
    pub dns_may_fail: bool,
    /// Domain that DNS answers for, in lower case, without a dot at the end.
    pub dns_domain: String,
    /// TTL of DNS answers.
    pub dns_ttl: Duration,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Filter of log lines.
    pub log: LogFilter,
}

/// Settings of Consul's HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulConfig {
    /// Name of the datacenter.
    pub datacenter: String,
    /// Name of this node. `None` means the host name.
    pub node_name: Option<String>,
    /// Address of this node. `None` means that of the listener.
    pub node_address: Option<IpAddr>,
    /// UUID of this node. `None` means the stored one, or a new one.
    pub node_id: Option<String>,
    /// Metadata of this node.
    pub node_meta: Metadata,
    /// Maximum number of open blocking queries.
    pub max_blocking_queries: NonZeroU32,
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self {
            datacenter: "dc1".to_owned(),
            node_name: None,
            node_address: None,
            node_id: None,
            node_meta: Metadata::default(),
            max_blocking_queries: NonZeroU32::MIN.saturating_add(9_999),
        }
    }
}

/// TLS files, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// File of the server's certificate, followed by intermediate certificates.
    pub cert: PathBuf,
    /// File of the private key.
    pub key: PathBuf,
    /// File of the authorities that sign client certificates. `None` means that clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

impl Default for Config {
    /// Returns the configuration of `callboard serve` without settings.
    fn default() -> Self {
        Self {
            grpc: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8502)),
            http: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8500)),
            http_hosts: Vec::new(),
            data_dir: None,
            durability: Durability::Durable,
            import: None,
            etcd: None,
            grpc_tls: None,
            http_tls: None,
            health: None,
            tls: None,
            workers: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(MAX_WORKERS),
            max_message_size: 256 * 1024,
            max_streams_per_connection: NonZeroU32::MIN.saturating_add(1023),
            max_connections: None,
            max_connections_per_address: None,
            max_streams: NonZeroU32::MIN.saturating_add(99_999),
            max_streams_per_address: None,
            max_cancelled_calls_per_second: NonZeroU32::MIN.saturating_add(4_999),
            max_unread_responses: 64 * 1024 * 1024,
            max_connection_age: Some(Duration::from_mins(30)),
            max_connection_age_grace: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(5),
            bookmark_interval: Duration::from_secs(15),
            settle: Duration::from_secs(10),
            check_allow_cidr: Vec::new(),
            consul: ConsulConfig::default(),
            dns: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8600)),
            dns_may_fail: true,
            dns_domain: "consul".to_owned(),
            dns_ttl: Duration::ZERO,
            log_format: LogFormat::Auto,
            log: LogFilter::default(),
        }
    }
}

impl Config {
    /// Loads the configuration from the flags, the environment and the file. The names and addresses of inherited `sockets`
    /// win over all of them.
    ///
    /// # Errors
    ///
    /// The first invalid setting, with its place and what to write instead.
    pub fn load(args: &ServeArgs, sockets: &[(String, SocketAddr)]) -> Result<Self, ConfigError> {
        let environment = environment(|name| env::var(name))?;
        let path = match (&args.config, environment.get(SettingKey::Config)) {
            (Some(path), _) => Some(path.clone()),
            (None, Some((path, _))) => Some(path.into()),
            (None, None) => None,
        };
        let file = match path {
            Some(path) => {
                let text = fs::read_to_string(&path)
                    .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
                file::parse(&path, &text)?
            }
            None => RawSettings::default(),
        };
        Self::resolve(&[socket::raw_settings(sockets)?, args.raw_settings(), environment, file])
    }

    /// Validates the settings of `layers`, of which the first wins.
    #[expect(clippy::too_many_lines, reason = "a table: one entry for each setting")]
    fn resolve(layers: &[RawSettings]) -> Result<Self, ConfigError> {
        let default = Self::default();
        let listeners = Listeners::resolve(layers, &default)?;
        let data_dir = read(layers, SettingKey::DataDir, value::directory)?;
        Ok(Self {
            grpc: listeners.grpc,
            http: listeners.http,
            grpc_tls: listeners.grpc_tls,
            http_tls: listeners.http_tls,
            health: listeners.health,
            tls: listeners.tls,
            http_hosts: set(layers, SettingKey::HttpHost, value::host_names, default.http_hosts)?,
            etcd: EtcdConfig::resolve(layers, data_dir.as_ref().map(|(_, origin)| origin.clone()))?,
            import: import(layers, data_dir.as_ref().map(|(_, origin)| origin))?,
            data_dir: data_dir.map(|(directory, _)| directory),
            durability: set(layers, SettingKey::Durability, value::durability, default.durability)?,
            workers: set(layers, SettingKey::Workers, value::workers, default.workers)?,
            max_message_size: set(layers, SettingKey::MaxMessageSize, value::message_size, default.max_message_size)?,
            max_streams_per_connection: set(
                layers,
                SettingKey::MaxStreamsPerConnection,
                value::limit,
                default.max_streams_per_connection,
            )?,
            max_connections: set(layers, SettingKey::MaxConnections, value::some_limit, default.max_connections)?,
            max_connections_per_address: set(
                layers,
                SettingKey::MaxConnectionsPerAddress,
                value::some_limit,
                default.max_connections_per_address,
            )?,
            max_streams: set(layers, SettingKey::MaxStreams, value::limit, default.max_streams)?,
            max_streams_per_address: set(
                layers,
                SettingKey::MaxStreamsPerAddress,
                value::some_limit,
                default.max_streams_per_address,
            )?,
            max_cancelled_calls_per_second: set(
                layers,
                SettingKey::MaxCancelledCallsPerSecond,
                value::limit,
                default.max_cancelled_calls_per_second,
            )?,
            max_unread_responses: set(
                layers,
                SettingKey::MaxUnreadResponses,
                value::unread_size,
                default.max_unread_responses,
            )?,
            max_connection_age: set(layers, SettingKey::MaxConnectionAge, value::age, default.max_connection_age)?,
            max_connection_age_grace: set(
                layers,
                SettingKey::MaxConnectionAgeGrace,
                value::interval,
                default.max_connection_age_grace,
            )?,
            handshake_timeout: set(layers, SettingKey::HandshakeTimeout, value::interval, default.handshake_timeout)?,
            bookmark_interval: set(layers, SettingKey::BookmarkInterval, value::interval, default.bookmark_interval)?,
            settle: set(layers, SettingKey::Settle, value::settle, default.settle)?,
            check_allow_cidr: set(layers, SettingKey::CheckAllowCidr, value::networks, default.check_allow_cidr)?,
            consul: consul(layers, default.consul)?,
            dns: listeners.dns,
            dns_may_fail: listeners.dns_may_fail,
            dns_domain: set(layers, SettingKey::DnsDomain, value::domain, default.dns_domain)?,
            dns_ttl: set(layers, SettingKey::DnsTtl, value::dns_ttl, default.dns_ttl)?,
            log_format: set(layers, SettingKey::LogFormat, value::log_format, default.log_format)?,
            log: set(layers, SettingKey::Log, value::log_filter, default.log)?,
        })
    }

    /// Returns the name of the node that stands for this registry in Consul's API: as configured, or the host name. Replicas of one
    /// registry are one node, named after their cluster.
    #[must_use]
    pub fn node_name(&self) -> String {
        let usual = || self.etcd.as_ref().map_or_else(host_name, |etcd| node_name(&etcd.cluster));
        self.consul.node_name.clone().unwrap_or_else(usual)
    }

    /// Returns the name of this replica: as configured, or the host name.
    #[must_use]
    pub fn replica_name(&self) -> String {
        self.etcd.as_ref().and_then(|etcd| etcd.replica.clone()).unwrap_or_else(host_name)
    }

    /// Returns the address of this node: as configured, or that of the HTTP listener, or the loopback address if it listens on all
    /// addresses.
    #[must_use]
    pub fn node_address(&self) -> IpAddr {
        if let Some(configured) = self.consul.node_address {
            return configured;
        }
        let listens = self.http.or(self.http_tls).map(|address| address.ip());
        listens.filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Returns the listeners that other machines can reach and that authenticate no client: key, address, and what a client can
    /// do there.
    #[must_use]
    pub fn exposed(&self) -> Vec<(&'static str, SocketAddr, &'static str)> {
        let (all, look_up) = ("read and change every registration", "look up every registration");
        let authenticated = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let mut open = vec![
            (SettingKey::Grpc, self.grpc, all),
            (SettingKey::Http, self.http, all),
            (SettingKey::Dns, self.dns, look_up),
        ];
        if !authenticated {
            open.extend([(SettingKey::GrpcTls, self.grpc_tls, all), (SettingKey::HttpTls, self.http_tls, all)]);
        }
        let open = open.into_iter().filter_map(|(key, address, what)| Some((key.name(), address?, what)));
        open.filter(|(_, address, _)| !listeners::is_loopback(*address)).collect()
    }
}

fn consul(layers: &[RawSettings], default: ConsulConfig) -> Result<ConsulConfig, ConfigError> {
    Ok(ConsulConfig {
        datacenter: set(layers, SettingKey::Datacenter, value::datacenter, default.datacenter)?,
        node_name: set(layers, SettingKey::NodeName, value::node_name, None)?,
        node_address: set(layers, SettingKey::NodeAddress, value::ip_address, None)?,
        node_id: set(layers, SettingKey::NodeId, value::uuid, None)?,
        node_meta: set(layers, SettingKey::NodeMeta, value::metadata, default.node_meta)?,
        max_blocking_queries: set(layers, SettingKey::MaxBlockingQueries, value::limit, default.max_blocking_queries)?,
    })
}

/// Returns the export that the registry reads at the start. An export excludes a data directory and etcd. `data_dir`: place of the
/// setting of the directory.
fn import(layers: &[RawSettings], data_dir: Option<&SettingOrigin>) -> Result<Option<PathBuf>, ConfigError> {
    let Some((export, origin)) = read(layers, SettingKey::Import, value::path)? else { return Ok(None) };
    let etcd = || layers.iter().find_map(|layer| layer.get(SettingKey::Etcd)).map(|(_, origin)| origin);
    match data_dir.or_else(etcd) {
        Some(store) => Err(ConfigError::ImportWithStore { origin, store: store.clone() }),
        None => Ok(Some(export)),
    }
}

/// Returns the configuration of a file alone.
#[cfg(any(test, fuzzing))]
pub(crate) fn from_text(path: &std::path::Path, text: &str) -> Result<Config, ConfigError> {
    Config::resolve(&[file::parse(path, text)?])
}

/// Returns the host name as a valid node name.
fn host_name() -> String {
    node_name(&rustix::system::uname().nodename().to_string_lossy())
}

/// Replaces the characters that a node name may not have by hyphens.
fn node_name(host: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    let name: String = host.chars().map(letter).take(MAX_NODE_NAME_BYTES).collect();
    let name = name.trim_start_matches('_').trim_matches('.');
    if name.is_empty() { "callboard".to_owned() } else { name.to_owned() }
}

/// Reads the value of `key` from the first layer that has it.
fn read<T>(
    layers: &[RawSettings],
    key: SettingKey,
    parse: value::Parse<T>,
) -> Result<Option<(T, SettingOrigin)>, ConfigError> {
    let Some((text, origin)) = layers.iter().find_map(|layer| layer.get(key)) else {
        return Ok(None);
    };
    match parse(text) {
        Ok(value) => Ok(Some((value, origin.clone()))),
        Err(error) => Err(ConfigError::Value { origin: origin.clone(), value: text.to_owned(), error: error.into() }),
    }
}

/// Reads the value of `key`, or returns the default if no layer has it.
fn set<T>(layers: &[RawSettings], key: SettingKey, parse: value::Parse<T>, default: T) -> Result<T, ConfigError> {
    Ok(read(layers, key, parse)?.map_or(default, |(value, _)| value))
}
