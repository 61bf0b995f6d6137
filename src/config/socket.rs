//! Inherited sockets: their addresses are settings like others, and the same rules apply.

use std::net::SocketAddr;

use super::error::ConfigError;
use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;

/// Returns the settings that the names and addresses of inherited sockets stand for.
pub(super) fn raw_settings(sockets: &[(String, SocketAddr)]) -> Result<RawSettings, ConfigError> {
    let mut settings = RawSettings::default();
    for (name, address) in sockets {
        let Some(key) = SettingKey::LISTENERS.into_iter().find(|key| key.name() == name) else {
            let known = SettingKey::LISTENERS.map(SettingKey::name).join(", ");
            return Err(ConfigError::UnknownSocket { name: name.clone(), known });
        };
        settings.put(key, address.to_string(), SettingOrigin::Socket(name.clone()));
    }
    Ok(settings)
}
