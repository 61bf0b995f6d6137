//! The names of the settings and of the places they come from.

use std::fmt;
use std::path::PathBuf;

/// A setting of `callboard serve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::enum_variant_names, reason = "`tls_key` is the name of a file's setting")]
pub(super) enum SettingKey {
    /// The file with the other settings. Cannot itself be set in a file.
    Config,
    /// Where gRPC listens.
    Grpc,
    /// Where HTTP listens.
    Http,
    /// Names by which HTTP clients may call the registry.
    HttpHost,
    /// Where gRPC listens with TLS.
    GrpcTls,
    /// Where HTTP listens with TLS.
    HttpTls,
    /// Where health checks alone are answered.
    Health,
    /// The file of the server's certificate.
    TlsCert,
    /// The file of its private key.
    TlsKey,
    /// The file of the authorities that clients' certificates are checked against.
    TlsClientCa,
    /// Threads that serve gRPC connections.
    Workers,
    /// Where the registry is kept.
    DataDir,
    /// When an acknowledged change is on the disk.
    Durability,
    /// Consent to listen beyond this machine without TLS.
    AllowInsecureRemote,
    /// The largest message that a client may send.
    MaxMessageSize,
    /// Calls and streams open at once on one connection.
    MaxStreamsPerConnection,
    /// Connections in all.
    MaxConnections,
    /// Connections from one address.
    MaxConnectionsPerAddress,
    /// Calls and streams open at once in all.
    MaxStreams,
    /// Calls and streams open at once from one address.
    MaxStreamsPerAddress,
    /// Calls that one connection may cancel within a second.
    MaxCancelledCallsPerSecond,
    /// Bytes of unread answers in all.
    MaxUnreadResponses,
    /// When a connection is asked to come back as another.
    MaxConnectionAge,
    /// How long its streams have then.
    MaxConnectionAgeGrace,
    /// How long a connection may take to begin.
    HandshakeTimeout,
    /// The time between two bookmarks of a quiet watch.
    BookmarkInterval,
    /// How long readers wait for those who were lost in a restart.
    Settle,
    /// Networks that health checks may go to.
    CheckAllowCidr,
    /// What Consul's readers are told of where this is.
    Datacenter,
    /// The node that is told as the registry's own.
    NodeName,
    /// Its UUID.
    NodeId,
    /// Its metadata.
    NodeMeta,
    /// Consul queries that wait for changes, in all.
    MaxBlockingQueries,
    /// Where DNS is answered.
    Dns,
    /// The domain that it answers for.
    DnsDomain,
    /// How long what it answers may be kept.
    DnsTtl,
    /// How log lines look.
    LogFormat,
    /// Which log lines are written.
    Log,
}

impl SettingKey {
    /// All of them.
    pub(super) const ALL: [Self; 38] = [
        Self::Config,
        Self::Grpc,
        Self::Http,
        Self::HttpHost,
        Self::GrpcTls,
        Self::HttpTls,
        Self::Health,
        Self::TlsCert,
        Self::TlsKey,
        Self::TlsClientCa,
        Self::Workers,
        Self::DataDir,
        Self::Durability,
        Self::AllowInsecureRemote,
        Self::MaxMessageSize,
        Self::MaxStreamsPerConnection,
        Self::MaxConnections,
        Self::MaxConnectionsPerAddress,
        Self::MaxStreams,
        Self::MaxStreamsPerAddress,
        Self::MaxCancelledCallsPerSecond,
        Self::MaxUnreadResponses,
        Self::MaxConnectionAge,
        Self::MaxConnectionAgeGrace,
        Self::HandshakeTimeout,
        Self::BookmarkInterval,
        Self::Settle,
        Self::CheckAllowCidr,
        Self::Datacenter,
        Self::NodeName,
        Self::NodeId,
        Self::NodeMeta,
        Self::MaxBlockingQueries,
        Self::Dns,
        Self::DnsDomain,
        Self::DnsTtl,
        Self::LogFormat,
        Self::Log,
    ];

    /// Those that say where to listen.
    pub(super) const LISTENERS: [Self; 5] = [Self::Grpc, Self::Http, Self::GrpcTls, Self::HttpTls, Self::Health];

    /// Its name in a file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::HttpHost => "http_host",
            Self::GrpcTls => "grpc_tls",
            Self::HttpTls => "http_tls",
            Self::Health => "health",
            Self::TlsCert => "tls_cert",
            Self::TlsKey => "tls_key",
            Self::TlsClientCa => "tls_client_ca",
            Self::Workers => "workers",
            Self::DataDir => "data_dir",
            Self::Durability => "durability",
            Self::AllowInsecureRemote => "allow_insecure_remote",
            Self::MaxMessageSize => "max_message_size",
            Self::MaxStreamsPerConnection => "max_streams_per_connection",
            Self::MaxConnections => "max_connections",
            Self::MaxConnectionsPerAddress => "max_connections_per_address",
            Self::MaxStreams => "max_streams",
            Self::MaxStreamsPerAddress => "max_streams_per_address",
            Self::MaxCancelledCallsPerSecond => "max_cancelled_calls_per_second",
            Self::MaxUnreadResponses => "max_unread_responses",
            Self::MaxConnectionAge => "max_connection_age",
            Self::MaxConnectionAgeGrace => "max_connection_age_grace",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::BookmarkInterval => "bookmark_interval",
            Self::Settle => "settle",
            Self::CheckAllowCidr => "check_allow_cidr",
            Self::Datacenter => "datacenter",
            Self::NodeName => "node_name",
            Self::NodeId => "node_id",
            Self::NodeMeta => "node_meta",
            Self::MaxBlockingQueries => "max_blocking_queries",
            Self::Dns => "dns",
            Self::DnsDomain => "dns_domain",
            Self::DnsTtl => "dns_ttl",
            Self::LogFormat => "log_format",
            Self::Log => "log",
        }
    }

    /// Its name among the flags.
    pub(super) fn flag(self) -> String {
        format!("--{}", self.name().replace('_', "-"))
    }

    /// Its name in the environment.
    pub(super) fn variable(self) -> String {
        format!("CALLBOARD_{}", self.name().to_ascii_uppercase())
    }

    /// The keys that a file may have.
    pub(super) fn in_file() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|key| *key != Self::Config)
    }
}

/// Where a value was written, in words that lead a reader there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    /// On the command line.
    Flag(String),
    /// In the environment.
    Variable(String),
    /// By a socket of this name, which whoever started the process has opened.
    Socket(String),
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// As it is written there.
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
