//! Listeners whose sockets were opened before this process began: their addresses are settings like others, and held to the
//! same rules.

use std::net::SocketAddr;

use super::error::ConfigError;
use super::key::{Key, Origin};
use super::written::Written;

/// The settings that names and addresses of inherited sockets amount to.
pub(super) fn written(sockets: &[(String, SocketAddr)]) -> Result<Written, ConfigError> {
    let mut written = Written::default();
    for (name, address) in sockets {
        let Some(key) = Key::LISTENERS.into_iter().find(|key| key.name() == name) else {
            let known = Key::LISTENERS.map(Key::name).join(", ");
            return Err(ConfigError::UnknownSocket { name: name.clone(), known });
        };
        written.put(key, address.to_string(), Origin::Socket(name.clone()));
    }
    Ok(written)
}
