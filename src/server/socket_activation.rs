//! Socket activation: listening sockets that the parent process has opened, as systemd does.
//!
//! The sockets stay open while the registry restarts, so connections wait instead of being refused. The name of a socket in `LISTEN_FDNAMES`, such as
//! `grpc` or `http`, says for which listener it is.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use crate::transport::Listener;

/// Inherited sockets, each with its name. Empty on systems other than Linux.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(String, SocketAddr, TcpListener)>);

/// Error of an inherited socket that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The number of names differs from the number of sockets.
    #[error(
        "{sockets} sockets were inherited, and LISTEN_FDNAMES is {names:?}: give each a name, by FileDescriptorName= in its \
         unit"
    )]
    Names {
        /// Number of sockets.
        sockets: usize,
        /// Names of the sockets as given.
        names: String,
    },
    /// The socket is not a TCP listener.
    #[error(
        "the inherited socket {name:?} is not a TCP listener: {source}: in its unit, write ListenStream= with an address and a \
         port, and Accept=no"
    )]
    Kind {
        /// Name of the socket.
        name: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Two sockets have the same name.
    #[error("two inherited sockets are named {name:?}: a listener has one; give each unit one ListenStream=")]
    Twice {
        /// Name of both.
        name: String,
    },
}

impl InheritedSockets {
    /// Takes the sockets that the environment names. Call it before the process has other threads, because it clears `LISTEN_FDS` and
    /// `LISTEN_PID`.
    ///
    /// # Errors
    ///
    /// When there are sockets that cannot be used.
    #[cfg(target_os = "linux")]
    pub fn from_environment() -> Result<Self, InheritError> {
        let mut sockets = listenfd::ListenFd::from_env();
        let names = name(sockets.len(), std::env::var("LISTEN_FDNAMES").ok())?;
        let mut inherited = Vec::new();
        for (at, name) in names.into_iter().enumerate() {
            let kind = |source| InheritError::Kind { name: name.clone(), source };
            let listener = sockets.take_tcp_listener(at).map_err(kind)?;
            // Each socket is taken once.
            let Some(listener) = listener else { continue };
            let address = listener.local_addr().map_err(kind)?;
            inherited.push((name, address, listener));
        }
        Ok(Self(inherited))
    }

    /// Returns no sockets: this operating system has no socket activation.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub fn from_environment() -> Result<Self, InheritError> {
        Ok(Self::default())
    }

    /// Names and addresses of the sockets.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.0.iter().map(|(name, address, _)| (name.clone(), *address)).collect()
    }

    /// Takes the listener of this name, if it was inherited.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<Listener>, InheritError> {
        let Some(at) = self.0.iter().position(|(known, ..)| known == name) else { return Ok(None) };
        let (name, _, listener) = self.0.swap_remove(at);
        Listener::adopt(listener).map(Some).map_err(|source| InheritError::Kind { name, source })
    }
}

/// Splits the names of this number of sockets.
#[cfg(target_os = "linux")]
fn name(sockets: usize, names: Option<String>) -> Result<Vec<String>, InheritError> {
    if sockets == 0 {
        return Ok(Vec::new());
    }
    let given = names.unwrap_or_default();
    // Settings are spelt with underscores, units with hyphens.
    let names: Vec<String> = given.split(':').map(|name| name.replace('-', "_")).collect();
    if names.len() != sockets || names.iter().any(String::is_empty) {
        return Err(InheritError::Names { sockets, names: given });
    }
    let repeated = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
    match repeated {
        Some((_, name)) => Err(InheritError::Twice { name: name.clone() }),
        None => Ok(names),
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    fn inherited(listener: TcpListener) -> InheritedSockets {
        let address = listener.local_addr().unwrap();
        InheritedSockets(vec![("grpc".to_owned(), address, listener)])
    }

    #[test]
    fn names_are_rejected_unless_each_socket_has_its_own() {
        let given = |names: &str| Some(names.to_owned());
        assert_eq!(name(0, given("grpc")).unwrap(), [""; 0], "the names are for another process");
        assert_eq!(name(2, given("grpc:http")).unwrap(), ["grpc", "http"]);
        assert_eq!(name(1, given("grpc-tls")).unwrap(), ["grpc_tls"]);
        for (sockets, names) in [(1, None), (1, given("")), (2, given("grpc")), (2, given("grpc:")), (1, given("a:b"))]
        {
            let error = name(sockets, names).unwrap_err();
            assert!(matches!(&error, InheritError::Names { .. }), "{error}");
            assert!(error.to_string().contains("FileDescriptorName="), "{error}");
        }
        assert!(matches!(name(2, given("grpc:grpc")), Err(InheritError::Twice { name }) if name == "grpc"));
    }

    #[test]
    fn inherited_listener_is_taken_once_by_its_name() {
        let mut inherited = inherited(TcpListener::bind("127.0.0.1:0").unwrap());
        let [(name, address)] = &*inherited.addresses() else { panic!("one address") };
        assert_eq!(name, "grpc");
        assert!(inherited.take("http").unwrap().is_none());
        assert_eq!(inherited.take("grpc").unwrap().unwrap().address(), *address);
        assert!(inherited.take("grpc").unwrap().is_none());
    }

    #[test]
    fn socket_that_does_not_listen_is_rejected() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let error = inherited(TcpListener::from(socket)).take("grpc").unwrap_err().to_string();
        assert!(
            error.starts_with("the inherited socket \"grpc\" is not a TCP listener: it does not listen: "),
            "{error}"
        );
    }
}
