use proptest::prelude::*;

use super::*;

fn split(text: &str) -> Percentages {
    parse_exact(text).unwrap()
}

fn subsets(names: &str) -> Vec<String> {
    names.split(' ').map(str::to_owned).collect()
}

fn shifted(names: &str, before: &str, targets: &str) -> String {
    let before = if before.is_empty() { Percentages::new() } else { split(before) };
    let after = shift("web", &subsets(names), &before, &split(targets)).unwrap();
    let listed = after.iter().filter(|(_, percent)| **percent > 0);
    listed.map(|(name, percent)| format!("{name}={percent}")).collect::<Vec<_>>().join(",")
}

#[test]
fn split_is_parsed_from_names_with_percentages() {
    let expected = Percentages::from([("v1".to_owned(), 90), ("v2".to_owned(), 10)]);
    assert_eq!(parse("v1=90,v2=10"), Ok(expected.clone()));
    assert_eq!(parse("v1=90%, v2=10 %"), Ok(expected));
    assert_eq!(parse("v2"), Ok(Percentages::from([("v2".to_owned(), 100)])));
    for (wrong, part) in [
        ("", "no percentage"),
        ("v1=101", "from 0 to 100"),
        ("v1=-1", "from 0 to 100"),
        ("v1=0.5", "from 0 to 100"),
        ("=5", "from 0 to 100"),
        ("v1=5,", "no percentage"),
        ("v1=5,v1=6", "twice"),
    ] {
        let error = parse(wrong).unwrap_err();
        assert!(error.contains(part), "{wrong}: {error}");
    }
    assert!(parse_exact("v2").unwrap_err().contains("v2=10"));
}

#[test]
fn with_two_subsets_the_other_gets_the_rest() {
    for (before, target, after) in [
        ("v1=90,v2=10", "v2=50", "v1=50,v2=50"),
        ("v1=90,v2=10", "v2=100", "v2=100"),
        ("v1=90,v2=10", "v2=0", "v1=100"),
        ("v2=100", "v2=50", "v1=50,v2=50"),
        ("v1=100", "v2=1", "v1=99,v2=1"),
        ("", "v2=5", "v1=95,v2=5"),
    ] {
        assert_eq!(shifted("v1 v2", before, target), after, "{before}, {target}");
    }
}

#[test]
fn with_more_subsets_the_others_keep_their_proportion() {
    for (before, target, after) in [
        ("a=60,b=30,c=10", "c=40", "a=40,b=20,c=40"),
        ("a=60,b=30,c=10", "c=0", "a=67,b=33"),
        ("a=34,b=33,c=33", "a=50", "a=50,b=25,c=25"),
        ("a=98,b=1,c=1", "a=99", "a=99,b=1"),
        ("a=98,b=1,c=1", "b=50", "a=49,b=50,c=1"),
        ("a=98,b=1,c=1", "a=100", "a=100"),
        ("a=100", "b=20,c=30", "a=50,b=20,c=30"),
        ("a=50,b=50", "a=20,b=30,c=50", "a=20,b=30,c=50"),
    ] {
        assert_eq!(shifted("a b c", before, target), after, "{before}, {target}");
    }
}

#[test]
fn shift_that_leaves_calls_without_a_subset_is_rejected() {
    for (names, before, targets, part) in [
        ("a b c", "a=100", "a=50", "50 % of the calls have no subset"),
        ("a b c", "", "a=50", "as in a=50,b=50; web has a, b, c"),
        ("a", "a=100", "a=50", "50 % of the calls have no subset, because web has only a"),
        ("a b", "a=90,b=10", "x=5", "no subset `x`; it has a, b"),
        ("a b", "a=90,b=10", "a=60,b=50", "add up to 110"),
    ] {
        let before = if before.is_empty() { Percentages::new() } else { split(before) };
        let error = shift("web", &subsets(names), &before, &split(targets)).unwrap_err().to_string();
        assert!(error.contains(part), "{targets}: {error}");
    }
    let error = shift("web", &[], &Percentages::new(), &split("v2=5")).unwrap_err();
    assert!(matches!(error, CliError::NotFound(_)), "{error:?}");
    let expected = "web has no subset `v2`; it has none: define it with `callboard subset set web v2 --filter FILTER`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn subset_that_rounding_leaves_without_calls_is_named() {
    let rounded = |before: &str, targets: &str| {
        let (before, targets) = (split(before), split(targets));
        let after = shift("web", &subsets("a b c"), &before, &targets).unwrap();
        rounded_away(&before, &after, &targets).join(",")
    };
    assert_eq!(rounded("a=60,b=24,c=16", "a=99"), "c");
    assert_eq!(rounded("a=60,b=24,c=16", "a=98"), "");
    assert_eq!(rounded("a=60,b=24,c=16", "a=100"), "", "no calls are left, as intended");
}

proptest! {
    #[test]
    fn shifted_split_adds_up_and_stays_in_proportion(
        weights in prop::collection::vec(1_u32..=100, 1..8),
        percent in 0_u32..=100,
    ) {
        let others: Vec<(String, u32)> =
            weights.iter().enumerate().map(|(number, weight)| (format!("s{number}"), *weight)).collect();
        let mut names: Vec<String> = others.iter().map(|(name, _)| name.clone()).collect();
        names.push("target".to_owned());
        let before: Percentages = others.iter().cloned().collect();
        let targets = Percentages::from([("target".to_owned(), percent)]);
        let after = shift("web", &names, &before, &targets).unwrap();
        prop_assert_eq!(after.values().sum::<u32>(), 100);
        prop_assert_eq!(after["target"], percent);
        let (left, sum, count) = (100 - percent, weights.iter().sum::<u32>(), weights.len());
        for (name, weight) in &others {
            let most = (left * weight).div_ceil(sum).max(1);
            prop_assert!(after[name] <= most, "{} is more than {}", after[name], most);
            prop_assert!(after[name] >= 1 || (left as usize) < count);
            for (other, more) in &others {
                prop_assert!(weight >= more || after[name] <= after[other], "{:?}", after);
            }
        }
    }
}
