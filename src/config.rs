//! What `callboard serve` is told: first as it was written, then as it is valid.
//!
//! Every setting has one name, and three places where it may be written. For `max_message_size`:
//!
//! | place | spelling |
//! |---|---|
//! | file (`--config FILE`, TOML) | `max_message_size = "256KiB"` |
//! | environment | `CALLBOARD_MAX_MESSAGE_SIZE=256KiB` |
//! | flag | `--max-message-size 256KiB` |
//!
//! A flag wins over the environment, the environment over the file, the file over the default. A variable that is set
//! to nothing counts as not set. Whichever place a value came from, it is read by the same function and refused in the
//! same words, and the refusal names the place.
//!
//! clap therefore only collects the flags: it would read variables too, but could not say afterwards which of the two
//! a bad value was.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs, thread};

pub use self::args::{ReadyFormat, ServeArgs};
pub use self::error::ConfigError;
use self::key::SettingKey;
pub use self::key::SettingOrigin;
use self::listeners::Listeners;
use self::raw_settings::RawSettings;
pub use self::value::ValueError;
use crate::engine::Durability;
use crate::model::Metadata;
use crate::telemetry::{LogFilter, LogFormat};

mod args;
mod error;
mod file;
mod key;
mod listeners;
mod raw_settings;
mod socket;
#[cfg(test)]
mod tests;
mod value;

/// Most workers: a writer keeps a bit for each to know whom to wake, and one for HTTP.
const MOST_WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(62);

/// Longest name of a node, in bytes.
const LONGEST_NODE_NAME: usize = 128;

/// How alike two variables must be for the one to be the other misspelt; they share their first ten letters in any case.
const MISSPELT: f64 = 0.95;

/// Variables of the verbs for clients. The other two for TLS are spelt as those of `serve`.
const CLIENTS: [&str; 3] = ["CALLBOARD_SERVER", "CALLBOARD_TLS_CA", "CALLBOARD_TLS_SERVER_NAME"];

/// What the registry runs with. Every value in it is usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where gRPC listens without TLS. Port 0 takes any free one.
    pub grpc: Option<SocketAddr>,
    /// Where HTTP listens: metrics, readiness, Prometheus service discovery. Port 0 takes any free one.
    pub http: Option<SocketAddr>,
    /// Names, in lower case, that `Host` of a request over HTTP without TLS may have beside addresses and `localhost`.
    pub http_hosts: Vec<String>,
    /// Where the registry is kept. `None`: in memory.
    pub data_dir: Option<PathBuf>,
    /// When an acknowledged change is on the disk.
    pub durability: Durability,
    /// Where gRPC listens with TLS. Needs [`Config::tls`].
    pub grpc_tls: Option<SocketAddr>,
    /// Where HTTP listens with TLS. Needs [`Config::tls`].
    pub http_tls: Option<SocketAddr>,
    /// Where health checks alone are answered, without TLS.
    pub health: Option<SocketAddr>,
    /// What the listeners with TLS show, and what they ask for.
    pub tls: Option<TlsFiles>,
    /// How many threads serve gRPC connections.
    pub workers: NonZeroUsize,
    /// The largest message that a client may send, in bytes.
    pub max_message_size: usize,
    /// How many calls and streams one connection may have open at once.
    pub max_streams_per_connection: NonZeroU32,
    /// How many connections may be open. `None`: as many as the descriptors leave room for.
    pub max_connections: Option<NonZeroU32>,
    /// How many of them from one address. `None`: 200, and any number from this machine.
    pub max_connections_per_address: Option<NonZeroU32>,
    /// How many calls and streams may be open at once in all.
    pub max_streams: NonZeroU32,
    /// How many of them from one address. `None`: 20,000, and any number from this machine.
    pub max_streams_per_address: Option<NonZeroU32>,
    /// Calls that one connection may cancel within a second, beside four for each call that is answered.
    pub max_cancelled_calls_per_second: NonZeroU32,
    /// Bytes of answers that may wait for their readers.
    pub max_unread_responses: usize,
    /// When a connection is asked to come back as another, give or take a tenth. `None`: never.
    pub max_connection_age: Option<Duration>,
    /// How long its streams have then.
    pub max_connection_age_grace: Duration,
    /// How long a connection may take to begin.
    pub handshake_timeout: Duration,
    /// How often a watch that had nothing to say is told the newest revision.
    pub bookmark_interval: Duration,
    /// For how long after a start that lost registrations readers that remember them wait for them to come back; zero: not.
    pub settle: Duration,
    /// Networks that health checks may go to. Empty: nothing was said.
    pub check_allow_cidr: Vec<ipnet::IpNet>,
    /// What programs written for Consul are told of where this is.
    pub consul: ConsulConfig,
    /// Where DNS is answered, over UDP and TCP.
    pub dns: Option<SocketAddr>,
    /// That address was chosen by nobody: if it is taken, DNS is not answered, and the registry starts all the same.
    pub dns_may_fail: bool,
    /// The domain that DNS answers for, in lower case, without a dot at the end.
    pub dns_domain: String,
    /// How long what DNS answers may be kept.
    pub dns_ttl: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log: LogFilter,
}

/// What programs written for Consul are told of where this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulConfig {
    /// The datacenter.
    pub datacenter: String,
    /// The name of the node. `None`: that of this host.
    pub node_name: Option<String>,
    /// The UUID of the node. `None`: the one it has, or a new one.
    pub node_id: Option<String>,
    /// The metadata of the node.
    pub node_meta: Metadata,
    /// Most queries that wait for changes at once.
    pub max_blocking_queries: NonZeroU32,
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self {
            datacenter: "dc1".to_owned(),
            node_name: None,
            node_id: None,
            node_meta: Metadata::default(),
            max_blocking_queries: NonZeroU32::MIN.saturating_add(9_999),
        }
    }
}

