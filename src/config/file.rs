//! The configuration file: a flat TOML table of [`SettingKey`]s.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::key::{SettingKey, SettingOrigin};
use super::raw_settings::RawSettings;

/// Minimum similarity of an unknown key to the key that is suggested instead.
const MIN_SIMILARITY: f64 = 0.8;

/// Parses the text of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<RawSettings, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line(text, error.span().map_or(0, |span| span.start)),
        reason: error.message().lines().collect::<Vec<_>>().join(", "),
    })?;
    let mut settings = RawSettings::default();
    // In the order of the file, so that the first error in it is the one reported.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        let origin = SettingOrigin::File {
            path: path.to_owned(),
            line: line(text, name.span().start),
            key: name.get_ref().to_string(),
        };
        let Some(key) = SettingKey::in_file().find(|key| key.name() == name.get_ref()) else {
            return Err(ConfigError::UnknownKey { origin, hint: hint(name.get_ref()) });
        };
        // As written in the file, so that an error can quote it.
        let text = match value.get_ref() {
            DeValue::String(value) => value.to_string(),
            DeValue::Integer(value) if value.radix() == 10 => value.as_str().to_owned(),
            DeValue::Boolean(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => text.get(value.span()).unwrap_or_default().to_owned(),
        };
        settings.put(key, text, origin);
    }
    Ok(settings)
}

/// Returns the line, from 1, of the byte at `offset`.
fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Returns the key that was probably meant by `unknown`, or the list of all keys.
fn hint(unknown: &str) -> String {
    let nearest = SettingKey::in_file()
        .map(|key| (strsim::jaro_winkler(unknown, key.name()), key.name()))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match nearest {
        Some((_, key)) => format!("write {key}"),
        None => format!("the keys are {}", SettingKey::in_file().map(SettingKey::name).collect::<Vec<_>>().join(", ")),
    }
}
