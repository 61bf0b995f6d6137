//! Versions as clients see them: `INCARNATION-NUMBER`, both hexadecimal.
//!
//! The number of a resource in the delta protocol is the hash of its content, so a client that reconnects is not sent what it has. The
//! number of a response of the state-of-the-world protocol is the revision of the registry. The incarnation tells whether the client
//! has resources from before a start that lost registrations.

use crate::model::Incarnation;

/// Length of a version in bytes.
pub(super) const LENGTH: usize = 33;

/// Returns the version of a resource or a response.
pub(super) fn format(Incarnation(incarnation): Incarnation, number: u64) -> String {
    format!("{incarnation:016x}-{number:016x}")
}

/// Parses a version. `None`: it is none of this server's.
pub(super) fn parse(version: &str) -> Option<(Incarnation, u64)> {
    let (incarnation, number) = version.split_once('-').filter(|_| version.len() == LENGTH)?;
    let parse = |text| u64::from_str_radix(text, 16).ok();
    Some((Incarnation(parse(incarnation)?), parse(number)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formatted_version_parses_to_the_same() {
        let version = format(Incarnation(u64::MAX - 1), 77);
        assert_eq!(version.len(), LENGTH);
        assert_eq!(parse(&version), Some((Incarnation(u64::MAX - 1), 77)));
    }

    #[test]
    fn version_of_another_server_is_none() {
        for other in
            ["", "1", "2024-01-01", "-", "zzzzzzzzzzzzzzzz-0000000000000000", "0000000000000001-00000000000000é"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
