//! Listening sockets that whoever started this process has opened for it, as systemd does: socket activation.
//!
//! They stay open while the registry restarts: who connects meanwhile waits, and is not refused. Which of our listeners one
//! is for is told by its name, `grpc` or `http`, in `LISTEN_FDNAMES`.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use crate::transport::Listener;

/// The sockets, each with its name. None, on other systems than Linux.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(String, SocketAddr, TcpListener)>);

/// Why an inherited socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// They cannot be told apart.
    #[error(
        "{sockets} sockets were inherited, and LISTEN_FDNAMES is {names:?}: give each a name, by FileDescriptorName= in its \
         unit"
    )]
    Names {
        /// How many there are.
        sockets: usize,
        /// Their names, as they were told.
        names: String,
    },
    /// It is of another kind.
    #[error(
        "the inherited socket {name:?} is no TCP listener: {source}: in its unit, write ListenStream= with an address and a \
         port, and Accept=no"
    )]
    Kind {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A listener has one address.
    #[error("two inherited sockets are named {name:?}: a listener has one; give each unit one ListenStream=")]
    Twice {
        /// Their name.
        name: String,
    },
}

impl InheritedSockets {
    /// What the environment tells of. Call it first of all, before there are other threads: it clears `LISTEN_FDS` and
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
            // Each is asked for once.
            let Some(listener) = listener else { continue };
            let address = listener.local_addr().map_err(kind)?;
            inherited.push((name, address, listener));
        }
        Ok(Self(inherited))
    }

    /// What the environment tells of: nothing, on this system.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub fn from_environment() -> Result<Self, InheritError> {
        Ok(Self::default())
    }

    /// The names, and where each listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.0.iter().map(|(name, address, _)| (name.clone(), *address)).collect()
    }

    /// The listener of this name, if it was inherited.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<Listener>, InheritError> {
        let Some(at) = self.0.iter().position(|(known, ..)| known == name) else { return Ok(None) };
        let (name, _, listener) = self.0.swap_remove(at);
        Listener::adopt(listener).map(Some).map_err(|source| InheritError::Kind { name, source })
    }
}

/// A name for each of so many sockets.
#[cfg(target_os = "linux")]
fn name(sockets: usize, names: Option<String>) -> Result<Vec<String>, InheritError> {
    if sockets == 0 {
        return Ok(Vec::new());
    }
    let told = names.unwrap_or_default();
    // The names of settings have no hyphens, those of units have.
    let names: Vec<String> = told.split(':').map(|name| name.replace('-', "_")).collect();
    if names.len() != sockets || names.iter().any(String::is_empty) {
        return Err(InheritError::Names { sockets, names: told });
    }
    let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
    match twice {
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
    fn each_socket_needs_a_name_of_its_own() {
        let told = |names: &str| Some(names.to_owned());
        assert_eq!(name(0, told("grpc")).unwrap(), [""; 0], "they are for somebody else");
        assert_eq!(name(2, told("grpc:http")).unwrap(), ["grpc", "http"]);
        assert_eq!(name(1, told("grpc-tls")).unwrap(), ["grpc_tls"]);
        for (sockets, names) in [(1, None), (1, told("")), (2, told("grpc")), (2, told("grpc:")), (1, told("a:b"))] {
            let error = name(sockets, names).unwrap_err();
            assert!(matches!(&error, InheritError::Names { .. }), "{error}");
            assert!(error.to_string().contains("FileDescriptorName="), "{error}");
        }
        assert!(matches!(name(2, told("grpc:grpc")), Err(InheritError::Twice { name }) if name == "grpc"));
    }

    #[test]
    fn an_inherited_listener_is_taken_once_by_its_name() {
        let mut inherited = inherited(TcpListener::bind("127.0.0.1:0").unwrap());
        let [(name, address)] = &*inherited.addresses() else { panic!("there is one") };
        assert_eq!(name, "grpc");
        assert!(inherited.take("http").unwrap().is_none());
        assert_eq!(inherited.take("grpc").unwrap().unwrap().address(), *address);
        assert!(inherited.take("grpc").unwrap().is_none());
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let error = inherited(TcpListener::from(socket)).take("grpc").unwrap_err().to_string();
        assert!(error.starts_with("the inherited socket \"grpc\" is no TCP listener: it does not listen: "), "{error}");
    }
}
