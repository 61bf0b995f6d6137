//! Reference pages in `docs/src/reference/`: they are what the code generates.

use std::{env, fs, path::Path};

/// Environment variable with which the test writes the pages instead of comparing them.
const WRITE: &str = "CALLBOARD_WRITE_REFERENCE";

#[test]
fn reference_pages_match_the_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/reference");
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(&folder).unwrap();
    }
    for (name, generated) in callboard::reference::pages() {
        let path = folder.join(name);
        if env::var_os(WRITE).is_some() {
            fs::write(&path, &generated).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        let difference = committed.lines().zip(generated.lines()).find(|(committed, generated)| committed != generated);
        assert!(
            committed == generated,
            "{} is out of date: run the test with {WRITE}=1; first difference: {difference:?}",
            path.display()
        );
    }
}
