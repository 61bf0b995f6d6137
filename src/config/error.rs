//! Why a configuration is refused.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::key::Origin;
use super::value::Refusal;

/// A setting that cannot be used. Each message names the place, the value and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that is not of its key's kind, or out of its range.
    #[error("{origin}: {value:?} {refusal}")]
    Value {
        /// Where it is written.
        origin: Origin,
        /// As it is written.
        value: String,
        /// What is wrong with it, and what to write.
        refusal: Refusal,
    },
    /// A listener that other machines could reach, without consent.
    #[error(
        "{origin}: {address} can be reached from other machines, and there is no TLS yet: whoever reaches it can read and \
         change every registration; listen on 127.0.0.1, or pass --insecure-i-understand where the network itself is trusted"
    )]
    NotLoopback {
        /// Where it is written.
        origin: Origin,
        /// The address.
        address: SocketAddr,
    },
    /// Two listeners on one address.
    #[error("grpc and http both listen on {address}; give one of them another port, or port 0 for any free one")]
    SameAddress {
        /// The address.
        address: SocketAddr,
    },
    /// A key that no setting has.
    #[error("{origin}: unknown key; {remedy}")]
    UnknownKey {
        /// Where it is written.
        origin: Origin,
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
