//! Listeners whose sockets were opened before this process began: their addresses are settings like others, and held to the
//! same rules.

use std::net::SocketAddr;

use super::error::ConfigError;
use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;

/// The settings that names and addresses of inherited sockets amount to.
pub(super) fn written(sockets: &[(String, SocketAddr)]) -> Result<RawSettings, ConfigError> {
    let mut written = RawSettings::default();
    for (name, address) in sockets {
        let Some(key) = SettingKey::LISTENERS.into_iter().find(|key| key.name() == name) else {
            let known = SettingKey::LISTENERS.map(SettingKey::name).join(", ");
            return Err(ConfigError::UnknownSocket { name: name.clone(), known });
        };
        written.put(key, address.to_string(), SettingOrigin::Socket(name.clone()));
    }
    Ok(written)
}
