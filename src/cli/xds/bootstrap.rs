//! `callboard xds bootstrap`: the bootstrap file of a gRPC client or of Envoy.

mod envoy;
mod grpc;

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{PathBuf, absolute},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    cli::{
        connection::{DEFAULT_SERVER, TlsArgs, server},
        error::CliError,
        terminal::print_stderr,
    },
    random,
};

/// Name of the group of clients, unless --cluster sets another.
const DEFAULT_CLUSTER: &str = "callboard";
/// Address where Envoy listens, unless --listen sets another.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10000);

/// Client that reads a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BootstrapClient {
    /// grpc-go
    Go,
    /// grpc-java with grpc-xds
    Java,
    /// grpcio
    Python,
    /// grpc-js with grpc-js-xds
    Node,
    /// The gem grpc
    Ruby,
    /// The extension grpc
    Php,
    /// gRPC for C++
    Cpp,
    /// tonic-xds
    Rust,
    /// Envoy; the bootstrap is its whole configuration
    Envoy,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Standard output has only the file. A gRPC client finds it by the variable GRPC_XDS_BOOTSTRAP; Envoy \
                  takes it with -c. Give each client a file of its own: the node id in it identifies the client in \
                  `callboard clients`."
)]
pub(super) struct BootstrapArgs {
    /// Client that reads the file
    #[arg(long = "for", value_enum, value_name = "CLIENT")]
    client: BootstrapClient,
    /// gRPC address of the registry, as the client reaches it; repeat it for other replicas
    #[arg(
        long = "server",
        value_name = "ADDR",
        env = "CALLBOARD_SERVER",
        default_value = DEFAULT_SERVER,
        value_delimiter = ',',
        value_parser = server
    )]
    servers: Vec<String>,
    /// Id of the client [default: the name of this host, and a random number]
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// Name of the group of clients that the client belongs to
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CLUSTER)]
    cluster: String,
    /// Place where the client runs, from region to sub-zone, for example eu-west/eu-west-1a/rack-3 [default: none]
    #[arg(long, value_name = "REGION/ZONE/SUB-ZONE", value_parser = locality)]
    locality: Option<NodeLocality>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Let Envoy use delta xDS, so that it receives only what changed
    #[arg(long)]
    delta: bool,
    /// Let Envoy listen for calls to this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Address where Envoy listens [default: 127.0.0.1:10000]
    #[arg(long, value_name = "ADDR", requires = "service")]
    listen: Option<SocketAddr>,
    /// Address of Envoy's admin interface [default: none]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
}

/// Use that a client makes of several addresses of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailoverSupport {
    /// A list. From this version on the client uses the next one while it cannot reach the first one and lacks a resource (gRFC
    /// A71); earlier versions use the first one only.
    Fallback(&'static str),
    /// One target with several IP addresses, of which the client uses the next one as soon as it loses one.
    IpAddresses,
    /// A cluster with several endpoints, of which the client uses the next one as soon as it loses one.
    Cluster,
    /// One address only. It may be a name that resolves to several IP addresses.
    None,
}

/// Region, zone and sub-zone of a client. Those that are unknown are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct NodeLocality {
    region: String,
    zone: String,
    sub_zone: String,
}

/// Identity of a client.
#[derive(Debug, Serialize)]
struct BootstrapNode {
    id: String,
    cluster: String,
    /// Always present: grpc-js fails without it.
    locality: NodeLocality,
}

