//! What docs/RELIABILITY.md says is tested is tested.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_of_the_table_exists() {
    let page = fs::read_to_string(project().join("docs/RELIABILITY.md")).unwrap();
    let mut text = String::new();
    for part in ["common", "watcher", "replicator", "e2e"] {
        ["src", "tests"]
            .iter()
            .map(|folder| project().join(part).join(folder))
            .filter(|f| f.exists())
            .for_each(|folder| sources(&folder, &mut text));
    }
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault |")).collect();
    assert!(rows.len() > 40, "only {} rows found", rows.len());
    let (mut tests, mut open) = (0, 0);
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [fault, promises, named] = cells[..] else { panic!("not three cells: {row}") };
        for number in promises.split(", ") {
            assert!((1..=24).contains(&number.trim().parse::<u32>().unwrap()), "{row}");
        }
        let names: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        for name in &names {
            assert!(text.contains(&format!("fn {name}(")), "{name}, of {fault}, is no test");
        }
        tests += names.len();
        open += usize::from(named.contains("open: "));
        assert!(!names.is_empty() || named.contains("open: "), "{fault} has no test");
    }
    assert!(tests > 80, "only {tests} tests are named");
    assert!(open <= 5, "{open} rows are open");
}
