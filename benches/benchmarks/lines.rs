//! Lines of code by module, without blank lines and comments. Code that is compiled for tests alone counts as tests.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Result;

use crate::report::Report;

#[derive(Debug, Default, Clone, Copy)]
struct Lines {
    code: u32,
    tests: u32,
}

/// Counts the lines of `src`.
pub fn count(report: &mut Report) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for entry in fs::read_dir(&root)? {
        let path = entry?.path();
        let module = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        walk(&path, modules.entry(module).or_default())?;
    }
    let mut all = Lines::default();
    for (module, Lines { code, tests }) in modules {
        report.add(format!("lines_{module}"), code.into(), "lines", format!("and {tests} of tests"));
        all = Lines { code: all.code + code, tests: all.tests + tests };
    }
    report.add("lines", all.code.into(), "lines", format!("and {} of tests", all.tests));
    Ok(())
}

fn walk(path: &Path, lines: &mut Lines) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), lines)?;
        }
        return Ok(());
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut test = name.ends_with("tests") || ["fake", "models", "test_support"].contains(&&*name);
    test |= path.components().any(|part| part.as_os_str() == "fuzz" || part.as_os_str() == "fuzz.rs");
    for line in fs::read_to_string(path)?.lines().map(str::trim) {
        // Unit tests are at the end of a file.
        test |= line == "mod tests {";
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        let counted = if test { &mut lines.tests } else { &mut lines.code };
        *counted += 1;
    }
    Ok(())
}
