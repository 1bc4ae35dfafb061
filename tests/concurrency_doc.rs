//! The pages on concurrency and reliability are true where that can be looked up: files, models, locks, tests, seeded bugs.

use std::collections::BTreeSet;
use std::path::Path;

const DOCUMENT: &str = include_str!("../src/docs/concurrency.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// What stands in backticks.
fn quoted() -> BTreeSet<&'static str> {
    DOCUMENT.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// True if it names a source file.
fn is_source(word: &str) -> bool {
    !word.contains(' ') && Path::new(word).extension().is_some_and(|extension| extension == "rs")
}

/// The models, by the sources that `models/run` builds: it runs all of them.
fn models() -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join("models/src")).unwrap();
    let text: String = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let names = text.split("        name: \"").skip(1);
    names.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

/// R135: every file that the page names is there.
#[test]
fn files_that_are_named_exist() {
    let files: Vec<_> = quoted().into_iter().filter(|word| is_source(word)).collect();
    let missing: Vec<_> = files.iter().filter(|file| !root().join(file).exists()).collect();
    assert!(files.len() > 40 && missing.is_empty(), "{missing:?}");
}

/// R136: every model is named, and every model that is named exists.
#[test]
fn models_are_named_and_exist() {
    let (models, quoted) = (models(), quoted());
    let unnamed: Vec<_> = models.iter().filter(|model| !quoted.contains(model.as_str())).collect();
    assert!(models.len() > 30 && unnamed.is_empty(), "{unnamed:?}");
    let prefixes: BTreeSet<&str> = models.iter().filter_map(|model| model.split('_').next()).collect();
    let is_one = |word: &&str| word.split_once('_').is_some_and(|(prefix, _)| prefixes.contains(prefix));
    let is_plain = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let others: Vec<_> = quoted.into_iter().filter(is_one).filter(is_plain).collect();
    assert_eq!(others.iter().filter(|word| !models.contains(**word)).collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// R137: every lock stands in the page's order of locks.
#[test]
fn locks_are_named() {
    let tests = source("tests/concurrency.rs");
    let list = tests.split("const LOCKS").nth(1).unwrap().split("\n];").next().unwrap();
    let files: BTreeSet<&str> = list.split('"').filter(|text| is_source(text)).collect();
    let order =
        DOCUMENT.split("**By locks: no.**").nth(1).unwrap().split("**What plugin code could do.**").next().unwrap();
    let missing: Vec<_> = files.iter().filter(|file| !order.contains(&format!("`src/{file}`"))).collect();
    assert!(files.len() > 15 && missing.is_empty(), "{missing:?}");
}

/// R135: the questions of the checklist, each with its answer, in their order.
#[test]
fn the_questions_are_answered_one_by_one() {
    let beginnings = [
        "Is there a clear system-level",
        "Are your models at the right level",
        "Can you simplify",
        "Do all interested parties",
        "Have you mapped all functional elements",
        "Do you have a state model",
        "Have you defined a suitable set of interprocess",
        "Are all shared resources protected",
        "Have you minimized",
        "Do you have any resource hot spots",
        "Can the system possibly deadlock?",
    ];
    let questions: Vec<&str> = DOCUMENT.lines().filter_map(|line| line.strip_prefix("# ")).skip(1).collect();
    assert_eq!(questions.len(), beginnings.len());
    assert!(
        questions.iter().zip(beginnings).all(|(question, beginning)| question.starts_with(beginning)),
        "{questions:?}"
    );
}

/// The words of a text that begin with `bug_`, are plain, and do not end in the middle.
fn bugs(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words.filter(|word| word.len() > 4 && word.starts_with("bug_")).map(str::to_owned).collect()
}

/// Every test program that `RELIABILITY.md` names is there, and has the test that is asked for.
#[test]
fn commands_name_tests_that_exist() {
    let page = source("RELIABILITY.md");
    let mut programs = 0;
    for command in page.split('`').filter(|text| text.contains("cargo test ")) {
        let words: Vec<&str> = command.split(" -- ").next().unwrap().split_whitespace().collect();
        let filter = words.last().filter(|last| !last.starts_with('-') && !words[words.len() - 2].starts_with('-'));
        for pair in words.windows(2).filter(|pair| pair[0] == "--test") {
            programs += 1;
            let code = source(&format!("tests/{}.rs", pair[1]));
            assert!(filter.is_none_or(|filter| code.contains(filter)), "{command}");
        }
    }
    assert!(programs > 40, "{programs}");
}

/// Every seeded bug is built in, looked for and told.
#[test]
fn seeded_bugs_are_the_same_everywhere() {
    let [features, run, page] = ["models/Cargo.toml", "models/run", "RELIABILITY.md"].map(source);
    let table = run.split("<<'BUGS'").nth(1).unwrap().split("\nBUGS\n").next().unwrap();
    let features = bugs(features.split("[features]").nth(1).unwrap());
    assert!(features.len() >= 20, "{features:?}");
    assert_eq!(features, bugs(table));
    assert_eq!(features, bugs(&page));
}
