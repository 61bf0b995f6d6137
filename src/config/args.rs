//! Flags of `callboard serve`, as typed.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;

// The doc comments are the text of `callboard serve --help` and of the reference pages, where `[default: …]` becomes a column.
// Values stay text here: `Config::load` parses them.
/// Run a registry: gRPC for programs, Consul's HTTP API, DNS
#[derive(Args, Clone, Debug, Default)]
#[expect(clippy::doc_markdown, reason = "the comments are help texts, which are plain text")]
#[command(
    after_help = "Each setting is also read from the environment (--max-message-size is CALLBOARD_MAX_MESSAGE_SIZE) \
                  and from the file of --config (as max_message_size = \"256KiB\"). Flags win over the environment, \
                  the environment wins over the file."
)]
pub struct ServeArgs {
    /// Address of the gRPC listener without TLS; port 0 means any free port, off means none [default: 127.0.0.1:8502]
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<String>,
    /// Address of the HTTP listener without TLS; port 0 means any free port, off means none [default: 127.0.0.1:8500]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Host names by which clients may call the HTTP listener without TLS, separated by commas; requests for other names are
    /// rejected with 421, so that web pages cannot reach the registry under a name of their own [default: IP addresses and
    /// localhost]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub http_host: Vec<String>,
    /// Address of the gRPC listener with TLS; needs --tls-cert and --tls-key, and --tls-client-ca if other machines can reach
    /// it [default: none]
    #[arg(long, value_name = "ADDR")]
    pub grpc_tls: Option<String>,
    /// Address of the HTTP listener with TLS; needs the same files as --grpc-tls [default: none]
    #[arg(long, value_name = "ADDR")]
    pub http_tls: Option<String>,
    /// Address of a listener without TLS that serves only grpc.health.v1, for probes from other machines [default: none]
    #[arg(long, value_name = "ADDR")]
    pub health: Option<String>,
    /// PEM file with the server's certificate, followed by intermediate certificates; reloaded when it changes [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// PEM file with the private key of --tls-cert, without a passphrase; reloaded when it changes [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// PEM file with the authorities that sign client certificates; with it, TLS clients must present a certificate; reloaded
    /// when it changes [default: none]
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<String>,
    /// TOML file with settings [default: none]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Format of the line on standard output that has the addresses of the listeners
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: ReadyFormat,
    /// Threads that serve gRPC connections [default: one for each core]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// Directory in which the registry is stored, created if needed; without it, the registry is in memory only
    /// [default: none]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Durability of an acknowledged change with --data-dir: durable means on disk, relaxed means on disk within a second
    /// [default: durable]
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["durable", "relaxed"]))]
    pub durability: Option<String>,
    /// File of `callboard export` that a registry in memory reads at every start, before it serves; a registry on disk or in etcd is
    /// created with `callboard import` instead [default: none]
    #[arg(long, value_name = "FILE")]
    pub import: Option<String>,
    /// Members of etcd, as URLs separated by commas: any number of replicas share the registry that is stored there; not with
    /// --data-dir [default: none]
    #[arg(long, value_name = "URL,...")]
    pub etcd: Option<String>,
    /// User of etcd [default: none]
    #[arg(long, value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// File with the password of --etcd-user; a line break at its end is ignored [default: none]
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<String>,
    /// PEM file with the authorities that sign etcd's certificates [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<String>,
    /// PEM file with the certificate that etcd is shown [default: none]
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<String>,
    /// PEM file with the private key of --etcd-cert [default: none]
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<String>,
    /// Name of the registry among those that share etcd [default: default]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Name of this replica, for people: in logs, and beside the instances that it holds [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub replica: Option<String>,
    /// Allow listeners that other machines can reach and that authenticate no client, although any client there can change
    /// every registration [default: false]
    #[arg(long)]
    pub allow_insecure_remote: bool,
    /// Limit on the size of a request; a Watch request may have at least 3MiB [default: 256KiB]
    #[arg(long, value_name = "SIZE")]
    pub max_message_size: Option<String>,
    /// Limit on open calls and streams on one connection [default: 1024]
    #[arg(long, value_name = "N")]
    pub max_streams_per_connection: Option<String>,
    /// Limit on open connections on all listeners; more than four fifths of the process's file descriptors have no effect
    /// [default: four fifths of the file descriptors]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<String>,
    /// Limit on open connections from one address; unless this is set, connections from this machine are exempt [default: 200]
    #[arg(long, value_name = "N")]
    pub max_connections_per_address: Option<String>,
    /// Limit on open calls and streams; the last tenth is reserved for registrations, heartbeats and health checks [default: 100000]
    #[arg(long, value_name = "N")]
    pub max_streams: Option<String>,
    /// Limit on open calls and streams from one address; unless this is set, those from this machine are exempt [default: 20000]
    #[arg(long, value_name = "N")]
    pub max_streams_per_address: Option<String>,
    /// Limit on calls that one connection cancels within a second, in addition to four for each completed call; beyond that it gets
    /// GOAWAY [default: 5000]
    #[arg(long, value_name = "N")]
    pub max_cancelled_calls_per_second: Option<String>,
    /// Limit on the memory for responses that clients have not read yet; one address may use a quarter, this machine half, one connection a
    /// sixteenth [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_unread_responses: Option<String>,
    /// Maximum age of a connection, varied by up to 10 %, after which it gets GOAWAY; or off [default: 30m]
    #[arg(long, value_name = "TIME")]
    pub max_connection_age: Option<String>,
    /// Time that streams have to end after their connection reached its maximum age [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub max_connection_age_grace: Option<String>,
    /// Timeout from accepting a connection to its first HTTP request or its HTTP/2 SETTINGS [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub handshake_timeout: Option<String>,
    /// Interval at which an idle watch receives the newest revision [default: 15s]
    #[arg(long, value_name = "TIME")]
    pub bookmark_interval: Option<String>,
    /// Settling time: after a start that lost registrations, watches that know earlier ones wait this long for instances to
    /// register again; 0 turns it off [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub settle: Option<String>,
    /// Networks that health checks may connect to, separated by commas, such as 10.0.0.0/8; required for checks if a
    /// listener is open to other machines, and then checks connect only to the addresses of the instances [default: any
    /// address but link-local ones and those of cloud metadata]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub check_allow_cidr: Vec<String>,
    /// Name of the datacenter in Consul's API and in DNS [default: dc1]
    #[arg(long, value_name = "NAME")]
    pub datacenter: Option<String>,
    /// Name of this node in Consul's API and in DNS [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// IP address of this node in Consul's API and in DNS [default: that of the listener, or 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub node_address: Option<String>,
    /// UUID of this node in Consul's API [default: generated at the first start]
    #[arg(long, value_name = "UUID")]
    pub node_id: Option<String>,
    /// Metadata of this node in Consul's API, separated by commas [default: none]
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub node_meta: Vec<String>,
    /// Limit on open blocking queries of Consul's API [default: 10000]
    #[arg(long, value_name = "N")]
    pub max_blocking_queries: Option<String>,
    /// Address of the DNS listener, for UDP and TCP; port 0 means any free port, off means none [default: 127.0.0.1:8600, if it
    /// is free]
    #[arg(long, value_name = "ADDR")]
    pub dns: Option<String>,
    /// Domain that DNS answers for [default: consul]
    #[arg(long, value_name = "DOMAIN")]
    pub dns_domain: Option<String>,
    /// TTL of DNS answers; 0s means that they must not be cached [default: 0s]
    #[arg(long, value_name = "TIME")]
    pub dns_ttl: Option<String>,
    /// Format of log lines; auto is pretty on a terminal and json elsewhere [default: auto]
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(["auto", "pretty", "json"]))]
    pub log_format: Option<String>,
    /// Log levels by target, such as info,callboard::registry=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Format of the line with which `callboard serve` prints the addresses of its listeners.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadyFormat {
    /// Lines for people
    #[default]
    Table,
    /// One JSON object
    Json,
}

