//! Report of the measurements, as text and as JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// Measurements in the order in which they were taken.
#[derive(Debug, Default)]
pub struct Report(Vec<Measurement>);

/// One measurement.
#[derive(Debug)]
struct Measurement {
    /// Name in `snake_case`, the key in JSON.
    name: String,
    value: f64,
    unit: &'static str,
    /// Goal, or conditions of the measurement.
    note: String,
}

impl Report {
    /// Adds a measurement, and prints it on standard error to show progress.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, note: impl Into<String>) {
        let measurement = Measurement { name: name.into(), value, unit, note: note.into() };
        eprint!("{}", line(&measurement));
        self.0.push(measurement);
    }

    /// Returns one line for each measurement.
    pub fn to_table(&self) -> String {
        self.0.iter().map(line).collect()
    }

    /// Returns one object: measurements by name.
    pub fn to_json(&self) -> Value {
        let measurements = self.0.iter().map(|measurement| {
            let Measurement { name, value, unit, note } = measurement;
            (name.clone(), json!({ "value": value, "unit": unit, "note": note }))
        });
        Value::Object(measurements.collect::<Map<_, _>>())
    }
}

fn line(measurement: &Measurement) -> String {
    let Measurement { name, value, unit, note } = measurement;
    let digits = if value.fract() == 0.0 { 0 } else { 3 };
    let mut line = format!("{name:<44} {value:>14.digits$} {unit:<8}");
    if !note.is_empty() {
        let _ = write!(line, " {note}");
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// Returns the quantile of sorted values, `share` being between 0 and 1; 0 where there are no values.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index, rounded"
    )]
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

/// Returns the median.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// Returns the values in ascending order.
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}
