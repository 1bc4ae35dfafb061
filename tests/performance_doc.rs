//! The page on performance can be written to by the last of the benches, and that is the last.

use std::path::Path;

const PAGE: &str = include_str!("../src/docs/performance.md");
const MANIFEST: &str = include_str!("../Cargo.toml");

/// Names of the benches, in the manifest's order.
fn benches() -> Vec<&'static str> {
    let sections = MANIFEST.split("[[bench]]").skip(1);
    sections.map(|section| section.split('"').nth(1).unwrap()).collect()
}

/// Between the marks stands a table of seven columns, or nothing yet.
#[test]
fn page_has_a_place_for_the_table() {
    let totals = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/totals.rs")).unwrap();
    let marks: Vec<&str> = totals.split('"').filter_map(|text| text.strip_prefix("<!-- ")).collect();
    let marks: Vec<String> = marks.iter().map(|mark| format!("<!-- {}", mark.trim_end_matches("\\n"))).collect();
    let [begin, end] = marks.as_slice() else { panic!("two marks, not {marks:?}") };
    assert_eq!((PAGE.matches(begin.as_str()).count(), PAGE.matches(end.as_str()).count()), (1, 1));
    let between = PAGE.split(begin.as_str()).nth(1).unwrap().split(end.as_str()).next().unwrap();
    let lines: Vec<&str> = between.lines().filter(|line| line.starts_with('|')).collect();
    for line in &lines {
        assert_eq!(line.replace("\\|", "").matches('|').count(), 8, "{line}");
    }
    let known = benches();
    let named: Vec<&str> = lines.iter().skip(2).map(|line| line.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(named.iter().filter(|bench| !known.contains(bench)).collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// Cargo runs benches in the order of their names.
#[test]
fn totals_come_last_and_each_bench_leaves_rows_there() {
    let benches = benches();
    assert_eq!(benches.iter().max(), Some(&"totals"));
    for bench in benches.iter().filter(|bench| **bench != "totals") {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        let file = [root.join(format!("{bench}.rs")), root.join(bench).join("main.rs")];
        let source = file.iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap();
        assert!(source.contains("rows::begin()"), "{bench} begins no rows");
    }
}
