//! A hub's files damaged at every byte: each is opened again, and either the damage is told by name, or the repair is in the report, or
//! all that was acknowledged is there. Nothing panics, and nothing in the middle is lost in silence.
//!
//! `COMMISSARY_DAMAGE_BITS` sets how many bits of a byte are flipped, each by itself (1 without it, 8 are all), and with more than one
//! every byte is taken, not only some. What is told of a bookmark's bytes is beside its source,
//! and `tests/messages_damage.rs` is about message logs.

#[path = "support/directory.rs"]
mod directory;
#[path = "support/engine.rs"]
mod engine;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use commissary::{
    Client, Hub, JournalError, LeaseToken, ManualClock, MemoryDisk, OpenError, OpenReport, Registration, Seat,
    ServiceHandle, Work,
};
use directory::copy;
use support::{Doubling, keys, one, policy, right, sorted};

fn bits() -> usize {
    std::env::var("COMMISSARY_DAMAGE_BITS").map_or(1, |bits| bits.parse().unwrap())
}

/// The bytes with one bit of byte `at` flipped.
fn flipped(bytes: &[u8], at: usize, bit: usize) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    damaged[at] ^= 1 << ((at + bit) % 8);
    damaged
}

/// What a reader sees.
#[derive(Debug, PartialEq, Clone)]
struct Seen {
    findings: BTreeMap<u64, (u64, u64)>,
    leases: Vec<Vec<u64>>,
    work: Work,
    known: u64,
}

fn seen(hub: &Hub, service: &ServiceHandle<Doubling>) -> Seen {
    let (found, next) = service.results(None, usize::MAX).unwrap();
    assert_eq!(next, None);
    let mut leases = Vec::new();
    for id in [1, 2] {
        let Some(client) = hub.client(id).filter(Client::is_registered) else { continue };
        let seat = client.activate(service).unwrap();
        leases.extend(seat.leases().unwrap().into_iter().map(|view| sorted(view.subjects)));
    }
    let stats = service.stats();
    assert!(stats.work.adds_up(), "{:?}", stats.work);
    Seen {
        findings: found.into_iter().map(|finding| (finding.key, (finding.report, finding.position))).collect(),
        leases,
        work: stats.work,
        known: stats.subjects_known,
    }
}

/// A session in several groups: subjects, a bucket done, one done in part and kept, one given back. Returns the kept one's token.
fn session(hub: &Hub, service: &ServiceHandle<Doubling>) -> LeaseToken {
    let seat = |id: u64| -> Seat<Doubling> {
        let registration = Registration::new(id, format!("c{id}"));
        hub.register_client(&registration).unwrap().client.activate(service).unwrap()
    };
    let (a, b) = (seat(1), seat(2));
    assert_eq!(service.add_all(0..16).unwrap().added, 16);
    hub.tick();
    let done = one(&a);
    assert_eq!(done.submit(right(&keys(&done))).unwrap().accepted(), 4);
    hub.tick();
    let part = one(&b);
    assert_eq!(part.report(right(&keys(&part)[..2])).unwrap().accepted(), 2);
    let token = part.into_token();
    drop(one(&a));
    hub.tick();
    token
}

fn reopen(journal: &[u8]) -> Result<(Seen, OpenReport), OpenError> {
    let builder = Hub::builder().seed(1).manual().clock(ManualClock::default());
    let hub = builder.open_in_memory(&MemoryDisk::from_journal(journal))?;
    let service = hub.register(Doubling(policy(|_| {}))).unwrap();
    let report = hub.open_report().clone();
    Ok((seen(&hub, &service), report))
}

/// A journal of a killed process, where its frames are, and what it says.
fn journal() -> (Vec<u8>, Vec<usize>, Seen) {
    let directory = tempfile::tempdir().unwrap();
    let builder = Hub::builder().engine(engine::engine()).manual().clock(ManualClock::default()).seed(1);
    let hub = builder.open(directory.path()).unwrap();
    let service = hub.register(Doubling(policy(|_| {}))).unwrap();
    session(&hub, &service);
    let bytes = fs::read(directory.path().join("journal")).unwrap();
    let (mut frames, mut at) = (Vec::new(), 32);
    while at < bytes.len() {
        frames.push(at);
        at += 12 + bytes[at..at + 4].iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    }
    assert_eq!(at, bytes.len());
    (bytes, frames, seen(&hub, &service))
}

