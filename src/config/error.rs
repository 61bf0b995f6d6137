//! Why a configuration is refused.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::key::SettingOrigin;
use super::value::ValueError;

/// A setting that cannot be used. Each message names the place, the value and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that is not of its key's kind, or out of its range.
    #[error("{origin}: {value:?} {refusal}")]
    Value {
        /// Where it is written.
        origin: SettingOrigin,
        /// As it is written.
        value: String,
        /// What is wrong with it, and what to write.
        refusal: ValueError,
    },
    /// A listener without TLS that other machines could reach, without consent.
    #[error(
        "{origin}: {address} can be reached from other machines, and speaks no TLS: whoever reaches it can read and change \
         every registration; listen there with {instead} and --tls-client-ca, or on 127.0.0.1, or pass \
         --allow-insecure-remote where the network itself is trusted"
    )]
    NotLoopback {
        /// Where it is written.
        origin: SettingOrigin,
        /// The address.
        address: SocketAddr,
        /// The flag of the listener that may be there.
        instead: String,
    },
    /// DNS that other machines could ask, without consent.
    #[error(
        "{origin}: {address} can be reached from other machines, and whoever reaches it can ask who is registered; listen on \
         127.0.0.1, or pass --allow-insecure-remote where the network itself is trusted"
    )]
    DnsNotLoopback {
        /// Where it is written.
        origin: SettingOrigin,
        /// The address.
        address: SocketAddr,
    },
    /// A listener with TLS that other machines could reach, though it checks no client, without consent.
    #[error(
        "{origin}: {address} can be reached from other machines, and clients need no certificate: whoever reaches it can \
         read and change every registration; name the authorities of the clients' certificates with --tls-client-ca, or \
         listen on 127.0.0.1, or pass --allow-insecure-remote where the network itself is trusted"
    )]
    NoClientCa {
        /// Where it is written.
        origin: SettingOrigin,
        /// The address.
        address: SocketAddr,
    },
    /// A listener with TLS, and nothing to show.
    #[error("{origin}: {address} is to speak TLS, but {missing} is missing; name the file with it")]
    NoCertificate {
        /// Where it is written.
        origin: SettingOrigin,
        /// The address.
        address: SocketAddr,
        /// The flag that is missing.
        missing: String,
    },
    /// Files for TLS that no listener would use.
    #[error("{origin}: no listener speaks TLS; add --grpc-tls or --http-tls, or leave this out")]
    NoTls {
        /// Where it is written.
        origin: SettingOrigin,
    },
    /// Nobody could register.
    #[error("grpc is off, and grpc_tls is not set: nobody could register or watch; give one of them an address")]
    NoGrpc,
    /// Two listeners on one address.
    #[error("{one} and {other} both listen on {address}; give one of them another port, or port 0 for any free one")]
    SameAddress {
        /// The key of the one.
        one: &'static str,
        /// The key of the other.
        other: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A key that no setting has.
    #[error("{origin}: unknown key; {remedy}")]
    UnknownKey {
        /// Where it is written.
        origin: SettingOrigin,
        /// The nearest key, or all of them.
        remedy: String,
    },
    /// A socket was inherited that no listener is for.
    #[error(
        "{name:?} is the name of an inherited socket, and of no listener; write FileDescriptorName= with one of {known}"
    )]
    UnknownSocket {
        /// As it was told.
        name: String,
        /// The listeners.
        known: String,
    },
    /// A file that is not TOML.
    #[error("{}:{line}: {problem}; write lines of `key = value`, with text in quotes", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's words.
        problem: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}; check that the file exists and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A variable that is not text.
    #[error("{name}: {value:?} is not UTF-8; set it to plain text, or unset it")]
    NotUnicode {
        /// The variable.
        name: String,
        /// Its value.
        value: OsString,
    },
}
