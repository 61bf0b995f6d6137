//! Names of the settings, and the places that their values come from.

use std::fmt;
use std::path::PathBuf;

/// Declares the settings: the variant, and the name that a configuration file has.
macro_rules! setting_keys {
    ($($key:ident = $name:literal,)+) => {
        /// Setting of `callboard serve`. Its flag in `args.rs` has the description.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum SettingKey {
            $($key,)+
        }

        impl SettingKey {
            /// All settings.
            pub(super) const ALL: [Self; [$($name),+].len()] = [$(Self::$key),+];

            /// Returns the name of the setting in a file.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$key => $name,)+
                }
            }
        }
    };
}

setting_keys! {
    Config = "config",
    Grpc = "grpc",
    Http = "http",
    HttpHost = "http_host",
    GrpcTls = "grpc_tls",
    HttpTls = "http_tls",
    Health = "health",
    TlsCert = "tls_cert",
    TlsKey = "tls_key",
    TlsClientCa = "tls_client_ca",
    Workers = "workers",
    DataDir = "data_dir",
    Durability = "durability",
    Import = "import",
    Etcd = "etcd",
    EtcdUser = "etcd_user",
    EtcdPasswordFile = "etcd_password_file",
    EtcdCa = "etcd_ca",
    EtcdCert = "etcd_cert",
    EtcdKey = "etcd_key",
    Cluster = "cluster",
    Replica = "replica",
    AllowInsecureRemote = "allow_insecure_remote",
    MaxMessageSize = "max_message_size",
    MaxStreamsPerConnection = "max_streams_per_connection",
    MaxConnections = "max_connections",
    MaxConnectionsPerAddress = "max_connections_per_address",
    MaxStreams = "max_streams",
    MaxStreamsPerAddress = "max_streams_per_address",
    MaxCancelledCallsPerSecond = "max_cancelled_calls_per_second",
    MaxUnreadResponses = "max_unread_responses",
    MaxConnectionAge = "max_connection_age",
    MaxConnectionAgeGrace = "max_connection_age_grace",
    HandshakeTimeout = "handshake_timeout",
    BookmarkInterval = "bookmark_interval",
    Settle = "settle",
    CheckAllowCidr = "check_allow_cidr",
    Datacenter = "datacenter",
    NodeName = "node_name",
    NodeAddress = "node_address",
    NodeId = "node_id",
    NodeMeta = "node_meta",
    MaxBlockingQueries = "max_blocking_queries",
    Dns = "dns",
    DnsDomain = "dns_domain",
    DnsTtl = "dns_ttl",
    LogFormat = "log_format",
    Log = "log",
}

impl SettingKey {
    /// Settings with the address of a listener that a socket may be inherited for.
    pub(super) const LISTENERS: [Self; 5] = [Self::Grpc, Self::Http, Self::GrpcTls, Self::HttpTls, Self::Health];

    /// Returns the flag of the setting.
    pub(super) fn flag(self) -> String {
        format!("--{}", self.name().replace('_', "-"))
    }

    /// Returns the environment variable of the setting.
    pub(super) fn variable(self) -> String {
        format!("CALLBOARD_{}", self.name().to_ascii_uppercase())
    }

    /// Returns the settings that a file may have: all but the path of the file itself.
    pub(super) fn in_file() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|key| *key != Self::Config)
    }
}

/// Place that a value comes from, as error messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    /// Flag.
    Flag(String),
    /// Environment variable.
    Variable(String),
    /// Inherited socket of this name, opened by the service manager.
    Socket(String),
    /// Configuration file.
    File {
        /// Path of the file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Key as written.
        key: String,
    },
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => out.write_str(name),
            Self::Socket(name) => write!(out, "the inherited socket {name}"),
            Self::File { path, line, key } => write!(out, "{}:{line}: {key}", path.display()),
        }
    }
}
