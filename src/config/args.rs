//! The flags of `callboard serve`, as they were typed.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;

// The doc comments are what `callboard serve --help` prints. Values stay text: `Config::load` reads them.
/// Run a registry: gRPC for services and whoever watches them, HTTP for operators
#[derive(Args, Clone, Debug, Default)]
#[command(
    after_help = "Each setting is also read from the environment (--max-message-size is CALLBOARD_MAX_MESSAGE_SIZE) \
                  and from the file of --config (as max_message_size = \"256KiB\"). Flags win over the environment, \
                  the environment wins over the file."
)]
pub struct ServeArgs {
    /// Where gRPC listens without TLS; port 0 takes any free one, off is nowhere [default: 127.0.0.1:8502]
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<String>,
    /// Where HTTP listens without TLS; port 0 takes any free one, off is nowhere [default: 127.0.0.1:8500]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Host names by which clients may call HTTP without TLS, with commas between them; may be repeated. Requests for any other
    /// name are rejected with 421, so that web pages cannot reach the registry under a name of their own [default: IP addresses
    /// and localhost]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub http_host: Vec<String>,
    /// Where gRPC listens with TLS; needs --tls-cert and --tls-key, and beyond loopback --tls-client-ca [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    pub grpc_tls: Option<String>,
    /// Where HTTP listens with TLS; needs what --grpc-tls needs [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    pub http_tls: Option<String>,
    /// Where grpc.health.v1 alone is answered, without TLS, for probes from any machine [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    pub health: Option<String>,
    /// The server's certificate in PEM, then those between it and what clients trust; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Its private key in PEM, without a passphrase; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Certificates in PEM: with TLS, clients must show one that these have signed; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<String>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How the line on standard output that tells the addresses looks
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: ReadyFormat,
    /// Threads that serve gRPC connections [default: one a core]
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// Keep the registry in this directory, which is made if need be; without it, a restart forgets everything
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// When an acknowledged change is on the disk: durable is before, relaxed is within a second [default: durable]
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["durable", "relaxed"]))]
    pub durability: Option<String>,
    /// Listen on addresses that other machines reach, though anybody there can change every registration
    #[arg(long)]
    pub allow_insecure_remote: bool,
    /// The largest message that a client may send; for a Watch at least 3MiB [default: 256KiB]
    #[arg(long, value_name = "SIZE")]
    pub max_message_size: Option<String>,
    /// Calls and streams that one connection may have open at once [default: 1024]
    #[arg(long, value_name = "N")]
    pub max_streams_per_connection: Option<String>,
    /// Connections in all, whichever the listener; at most four fifths of the descriptors that the process may have
    /// [default: those four fifths]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<String>,
    /// Connections from one address; this machine is exempt unless this is given [default: 200]
    #[arg(long, value_name = "N")]
    pub max_connections_per_address: Option<String>,
    /// Calls and streams open at once in all; beyond nine tenths only heartbeats are taken [default: 100000]
    #[arg(long, value_name = "N")]
    pub max_streams: Option<String>,
    /// The same from one address; this machine is exempt unless this is given [default: 20000]
    #[arg(long, value_name = "N")]
    pub max_streams_per_address: Option<String>,
    /// Calls that one connection may cancel within a second, beside four for each call that is answered; then it is closed with
    /// GOAWAY [default: 5000]
    #[arg(long, value_name = "N")]
    pub max_cancelled_calls_per_second: Option<String>,
    /// Memory for answers that their readers have not taken; one address may use a quarter, this machine half, one
    /// connection a sixteenth [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_unread_responses: Option<String>,
    /// After how long, give or take a tenth, a connection is asked to come back as another; or off [default: 30m]
    #[arg(long, value_name = "TIME")]
    pub max_connection_age: Option<String>,
    /// How long its streams have then to end [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub max_connection_age_grace: Option<String>,
    /// How long a connection may take to its first request, or to its HTTP/2 SETTINGS [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub handshake_timeout: Option<String>,
    /// How often a quiet watch is told the newest revision [default: 15s]
    #[arg(long, value_name = "TIME")]
    pub bookmark_interval: Option<String>,
    /// After a start that lost registrations, how long watches that remember them wait for them to come back; 0: not
    /// [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub settle: Option<String>,
    /// Networks that health checks may go to, with commas between them, as 10.0.0.0/8. Needed for checks where a listener is
    /// open to other machines; checks then go to the instances' own addresses there [default: anywhere that is no secret]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub check_allow_cidr: Vec<String>,
    /// What programs written for Consul are told as the datacenter [default: dc1]
    #[arg(long, value_name = "NAME")]
    pub datacenter: Option<String>,
    /// What they are told as the node that this is [default: the name of this host]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The UUID of that node [default: made up at the first start]
    #[arg(long, value_name = "UUID")]
    pub node_id: Option<String>,
    /// Metadata of that node
    #[arg(long, value_name = "K=V", value_delimiter = ',')]
    pub node_meta: Vec<String>,
    /// Consul queries that may wait for changes at once [default: 10000]
    #[arg(long, value_name = "N")]
    pub max_blocking_queries: Option<String>,
    /// Where DNS is answered, over UDP and TCP; port 0 takes any free one, off is nowhere [default: 127.0.0.1:8600, if it
    /// is free]
    #[arg(long, value_name = "ADDR")]
    pub dns: Option<String>,
    /// The domain that DNS answers for [default: consul]
    #[arg(long, value_name = "DOMAIN")]
    pub dns_domain: Option<String>,
    /// How long what DNS answers may be kept; 0s: not at all [default: 0s]
    #[arg(long, value_name = "TIME")]
    pub dns_ttl: Option<String>,
    /// How log lines look; auto is pretty on a terminal and json elsewhere [default: auto]
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(["auto", "pretty", "json"]))]
    pub log_format: Option<String>,
    /// Which log lines are written, as `info,callboard::registry=debug` [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// How `callboard serve` says that it is ready, and where.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadyFormat {
    /// A line for people.
    #[default]
    Table,
    /// One JSON object.
    Json,
}

impl ServeArgs {
    /// The settings among the flags that were given.
    pub(super) fn written(&self) -> RawSettings {
        let mut written = RawSettings::default();
        for key in SettingKey::ALL {
            if let Some(text) = self.text(key) {
                written.put(key, text, SettingOrigin::Flag(key.flag()));
            }
        }
        written
    }

    fn text(&self, key: SettingKey) -> Option<String> {
        match key {
            // A path is no setting that could be valid or not: whoever opens it finds out.
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

/// Several values of a flag, as one text.
fn joined(values: &[String]) -> Option<String> {
    (!values.is_empty()).then(|| values.join(","))
}
