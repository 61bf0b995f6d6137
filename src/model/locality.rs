//! Place where an instance runs.

use std::sync::Arc;

use super::{FieldError, label};

/// Maximum length of a region, zone or sub-zone in bytes.
const MAX_PART_BYTES: usize = 128;

/// Place where an instance runs, from wide to narrow. At least one part is not empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// Region: `eu-west`.
    pub region: Box<str>,
    /// Zone: `eu-west-1a`.
    pub zone: Box<str>,
    /// Sub-zone, such as a rack.
    pub sub_zone: Box<str>,
}

impl Locality {
    /// Parses a locality. Returns `None` if all parts are empty.
    ///
    /// # Errors
    ///
    /// When a part is longer than 128 bytes or contains a control character.
    pub fn parse(region: &str, zone: &str, sub_zone: &str) -> Result<Option<Arc<Self>>, FieldError> {
        let parts = [("locality.region", region), ("locality.zone", zone), ("locality.sub_zone", sub_zone)];
        if parts.iter().all(|(_, part)| part.is_empty()) {
            return Ok(None);
        }
        for (field, part) in parts {
            if !part.is_empty() {
                label::validate_text(field, part, MAX_PART_BYTES)?;
            }
        }
        Ok(Some(Arc::new(Self { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locality_without_parts_is_none_and_with_invalid_part_is_rejected() {
        assert_eq!(Locality::parse("", "", ""), Ok(None));
        assert_eq!(&*Locality::parse("", "z", "").unwrap().unwrap().zone, "z");
        assert!(Locality::parse("", "z\n", "").is_err());
        assert!(Locality::parse("", &"z".repeat(129), "").is_err());
    }
}
