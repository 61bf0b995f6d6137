//! Errors of the configuration.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::key::SettingOrigin;
use super::value::ValueError;

/// Invalid configuration. Each message names the place, the value and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value does not parse, or is out of range.
    #[error("{origin}: {value:?} {error}")]
    Value {
        /// Place of the value.
        origin: SettingOrigin,
        /// Value as written.
        value: String,
        /// Reason and hint. Boxed, so that a `Result` stays small.
        error: Box<ValueError>,
    },
    /// A listener without TLS can be reached from other machines, and `--allow-insecure-remote` is not set.
    #[error(
        "{origin}: {address} can be reached from other machines without TLS, so that any client there can read and change every \
         registration; use {instead} and --tls-client-ca, or listen on 127.0.0.1, or set --allow-insecure-remote if the \
         network is trusted"
    )]
    NotLoopback {
        /// Place of the value.
        origin: SettingOrigin,
        /// Address of the listener.
        address: SocketAddr,
        /// Flag of the listener with TLS.
        instead: String,
    },
    /// DNS can be reached from other machines, and `--allow-insecure-remote` is not set.
    #[error(
        "{origin}: {address} can be reached from other machines, so that any client there can look up every registration; \
         listen on 127.0.0.1, or set --allow-insecure-remote if the network is trusted"
    )]
    DnsNotLoopback {
        /// Place of the value.
        origin: SettingOrigin,
        /// Address of the listener.
        address: SocketAddr,
    },
    /// A listener with TLS can be reached from other machines, requires no client certificate, and
    /// `--allow-insecure-remote` is not set.
    #[error(
        "{origin}: {address} can be reached from other machines and requires no client certificate, so that any client there \
         can read and change every registration; name the authorities of client certificates with --tls-client-ca, or \
         listen on 127.0.0.1, or set --allow-insecure-remote if the network is trusted"
    )]
    NoClientCa {
        /// Place of the value.
        origin: SettingOrigin,
        /// Address of the listener.
        address: SocketAddr,
    },
    /// A listener with TLS has no certificate or no key.
    #[error("{origin}: {address} needs TLS files, but {missing} is not set; name the file with it")]
    NoCertificate {
        /// Place of the value.
        origin: SettingOrigin,
        /// Address of the listener.
        address: SocketAddr,
        /// Flag that is missing.
        missing: String,
    },
    /// A TLS file is set, but no listener has TLS.
    #[error("{origin}: no listener has TLS; add --grpc-tls or --http-tls, or remove this setting")]
    NoTls {
        /// Place of the value.
        origin: SettingOrigin,
    },
    /// A directory and etcd are both set as the store.
    #[error("{data_dir}: the registry is stored in etcd ({etcd}); remove one of the two settings")]
    TwoStores {
        /// Place of the setting of etcd.
        etcd: SettingOrigin,
        /// Place of the setting of the directory.
        data_dir: SettingOrigin,
    },
    /// An export is set, and the registry has a store.
    #[error(
        "{origin}: only a registry in memory reads an export at its start, and {store} names a store; create the registry in that \
         store with `callboard import`, and remove this setting"
    )]
    ImportWithStore {
        /// Place of the setting of the export.
        origin: SettingOrigin,
        /// Place of the setting of the store.
        store: SettingOrigin,
    },
    /// A setting needs another one.
    #[error("{origin}: needs {missing}, which is not set; set it, or remove this setting")]
    Incomplete {
        /// Place of the setting.
        origin: SettingOrigin,
        /// Flag that is missing.
        missing: String,
    },
    /// No gRPC listener is configured.
    #[error("grpc is off and grpc_tls is not set, so that no gRPC listener is left; set one of them to an address")]
    NoGrpc,
    /// Two listeners have the same address.
    #[error("{one} and {other} both listen on {address}; give one of them another port, or port 0 for any free one")]
    SameAddress {
        /// Key of the first listener.
        one: &'static str,
        /// Key of the second listener.
        other: &'static str,
        /// Address of the listener.
        address: SocketAddr,
    },
    /// A key in the file is unknown.
    #[error("{origin}: unknown key; {hint}")]
    UnknownKey {
        /// Place of the value.
        origin: SettingOrigin,
        /// The most similar key, or all keys.
        hint: String,
    },
    /// No listener has the name of an inherited socket.
    #[error("the inherited socket {name:?} belongs to no listener; set FileDescriptorName= to one of {known}")]
    UnknownSocket {
        /// Name of the socket.
        name: String,
        /// Names of the listeners.
        known: String,
    },
    /// The file is not valid TOML.
    #[error("{}:{line}: {reason}; write lines of `key = value`, with text in quotes", path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Message of the parser.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read {}; check that the file exists and that this user may read it", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// An environment variable is not UTF-8.
    #[error("{name}: {value:?} is not UTF-8; set it to plain text, or unset it")]
    NotUnicode {
        /// Name of the variable.
        name: String,
        /// Value of the variable.
        value: OsString,
    },
}
