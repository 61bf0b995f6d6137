//! Filter over the fields of an instance.

use super::{
    Instance, Metadata, Status,
    filter::{CollectionItems, FieldValue, Filter, FilterError, FilterSelector, Filterable, Schema, SelectorKind},
};

/// Filter over instances.
#[derive(Debug, Clone)]
pub struct InstanceFilter(Filter<InstanceField>);

/// Field of an instance that a filter can name.
#[derive(Debug, Clone, Copy)]
pub enum InstanceField {
    /// `id`
    Id,
    /// `tags`
    Tags,
    /// Keys of `metadata`
    Metadata,
    /// `metadata.key`
    MetadataValue,
    /// `status`: `SERVING` and so on
    Status,
    /// `zone`
    Zone,
    /// `weight`
    Weight,
}

const SCHEMA: Schema<InstanceField> = Schema::new(&[
    FilterSelector { path: "id", kind: SelectorKind::Text, field: InstanceField::Id },
    FilterSelector { path: "tags", kind: SelectorKind::List, field: InstanceField::Tags },
    FilterSelector { path: "metadata", kind: SelectorKind::Map, field: InstanceField::Metadata },
    FilterSelector { path: "metadata.*", kind: SelectorKind::Text, field: InstanceField::MetadataValue },
    FilterSelector { path: "status", kind: SelectorKind::Text, field: InstanceField::Status },
    FilterSelector { path: "zone", kind: SelectorKind::Text, field: InstanceField::Zone },
    FilterSelector { path: "weight", kind: SelectorKind::Number, field: InstanceField::Weight },
]);

impl InstanceFilter {
    /// Parses a filter. Returns `None` for a blank text.
    ///
    /// # Errors
    ///
    /// When the text is not an expression over the fields of an instance.
    pub fn parse(text: &str) -> Result<Option<Self>, FilterError> {
        let text = text.trim();
        if text.is_empty() { Ok(None) } else { Filter::parse(text, &SCHEMA).map(|filter| Some(Self(filter))) }
    }

    /// Text of the filter, without blanks around it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns whether the filter selects an instance.
    #[must_use]
    pub fn matches(&self, instance: &Instance) -> bool {
        self.0.matches(instance)
    }
}

impl Filterable for Instance {
    type Field = InstanceField;

    fn any(&self, field: InstanceField, key: Option<&str>, test: impl Fn(FieldValue<'_>) -> bool) -> bool {
        match field {
            InstanceField::Id => test(FieldValue::Text(self.id.as_str())),
            InstanceField::Tags => test(FieldValue::Members(&self.tags.as_slice())),
            InstanceField::Metadata => test(FieldValue::Members(&self.metadata)),
            InstanceField::MetadataValue => {
                test(key.and_then(|key| self.metadata.get(key)).map_or(FieldValue::Missing, FieldValue::Text))
            }
            InstanceField::Status => test(FieldValue::Text(Status::as_str(self.status()))),
            InstanceField::Zone => test(FieldValue::Text(self.locality.as_ref().map_or("", |locality| &locality.zone))),
            InstanceField::Weight => test(FieldValue::Number(self.weight.get().into())),
        }
    }
}

impl CollectionItems for Metadata {
    fn is_empty(&self) -> bool {
        self.iter().len() == 0
    }

    fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{model::Locality, registry::test_support::entry};

    fn matches(filter: &str) -> bool {
        let mut instance = entry("web", "a-1", 3).instance.clone();
        instance.tags = crate::model::Tags::parse(&["v2", "blue"]).unwrap();
        instance.metadata = Metadata::parse(BTreeMap::from([("team", "checkout")]).iter()).unwrap();
        instance.locality = Some(Arc::new(Locality { zone: "eu-1a".into(), ..Locality::default() }));
        InstanceFilter::parse(filter).unwrap().is_none_or(|filter| filter.matches(&instance))
    }

    #[test]
    fn filter_on_each_field_selects_instances_by_it() {
        for yes in [
            "",
            "  ",
            "id == `a-1`",
            "\"v2\" in tags",
            "tags contains blue",
            "team in metadata",
            "metadata.team == checkout",
            "metadata[\"team\"] matches `^check`",
            "status == SERVING",
            "zone == `eu-1a`",
            "weight == 3",
            "metadata.none != x",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in ["id == a", "v3 in tags", "tags is empty", "metadata is empty", "status != SERVING", "weight != 3"] {
            assert!(!matches(no), "{no}");
        }
        for bad in ["port == 1", "weight == heavy", "tags == v2", "and"] {
            assert!(InstanceFilter::parse(bad).is_err(), "{bad}");
        }
    }
}