/// TLS settings of a bootstrap, with absolute paths.
#[derive(Debug, Default)]
struct BootstrapTls {
    ca: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

/// Parts of a bootstrap that all clients have.
#[derive(Debug)]
struct Bootstrap {
    /// `host:port` of each registry, or one target with the addresses of all; at least one.
    servers: Vec<String>,
    /// `None` without TLS.
    tls: Option<BootstrapTls>,
    node: BootstrapNode,
}

pub(super) fn run(args: &BootstrapArgs) -> Result<ExitCode, CliError> {
    let text = args.text()?;
    io::stdout().write_all(text.as_bytes())?;
    let files = [&args.tls.ca_file, &args.tls.certificate_file, &args.tls.key_file];
    for file in files.into_iter().flatten().filter(|file| !file.exists()) {
        print_stderr(&format!("warning: {} does not exist on this host", file.display()));
    }
    if let Some(version) = args.client.first_version_with_tls().filter(|_| args.uses_tls()) {
        print_stderr(&format!("hint: the client reads credentials of the type tls from {version} on"));
    }
    if let FailoverSupport::Fallback(version) = args.client.failover_support()
        && args.servers.len() > 1
    {
        print_stderr(&format!(
            "hint: the client uses the first replica, and another one only while it cannot reach the first and lacks a resource, from \
             {version} on; to let it go on at once, in any version, give one name that resolves to all replicas"
        ));
    }
    print_stderr(if args.client == BootstrapClient::Envoy {
        "hint: start Envoy with `envoy -c FILE`"
    } else {
        "hint: set GRPC_XDS_BOOTSTRAP to the path of the file, and dial xds:///SERVICE"
    });
    Ok(ExitCode::SUCCESS)
}

impl BootstrapClient {
    /// Returns the use that the client makes of several addresses.
    fn failover_support(self) -> FailoverSupport {
        match self {
            Self::Go => FailoverSupport::Fallback("grpc-go 1.70"),
            Self::Java => FailoverSupport::Fallback("grpc-java 1.71"),
            // The C-core knows several IP addresses, too, but sends an invalid :authority for them.
            Self::Python | Self::Ruby | Self::Php | Self::Cpp => FailoverSupport::Fallback("gRPC 1.67"),
            Self::Node => FailoverSupport::IpAddresses,
            Self::Envoy => FailoverSupport::Cluster,
            Self::Rust => FailoverSupport::None,
        }
    }

    /// Returns the first version that can use TLS, where other versions are still common.
    fn first_version_with_tls(self) -> Option<&'static str> {
        match self {
            Self::Go => Some("grpc-go 1.61"),
            Self::Python | Self::Ruby | Self::Php | Self::Cpp => Some("gRPC 1.65"),
            Self::Java | Self::Node | Self::Rust | Self::Envoy => None,
        }
    }

    /// Returns the scheme that the client needs before the address of a registry.
    fn scheme(self, uses_tls: bool) -> &'static str {
        match self {
            Self::Rust if uses_tls => "https://",
            Self::Rust => "http://",
            Self::Go | Self::Java | Self::Python | Self::Node | Self::Ruby | Self::Php | Self::Cpp | Self::Envoy => "",
        }
    }
}

impl BootstrapArgs {
    /// Returns the text of the file.
    fn text(&self) -> Result<String, CliError> {
        self.check()?;
        let bootstrap = self.bootstrap()?;
        if self.client != BootstrapClient::Envoy {
            return grpc::json(&bootstrap, self.client);
        }
        let listener = self.service.as_ref().map(|service| (&**service, self.listen.unwrap_or(DEFAULT_LISTEN)));
        envoy::yaml(&bootstrap, &envoy::EnvoyOptions { delta: self.delta, listener, admin: self.admin })
    }

    /// Rejects what the client cannot do.
    fn check(&self) -> Result<(), CliError> {
        let value = self.client.to_possible_value();
        let client = value.as_ref().map_or("", |value| value.get_name());
        let is_envoy = self.client == BootstrapClient::Envoy;
        if !is_envoy && (self.delta || self.service.is_some() || self.admin.is_some()) {
            let text = format!(
                "--delta, --service, --listen and --admin are settings of Envoy, which a bootstrap for {client} does not \
                 have; omit them, or use --for envoy"
            );
            return Err(CliError::Usage(text.into()));
        }
        if self.servers.len() > 1 {
            self.check_several(client)?;
        }
        if !self.uses_tls() {
            return Ok(());
        }
        if let Some(address) = self.servers.iter().find(|address| address.starts_with("http://")) {
            let text =
                format!("`{address}` means no TLS, but TLS is configured; write https://, or omit the --tls flags");
            return Err(CliError::Usage(text.into()));
        }
        let problem = match self.client {
            BootstrapClient::Node => Some(
                "grpc-js-xds connects to a registry without TLS only; use the address of the registry's --grpc, and omit \
                 https:// and the --tls flags",
            ),
            BootstrapClient::Envoy if self.tls.ca_file.is_none() => {
                Some("Envoy trusts no authority by itself; name the file of the registry's authority with --tls-ca")
            }
            BootstrapClient::Envoy => None,
            BootstrapClient::Java if self.tls.ca_file.is_some() || self.tls.certificate_file.is_some() => Some(
                "the bootstrap of grpc-java has no files for TLS; write https:// in --server, omit --tls-ca, --tls-cert and \
                 --tls-key, and name a trust store with -Djavax.net.ssl.trustStore when you start the program",
            ),
            BootstrapClient::Go
            | BootstrapClient::Java
            | BootstrapClient::Python
            | BootstrapClient::Ruby
            | BootstrapClient::Php
            | BootstrapClient::Cpp
            | BootstrapClient::Rust => self.tls.server_name.as_ref().map(|_| {
                "a gRPC client expects the host of --server in the registry's certificate, and its bootstrap cannot set \
                 another name; omit --tls-server-name, and use a name of the certificate in --server"
            }),
        };
        problem.map_or(Ok(()), |problem| Err(CliError::Usage(problem.into())))
    }