impl ServeArgs {
    /// Returns the settings of the flags that were given.
    pub(super) fn raw_settings(&self) -> RawSettings {
        let mut settings = RawSettings::default();
        for key in SettingKey::ALL {
            if let Some(text) = self.text(key) {
                settings.put(key, text, SettingOrigin::Flag(key.flag()));
            }
        }
        settings
    }

    fn text(&self, key: SettingKey) -> Option<String> {
        match key {
            // Not a setting of its own: `Config::load` opens the file.
            SettingKey::Config => None,
            SettingKey::Grpc => self.grpc.clone(),
            SettingKey::Http => self.http.clone(),
            SettingKey::HttpHost => joined(&self.http_host),
            SettingKey::GrpcTls => self.grpc_tls.clone(),
            SettingKey::HttpTls => self.http_tls.clone(),
            SettingKey::Health => self.health.clone(),
            SettingKey::TlsCert => self.tls_cert.clone(),
            SettingKey::TlsKey => self.tls_key.clone(),
            SettingKey::TlsClientCa => self.tls_client_ca.clone(),
            SettingKey::Workers => self.workers.clone(),
            SettingKey::DataDir => self.data_dir.clone(),
            SettingKey::Durability => self.durability.clone(),
            SettingKey::Import => self.import.clone(),
            SettingKey::Etcd => self.etcd.clone(),
            SettingKey::EtcdUser => self.etcd_user.clone(),
            SettingKey::EtcdPasswordFile => self.etcd_password_file.clone(),
            SettingKey::EtcdCa => self.etcd_ca.clone(),
            SettingKey::EtcdCert => self.etcd_cert.clone(),
            SettingKey::EtcdKey => self.etcd_key.clone(),
            SettingKey::Cluster => self.cluster.clone(),
            SettingKey::Replica => self.replica.clone(),
            SettingKey::AllowInsecureRemote => self.allow_insecure_remote.then(|| true.to_string()),
            SettingKey::MaxMessageSize => self.max_message_size.clone(),
            SettingKey::MaxStreamsPerConnection => self.max_streams_per_connection.clone(),
            SettingKey::MaxConnections => self.max_connections.clone(),
            SettingKey::MaxConnectionsPerAddress => self.max_connections_per_address.clone(),
            SettingKey::MaxStreams => self.max_streams.clone(),
            SettingKey::MaxStreamsPerAddress => self.max_streams_per_address.clone(),
            SettingKey::MaxCancelledCallsPerSecond => self.max_cancelled_calls_per_second.clone(),
            SettingKey::MaxUnreadResponses => self.max_unread_responses.clone(),
            SettingKey::MaxConnectionAge => self.max_connection_age.clone(),
            SettingKey::MaxConnectionAgeGrace => self.max_connection_age_grace.clone(),
            SettingKey::HandshakeTimeout => self.handshake_timeout.clone(),
            SettingKey::BookmarkInterval => self.bookmark_interval.clone(),
            SettingKey::Settle => self.settle.clone(),
            SettingKey::CheckAllowCidr => joined(&self.check_allow_cidr),
            SettingKey::Datacenter => self.datacenter.clone(),
            SettingKey::NodeName => self.node_name.clone(),
            SettingKey::NodeAddress => self.node_address.clone(),
            SettingKey::NodeId => self.node_id.clone(),
            SettingKey::NodeMeta => joined(&self.node_meta),
            SettingKey::MaxBlockingQueries => self.max_blocking_queries.clone(),
            SettingKey::Dns => self.dns.clone(),
            SettingKey::DnsDomain => self.dns_domain.clone(),
            SettingKey::DnsTtl => self.dns_ttl.clone(),
            SettingKey::LogFormat => self.log_format.clone(),
            SettingKey::Log => self.log.clone(),
        }
    }
}

/// Joins the values of a flag to one text.
fn joined(values: &[String]) -> Option<String> {
    (!values.is_empty()).then(|| values.join(","))
}
