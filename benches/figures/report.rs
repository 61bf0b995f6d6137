//! Figures, for people and for programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// Figures in the order in which they were taken.
#[derive(Debug, Default)]
pub struct Report(Vec<Figure>);

/// One measured thing.
#[derive(Debug)]
struct Figure {
    /// `snake_case`: the key in JSON.
    name: String,
    value: f64,
    unit: &'static str,
    /// What it was meant to be, or how it was taken.
    note: String,
}

impl Report {
    /// Adds a figure, and shows on stderr that there is progress.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, note: impl Into<String>) {
        let figure = Figure { name: name.into(), value, unit, note: note.into() };
        eprint!("{}", line(&figure));
        self.0.push(figure);
    }

    /// A line each.
    pub fn to_table(&self) -> String {
        self.0.iter().map(line).collect()
    }

    /// One object: figures by name.
    pub fn to_json(&self) -> Value {
        let figures = self.0.iter().map(|figure| {
            let Figure { name, value, unit, note } = figure;
            (name.clone(), json!({ "value": value, "unit": unit, "note": note }))
        });
        Value::Object(figures.collect::<Map<_, _>>())
    }
}

fn line(figure: &Figure) -> String {
    let Figure { name, value, unit, note } = figure;
    let digits = if value.fract() == 0.0 { 0 } else { 3 };
    let mut line = format!("{name:<44} {value:>14.digits$} {unit:<8}");
    if !note.is_empty() {
        let _ = write!(line, " {note}");
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// The value below which this share of the values lies, the values being sorted. 0 when there are none.
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

/// The middle one.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// In rising order.
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}