/// R55, I6: each byte of the journal flipped, without a store that would prove more: the damage is told with the position of the frame
/// it is in, or that was in the last group, and what is left is exactly what the frames before it say.
#[test]
fn each_flipped_byte_of_the_journal_is_told_or_cut() {
    let (bytes, frames, _) = journal();
    let (mut told, mut cut) = (0, 0);
    for at in (0..bytes.len()).step_by(if bits() > 1 { 1 } else { 3 }) {
        // All that was written before the damaged frame, as it is found when nothing else was ever written.
        let frame = frames.iter().copied().filter(|frame| *frame <= at).max().unwrap_or(0);
        let mut left = None;
        for bit in 0..bits() {
            match reopen(&flipped(&bytes, at, bit)) {
                Err(OpenError::Journal(JournalError::Corrupt { position, .. })) if at >= 32 => {
                    assert_eq!(position + 32, frame as u64, "byte {at}");
                    told += 1;
                }
                Err(OpenError::Journal(_)) if at < 32 => told += 1,
                Err(error) => panic!("byte {at}: {error}"),
                Ok((seen, report)) => {
                    let tail = report.cut.expect("a damaged journal does not open as if whole");
                    assert_eq!(
                        (tail.position + 32, tail.position + tail.bytes),
                        (frame as u64, bytes.len() as u64 - 32)
                    );
                    let left = left.get_or_insert_with(|| reopen(&bytes[..frame]).unwrap().0);
                    assert_eq!(seen, *left, "byte {at}");
                    cut += 1;
                }
            }
        }
    }
    assert!(told > cut && cut > 0, "{told} told, {cut} cut");
    eprintln!("journal: {} flips, {told} told, {cut} cut off as a torn tail", told + cut);
}

/// R55: the journal cut off at each byte, without a store that would prove more: what is left is what the whole frames say, each state
/// contains the one before, and a part of a frame is told as cut.
#[test]
fn journal_cut_off_at_each_byte_is_a_prefix_and_says_so() {
    let (bytes, frames, expected) = journal();
    let mut last: Option<Seen> = None;
    let mut states = 0;
    for length in 32..=bytes.len() {
        let whole = length == bytes.len() || frames.contains(&length);
        let (seen, report) = reopen(&bytes[..length]).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        assert_eq!(report.cut.is_none(), whole, "{length} bytes: {report:?}");
        if let Some(last) = last {
            assert!(
                last.findings.iter().all(|(key, finding)| seen.findings.get(key) == Some(finding)),
                "{length} bytes"
            );
            assert!(seen.known >= last.known && seen.work.subjects_assigned >= last.work.subjects_assigned);
            assert!(whole || seen == last, "{length} bytes: a part of a frame counts for nothing");
            states += u32::from(seen != last);
        }
        last = Some(seen);
    }
    assert_eq!(last, Some(expected), "all of it is the session");
    assert!(states >= 5, "{states} states");
}

/// Every file under `directory`, by its path from there.
fn files(directory: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { files(directory, &name, found) } else { found.push(name) }
    }
}

/// R55, I6: each byte of the small files beside the journal, flipped, and each of them cut off there: all that was acknowledged is there;
/// tokens, too, unless the report says that they are void.
#[test]
fn damage_in_each_small_file_of_a_directory_costs_nothing_in_silence() {
    let root = tempfile::tempdir().unwrap();
    let (home, left, at) = (root.path().join("home"), root.path().join("left"), root.path().join("at"));
    let open = |directory: &Path| -> Result<_, OpenError> {
        let builder = Hub::builder().engine(engine::engine()).manual().clock(ManualClock::default());
        let hub = builder.open(directory)?;
        let service = hub.register(Doubling(policy(|_| {}))).unwrap();
        Ok((hub, service))
    };
    let (hub, service) = open(&home).unwrap();
    let token = session(&hub, &service);
    let expected = seen(&hub, &service);
    assert_eq!((expected.findings.len(), expected.leases.len()), (6, 1));
    // As a killed process leaves it; the journal is damaged elsewhere, the engine's own files beside its source.
    copy(&home, &left);
    drop((hub, service));
    let mut names = Vec::new();
    files(&left, Path::new(""), &mut names);
    names.retain(|name| fs::metadata(left.join(name)).unwrap().len() <= 512 && !name.ends_with("journal"));
    let step = if bits() > 1 { 1 } else { 5 };
    let (mut opened, mut renewed, mut refused) = (0, 0, 0);
    for name in &names {
        let bytes = fs::read(left.join(name)).unwrap();
        let flips = (0..bytes.len()).step_by(step).flat_map(|at| (0..bits()).map(move |bit| (at, bit)));
        let flips = flips.map(|(at, bit)| (format!("byte {at} flipped"), flipped(&bytes, at, bit)));
        let cuts = (0..bytes.len()).step_by(step).map(|length| (format!("{length} bytes"), bytes[..length].to_vec()));
        for (what, damaged) in flips.chain(cuts) {
            let what = format!("{}: {what}", name.display());
            copy(&left, &at);
            fs::write(at.join(name), damaged).unwrap();
            match open(&at) {
                Ok((hub, service)) => {
                    assert_eq!(seen(&hub, &service), expected, "{what}");
                    let is_void = hub.client(2).unwrap().activate(&service).unwrap().renew(&token).is_err();
                    assert_eq!(is_void, hub.open_report().secret_renewed, "{what}: void tokens are told of");
                    renewed += u32::from(is_void);
                    opened += 1;
                }
                Err(error) => {
                    assert!(matches!(error, OpenError::Store(_)), "{what}: {error}");
                    refused += 1;
                }
            }
            fs::remove_dir_all(&at).unwrap();
        }
    }
    let secret = names.iter().any(|name| name.ends_with("secret"));
    assert!(
        secret && renewed > 0 && (opened > renewed || names.len() == 1),
        "{names:?}: {opened} opened, {renewed} with void tokens"
    );
    eprintln!("{names:?}: {opened} opened, {renewed} of them with void tokens and saying so, {refused} refused");
}
