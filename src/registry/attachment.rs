//! A slot in which a layer above keeps what it derives from an event or a chunk, once for all readers.

use std::{any::Any, fmt, sync::OnceLock};

/// Value of a layer above, built at most once and dropped with its owner. The registry never looks inside, so it knows no
/// wire format.
///
/// Boxed, because most events and chunks are never sent to a reader: an empty slot costs three words.
#[derive(Default)]
pub struct Attachment(OnceLock<Box<dyn Any + Send + Sync>>);

impl Attachment {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Returns the attached value, and builds it first if the slot is empty. `None` if the slot holds a value of another type;
    /// the caller then builds a value of its own.
    pub fn get_or_init<T: Send + Sync + 'static>(&self, build: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(build())).downcast_ref()
    }

    /// Returns the attached value, if the slot holds one of this type.
    #[must_use]
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.get()?.downcast_ref()
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Attachment(set)" } else { "Attachment(empty)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachment_keeps_first_value_and_its_type() {
        let slot = Attachment::new();
        assert_eq!(slot.get::<u32>(), None);
        assert_eq!(slot.get_or_init(|| 7_u32), Some(&7));
        assert_eq!(slot.get_or_init(|| 8_u32), Some(&7), "built once");
        assert_eq!(slot.get_or_init(|| "text"), None, "another type");
        assert_eq!(slot.get::<u32>(), Some(&7));
    }
}
