//! The committed corpora of the fuzz targets do here what they do in the fuzzer, and come through every state that they are to.
//!
//! A new format makes the journals and logs among them useless: `COMMISSARY_WRITE_SEEDS=1 cargo test --test fuzz_corpora` writes
//! others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use commissary::messages::{Journal, Retain};
use commissary::{Ask, Compact, Hub, ManualClock, MemoryDisk, Registration};

#[path = "../fuzz/src/lib.rs"]
#[allow(
    unreachable_pub,
    clippy::allow_attributes,
    reason = "the fuzz targets are binaries, and take them from a library"
)]
mod targets;

use targets::Seen;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

fn replay(name: &str, run: fn(&[u8], &mut Seen), states: &[&'static str]) {
    if std::env::var_os("COMMISSARY_WRITE_SEEDS").is_some() {
        write_seeds(name);
    }
    let mut seen = Seen::new();
    let mut files = 0;
    for file in fs::read_dir(corpus(name)).unwrap() {
        let path = file.unwrap().path();
        // If it panics, this is what names the file.
        eprintln!("{}", path.display());
        run(&fs::read(&path).unwrap(), &mut seen);
        files += 1;
    }
    let missed: Vec<_> = states.iter().filter(|state| !seen.contains(*state)).collect();
    assert!(missed.is_empty(), "{files} files of {name} did not come through {missed:?}");
    assert_eq!(seen, states.iter().copied().collect::<BTreeSet<_>>());
}

/// I6: entries of a service that no record made are told; whoever registers it again gets an empty one, which lasts.
#[test]
fn what_the_journal_holds_of_a_service_without_its_record_is_told_once() {
    let file = fs::read(corpus("journal").join("service-unknown")).unwrap();
    let (how, mut journal) = (file[0], file[1..].to_vec());
    if how % 2 == 1 {
        targets::seal::seal(&mut journal);
    }
    let disk = MemoryDisk::from_journal(&journal);
    let open = || Hub::builder().manual().clock(ManualClock::default()).seed(1).open_in_memory(&disk).unwrap();
    let hub = open();
    let refused = hub.register(targets::journal::Probe).unwrap_err().to_string();
    assert!(refused.contains("which no record made; who registers again gets another number"), "{refused}");
    let service = hub.register(targets::journal::Probe).unwrap();
    assert_eq!(service.add_all([1, 2]).unwrap().added, 2);
    hub.tick();
    assert!(hub.recount().unwrap().is_balanced());
    hub.close().unwrap();
    drop((hub, service));
    assert_eq!(open().register(targets::journal::Probe).unwrap().stats().subjects_known, 2);
}

/// What the first byte stands for is told in `fuzz/src/journal.rs` and `fuzz/src/messages.rs`.
fn write_seeds(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let seeds = match name {
        "journal" => journals(directory.path()),
        "messages" => logs(&directory.path().join("log")),
        "salvage" => logs(&directory.path().join("log")).into_iter().flat_map(|(_, log)| damaged(&log)).collect(),
        _ => return,
    };
    for (at, (how, bytes)) in
        seeds.iter().flat_map(|(hows, bytes)| hows.iter().map(move |how| (how, bytes))).enumerate()
    {
        fs::write(corpus(name).join(format!("seed-{at}")), [&[*how][..], bytes].concat()).unwrap();
    }
}

/// Of a hub with results and leases, then of the same compacted, and how the target is to take them.
fn journals(directory: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let clock = ManualClock::default();
    let hub = Hub::builder().manual().clock(clock.clone()).seed(1).open(directory).unwrap();
    let service = hub.register(targets::journal::Probe).unwrap();
    service.add_all(1..=100).unwrap();
    hub.tick();
    for id in 1..=3 {
        let client = hub.register_client(&Registration::new(id, "worker")).unwrap().client;
        let seat = client.activate(&service).unwrap();
        let mut leases = seat.claim(Ask::buckets(2)).unwrap().leased().unwrap().into_iter();
        let first = leases.next().unwrap();
        let keys: Vec<u64> = first.subjects().collect();
        match id {
            1 => drop(seat.submit(&first.into_token(), keys.into_iter().map(|key| (key, key))).unwrap()),
            2 => drop(seat.report(&first.into_token(), [(keys[0], 7)]).unwrap()),
            _ => drop(seat.renew(&first.into_token()).unwrap()),
        }
        leases.for_each(|lease| assert!(lease.into_token().to_string().len() > 1));
        clock.advance(Duration::from_secs(1));
        hub.tick();
    }
    drop(service.suspend(3).unwrap());
    hub.tick();
    let whole = fs::read(directory.join("journal")).unwrap();
    drop((hub, service));
    let compacted = Hub::builder().manual().clock(clock).seed(1).compact(Compact::default()).open(directory).unwrap();
    compacted.close().unwrap();
    let torn = whole[..whole.len() - 5].to_vec();
    vec![(vec![0, 1], whole), (vec![0], torn), (vec![0, 1], fs::read(directory.join("journal")).unwrap())]
}

/// Of three clients, cut short, and compacted.
fn logs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let log = Journal::builder().clock(ManualClock::default()).window(3).clients(3).open(path).unwrap();
    for (client, seq, payload) in [(7, 1, "one"), (8, 1, "first"), (7, 2, ""), (9, 1, "another"), (7, 3, "three")] {
        log.append(client, seq, payload.as_bytes()).wait().unwrap();
    }
    let whole = fs::read(path).unwrap();
    log.compact(Retain::Bytes(100)).unwrap();
    log.close().unwrap();
    let torn = whole[..whole.len() - 5].to_vec();
    vec![(vec![0, 1, 2, 6, 7, 255], whole), (vec![0], torn), (vec![2, 3, 6, 7], fs::read(path).unwrap())]
}

/// Not at all; a bit of the header and one of the middle flipped; a stretch taken out, and one zeroed; a header alone.
fn damaged(log: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let middle = log.len() / 2;
    let flipped = |at: usize| {
        let mut log = log.to_vec();
        log[at] ^= 16;
        log
    };
    let without = [&log[..middle], &log[middle + 20..]].concat();
    let zeroed = [&log[..middle], &[0; 30][..], &log[middle + 30..]].concat();
    let all = [log.to_vec(), flipped(20), flipped(middle), without, zeroed, log[..20].to_vec()];
    all.into_iter().map(|log| (vec![0], log)).chain([(vec![1], flipped(middle))]).collect()
}

macro_rules! corpora {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            replay(stringify!($name), targets::$name::run, targets::$name::STATES);
        }
    )*};
}

corpora!(edges journal json messages ops salvage token wire);
