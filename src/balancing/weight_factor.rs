//! Factors of weights, and the effective weights of a service at one moment.

use crate::model::{Instance, InstanceId, Revision, Weight};

/// Factor by which a configured weight is multiplied, in ten-thousandths. At least [`WeightFactor::MIN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WeightFactor(u32);

impl WeightFactor {
    /// The configured weight as it is.
    pub const ONE: Self = Self(Self::SCALE);
    /// Smallest factor, so that an instance never loses all calls: a tenth.
    pub const MIN: Self = Self(Self::SCALE / 10);
    const SCALE: u32 = 10_000;
    /// Largest factor: any weight times this factor, in hundredths, fits in 32 bits.
    const MAX: f64 = 600.0;

    /// Rounds a number to a factor. What is not a number is taken for 1.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the number is clamped")]
    pub fn new(factor: f64) -> Self {
        if factor.is_nan() {
            return Self::ONE;
        }
        let scaled = factor.clamp(0.0, Self::MAX) * f64::from(Self::SCALE);
        Self(scaled.round() as u32).max(Self::MIN)
    }

    /// Factor as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / f64::from(Self::SCALE)
    }

    /// Multiplies two factors.
    #[must_use]
    pub fn times(self, other: Self) -> Self {
        Self::new(self.get() * other.get())
    }

    /// Multiplies a configured weight. The result is in hundredths, and at least 1.
    #[must_use]
    pub fn of(self, weight: Weight) -> u32 {
        let scaled = u64::from(self.0) * u64::from(weight.get());
        let per_hundredth = u64::from(Self::SCALE / 100);
        u32::try_from((scaled + per_hundredth / 2) / per_hundredth).unwrap_or(u32::MAX).max(1)
    }
}

/// Effective weights of a service. They are immutable: a change makes another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceWeights {
    version: u64,
    newcomers: WeightFactor,
    /// By instance id.
    known: Box<[KnownFactor]>,
}

/// Factor of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownFactor {
    pub(super) id: InstanceId,
    /// Revision of the registration that the factor is of. It is not that of a later registration with the same id.
    pub(super) registration: Revision,
    pub(super) factor: WeightFactor,
}

impl ServiceWeights {
    /// Creates the weights of instances with these factors, which are in the order of the ids. `newcomers`: factor of all others.
    pub(super) fn new(newcomers: WeightFactor, known: Vec<KnownFactor>) -> Self {
        Self { version: 0, newcomers, known: known.into() }
    }

    /// Returns the same weights with this version.
    pub(super) fn with_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// Number that rises whenever the weight of a present instance changes. No two services, and no two times, have the same.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the factor of an instance. An instance that registered later than the weights were computed is a newcomer.
    #[must_use]
    pub fn factor(&self, instance: &Instance) -> WeightFactor {
        let found = self.known.binary_search_by(|known| known.id.cmp(&instance.id)).ok();
        let found = found.and_then(|index| self.known.get(index));
        let found = found.filter(|known| known.registration == instance.registered_revision);
        found.map_or(self.newcomers, |known| known.factor)
    }

    /// Returns the effective weight of an instance, in hundredths of the unit of configured weights. At least 1.
    #[must_use]
    pub fn of(&self, instance: &Instance) -> u32 {
        self.factor(instance).of(instance.effective_weight())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_support::entry;

    fn weight(weight: u32) -> Weight {
        Weight::parse(weight).unwrap()
    }

    #[test]
    fn weight_is_multiplied_in_hundredths_and_never_zero() {
        assert_eq!(WeightFactor::ONE.of(weight(3)), 300);
        assert_eq!(WeightFactor::MIN.of(weight(1)), 10);
        assert_eq!(WeightFactor::new(0.255).of(weight(1)), 26);
        assert_eq!(WeightFactor::new(0.0), WeightFactor::MIN);
        assert_eq!(WeightFactor::new(f64::NAN), WeightFactor::ONE);
        assert_eq!(WeightFactor::new(f64::INFINITY).of(weight(65_535)), 3_932_100_000);
        assert_eq!(WeightFactor::new(0.5).times(WeightFactor::new(0.5)), WeightFactor::new(0.25));
        assert_eq!(WeightFactor::new(0.2).times(WeightFactor::new(0.2)), WeightFactor::MIN);
    }

    #[test]
    fn factor_is_that_of_the_registration_it_was_computed_for() {
        let mut instance = entry("web", "a", 2).instance.clone();
        let known = KnownFactor {
            id: instance.id.clone(),
            registration: instance.registered_revision,
            factor: WeightFactor::new(0.5),
        };
        let weights = ServiceWeights::new(WeightFactor::MIN, vec![known]);
        assert_eq!(weights.of(&instance), 100);
        instance.weight = weight(4);
        assert_eq!(weights.of(&instance), 200, "a changed weight has its effect at once");
        instance.registered_revision = instance.registered_revision.next();
        assert_eq!(weights.of(&instance), 40, "another registration is a newcomer");
        assert_eq!(weights.of(&entry("web", "b", 1).instance), 10);
    }
}
