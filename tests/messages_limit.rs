//! A message log in a file that may not grow beyond a limit of the system's: a real device that is full.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;

use commissary::messages::{Ack, Journal, Nack, Retain};

const DIRECTORY: &str = "COMMISSARY_LIMITED_CHILD_DIR";
const PAYLOAD: [u8; 200] = [b'p'; 200];

/// Sends until the device is full; returns the ACKs from `next` on.
fn fill(journal: &Journal, next: u64) -> Vec<Ack> {
    let mut acks = Vec::new();
    for seq in next.. {
        match journal.append(1, seq, &PAYLOAD).wait() {
            Ok(ack) => acks.push(ack),
            Err(Nack::Full) => break,
            Err(nack) => panic!("{nack}"),
        }
    }
    acks
}

/// Not a test: what the child does, if it is one.
#[test]
fn child_fills_its_file() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let journal = Journal::open(Path::new(&directory).join("log")).unwrap();
    let acks = fill(&journal, 1);
    assert!(acks.len() > 20, "{}", acks.len());
    let next = acks.len() as u64 + 1;
    // What waits together is refused together; what was taken still has its answer.
    let many: Vec<_> = (next..next + 40).map(|seq| journal.append(1, seq, &PAYLOAD)).collect();
    for receipt in many {
        assert!(matches!(receipt.wait(), Err(Nack::Full | Nack::Gap { .. })));
    }
    assert_eq!(journal.append(1, next - 1, &PAYLOAD).wait().unwrap(), acks[acks.len() - 1]);
    assert_eq!(journal.read(0).unwrap().map(Result::unwrap).count(), acks.len());
    // Room again.
    journal.compact(Retain::From(acks[acks.len() - 5].position)).unwrap();
    let more = fill(&journal, next);
    assert!(more.len() > 20, "it goes on");
    journal.close().unwrap();
    std::fs::write(Path::new(&directory).join("taken"), (acks.len() + more.len()).to_string()).unwrap();
}

/// R106, R111: a real limit: short writes and then none at all are answered `Full`, nothing half is left, and with room it goes on.
#[test]
fn a_file_at_its_limit_is_full_and_goes_on_with_room() {
    let directory = tempfile::tempdir().unwrap();
    // A process that ignores the signal is told by the write instead.
    let output = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 32; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_fills_its_file", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    let taken: u64 = std::fs::read_to_string(directory.path().join("taken")).unwrap().parse().unwrap();
    let journal = Journal::open(directory.path().join("log")).unwrap();
    assert_eq!(journal.report().cut, None);
    let found: Vec<u64> = journal.read(journal.first()).unwrap().map(|message| message.unwrap().seq).collect();
    assert!(found.iter().copied().eq(found[0]..=taken), "from {} to {taken}, without a hole", found[0]);
    assert!(journal.append(1, taken + 1, &PAYLOAD).wait().is_ok());
}
