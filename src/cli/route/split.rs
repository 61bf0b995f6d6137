//! Percentages of splits between subsets.

use std::{cmp::Reverse, collections::BTreeMap};

use serde_json::{Map, Value};

use crate::cli::error::CliError;

/// Percentages by subset.
pub(super) type Percentages = BTreeMap<String, u32>;

/// Parses `v1=90,v2=10`. A name alone is the whole split.
pub(super) fn parse(text: &str) -> Result<Percentages, String> {
    let text = text.trim();
    if !text.contains(['=', ',']) && !text.is_empty() {
        return Ok(Percentages::from([(text.to_owned(), 100)]));
    }
    parse_exact(text)
}

/// Parses `v1=90,v2=10`, where each name has a percentage.
pub(super) fn parse_exact(text: &str) -> Result<Percentages, String> {
    let mut split = Percentages::new();
    for part in text.split(',') {
        let (name, percent) = parse_part(part)?;
        if split.insert(name.clone(), percent).is_some() {
            return Err(format!("`{name}` is in it twice; name each subset once"));
        }
    }
    Ok(split)
}

fn parse_part(part: &str) -> Result<(String, u32), String> {
    let example = "write SUBSET=PERCENT, as in v2=10";
    let (name, percent) = part.split_once('=').ok_or_else(|| format!("`{part}` has no percentage; {example}"))?;
    match percent.trim().trim_end_matches('%').trim_end().parse() {
        Ok(percent) if percent <= 100 && !name.trim().is_empty() => Ok((name.trim().to_owned(), percent)),
        _ => Err(format!("`{part}` is not a subset with a percentage from 0 to 100; {example}")),
    }
}

/// Returns a split as a document has it. Subsets with 0 % are not in it.
pub(super) fn to_value(split: &Percentages) -> Value {
    let listed = split.iter().filter(|(_, percent)| **percent > 0);
    Value::Object(listed.map(|(name, percent)| (name.clone(), Value::from(*percent))).collect())
}

/// Returns the split of a document. Values that are no percentages count as 0.
pub(super) fn of_table(table: &Map<String, Value>) -> Percentages {
    let percent = |value: &Value| value.as_u64().and_then(|percent| u32::try_from(percent).ok()).unwrap_or(0);
    table.iter().map(|(name, value)| (name.clone(), percent(value))).collect()
}

/// Returns the split after some subsets get other percentages. The other subsets of the split keep their proportion in what is left.
/// If the split has no other subset and the service has exactly one more, that one gets it.
pub(super) fn shift(
    service: &str,
    subsets: &[String],
    split: &Percentages,
    targets: &Percentages,
) -> Result<Percentages, CliError> {
    let usage = |text: String| Err(CliError::Usage(text.into()));
    let known = subsets.join(", ");
    if let Some(unknown) = targets.keys().find(|name| !subsets.contains(name)) {
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
        return Err(CliError::NotFound(format!(
            "{service} has no subset `{unknown}`; {known}: define it with `callboard subset set {service} {unknown} --filter \
             FILTER`"
        )));
    }
    let taken: u32 = targets.values().sum();
    let Some(left) = 100_u32.checked_sub(taken) else {
        return usage(format!("the percentages add up to {taken}, which is more than 100; lower one"));
    };
    let mut shifted = targets.clone();
    let mut others: Vec<(String, u32)> = split
        .iter()
        .filter(|(name, percent)| **percent > 0 && !targets.contains_key(*name))
        .map(|(name, percent)| (name.clone(), *percent))
        .collect();
    if others.is_empty() && left > 0 {
        let rest: Vec<&String> = subsets.iter().filter(|name| !targets.contains_key(*name)).collect();
        match rest[..] {
            [only] => others.push((only.clone(), 100)),
            [] => {
                return usage(format!(
                    "{left} % of the calls have no subset, because {service} has only {known}: let the percentages add up to 100, or \
                     define another subset with `callboard subset set`"
                ));
            }
            [first, ..] => {
                let given: Vec<_> = targets.iter().map(|(name, percent)| format!("{name}={percent}")).collect();
                return usage(format!(
                    "{left} % of the calls have no subset: name one for them, as in {},{first}={left}; {service} has {known}",
                    given.join(",")
                ));
            }
        }
    }
    shifted.extend(in_proportion(&others, left));
    Ok(shifted)
}

/// Returns the subsets that a shift leaves without calls although there is something left for them: too little for all of them.
pub(super) fn rounded_away<'a>(before: &'a Percentages, after: &Percentages, targets: &Percentages) -> Vec<&'a str> {
    if targets.values().sum::<u32>() >= 100 {
        return Vec::new();
    }
    let had_calls = before.iter().filter(|(name, percent)| **percent > 0 && !targets.contains_key(*name));
    had_calls.map(|(name, _)| &**name).filter(|name| after.get(*name).is_none_or(|percent| *percent == 0)).collect()
}

/// Divides a number in proportion to weights, in whole numbers that add up to it: by the largest remainder. If the number suffices,
/// each weight gets at least 1, at the expense of the largest.
fn in_proportion(weights: &[(String, u32)], total: u32) -> Percentages {
    let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
    if sum == 0 {
        return Percentages::new();
    }
    let mut parts: Vec<u32> = weights.iter().map(|(_, weight)| total * weight / sum).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|at| Reverse(total * weights[*at].1 % sum));
    let missing = total - parts.iter().sum::<u32>();
    for at in by_remainder.into_iter().take(missing as usize) {
        parts[at] += 1;
    }
    if total as usize >= weights.len() {
        while let Some(empty) = parts.iter().position(|part| *part == 0) {
            // Of equal parts, that of the smallest weight shrinks, so that the order of the weights stays.
            let largest = (0..parts.len()).max_by_key(|at| (parts[*at], Reverse(weights[*at].1))).unwrap_or(empty);
            parts[largest] -= 1;
            parts[empty] += 1;
        }
    }
    weights.iter().zip(parts).map(|((name, _), part)| (name.clone(), part)).collect()
}

#[cfg(test)]
mod tests;