    /// Rejects several addresses if the client cannot use them.
    fn check_several(&self, client: &str) -> Result<(), CliError> {
        let problem = match self.client.failover_support() {
            FailoverSupport::Fallback(_) | FailoverSupport::Cluster => return Ok(()),
            FailoverSupport::IpAddresses if ip_target(&self.addresses()).is_some() => return Ok(()),
            FailoverSupport::IpAddresses => "uses several addresses only if all are IPv4 or all are IPv6 addresses",
            FailoverSupport::None => "uses one address only",
        };
        let text = format!("{client} {problem}; give one, which may be a name that resolves to all replicas");
        Err(CliError::Usage(text.into()))
    }

    /// Returns `host:port` of each registry.
    fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|address| authority(address).to_owned()).collect()
    }

    fn uses_tls(&self) -> bool {
        self.tls.is_wanted() || self.servers.iter().any(|address| address.starts_with("https://"))
    }

    fn bootstrap(&self) -> Result<Bootstrap, CliError> {
        // The client may run in another directory.
        let path = |path: &PathBuf| absolute(path).map_err(anyhow::Error::from);
        let tls = if !self.uses_tls() {
            None
        } else if self.client == BootstrapClient::Java {
            Some(BootstrapTls::default()) // The variables of the certificate are for other programs.
        } else {
            let certificate = match self.tls.certificate()? {
                Some((certificate, key)) => Some((path(&certificate)?, path(&key)?)),
                None => None,
            };
            let ca = self.tls.ca_file.as_ref().map(path).transpose()?;
            Some(BootstrapTls { ca, certificate, server_name: self.tls.server_name.clone() })
        };
        let node = BootstrapNode {
            id: self.node_id.clone().unwrap_or_else(unique_id),
            cluster: self.cluster.clone(),
            locality: self.locality.clone().unwrap_or_default(),
        };
        let mut servers = self.addresses();
        if servers.len() > 1 && self.client.failover_support() == FailoverSupport::IpAddresses {
            servers = ip_target(&servers).into_iter().collect();
        }
        Ok(Bootstrap { servers, tls, node })
    }
}

/// Returns a valid address without its scheme.
fn authority(address: &str) -> &str {
    let bare = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://")).unwrap_or(address);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// Returns a target of several IP addresses: `ipv4:10.0.0.1:8502,10.0.0.2:8502`. `None` if one is a name, or if some are IPv4 and others
/// IPv6 addresses.
fn ip_target(addresses: &[String]) -> Option<String> {
    let parsed: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().ok()).collect::<Option<_>>()?;
    let is_v4 = parsed.first()?.is_ipv4();
    let scheme = if is_v4 { "ipv4" } else { "ipv6" };
    parsed.iter().all(|address| address.is_ipv4() == is_v4).then(|| format!("{scheme}:{}", addresses.join(",")))
}

/// Returns the name of this host with a random number, so that programs on one host have different ids.
fn unique_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{:08x}", random::u64() >> 32)
}

/// Parses `REGION/ZONE/SUB-ZONE`.
fn locality(text: &str) -> Result<NodeLocality, &'static str> {
    let parts: Vec<&str> = text.split('/').collect();
    let [region, zone, sub_zone] = match parts[..] {
        [region] => [region, "", ""],
        [region, zone] => [region, zone, ""],
        [region, zone, sub_zone] => [region, zone, sub_zone],
        _ => return Err("it has more than three parts; write REGION/ZONE/SUB-ZONE, as in eu-west/eu-west-1a/rack-3"),
    };
    Ok(NodeLocality { region: region.to_owned(), zone: zone.to_owned(), sub_zone: sub_zone.to_owned() })
}

#[cfg(test)]
mod tests;