/// Files for TLS, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and what its clients trust.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// What clients' certificates are checked against. `None`: they need none.
    pub client_ca: Option<PathBuf>,
}

impl Default for Config {
    /// What `callboard serve` alone runs with.
    fn default() -> Self {
        Self {
            grpc: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8502)),
            http: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8500)),
            http_hosts: Vec::new(),
            data_dir: None,
            durability: Durability::Durable,
            grpc_tls: None,
            http_tls: None,
            health: None,
            tls: None,
            workers: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(MOST_WORKERS),
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
    /// Reads the file and the environment, and puts the flags over both. Over all of them go the names and addresses of
    /// `sockets`, which were inherited.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be used, with the place where it is written and what to write instead.
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
        Self::resolve(&[socket::written(sockets)?, args.written(), environment, file])
    }

    /// The valid configuration of what is written in `layers`, of which the first wins.
    fn resolve(layers: &[RawSettings]) -> Result<Self, ConfigError> {
        let default = Self::default();
        let listeners = Listeners::resolve(layers, &default)?;
        Ok(Self {
            grpc: listeners.grpc,
            http: listeners.http,
            grpc_tls: listeners.grpc_tls,
            http_tls: listeners.http_tls,
            health: listeners.health,
            tls: listeners.tls,
            http_hosts: set(layers, SettingKey::HttpHost, value::host_names, default.http_hosts)?,
            data_dir: read(layers, SettingKey::DataDir, value::directory)?.map(|(directory, _)| directory),
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

    /// The name of our node: as configured, else that of this host.
    #[must_use]
    pub fn node_name(&self) -> String {
        self.consul.node_name.clone().unwrap_or_else(host_name)
    }

    /// Address of the local node: that of the HTTP listener, unless that is every address of this machine.
    #[must_use]
    pub fn node_address(&self) -> IpAddr {
        let listens = self.http.or(self.http_tls).map(|address| address.ip());
        listens.filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Listeners that other machines reach and that check nobody, by their keys, and what whoever reaches them can do: what is
    /// there only by consent.
    #[must_use]
    pub fn exposed(&self) -> Vec<(&'static str, SocketAddr, &'static str)> {
        let (all, ask) = ("read and change every registration", "ask who is registered");
        let checked = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let mut open = vec![
            (SettingKey::Grpc, self.grpc, all),
            (SettingKey::Http, self.http, all),
            (SettingKey::Dns, self.dns, ask),
        ];
        if !checked {
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
        node_id: set(layers, SettingKey::NodeId, value::uuid, None)?,
        node_meta: set(layers, SettingKey::NodeMeta, value::metadata, default.node_meta)?,
        max_blocking_queries: set(layers, SettingKey::MaxBlockingQueries, value::limit, default.max_blocking_queries)?,
    })
}

/// The configuration of a file alone.
#[cfg(any(test, fuzzing))]
pub(crate) fn from_text(path: &std::path::Path, text: &str) -> Result<Config, ConfigError> {
    Config::resolve(&[file::parse(path, text)?])
}

/// The variables of `callboard serve` that are set.
fn environment(variable: impl Fn(&str) -> Result<String, env::VarError>) -> Result<RawSettings, ConfigError> {
    let mut written = RawSettings::default();
    for key in SettingKey::ALL {
        let name = key.variable();
        match variable(&name) {
            Ok(text) if text.is_empty() => {}
            Ok(text) => written.put(key, text, SettingOrigin::Variable(name)),
            Err(env::VarError::NotPresent) => {}
            Err(env::VarError::NotUnicode(value)) => return Err(ConfigError::NotUnicode { name, value }),
        }
    }
    Ok(written)
}

/// Variables that are set, are none of ours, and look like one of ours misspelt; each with the one that was probably meant.
///
/// They are not refused: where the registry is called `callboard`, Kubernetes itself sets variables such as
/// `CALLBOARD_SERVICE_HOST` for every program beside it.
#[must_use]
pub fn misspelt_variables() -> Vec<(String, String)> {
    misspelt(env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

fn misspelt(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let known = SettingKey::ALL.map(SettingKey::variable);
    let meant = |name: &String| {
        let near = known.iter().map(|key| (strsim::jaro_winkler(name, key), key));
        let (likeness, key) = near.max_by(|one, other| one.0.total_cmp(&other.0))?;
        (likeness >= MISSPELT && name != key).then(|| key.clone())
    };
    let ours = names.filter(|name| name.starts_with("CALLBOARD_") && !CLIENTS.contains(&name.as_str()));
    ours.filter_map(|name| meant(&name).map(|key| (name, key))).collect()
}

/// The name of this host, as that of a node: what a name may not have in it is a hyphen.
fn host_name() -> String {
    node_name(&rustix::system::uname().nodename().to_string_lossy())
}

fn node_name(host: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    let name: String = host.chars().map(letter).take(LONGEST_NODE_NAME).collect();
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
        Err(refusal) => Err(ConfigError::Value { origin: origin.clone(), value: text.to_owned(), refusal }),
    }
}

/// As [`read`], with what holds where no layer has the key.
fn set<T>(layers: &[RawSettings], key: SettingKey, parse: value::Parse<T>, default: T) -> Result<T, ConfigError> {
    Ok(read(layers, key, parse)?.map_or(default, |(value, _)| value))
}
