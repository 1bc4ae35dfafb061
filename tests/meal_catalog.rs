//! The example of the meal catalog, small: whoever works on it, and whatever dies meanwhile, the same comes out.
//!
//! Each run checks itself: nothing oversold, the stock at every quiet moment, projections against a recount, money
//! against meals, the order of every lane. Here it is that different runs end alike.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use commissary::Crash;

#[path = "../examples/meal_catalog/main.rs"]
#[expect(dead_code, reason = "its command line")]
mod meal_catalog;

use meal_catalog::{Plan, Script, expected, in_directory, in_memory};

/// Where the child of a test has its hub.
const DIRECTORY: &str = "COMMISSARY_MEAL_CATALOG_DIRECTORY";
/// After how many commands it is to die.
const CRASH_AFTER: &str = "COMMISSARY_MEAL_CATALOG_CRASH_AFTER";

fn script() -> Script {
    Script::generate(600, 6, 7)
}

/// R121, R125, R128: the state in the end is that of the commands one after the other, with 1, 2 and 8 workers.
#[test]
fn the_same_comes_out_with_any_number_of_workers() {
    let script = script();
    let expected = expected(&script).unwrap();
    for workers in [1, 2, 8] {
        let outcome = in_memory(&script, &Plan::new(workers)).unwrap();
        assert_eq!(outcome.print, expected, "{workers} workers");
        let figures = outcome.figures;
        let all = [figures.sold, figures.cancelled, figures.lapsed, figures.sold_out, figures.expired, figures.refunds];
        assert!(all.iter().all(|count| *count > 0), "everything happens: {figures:?}");
        let odd = [figures.no_such_meal, figures.no_units, figures.answered_again];
        assert!(odd.iter().all(|count| *count > 0), "everything happens: {figures:?}");
        let kitchen = [figures.stocked, figures.repeated, figures.covered, figures.stale];
        assert!(kitchen.iter().all(|count| *count > 0), "everything happens: {figures:?}");
        assert_eq!((figures.held, figures.refused, figures.no_such_order), (0, 0, 0));
    }
}

/// R129: areas go to other workers while they are busy, and no fridge gets out of order.
#[test]
fn areas_move_while_they_are_busy() {
    let script = script();
    let outcome = in_memory(&script, &Plan::new(4)).unwrap();
    assert_eq!(outcome.print, expected(&script).unwrap());
    assert!(outcome.moves > 0 && outcome.shared > 0, "{outcome:?}");
}

/// R120: a worker dies with a lane in hand; another one goes on with its state and order.
#[test]
fn workers_may_die_with_work_in_hand() {
    let script = script();
    let plan = Plan { lease: Duration::from_millis(500), deaths: vec![80, 600], ..Plan::new(2) };
    let outcome = in_memory(&script, &plan).unwrap();
    assert_eq!((outcome.print, outcome.died), (expected(&script).unwrap(), 2));
}

/// R131: the process dies in the middle, three times, once with the machine's power: nothing is lost, done twice or charged
/// twice.
#[test]
fn the_process_may_crash_in_the_middle() {
    let script = script();
    let crashes = vec![(450, Crash::Process), (350, Crash::Power), (300, Crash::Process)];
    let outcome = in_memory(&script, &Plan { crashes, ..Plan::new(3) }).unwrap();
    assert_eq!((outcome.print, outcome.boots), (expected(&script).unwrap(), 4));
}

/// The child: works in a directory until it dies.
#[test]
fn child_works_until_it_dies() {
    if let (Some(directory), Ok(after)) = (env::var_os(DIRECTORY), env::var(CRASH_AFTER)) {
        let crashes = vec![(after.parse().unwrap(), Crash::Process)];
        in_directory(&script(), Path::new(&directory), &Plan { crashes, ..Plan::new(2) }).unwrap();
    }
}

/// Runs a child until it has executed so many commands; how it ended.
fn die_after(commands: u64, directory: &Path) -> ExitStatus {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_works_until_it_dies", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(CRASH_AFTER, commands.to_string())
        .stdout(Stdio::null())
        .status()
        .unwrap()
}

/// R131: the same on a disk, with a process that really dies.
#[cfg(unix)]
#[test]
fn a_process_that_died_goes_on_where_it_was() {
    use std::os::unix::process::ExitStatusExt;
    const SIGABRT: i32 = 6;
    let (place, script) = (tempfile::tempdir().unwrap(), script());
    for commands in [450, 400] {
        assert_eq!(die_after(commands, place.path()).signal(), Some(SIGABRT));
    }
    let outcome = in_directory(&script, place.path(), &Plan::new(2)).unwrap();
    assert_eq!((outcome.print, outcome.boots), (expected(&script).unwrap(), 3));
}

/// Purchases of a file are read with their defects, which are answered; a line that is none is named.
#[test]
fn a_file_is_read_with_its_defects() {
    let directory = tempfile::tempdir().unwrap();
    let (purchases, menu) = (directory.path().join("purchases.csv"), directory.path().join("menu.csv"));
    fs::write(&menu, "product_id,department\n11,GROCERY\n").unwrap();
    let head = "transaction_timestamp,household_id,store_id,basket_id,product_id,quantity,sales_value\n";
    let lines = "2017-01-01T12:30:27Z,906,319,1,11,3,1.50\n2017-01-01T12:30:27Z,906,319,1,12,1,1.50\n\
                 2017-01-01T12:30:28Z,907,320,2,11,0,0.00\n";
    fs::write(&purchases, format!("{head}{lines}")).unwrap();
    let script = Script::read(&purchases, &menu).unwrap();
    let outcome = in_memory(&script, &Plan::new(2)).unwrap();
    assert_eq!(outcome.print, expected(&script).unwrap());
    let figures = outcome.figures;
    assert_eq!((figures.answered(), figures.no_such_meal, figures.no_units), (3, 1, 1));
    fs::write(&purchases, format!("{head}{lines}noon,1,1,1,1,1,1\n")).unwrap();
    let error = Script::read(&purchases, &menu).unwrap_err().to_string();
    assert!(error.contains("line 5"), "{error}");
}

/// The same script, twice, is the same; another seed is another one.
#[test]
fn the_script_is_a_matter_of_the_seed() {
    let print = |seed| Script::generate(200, 3, seed).print().unwrap();
    assert_eq!(print(1), print(1));
    assert_ne!(print(1), print(2));
}
