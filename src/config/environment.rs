//! Settings from environment variables, and misspelt variables.

use std::env;

use super::{ConfigError, SettingOrigin, key::SettingKey, raw_settings::RawSettings};

/// Minimum similarity of a variable to the one that it may be a misspelling of. It is high, because all variables share
/// their first ten letters.
const MIN_VARIABLE_SIMILARITY: f64 = 0.95;

/// Variables that only the client commands read. They share the other two variables for TLS with `serve`.
const CLIENT_VARIABLES: [&str; 3] = ["CALLBOARD_SERVER", "CALLBOARD_TLS_CA", "CALLBOARD_TLS_SERVER_NAME"];

/// Variable that Kubernetes sets in a namespace with a service named `callboard`, and that resembles one of a setting.
const KUBERNETES_VARIABLE: &str = "CALLBOARD_PORT";

/// Returns the settings of the environment.
pub(super) fn environment(
    variable: impl Fn(&str) -> Result<String, env::VarError>,
) -> Result<RawSettings, ConfigError> {
    let mut settings = RawSettings::default();
    for key in SettingKey::ALL {
        let name = key.variable();
        match variable(&name) {
            Ok(text) if text.is_empty() => {}
            Ok(text) => settings.put(key, text, SettingOrigin::Variable(name)),
            Err(env::VarError::NotPresent) => {}
            Err(env::VarError::NotUnicode(value)) => return Err(ConfigError::NotUnicode { name, value }),
        }
    }
    Ok(settings)
}

/// Returns the variables that are probably misspelt, each with the one that was probably meant.
///
/// They are not an error: in a Kubernetes namespace with a service named `callboard`, every program gets variables such as
/// `CALLBOARD_SERVICE_HOST`.
#[must_use]
pub fn misspelt_variables() -> Vec<(String, String)> {
    misspelt(env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

pub(super) fn misspelt(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let known = SettingKey::ALL.map(SettingKey::variable);
    let meant = |name: &String| {
        let similar = known.iter().map(|key| (strsim::jaro_winkler(name, key), key));
        let (similarity, key) = similar.max_by(|one, other| one.0.total_cmp(&other.0))?;
        (similarity >= MIN_VARIABLE_SIMILARITY && name != key).then(|| key.clone())
    };
    let is_foreign = |name: &str| CLIENT_VARIABLES.contains(&name) || name == KUBERNETES_VARIABLE;
    let candidates = names.filter(|name| name.starts_with("CALLBOARD_") && !is_foreign(name));
    candidates.filter_map(|name| meant(&name).map(|key| (name, key))).collect()
}
