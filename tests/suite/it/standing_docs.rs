//! The security documents name tests that exist.

use std::{collections::BTreeMap, fs, path::Path};

/// Every file of this suite by its name in the documents (`audit`, `hostile/coat`), with its text.
fn files() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("it");
    let mut files = BTreeMap::new();
    for (folder, prefix) in [(root.clone(), ""), (root.join("hostile"), "hostile/")] {
        for entry in fs::read_dir(folder).expect("the suite") {
            let path = entry.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
                files.insert(format!("{prefix}{name}"), fs::read_to_string(&path).expect("a text"));
            }
        }
    }
    files
}

/// What stands in code quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_event_of_the_audit_is_in_the_inventory() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = fs::read_to_string(path).expect("a document");
    let named: Vec<_> = quoted(&text).collect();
    for action in valetkey_core::Action::ALL {
        assert!(named.contains(&action.as_str()), "{action} is not told of");
    }
}

#[test]
fn the_security_documents_name_tests_that_exist() {
    let files = files();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut named = 0;
    for document in ["security.md", "asvs.md"] {
        let text = fs::read_to_string(docs.join(document)).expect("a document");
        let mut named_before = None;
        for quote in quoted(&text) {
            let is_test = |name: &str| name.contains('_') && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            match quote.split_once(": ") {
                // How the documents explain their way of naming.
                Some(("file", "test")) => {}
                Some((file, name)) if !file.starts_with("valetkey-") => {
                    let source = files.get(file).unwrap_or_else(|| panic!("{document}: no file {file}"));
                    assert!(source.contains(&format!("fn {name}(")), "{document}: no test {name} in {file}");
                    named_before = Some(source);
                    named += 1;
                }
                Some(_) => named_before = None,
                // A second test of the file that was named before it.
                None if is_test(quote) && quote.matches('_').count() > 3 => {
                    let found = named_before.is_some_and(|source| source.contains(&format!("fn {quote}(")));
                    assert!(found, "{document}: no test {quote} in the file named before it");
                }
                None => {
                    if let Some(file) = quote.strip_suffix(".rs") {
                        assert!(files.contains_key(file), "{document}: no file {quote}");
                        named += 1;
                    }
                }
            }
        }
    }
    assert!(named >= 40, "only {named} tests are named");
}
